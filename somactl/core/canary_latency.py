"""The criteria about a quantile of latencies: at most a limit, and the baseline's with a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from somactl.core.canary_finding import Finding, Moment, about_limit, concluded, lacking, shown
from somactl.core.canary_samples import ARMS, AnySample, ArmName, Buckets, Failure, Latency
from somactl.core.canary_series import Beyond, Latencies
from somactl.core.canary_verdict import ArmFacts, Criterion, Evidence, Tally, in_unit
from somactl.core.sequential import Least, Mixture, least_evidence, quantile_bounds

LEAST_SAMPLES: Final = 100
"""Samples of an arm before which nothing is decided by it: fewer tell too little of their dependence."""


class LatencyArms:
    """The latencies of both arms, and the one stride by which both are thinned.

    unanswered: requests of the candidate that failed. To pass, each counts as slower than any other: else
    one that gives up on its slow requests would be fast. None is thinned, and none speaks for failing.
    """

    def __init__(self, quantile: float) -> None:
        self.p0 = round(1.0 - quantile, 12)
        self.label = f"p{100 * quantile:.9g}"
        self.of: dict[ArmName, Latencies] = {arm: Latencies() for arm in ARMS}
        self.unanswered = 0
        self._next_review = LEAST_SAMPLES
        self._reviewed = (0, 0)

    @property
    def stride(self) -> int | None:
        return self.of["candidate"].stride

    @property
    def mixed(self) -> bool:
        kinds = {arm.bucketed for arm in self.of.values() if len(arm)}
        return len(kinds) > 1 or any(arm.mixed for arm in self.of.values())

    def add(self, sample: AnySample) -> None:
        if isinstance(sample, Latency):
            self.of[sample.arm].add(sample.t, sample.seconds)
        elif isinstance(sample, Buckets):
            self.of[sample.arm].add_buckets(sample)
        elif isinstance(sample, Failure) and sample.arm == "candidate":
            self.unanswered += 1

    def told_unanswered(self, moment: Moment) -> str:
        if not (self.unanswered and moment.ended):
            return ""
        return f", with {self.unanswered:,} requests that were not answered"

    def add_all(self, arm: ArmName, times: Sequence[float], seconds: Sequence[float]) -> None:
        self.of[arm].add_all(times, seconds)

    def review_if_due(self) -> None:
        """Measure dependence when there are twice as many samples as at the last time."""
        if max(map(len, self.of.values())) >= self._next_review:
            self.review()

    def review(self) -> bool:
        """Measure dependence now; whether the samples are to be thinned in another way than before."""
        lengths = len(self.of["baseline"]), len(self.of["candidate"])
        if lengths == self._reviewed:
            return False
        before = [(arm.stride, arm.divisor) for arm in self.of.values()]
        self._reviewed = lengths
        self._next_review = 2 * max(LEAST_SAMPLES // 2, *map(len, self.of.values()))
        for arm in self.of.values():
            arm.measure(self.p0)
        known = [arm.measured for arm in self.of.values() if arm.measured.ranks is not None]
        strides = [each.stride for each in known]
        stride = None if None in strides else max((each for each in strides if each), default=1)
        for arm in self.of.values():
            arm.stride = stride
        return before != [(arm.stride, arm.divisor) for arm in self.of.values()]

    def facts(self, moment: Moment, alpha: float) -> dict[ArmName, ArmFacts]:
        """What is known of both, with the confidence sequence of the quantile at alpha."""
        return {name: self._facts(arm, moment, alpha) for name, arm in self.of.items()}

    def _facts(self, arm: Latencies, moment: Moment, alpha: float) -> ArmFacts:
        low, high = (arm.counted(side) for side in ("low", "high"))
        value = arm.quantile(self.p0)
        bounds = quantile_bounds(Mixture(self.p0, alpha), low, high) if len(arm) else (0.0, math.inf)
        return ArmFacts(
            samples=arm.samples,
            judged=low.total,
            stride=arm.stride,
            divisor=arm.divisor,
            autocorrelation=arm.measured.ranks,
            exceedances=arm.measured.exceedances,
            value=value if value is not None and math.isfinite(value) else None,
            low=bounds[0],
            high=bounds[1] if math.isfinite(bounds[1]) else None,
            empty_tenths=arm.empty_tenths(moment.start, moment.span, moment.until),
        )

    def hold(self, facts: dict[ArmName, ArmFacts], moment: Moment) -> Finding | None:
        """What keeps both criteria from a decision: missing, mixed, dependent or too few samples."""
        missing = lacking(facts, moment, "latencies")
        if missing is not None:
            return missing
        if self.mixed:
            return "INSUFFICIENT", "mixed", "latencies of requests and of buckets are not compared"
        if self.stride is None:
            return "INSUFFICIENT", "dependent", self._dependent(facts)
        fewest = min(ARMS, key=lambda arm: len(self.of[arm]))
        if moment.ended and facts[fewest].samples < LEAST_SAMPLES:
            few = f"{facts[fewest].samples} latencies of the {fewest} are fewer than {LEAST_SAMPLES}"
            return "INSUFFICIENT", "few", few
        return None

    @staticmethod
    def _dependent(facts: dict[ArmName, ArmFacts]) -> str:
        arm = max(ARMS, key=lambda name: facts[name].autocorrelation or 0.0)
        found = facts[arm].autocorrelation or 0.0
        return f"latencies of the {arm} depend on their neighbours ({found:.2f}), too far to thin them"


class _LatencyCriterion:
    """What both have in common. `arms` is shared, and takes in each sample by itself."""

    name = ""

    def __init__(self, arms: LatencyArms, alpha_failing: float, alpha: float) -> None:
        self._arms, self._alpha = arms, alpha
        self._failing, self._passing = Mixture(arms.p0, alpha_failing), Mixture(arms.p0, alpha)
        self._failed: Evidence | None = None

    def add(self, sample: AnySample) -> None:
        """Nothing: the arms have it."""

    def fails(self, until: float) -> bool:
        if self._failed is None and not self._arms.mixed:
            self._arms.review_if_due()
            evidence = self._crossed()
            if evidence is not None and self._arms.review():
                evidence = self._crossed()
            self._failed = evidence
        return self._failed is not None

    def _may_decide(self, *names: ArmName) -> bool:
        enough = all(len(self._arms.of[name]) >= LEAST_SAMPLES for name in names)
        return enough and self._arms.stride is not None

    def _crossed(self) -> Evidence | None:
        raise NotImplementedError


class LatencyBelow(_LatencyCriterion):
    """The candidate's quantile is at most a limit in seconds."""

    name = "latency.max"

    def __init__(self, arms: LatencyArms, limit: float, alpha_failing: float, alpha: float) -> None:
        super().__init__(arms, alpha_failing, alpha)
        self._limit = limit
        self._beyond = {name: Beyond(arm, limit, "low") for name, arm in arms.of.items()}
        self._high = Beyond(arms.of["candidate"], limit, "high")
        self._broken = False

    def _crossed(self) -> Evidence | None:
        self._broken = self._broken or (self._may_decide("baseline") and self._failing_of("baseline").shows)
        if self._broken or not self._may_decide("candidate"):
            return None
        evidence = self._failing_of("candidate")
        return evidence if evidence.shows else None

    def _failing_of(self, arm: ArmName) -> Evidence:
        s, n = self._beyond[arm].now()
        return about_limit(self._failing, True, self._limit, Tally(n, s))

    def says(self, moment: Moment) -> Criterion:
        self.fails(moment.until)
        if moment.ended:
            self._arms.review()
        facts = self._arms.facts(moment, self._alpha)
        s, n = (each + self._arms.unanswered for each in self._high.now())
        passing = about_limit(self._passing, False, self._limit, Tally(n, s))
        value, limit = facts["candidate"].value, in_unit(self._limit, "seconds")
        outcome, why, reason = self._finding(facts, passing, moment)
        criterion = Criterion(
            name=self.name,
            outcome=outcome,
            why=why,
            reason=reason,
            value=value,
            threshold=self._limit,
            unit="seconds",
            failing=self._failed or self._failing_of("candidate"),
            passing=passing,
            arms=facts,
        )
        near = f"the {self._arms.label} is {in_unit(value, 'seconds')}, not far enough below {limit}"
        return concluded(criterion, moment, lambda scale: self._passing.log_below(s * scale, n * scale), near)

    def _finding(self, facts: dict[ArmName, ArmFacts], passing: Evidence, moment: Moment) -> Finding:
        label, limit = self._arms.label, in_unit(self._limit, "seconds")
        told = f"the candidate's {label} is {in_unit(facts['candidate'].value, 'seconds')}"
        if self._failed is not None:
            return "FAIL", "above", f"{told}, above {limit}"
        if self._broken:
            baseline = in_unit(facts["baseline"].value, "seconds")
            return (
                "INCONCLUSIVE",
                "baseline-breaks",
                f"the baseline's own {label} is {baseline}, above {limit}",
            )
        is_above = (facts["candidate"].value or 0.0) > self._limit
        side = "above" if is_above else "below"
        return self._arms.hold(facts, moment) or shown(
            passing, f"{told}, {side} {limit}{self._arms.told_unanswered(moment)}", moment
        )


class LatencyNoWorse(_LatencyCriterion):
    """The candidate's quantile is at most 1 + margin times the baseline's."""

    name = "latency.margin"

    def __init__(self, arms: LatencyArms, margin: float, alpha_failing: float, alpha: float) -> None:
        super().__init__(arms, alpha_failing, alpha)
        self._margin, self._scale = margin, 1.0 + margin
        self._kept: tuple[Beyond, Beyond] | None = None  # at a q that showed no crossing when last asked

    def _crossed(self) -> Evidence | None:
        if not self._may_decide("candidate", "baseline"):
            return None
        if self._kept is not None:
            (s, n), (better, of) = (each.now() for each in self._kept)
            if self._failing.log_above(s, n) + self._failing.log_below(better, of) < self._failing.bar:
                return None
        least = self._least(self._failing, is_worse=True, enough=self._failing.bar)
        self._kept = self._beyond(least.q)
        evidence = self._evidence(self._failing, least, is_worse=True)
        return evidence if evidence.shows else None

    def _beyond(self, q: float) -> tuple[Beyond, Beyond]:
        candidate, baseline = self._arms.of["candidate"], self._arms.of["baseline"]
        return Beyond(candidate, q, "low", scale=self._scale), Beyond(baseline, q, "high", inclusive=True)

    def _least(
        self, test: Mixture, *, is_worse: bool, enough: float = -math.inf, scale: float = 1.0
    ) -> Least:
        candidate, baseline = self._arms.of["candidate"], self._arms.of["baseline"]
        if is_worse:
            worse, better = candidate.counted("low", self._scale), baseline.counted("high")
        else:
            worse, better = baseline.counted("low"), candidate.counted("high", self._scale)
            better = replace(better, beyond=self._arms.unanswered)
        return least_evidence(test, worse, better, enough=enough, scale=scale)

    def _evidence(self, test: Mixture, least: Least, *, is_worse: bool) -> Evidence:
        candidate, baseline = (self._arms.of[arm].counted("low").total for arm in ("candidate", "baseline"))
        candidate += 0 if is_worse else self._arms.unanswered
        counts = (least.worse, least.better) if is_worse else (least.better, least.worse)
        return Evidence(
            test="worse" if is_worse else "no-worse",
            p0=test.p0,
            k=test.k,
            alpha=test.alpha,
            q=least.q if math.isfinite(least.q) else None,
            candidate=Tally(candidate, counts[0]),
            baseline=Tally(baseline, counts[1]),
            log_e=least.log_e,
            bar=test.bar,
        )

    def says(self, moment: Moment) -> Criterion:
        self.fails(moment.until)
        if moment.ended:
            self._arms.review()
        facts = self._arms.facts(moment, self._alpha)
        passing = self._evidence(self._passing, self._least(self._passing, is_worse=False), is_worse=False)
        failing = self._evidence(self._failing, self._least(self._failing, is_worse=True), is_worse=True)
        base = facts["baseline"].value
        outcome, why, reason = self._finding(facts, passing, moment)
        criterion = Criterion(
            name=self.name,
            outcome=outcome,
            why=why,
            reason=reason,
            value=facts["candidate"].value,
            threshold=None if base is None else base * self._scale,
            unit="seconds",
            failing=self._failed or failing,
            passing=passing,
            arms=facts,
        )
        return concluded(criterion, moment, self._passing_at, self._why_never(facts))

    def _passing_at(self, scale: float) -> float:
        return self._least(self._passing, is_worse=False, scale=scale).log_e

    def _why_never(self, facts: dict[ArmName, ArmFacts]) -> str:
        if not self._margin:
            return "with no margin, arms that are alike never pass"
        return f"the difference is too near the margin of {in_unit(self._margin, 'share')}"

    def _finding(self, facts: dict[ArmName, ArmFacts], passing: Evidence, moment: Moment) -> Finding:
        label = self._arms.label
        values = [in_unit(facts[arm].value, "seconds") for arm in ("candidate", "baseline")]
        margin = f" and the margin of {in_unit(self._margin, 'share')}" if self._margin else ""
        told = f"the candidate's {label} is {values[0]} against {values[1]}"
        if self._failed is not None:
            return "FAIL", "worse", f"{told}, more than the baseline's{margin}"
        candidate, baseline = (facts[arm].value or 0.0 for arm in ("candidate", "baseline"))
        side = "more than" if candidate > baseline * self._scale else "within"
        return self._arms.hold(facts, moment) or shown(
            passing, f"{told}, {side} the baseline's{margin}{self._arms.told_unanswered(moment)}", moment
        )
