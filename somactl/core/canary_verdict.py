"""What a canary check finds: the verdict, what each criterion says, and the evidence that can be recomputed.

verdict.outcome                     # PASS, FAIL, INCONCLUSIVE or INSUFFICIENT; the last two mean hold
verdict.first_line()                # the verdict and its reason in one sentence
for criterion in verdict.criteria:
    for evidence in (criterion.failing, criterion.passing):
        evidence and recomputed(evidence) == evidence.log_e      # within 1e-6, on another machine too
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

import msgspec

from somactl.core.canary_samples import ArmName
from somactl.core.sequential import Mixture

JUDGE_VERSION: Final = "canary-1"
"""The name of what is computed and decided; another one where a verdict on the same samples may differ."""

Outcome: TypeAlias = Literal["PASS", "FAIL", "INCONCLUSIVE", "INSUFFICIENT"]
CODES: Final[dict[Outcome, int]] = {"PASS": 0, "FAIL": 3, "INCONCLUSIVE": 4, "INSUFFICIENT": 5}
PRECISION: Final = 1e-6
"""Evidence that is nearer to its bar than this decides nothing: the last digits differ between machines."""

Why: TypeAlias = Literal[
    # PASS
    "shown",  # every criterion holds, as is shown
    # FAIL
    "violated",  # an invariant
    "above",  # the limit
    "worse",  # than the baseline by more than the margin
    # INCONCLUSIVE: more of the same does not help
    "baseline-breaks",  # the baseline breaks the limit itself
    "undecided",  # verdicts that could not be proven, and the spec holds for them
    "clampable",  # the same for clampable ones
    "near",  # the evidence is within PRECISION of its bar
    "never",  # at these figures it is never shown, however long it is watched
    # INSUFFICIENT: something is missing
    "running",  # the window has not ended, and nothing is wrong so far
    "few",  # too few samples; `remaining` says how many seconds would do
    "no-samples",  # none at all of an arm
    "gap",  # an arm has none in some tenth of the window
    "dependent",  # samples depend on each other over longer than can be thinned
    "trouble",  # a source could not find out something, or a sample was none
    "clocks",  # the arms' times have nothing in common
    "mixed",  # one arm tells latencies of requests, or of buckets, and the other not
]


class Tally(msgspec.Struct, frozen=True):
    """n samples that were judged, of which s are beyond."""

    n: int
    s: int


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One look at an e-process: all it takes to compute it again.

    test: `above` and `below` are about the candidate's share beyond a limit; `worse` says that the quantile
    of the candidate is above (1 + margin) times the baseline's, `no-worse` the reverse. p0 is the share
    beyond, k the prior's weight. q is where the counts were taken (a limit; for two arms the least evidence
    over all, in seconds of the baseline; None: beyond all samples). bar is log 1/alpha.
    """

    test: Literal["above", "below", "worse", "no-worse"]
    p0: float
    k: float
    alpha: float
    q: float | None
    candidate: Tally
    baseline: Tally | None
    log_e: float
    bar: float

    @property
    def shows(self) -> bool:
        """Whether it reaches its bar."""
        return self.log_e >= self.bar + PRECISION

    @property
    def is_near(self) -> bool:
        """Whether it is so near its bar that it decides nothing."""
        return abs(self.log_e - self.bar) < PRECISION


def recomputed(evidence: Evidence) -> float:
    """log E of the counts that stand in it. Raises UsageError where p0, k or alpha are out of range."""
    test = Mixture(evidence.p0, evidence.alpha, evidence.k)
    one, other = evidence.candidate, evidence.baseline
    if evidence.test == "above":
        return test.log_above(one.s, one.n)
    if evidence.test == "below" or other is None:
        return test.log_below(one.s, one.n)
    worse, better = (one, other) if evidence.test == "worse" else (other, one)
    return test.log_above(worse.s, worse.n) + test.log_below(better.s, better.n)


class ArmFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a criterion saw of one arm.

    samples came, of which judged were used: each stride-th, where they depend on each other (1: all of them;
    None: no stride makes them independent), or that many for `divisor` times as many, where they came
    counted. autocorrelation and exceedances are those of neighbours, of ranks and of being beyond the
    quantile; None where they were not measured. value is the quantile or the share, low and high its
    confidence sequence; None where it is not known, or beyond all buckets. empty_tenths: parts of the window
    without a sample.
    """

    samples: int = 0
    judged: int = 0
    stride: int | None = 1
    divisor: float = 1.0
    autocorrelation: float | None = None
    exceedances: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    empty_tenths: list[int] = []


class Criterion(msgspec.Struct, frozen=True, kw_only=True):
    """What one criterion says: invariants, latency.max, latency.margin, errors, degraded, conflicts.

    value is the candidate's and threshold what it must not exceed, in `unit`. failing is the evidence that
    it does, passing that it does not (None: it has no test). remaining: the seconds until it would be shown
    at this rate and these figures; never: why it would not. counts: verdicts by their status, and the like.
    """

    name: str
    outcome: Outcome
    why: Why
    reason: str
    value: float | None = None
    threshold: float | None = None
    unit: Literal["seconds", "share", "count"] = "share"
    failing: Evidence | None = None
    passing: Evidence | None = None
    arms: dict[ArmName, ArmFacts] = {}
    remaining: float | None = None
    never: str | None = None
    counts: dict[str, int] = {}

    @property
    def decisive(self) -> Evidence | None:
        """The evidence for what it says: that of the failure, or of what was or is still to be shown."""
        return self.failing if self.outcome == "FAIL" else self.passing


class TroubleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a source could not find out: how often, first and last (seconds of the window), a detail."""

    arm: ArmName
    what: str
    count: int
    first: float
    last: float
    detail: str = ""


class CanaryVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, the criterion that decided, and what all of them say; times are those of the samples.

    start, at: where the window began, and up to where it was judged; window: its length in seconds. ended:
    whether it was the last look. samples: all that came in the window, by arm; outside: those beyond it.
    """

    judge: str
    outcome: Outcome
    code: int
    criterion: str
    why: Why
    reason: str
    criteria: list[Criterion]
    start: float | None
    at: float | None
    window: float
    ended: bool
    samples: dict[ArmName, int]
    outside: int = 0
    troubles: list[TroubleFacts] = []

    def first_line(self) -> str:
        """`FAIL: the candidate's p95 is ...`"""
        return f"{self.outcome}: {self.reason}"

    @property
    def decided_by(self) -> Criterion | None:
        return next((each for each in self.criteria if each.name == self.criterion), None)


def in_unit(value: float | None, unit: str) -> str:
    """A value as an operator reads it: `61.2 ms`, `1.4 %`, `3`."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "share":
        return f"{100 * value:.3g} %"
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def as_duration(seconds: float) -> str:
    """`40 s`, `25 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
