"""What follows from evidence: shown, not yet, or never; the same for every criterion of a canary check."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import msgspec

from somactl.core.canary_samples import ARMS, AnySample, ArmName
from somactl.core.canary_verdict import ArmFacts, Criterion, Evidence, Outcome, Tally, Why, as_duration
from somactl.core.sequential import Mixture

FARTHEST: Final = 100.0
"""So many times as many samples are thought of before it is said that none would do."""
Finding: TypeAlias = tuple[Outcome, Why, str]


@dataclass(frozen=True, slots=True)
class Moment:
    """When it is judged: where the window began, its length, up to where it was watched, whether it ended."""

    start: float
    span: float
    until: float
    ended: bool


class Judged(Protocol):
    """A criterion."""

    name: str

    def add(self, sample: AnySample) -> None:
        """Take a sample in; one that is about something else is passed over."""

    def fails(self, until: float) -> bool:
        """Whether it has failed, once and for all; asked after every sample."""

    def says(self, moment: Moment) -> Criterion:
        """All that it says at this moment."""


def about_limit(test: Mixture, is_above: bool, limit: float, found: Tally) -> Evidence:
    """The evidence that a share is above the p0 of `test`, or below it."""
    log_e = test.log_above(found.s, found.n) if is_above else test.log_below(found.s, found.n)
    return Evidence(
        test="above" if is_above else "below",
        p0=test.p0,
        k=test.k,
        alpha=test.alpha,
        q=limit,
        candidate=found,
        baseline=None,
        log_e=log_e,
        bar=test.bar,
    )


def lacking(facts: dict[ArmName, ArmFacts], moment: Moment, what: str) -> Finding | None:
    """What is missing of either arm: any sample at all, or one in some tenth of the window."""
    for arm in ARMS:
        if not facts[arm].samples and (moment.ended or moment.until - moment.start >= moment.span / 10):
            return "INSUFFICIENT", "no-samples", f"there are no {what} of the {arm}"
    for arm in ARMS:
        if facts[arm].empty_tenths:
            where = tenths(facts[arm].empty_tenths)
            return "INSUFFICIENT", "gap", f"there are no {what} of the {arm} in {where} of the window"
    return None


def tenths(empty: list[int]) -> str:
    """`the 4th tenth`, `3 tenths`."""
    if len(empty) > 1:
        return f"{len(empty)} tenths"
    return f"the {empty[0]}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(empty[0], 'th') } tenth"


def shown(passing: Evidence, claim: str, moment: Moment) -> Finding:
    """Passed, if the evidence shows the claim at the end of the window; else what there is of it."""
    if not moment.ended:
        return "INSUFFICIENT", "running", f"{claim} so far"
    if passing.shows:
        return "PASS", "shown", claim
    if passing.is_near:
        return "INCONCLUSIVE", "near", f"{claim}, but the evidence is too near its bar to tell"
    return "INSUFFICIENT", "few", f"{claim}, but not shown"


def concluded(
    criterion: Criterion, moment: Moment, passing_at: Callable[[float], float], never: str
) -> Criterion:
    """The criterion with how long it takes until it is shown at this rate, or why it never is.

    passing_at: the log evidence of passing, had so many times as many samples come alike.
    """
    passing = criterion.passing
    if criterion.why not in ("few", "running") or passing is None or passing.shows:
        return criterion
    factor = _factor(passing_at, passing.bar)
    elapsed = moment.until - moment.start
    if factor is not None and elapsed > 0:
        more = (factor - 1.0) * elapsed
        reason = f"{criterion.reason}: it takes some {as_duration(more)} more at this rate"
        told = criterion.reason if criterion.why == "running" else reason
        return msgspec.structs.replace(criterion, remaining=more, reason=told)
    if criterion.why == "running":
        return msgspec.structs.replace(criterion, never=never)
    reason = f"{criterion.reason}, and never will be at these figures: {never}"
    return msgspec.structs.replace(criterion, outcome="INCONCLUSIVE", why="never", never=never, reason=reason)


def _factor(evidence_at: Callable[[float], float], bar: float) -> float | None:
    """By how much there must be more for the evidence to reach its bar; None if FARTHEST would not do."""
    low, high = 1.0, 2.0
    while evidence_at(high) < bar:
        low, high = high, 2.0 * high
        if low >= FARTHEST:
            return None
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if evidence_at(middle) < bar else (low, middle)
    return high
