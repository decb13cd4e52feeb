"""The judge of a canary: takes samples in as they come, and says at any time whether the rollout goes on.

    judge = Judge(spec)                         # spec: core.canary_spec.read_spec
    for sample in samples:                      # core.canary_samples, in the order of their times
        judge.add(sample)
        if judge.fails():                       # after every sample, or as often as you like: it costs 0.1 ms
            break                               # FAIL ends the run at once
    verdict = judge.verdict(now)                # while it runs: PASS is never among the answers
    verdict = judge.finish(now)                 # at its end; recorded=True: at the end of a file
    verdict.outcome, verdict.code, verdict.first_line()

It is a function of the spec and the samples alone: no clock, no chance, no order of looks enters a PASS, and
the same samples give the same verdict again. docs/CANARY.md says what the verdicts mean, with proofs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Final, cast

import msgspec

from somactl.core.canary_criteria import DegradedShare, InvariantsHold, ShareBelow
from somactl.core.canary_finding import Judged, Moment
from somactl.core.canary_latency import LatencyArms, LatencyBelow, LatencyNoWorse
from somactl.core.canary_samples import ARMS, AnySample, ArmName, Doubt, Latency, Proof, Rejected, defect_of
from somactl.core.canary_spec import Spec
from somactl.core.canary_verdict import (
    CODES,
    JUDGE_VERSION,
    CanaryVerdict,
    Criterion,
    Outcome,
    TroubleFacts,
    Why,
    as_duration,
)

_LONG: Final = 64  # latencies in a row that are worth to be taken in together


class Judge:
    """Judges the samples of one window. start: where it begins, by their times; by default at the first."""

    def __init__(self, spec: Spec, start: float | None = None) -> None:
        self.spec = spec
        self.start = start
        self._criteria, self._arms = _criteria(spec)
        self._until: float | None = start
        self._seen: dict[ArmName, tuple[float, float]] = {}
        self._samples: dict[ArmName, int] = dict.fromkeys(ARMS, 0)
        self._outside = 0
        self._troubles: dict[tuple[ArmName, str], TroubleFacts] = {}

    def add(self, sample: AnySample) -> None:
        """Take a sample in. One with a defect is no sample, and keeps the canary from passing."""
        defect = defect_of(sample)
        if defect is not None:
            self.reject(Rejected(0, defect), sample.arm)
            if not (isinstance(sample, Proof) and sample.psd == "violated" and math.isfinite(sample.t)):
                return
        if self.start is None:
            self.start = sample.t
        self._note(sample.arm, sample.t, sample.t)
        if not self.start <= sample.t <= self.start + self.spec.window:
            self._outside += 1
            return
        self._until = max(self._until or sample.t, sample.t)
        if isinstance(sample, Doubt):
            self._doubt(sample.arm, sample.what, sample.t - self.start, sample.detail)
            return
        self._samples[sample.arm] += 1
        self._arms.add(sample)
        for criterion in self._criteria:
            criterion.add(sample)

    def add_all(self, samples: Iterable[AnySample]) -> None:
        """Take many in: the same as each by itself, but that long runs of latencies cost a fifth."""
        for kind, group in itertools.groupby(samples, type):
            run = list(group)
            if not (kind is Latency and len(run) >= _LONG and self._add_run(cast("list[Latency]", run))):
                for sample in run:
                    self.add(sample)

    def _add_run(self, run: list[Latency]) -> bool:
        """Take in latencies of the window without a defect; whether all of them are."""
        start = run[0].t if self.start is None else self.start
        by_arm = {arm: [sample for sample in run if sample.arm == arm] for arm in ARMS}
        columns = {
            arm: ([each.t for each in of], [each.seconds for each in of]) for arm, of in by_arm.items() if of
        }
        within = all(
            start <= min(times) and max(times) <= start + self.spec.window for times, _ in columns.values()
        )
        sound = all(
            sum(times) < math.inf and min(values) >= 0.0 and sum(values) < math.inf
            for times, values in columns.values()
        )  # no sum with a NaN is below infinity
        if not (within and sound):
            return False
        self.start = start
        for arm, (times, values) in columns.items():
            self._note(arm, min(times), max(times))
            self._until = max(max(times), start if self._until is None else self._until)
            self._samples[arm] += len(times)
            self._arms.add_all(arm, times, values)
            for criterion in self._criteria:
                if isinstance(criterion, ShareBelow):
                    criterion.add_answered(arm, times)
        return True

    def _note(self, arm: ArmName, first: float, last: float) -> None:
        known = self._seen.get(arm, (first, last))
        self._seen[arm] = min(first, known[0]), max(last, known[1])

    def reject(self, rejected: Rejected, arm: ArmName = "candidate") -> None:
        """Note that there was a line, or a sample, that is none."""
        line = f"line {rejected.line}: " if rejected.line else ""
        at = (self._until or 0.0) - (self.start or 0.0)
        self._doubt(arm, "rejected", at, f"{line}{rejected.message}")

    def _doubt(self, arm: ArmName, what: str, at: float, detail: str) -> None:
        known = self._troubles.get((arm, what))
        if known is None:
            known = TroubleFacts(arm=arm, what=what, count=0, first=at, last=at, detail=detail)
        self._troubles[arm, what] = msgspec.structs.replace(known, count=known.count + 1, last=at)

    def fails(self, now: float | None = None) -> bool:
        """Whether some criterion has failed, which no later sample undoes; at `now`, or the latest time."""
        until = self._moment(now, ended=False, recorded=False).until
        return any(criterion.fails(until) for criterion in self._criteria)

    def verdict(self, now: float | None = None) -> CanaryVerdict:
        """What is known while the window runs: FAIL, or why it does not pass, or not yet."""
        return self._verdict(self._moment(now, ended=False, recorded=False))

    def finish(self, now: float | None = None, *, recorded: bool = False) -> CanaryVerdict:
        """The last verdict. A window that ends before its time does not pass, unless it was a recording."""
        return self._verdict(self._moment(now, ended=True, recorded=recorded))

    def _moment(self, now: float | None, *, ended: bool, recorded: bool) -> Moment:
        start = self.start or 0.0
        latest = self._until if self._until is not None else start
        until = min(max(latest, latest if now is None else now), start + self.spec.window)
        if recorded:
            return Moment(start, until - start, until, ended)
        whole = until - start >= self.spec.window - self.spec.interval
        return Moment(
            start, self.spec.window, start + self.spec.window if ended and whole else until, ended and whole
        )

    def _verdict(self, moment: Moment) -> CanaryVerdict:
        self.fails(moment.until)
        criteria = [criterion.says(moment) for criterion in self._criteria]
        name, outcome, why, reason = self._decisive(criteria, moment)
        return CanaryVerdict(
            judge=JUDGE_VERSION,
            outcome=outcome,
            code=CODES[outcome],
            criterion=name,
            why=why,
            reason=reason,
            criteria=criteria,
            start=self.start,
            at=moment.until if self.start is not None else None,
            window=self.spec.window,
            ended=moment.ended,
            samples=dict(self._samples),
            outside=self._outside,
            troubles=list(self._troubles.values()),
        )

    def _decisive(self, criteria: list[Criterion], moment: Moment) -> tuple[str, Outcome, Why, str]:
        failed = next((each for each in criteria if each.outcome == "FAIL"), None)
        if failed is not None:
            return failed.name, "FAIL", failed.why, failed.reason
        doubt = self._in_doubt()
        if doubt is not None:
            return "samples", "INSUFFICIENT", *doubt
        worst = min(criteria, key=_rank)
        if worst.outcome != "PASS":
            return worst.name, worst.outcome, worst.why, self._running(worst, moment)
        closest = min(criteria, key=_reserve)
        return closest.name, "PASS", "shown", f"all criteria hold; the closest is that {closest.reason}"

    def _running(self, worst: Criterion, moment: Moment) -> str:
        if worst.why != "running":
            return worst.reason
        left = moment.start + moment.span - moment.until
        return f"the window has {as_duration(max(left, 0.0))} to go; {worst.reason}"

    def _in_doubt(self) -> tuple[Why, str] | None:
        """What makes the samples themselves doubtful."""
        for trouble in self._troubles.values():
            often = f" ({trouble.count} times)" if trouble.count > 1 else ""
            return (
                "trouble",
                f"{_TROUBLES[trouble.what].format(trouble.arm)}{often}: {trouble.detail or 'no detail'}",
            )
        if len(self._seen) == len(ARMS):
            (first, last), (other_first, other_last) = self._seen.values()
            shared = min(last, other_last) - max(first, other_first)
            if shared < min(last - first, other_last - other_first) / 2:
                return (
                    "clocks",
                    f"the arms' times do not belong together: they share {max(shared, 0.0):.3g} s",
                )
        return None


_TROUBLES = {
    "unreachable": "the {}'s source did not answer",
    "refused": "the {}'s source refused the question",
    "unreadable": "the {}'s source answered what is no answer",
    "no-series": "the {}'s source has no such series",
    "counter-reset": "a counter of the {} began anew",
    "rejected": "what came of the {} is no sample",
    "clocks": "the clock of the {} differs",
}
_ORDER: list[Why] = ["no-samples", "clocks", "mixed", "gap", "dependent", "few", "running"]


def _rank(criterion: Criterion) -> tuple[int, int]:
    """Which decides where none fails: what more samples do not mend, then what is missing, then the rest."""
    outcomes: list[Outcome] = ["FAIL", "INCONCLUSIVE", "INSUFFICIENT", "PASS"]
    order = _ORDER.index(criterion.why) if criterion.why in _ORDER else 0
    return outcomes.index(criterion.outcome), order


def _reserve(criterion: Criterion) -> float:
    """By how much the evidence of passing exceeds its bar."""
    return criterion.passing.log_e - criterion.passing.bar if criterion.passing else float("inf")


def _criteria(spec: Spec) -> tuple[list[Judged], LatencyArms]:
    """The criteria, in the order in which they are told; alpha is split over those that a test may fail."""
    asked, alpha = spec.criteria, spec.alpha
    latency = asked.latency
    tests = [latency and latency.max, latency and latency.margin is not None, asked.errors, asked.conflicts]
    split = alpha / max(sum(bool(test) for test in tests), 1)
    arms = LatencyArms(latency.quantile if latency else 0.95)
    made: list[Judged] = [InvariantsHold(asked.invariants)] if asked.invariants else []
    if latency and latency.max is not None:
        made.append(LatencyBelow(arms, latency.max, split, alpha))
    if latency and latency.margin is not None:
        made.append(LatencyNoWorse(arms, latency.margin, split, alpha))
    made += [ShareBelow("errors", asked.errors, split, alpha)] if asked.errors else []
    made += [DegradedShare(asked.degraded, spec.window)] if asked.degraded else []
    made += [ShareBelow("conflicts", asked.conflicts, split, alpha)] if asked.conflicts else []
    return made, arms
