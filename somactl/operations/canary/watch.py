"""The judge of one run, with what was seen on the way."""

from __future__ import annotations

from collections.abc import Iterable

from somactl.core.canary import Judge
from somactl.core.canary_samples import AnySample, ArmName, Rejected
from somactl.core.canary_spec import Spec
from somactl.core.canary_verdict import CanaryVerdict
from somactl.report import CanaryLook, look_at
from somactl.report.canary_evidence import MOST_ASKED

MOST_LOOKS = 200
"""So many looks, evenly spaced over the window, are kept for the plots of a report."""


class Watch:
    """Takes samples in, looks at them, and keeps both: a run and its continuation judge in the same steps.

    span: the seconds over which looks are spread; by default the window. asked: [samples so far, time] of
    each look; begun, ended: what the judge was told of the window. From these it can be judged again.
    """

    def __init__(self, spec: Spec, start: float | None = None, span: float | None = None) -> None:
        self.spec = spec
        self.samples: list[AnySample] = []
        self.looks: list[CanaryLook] = []
        self.asked: list[tuple[int, float]] = []
        self.begun = start
        self.ended: float | None = None
        self.failed = False
        self._judge = Judge(spec, start)
        self._every = (spec.window if span is None else span) / MOST_LOOKS
        self._told_at = float("-inf")

    @property
    def start(self) -> float | None:
        """When the window began; None before the first sample, where that is what begins it."""
        return self._judge.start

    def take(self, samples: Iterable[AnySample]) -> None:
        for sample in samples:
            self.samples.append(sample)
            self._judge.add(sample)

    def reject(self, rejected: Rejected, arm: ArmName) -> None:
        self._judge.reject(rejected, arm)

    def look(self, now: float) -> bool:
        """Whether it fails, which ends the run."""
        if len(self.asked) <= MOST_ASKED:
            self.asked.append((len(self.samples), now))
        self.failed = self._judge.fails(now)
        if now >= self._told_at + self._every:
            self._told_at = now
            self.looks.append(look_at(self._judge.verdict(now)))
        return self.failed

    def verdict(self, now: float | None = None) -> CanaryVerdict:
        """What is known while the window runs; `finish` is for its end."""
        self.ended = now
        return self._judge.verdict(now)

    def finish(self, now: float | None = None, *, recorded: bool = False) -> CanaryVerdict:
        self.ended = now
        verdict = self._judge.finish(now, recorded=recorded)
        self.looks.append(look_at(verdict))
        return verdict
