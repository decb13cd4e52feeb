"""The criteria of a canary check, one class each: what it takes in, whether it has failed, what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from somactl.core.canary_finding import Finding, Moment, about_limit, concluded, lacking, shown, tenths
from somactl.core.canary_samples import (
    ARMS,
    AnySample,
    ArmName,
    Commit,
    Counts,
    Degradation,
    Failure,
    Latency,
    Proof,
)
from somactl.core.canary_series import Shares, Times
from somactl.core.canary_spec import Attitude, Invariants, ShareLimit
from somactl.core.canary_verdict import ArmFacts, Criterion, Evidence, Tally, in_unit
from somactl.core.sequential import Mixture


class InvariantsHold:
    """No violated invariant in the candidate: the first one fails at once."""

    name = "invariants"

    def __init__(self, limit: Invariants) -> None:
        self._limit = limit
        self._counts: dict[ArmName, Counter[str]] = {arm: Counter() for arm in ARMS}
        self._proven = Times()
        self._unmeasured = 0
        self._first: Proof | None = None

    def add(self, sample: AnySample) -> None:
        if not isinstance(sample, Proof):
            return
        violates = self._violates(sample)
        counts = self._counts[sample.arm]
        counts["violations"] += violates
        counts[sample.psd] += 1
        if sample.arm != "candidate":
            return
        if violates:
            self._first = self._first or sample
        elif sample.psd in ("valid", "clampable"):
            if sample.trace_error is None:  # it may be beyond the tolerance: nothing is shown by it
                self._unmeasured += 1
            else:
                self._proven.times.append(sample.t)

    def _violates(self, sample: Proof) -> bool:
        counted: dict[str, Attitude] = {
            "undecided": self._limit.undecided,
            "clampable": self._limit.clampable,
        }
        off = sample.trace_error is not None and not sample.trace_error <= self._limit.trace_error
        return sample.psd == "violated" or counted.get(sample.psd) == "count" or off

    def fails(self, until: float) -> bool:
        return self._counts["candidate"]["violations"] > self._limit.violations

    def says(self, moment: Moment) -> Criterion:
        empty = self._proven.empty_tenths(moment.start, moment.span, moment.until)
        outcome, why, reason = self._outcome(moment, empty)
        counts = {f"{arm}.{what}": n for arm in ARMS for what, n in sorted(self._counts[arm].items()) if n}
        proofs = {
            arm: sum(n for what, n in self._counts[arm].items() if what != "violations") for arm in ARMS
        }
        return Criterion(
            name=self.name,
            outcome=outcome,
            why=why,
            reason=reason,
            value=float(self._counts["candidate"]["violations"]),
            threshold=float(self._limit.violations),
            unit="count",
            arms={
                "baseline": ArmFacts(samples=proofs["baseline"], judged=proofs["baseline"]),
                "candidate": ArmFacts(
                    samples=proofs["candidate"], judged=len(self._proven.times), empty_tenths=empty
                ),
            },
            counts=counts,
        )

    def _outcome(self, moment: Moment, empty: list[int]) -> Finding:
        candidate, baseline = self._counts["candidate"], self._counts["baseline"]
        if self.fails(moment.until):
            return "FAIL", "violated", self._violation()
        if baseline["violations"] > self._limit.violations:
            many = baseline["violations"]
            return (
                "INCONCLUSIVE",
                "baseline-breaks",
                f"the baseline itself violates an invariant ({many} times)",
            )
        for word, attitude in (("undecided", self._limit.undecided), ("clampable", self._limit.clampable)):
            if attitude == "hold" and candidate[word]:
                what = f"{candidate[word]} matrices of the candidate are {word}, and the spec holds for them"
                return "INCONCLUSIVE", "undecided" if word == "undecided" else "clampable", what
        if not self._proven.times and moment.ended:
            return (
                "INSUFFICIENT",
                "no-samples",
                f"no matrix of the candidate was proven{self._without_trace()}",
            )
        if empty:
            where = f"in {tenths(empty)} of the window"
            return (
                "INSUFFICIENT",
                "gap",
                f"no matrix of the candidate was proven {where}{self._without_trace()}",
            )
        proven = f"{len(self._proven.times):,} proven matrices of the candidate, none violated"
        return ("PASS", "shown", proven) if moment.ended else ("INSUFFICIENT", "running", f"{proven} so far")

    def _without_trace(self) -> str:
        many = self._unmeasured
        return f" ({many:,} proofs came without a trace error, and show nothing)" if many else ""

    def _violation(self) -> str:
        first, many = self._first, self._counts["candidate"]["violations"]
        key = f" of {first.key}" if first and first.key else ""
        if first and first.psd == "violated":
            what = f"the matrix{key} violates an invariant"
        elif first and first.trace_error is not None and first.psd == "valid":
            what = f"the trace error{key} is {first.trace_error:.3g}, above {self._limit.trace_error:.3g}"
        else:
            what = f"the matrix{key} is {first.psd if first else ''}, which the spec counts as a violation"
        return f"in the candidate {what}" + (f"; {many} violations in all" if many > 1 else "")


class DegradedShare:
    """The share of the window in which the candidate says that it is degraded; a sum, without a test."""

    name = "degraded"

    def __init__(self, limit: ShareLimit, window: float) -> None:
        self._limit, self._window = limit.max_share, window
        self._arms = {arm: _OnTime() for arm in ARMS}

    def add(self, sample: AnySample) -> None:
        if isinstance(sample, Degradation):
            self._arms[sample.arm].add(sample)

    def fails(self, until: float) -> bool:
        return self._breaks("candidate", until, self._window) and not self._breaks(
            "baseline", until, self._window
        )

    def _breaks(self, arm: ArmName, until: float, span: float) -> bool:
        return self._arms[arm].on_for(until) > self._limit * span

    def says(self, moment: Moment) -> Criterion:
        facts = {arm: self._facts(arm, moment) for arm in ARMS}
        outcome, why, reason = self._outcome(moment, facts)
        return Criterion(
            name=self.name,
            outcome=outcome,
            why=why,
            reason=reason,
            value=facts["candidate"].value,
            threshold=self._limit,
            arms=facts,
        )

    def _facts(self, arm: ArmName, moment: Moment) -> ArmFacts:
        mode = self._arms[arm]
        n = len(mode.times)
        return ArmFacts(
            samples=n,
            judged=n,
            value=mode.on_for(moment.until) / moment.span if n and moment.span > 0 else None,
            empty_tenths=mode.empty_tenths(moment.start, moment.span, moment.until),
        )

    def _outcome(self, moment: Moment, facts: dict[ArmName, ArmFacts]) -> Finding:
        limit = in_unit(self._limit, "share")
        if self._breaks("baseline", moment.until, moment.span):
            share = in_unit(facts["baseline"].value, "share")
            return (
                "INCONCLUSIVE",
                "baseline-breaks",
                f"the baseline itself is degraded for {share} of the window",
            )
        share = in_unit(facts["candidate"].value, "share")
        if self._breaks("candidate", moment.until, moment.span):
            return "FAIL", "above", f"the candidate is degraded for {share} of the window, more than {limit}"
        missing = lacking(facts, moment, "reports of degraded mode")
        if missing is not None:
            return missing
        told = f"the candidate is degraded for {share} of the window, within {limit}"
        return ("PASS", "shown", told) if moment.ended else ("INSUFFICIENT", "running", f"{told}, so far")


class _OnTime(Times):
    """For how long an arm was degraded."""

    def __init__(self) -> None:
        super().__init__()
        self._on, self._since, self._before = False, 0.0, 0.0

    def add(self, sample: Degradation) -> None:
        self._before = self.on_for(sample.t)
        self._on, self._since = sample.on, max(sample.t, self._since if self.times else sample.t)
        self.times.append(sample.t)

    def on_for(self, until: float) -> float:
        return self._before + (max(until - self._since, 0.0) if self._on else 0.0)


class ShareBelow:
    """A share of requests or commits that stays below a limit.

    It fails by what each next one is likely to be, given all before: an outage fails, however short, and
    needs no independence. To pass, counts that come in bursts are thinned.
    """

    def __init__(self, name: str, limit: ShareLimit, alpha_failing: float, alpha: float) -> None:
        self.name = name
        self._limit = limit.max_share
        self._failing, self._passing = Mixture(self._limit, alpha_failing), Mixture(self._limit, alpha)
        self._arms = {arm: Shares() for arm in ARMS}
        self._failed: Evidence | None = None
        self._broken = False

    def add(self, sample: AnySample) -> None:
        found = _errors(sample) if self.name == "errors" else _conflicts(sample)
        if found is not None:
            self._arms[sample.arm].add(sample.t, *found)

    def add_answered(self, arm: ArmName, times: Sequence[float]) -> None:
        """Many requests at once that were answered."""
        if self.name == "errors":
            self._arms[arm].add_good(times)

    def fails(self, until: float) -> bool:
        if self._failed is None and not self._broken:
            self._broken = self._evidence("baseline").shows
            evidence = self._evidence("candidate")
            if evidence.shows and not self._broken:
                self._failed = evidence
        return self._failed is not None

    def _evidence(self, arm: ArmName) -> Evidence:
        series, test = self._arms[arm], self._failing
        return about_limit(test, True, self._limit, Tally(series.total, series.bad))

    def says(self, moment: Moment) -> Criterion:
        self.fails(moment.until)
        series = self._arms["candidate"]
        divisor = series.spread()
        passing = self._pass_evidence(divisor, 1.0)
        facts = {arm: self._facts(arm, moment, divisor if arm == "candidate" else 1.0) for arm in ARMS}
        limit, share = in_unit(self._limit, "share"), in_unit(series.share, "share")
        what = "requests failed" if self.name == "errors" else "commits conflicted"
        value = f"{share} of the candidate's {series.total:,} {what}"
        if self._failed is not None:
            finding: Finding = ("FAIL", "above", f"{value}, above {limit}")
        elif self._broken:
            share = in_unit(self._arms["baseline"].share, "share")
            finding = (
                "INCONCLUSIVE",
                "baseline-breaks",
                f"the baseline itself is above {limit}: {share} {what}",
            )
        else:
            noun = "requests" if self.name == "errors" else "commits"
            side = "above" if (series.share or 0.0) > self._limit else "below"
            finding = lacking(facts, moment, noun) or shown(passing, f"{value}, {side} {limit}", moment)
        return concluded(
            Criterion(
                name=self.name,
                outcome=finding[0],
                why=finding[1],
                reason=finding[2],
                value=series.share,
                threshold=self._limit,
                failing=self._failed or self._evidence("candidate"),
                passing=passing,
                arms=facts,
            ),
            moment,
            lambda scale: self._pass_evidence(divisor, scale).log_e,
            f"{share} is not far enough below {limit}",
        )

    def _pass_evidence(self, divisor: float, scale: float) -> Evidence:
        series = self._arms["candidate"]
        n, s = int(series.total * scale / divisor), -int(-series.bad * scale // divisor)
        return about_limit(self._passing, False, self._limit, Tally(n, min(s, n)))

    def _facts(self, arm: ArmName, moment: Moment, divisor: float) -> ArmFacts:
        series = self._arms[arm]
        return ArmFacts(
            samples=series.total,
            judged=int(series.total / divisor),
            divisor=divisor,
            value=series.share,
            empty_tenths=series.empty_tenths(moment.start, moment.span, moment.until),
        )


def _errors(sample: AnySample) -> tuple[int, int] | None:
    """(failed, of all requests), or None where it is about something else."""
    if isinstance(sample, Latency):
        return 0, 1
    if isinstance(sample, Failure):
        return 1, 1
    return (sample.bad, sample.total) if isinstance(sample, Counts) and sample.of == "errors" else None


def _conflicts(sample: AnySample) -> tuple[int, int] | None:
    """(conflicts, of all commits), or None where it is about something else."""
    if isinstance(sample, Commit):
        return int(sample.outcome == "conflict"), 1
    return (sample.bad, sample.total) if isinstance(sample, Counts) and sample.of == "conflicts" else None
