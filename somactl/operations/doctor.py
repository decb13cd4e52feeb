"""Look at every service behind a store, without changing anything."""

from __future__ import annotations

from collections.abc import Callable

from somactl.report import DoctorReport, FindingView
from somactl.store.contract import Finding, Store
from somactl.suggestion import Suggestion


async def examine(store: Store, line: Callable[[Suggestion], str | None]) -> DoctorReport:
    """The findings of all services, in the order in which the store names them. `line` puts a suggestion
    into words.

    A service that cannot be reached is 13, a problem 3, a check that could not be made 4; warnings alone
    are 0: the promises hold.
    """
    findings = await store.diagnose()
    report = DoctorReport(
        store=store.name,
        namespace=store.namespace,
        findings=[_view(finding, line) for finding in findings],
    )
    report.complete = not any(f.status == "unknown" or _is_unreachable(f) for f in findings)
    report.conclude(*map(_code, findings))
    return report


def _view(finding: Finding, line: Callable[[Suggestion], str | None]) -> FindingView:
    return FindingView(
        service=finding.service,
        check=finding.check,
        status=finding.status,
        detail=finding.detail,
        advice=finding.advice,
        next=[told for suggestion in finding.next if (told := line(suggestion)) is not None],
    )


def _code(finding: Finding) -> int:
    if _is_unreachable(finding):
        return 13
    return {"problem": 3, "unknown": 4}.get(finding.status, 0)


def _is_unreachable(finding: Finding) -> bool:
    return finding.check == "reachable" and finding.status == "problem"
