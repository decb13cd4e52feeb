"""Look at every service behind a store, without changing anything."""

from __future__ import annotations

from somactl.report import DoctorReport, FindingView
from somactl.store.contract import Finding, Store


async def examine(store: Store) -> DoctorReport:
    """The findings of all services, in the order in which the store names them.

    A service that cannot be reached is 13, a problem 3, a check that could not be made 4; warnings alone
    are 0: the promises hold.
    """
    findings = await store.diagnose()
    report = DoctorReport(
        store=store.name,
        namespace=store.namespace,
        findings=[
            FindingView(service=f.service, check=f.check, status=f.status, detail=f.detail, advice=f.advice)
            for f in findings
        ],
    )
    report.complete = not any(f.status == "unknown" or _is_unreachable(f) for f in findings)
    report.conclude(*map(_code, findings))
    return report


def _code(finding: Finding) -> int:
    if _is_unreachable(finding):
        return 13
    return {"problem": 3, "unknown": 4}.get(finding.status, 0)


def _is_unreachable(finding: Finding) -> bool:
    return finding.check == "reachable" and finding.status == "problem"
