"""What finalizing and reverting tell alike: which values were left alone, and whether they came to an end."""

from __future__ import annotations

from somactl.legacy.examine import shown
from somactl.report import MigrateReport

_MAX_LEFT_ALONE = 10_000


def leave(report: MigrateReport, key: str, why: str) -> None:
    """Say that a value was not touched, and why; the list is bounded, and says so."""
    if len(report.left_alone) < _MAX_LEFT_ALONE:
        report.left_alone[shown(key)] = why
    elif not any("left alone" in warning for warning in report.warnings):
        report.warnings.append(f"more than {_MAX_LEFT_ALONE} values were left alone; only so many are listed")


def finish(report: MigrateReport, *, done: bool, stopped: bool) -> MigrateReport:
    """4 where it was stopped before its end, or something was left alone."""
    if not done:
        report.complete = False
        report.stopped = "a signal" if stopped else "--max-duration"
    report.finish(4 if not report.complete or report.left_alone else 0)
    return report
