"""The exit code of an audit, and the sentences that say what it did not do."""

from __future__ import annotations

from dataclasses import dataclass

from somactl.errors import SomactlError
from somactl.report import OUTCOME_CODES, VerifyReport
from somactl.report.auditing import psd_ok


@dataclass(frozen=True, slots=True)
class Demands:
    """What an audit must have done to pass.

    allow_empty  that there was nothing to check is fine
    at_least     so many matrices must have been checked
    """

    allow_empty: bool = False
    at_least: int = 0


def finish(
    report: VerifyReport, demands: Demands, *, ended_by: str = "", error: SomactlError | None = None
) -> VerifyReport:
    """Set the exit code. `ended_by` says what ended the audit before everything was checked, and `error` is
    the failure, if it was one."""
    codes = {of for outcome, of in OUTCOME_CODES.items() if is_open(report, outcome)}
    report.complete = not (ended_by or report.undecided or report.unreadable or report.rejected)
    if error is not None:
        codes |= {4, error.exit_code}
        said = f"{error.message} ({error.hint})" if error.hint else error.message
        report.warnings.append(f"ended early, and the rest was not checked: {said}")
    elif ended_by:
        codes.add(4)
        report.warnings.append(f"ended early by {ended_by}: the rest was not checked")
    elif is_empty(report) and not demands.allow_empty and not _is_empty_shard(report):
        codes.add(4)
        report.complete = False
        report.warnings.append(_nothing_checked(report))
    if report.checked < demands.at_least:
        codes.add(4)
        report.complete = False
        report.warnings.append(
            f"{report.checked} matrices were checked, fewer than --at-least {demands.at_least}"
        )
    if report.method == "sampled" and report.undecided:
        report.warnings.append("the sampled method can prove a violation but never accepts a matrix")
    if report.stale or report.contradicting:
        report.warnings.append("the cache does not hold what the authority has: reconcile it")
    report.psd_ok = psd_ok(report)
    report.finish(*(codes - {0}))
    return report


def is_empty(report: VerifyReport) -> bool:
    """Whether there was not one matrix to look at: values of kinds without invariants do not count."""
    counts = [getattr(report, outcome) for outcome in ("checked", *OUTCOME_CODES)]
    return not any(counts) and not _known(report)


def _is_empty_shard(report: VerifyReport) -> bool:
    """Whether no key can lie in its range, as where there are more shards than keys."""
    scope = report.scope
    return scope is not None and scope.after is not None and scope.after == scope.upto


def _known(report: VerifyReport) -> int:
    """Of how many it is known how they are: they had been proven as they are, or are gone."""
    return 0 if report.coverage is None else report.coverage.unchanged + report.coverage.gone


def is_open(report: VerifyReport, outcome: str) -> bool:
    """Whether some of that outcome are not accepted."""
    count: int = getattr(report, outcome)
    return count > report.accepted.get(outcome, 0)


def _nothing_checked(report: VerifyReport) -> str:
    found = f"only {_kinds(report)}, which have no invariants" if report.skipped else _why_empty(report)
    return f"nothing was checked: {found}; where that is to be expected, say so with --allow-empty"


def _why_empty(report: VerifyReport) -> str:
    scope = report.scope
    if scope is None or scope.all or scope.keys or scope.files or scope.match is not None:
        return "no key matches"
    return "no audit has left a key that is known to be bad"


def _kinds(report: VerifyReport) -> str:
    return ", ".join(f"{count} of kind {kind}" for kind, count in sorted(report.skipped_kinds.items()))
