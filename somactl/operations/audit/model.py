"""What an audit is asked for, the tasks it is cut into, and what was proven of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from somactl.core.verdict import Method, Rigour, Tolerances
from somactl.report import MAX_RESULTS, OUTCOME_CODES, Acceptance, Checked, VerifyReport


@dataclass(frozen=True, slots=True)
class Check:
    """How a matrix is judged; it travels to the workers.

    witness  whether the vector that proves a violation is reported
    every    whether the outcome of each valid matrix is wanted too, not only their count
    """

    tolerances: Tolerances = field(default_factory=Tolerances)
    method: Method = "certify"
    spectrum: bool = False
    witness: bool = False
    every: bool = False


class Task(msgspec.Struct, frozen=True):
    """Keys to prove, with the sizes of their values as they were listed (0: not known)."""

    keys: list[str]
    sizes: list[int]

    @property
    def bytes_(self) -> int:
        return sum(self.sizes)


class Proven(msgspec.Struct):
    """What was found of a task.

    results      every outcome but `valid`, in the order of the keys; with `Check.every` those too
    absent       keys that are not there (any more)
    incarnation, version   of the oldest snapshot that was read; version 0 where nothing was
    bytes_       size of the envelopes that were read
    """

    valid: int = 0
    bytes_: int = 0
    rigour: Rigour | None = None
    blas: str = ""
    worst_trace_error: float | None = None
    lowest_lambda_min: float | None = None
    results: list[Checked] = []
    absent: list[str] = []
    incarnation: str = ""
    version: int = 0

    @classmethod
    def of(cls, checked: Checked) -> Proven:
        """What one outcome comes to."""
        found = cls(valid=int(checked.outcome == "valid"), results=[checked])
        if (verdict := checked.verdict) is not None:
            upper, lower = verdict.lambda_min_upper, verdict.lambda_min_lower
            smallest = lower if upper is None else upper
            found.worsen(verdict.rigour, verdict.blas, verdict.trace_error, smallest)
        return found

    def worsen(self, rigour: Rigour | None, blas: str, trace: float | None, smallest: float | None) -> None:
        """Keep the worst numbers seen; what is only `computed` in part is computed as a whole."""
        self.rigour = self.rigour if self.rigour == "computed" else rigour or self.rigour
        self.blas = self.blas or blas
        if trace is not None:
            self.worst_trace_error = max(self.worst_trace_error or 0.0, trace)
        if smallest is not None:
            self.lowest_lambda_min = min(self.lowest_lambda_min or 0.0, smallest)


@dataclass(slots=True)
class Tally:
    """Counts outcomes into a report as they come.

    each       called with every outcome (progress, ndjson)
    fail_fast  whether the audit is to end after the first outcome that is not right
    accept     what is known of a finding beforehand
    """

    report: VerifyReport
    each: Callable[[Checked], None] = lambda checked: None
    fail_fast: bool = False
    accept: Callable[[Checked], Acceptance | None] = lambda checked: None

    def add(self, proven: Proven) -> bool:
        """Count what was found of a task; False where `fail_fast` says to stop."""
        report = self.report
        report.blas = report.blas or proven.blas or None
        numbers = Proven(
            rigour=report.rigour,
            worst_trace_error=report.worst_trace_error,
            lowest_lambda_min=report.lowest_lambda_min,
        )
        numbers.worsen(proven.rigour, "", proven.worst_trace_error, proven.lowest_lambda_min)
        report.rigour = numbers.rigour
        report.worst_trace_error = numbers.worst_trace_error
        report.lowest_lambda_min = numbers.lowest_lambda_min
        told = sum(checked.outcome == "valid" for checked in proven.results)
        report.valid += proven.valid - told
        report.checked += proven.valid - told
        return all(self.count(checked) for checked in proven.results)

    def count(self, checked: Checked) -> bool:
        """Count one outcome; False where `fail_fast` says to stop."""
        report, outcome = self.report, checked.outcome
        setattr(report, outcome, getattr(report, outcome) + 1)
        known = self.accept(checked) if outcome in OUTCOME_CODES else None
        if known is not None:
            checked.acceptance = known
            if known.holds:
                report.accepted[outcome] = report.accepted.get(outcome, 0) + 1
        if outcome in ("valid", "clampable", "violated"):
            report.checked += 1
        if outcome == "skipped" and checked.kind is not None:
            report.skipped_kinds[checked.kind] = report.skipped_kinds.get(checked.kind, 0) + 1
        if outcome not in ("valid", "skipped"):
            if len(report.results) < MAX_RESULTS:
                report.results.append(checked)
            else:
                report.results_omitted += 1
        self.each(checked)
        return not (self.fail_fast and outcome in OUTCOME_CODES and not (known and known.holds))
