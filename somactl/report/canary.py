"""What a canary check returns.

report = CanaryReport(verdict=verdict, spec=spec)
report.finish(verdict.code)            # 0 PASS, 3 FAIL, 4 INCONCLUSIVE, 5 INSUFFICIENT
report.looks.append(look_at(verdict))  # now and then on the way, for the plots of the HTML report
"""

from __future__ import annotations

from typing import Literal

import msgspec

from somactl.core.canary_samples import ArmName
from somactl.core.canary_spec import Spec
from somactl.core.canary_verdict import CanaryVerdict, Criterion
from somactl.report.base import Report


class CanaryPoint(msgspec.Struct, kw_only=True):
    """One criterion at one look: values with their confidence sequences by arm, and log E with its bar."""

    criterion: str
    values: dict[ArmName, float] = {}
    lows: dict[ArmName, float] = {}
    highs: dict[ArmName, float] = {}
    failing: float | None = None
    failing_bar: float | None = None
    passing: float | None = None
    passing_bar: float | None = None


class CanaryLook(msgspec.Struct, kw_only=True):
    """What was known after so many seconds of the window."""

    at: float
    points: list[CanaryPoint] = []


class CanaryDistribution(msgspec.Struct, kw_only=True):
    """Latencies in seconds by arm, counted between ascending edges: counts[i] from edges[i] to edges[i+1].

    Requests are counted between edges that grow by one factor, the outermost of which hold all; a server's
    own buckets keep its edges, and `beyond` tells, by arm, how many are above the last.
    """

    edges: list[float]
    counts: dict[ArmName, list[int]]
    beyond: dict[ArmName, int] = {}


class CanaryHook(msgspec.Struct, kw_only=True):
    """A command that was run with the verdict on stdin; how it ended is told apart from the verdict."""

    on: Literal["pass", "fail", "hold"]
    command: str
    ended: Literal["ok", "failed", "timed-out", "not-started"]
    code: int | None = None
    seconds: float = 0.0
    detail: str = ""


class CanaryReport(Report, tag="canary-check"):
    """The verdict of a canary check, what was asked, and how it got there.

    verdict is None where nothing was judged. looks: what was known on the way, some hundred at most.
    distribution: of both arms' latencies. once: it is one look of several, whose state is kept; resumed: it
    went on where an earlier run ended. recorded: the samples came from a file. replayed: it is the verdict of
    a bundle. evidence: the bundle that was written or replayed, and its digest; html: the page that was
    written. hooks: what was run.
    """

    verdict: CanaryVerdict | None = None
    spec: Spec | None = None
    looks: list[CanaryLook] = []
    distribution: CanaryDistribution | None = None
    once: bool = False
    resumed: bool = False
    recorded: bool = False
    replayed: bool = False
    evidence: str | None = None
    evidence_digest: str | None = None
    html: str | None = None
    hooks: list[CanaryHook] = []


def look_at(verdict: CanaryVerdict) -> CanaryLook:
    """What a verdict, final or on the way, says of each criterion at its time."""
    at = (verdict.at or 0.0) - (verdict.start or 0.0)
    return CanaryLook(at=at, points=[_point(criterion) for criterion in verdict.criteria])


def _point(criterion: Criterion) -> CanaryPoint:
    arms = criterion.arms
    failing, passing = criterion.failing, criterion.passing
    return CanaryPoint(
        criterion=criterion.name,
        values={arm: facts.value for arm, facts in arms.items() if facts.value is not None},
        lows={arm: facts.low for arm, facts in arms.items() if facts.low is not None},
        highs={arm: facts.high for arm, facts in arms.items() if facts.high is not None},
        failing=failing.log_e if failing else None,
        failing_bar=failing.bar if failing else None,
        passing=passing.log_e if passing else None,
        passing_bar=passing.bar if passing else None,
    )
