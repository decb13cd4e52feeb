"""A clock that goes on only when it is slept by, and sources that tell what a test wants."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from somactl.core.canary_samples import AnySample, ArmName, Degradation, Latency, Proof
from somactl.core.canary_spec import Spec
from somactl.core.canary_spec_file import read_spec

ARMS: tuple[ArmName, ArmName] = ("baseline", "candidate")
START = 1_700_000_000.0


class FakeClock:
    def __init__(self) -> None:
        self.time = START
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


Telling = Callable[[ArmName, float], Sequence[AnySample]]


class FakeSource:
    """Tells at each look what `telling` makes of its arm and the time."""

    def __init__(self, arm: ArmName, telling: Telling, *, is_timed: bool = True) -> None:
        self.arm, self.is_timed = arm, is_timed
        self.start = 0.0
        self.cursor: dict[str, float] = {}
        self.telling = telling
        self.looks: list[float] = []
        self.open = False

    async def begin(self) -> None:
        self.open = True

    async def look(self, now: float) -> list[AnySample]:
        self.looks.append(now)
        self.cursor["told"] = now
        return list(self.telling(self.arm, now))

    async def close(self) -> None:
        self.open = False


def latencies(factor: float = 0.8) -> Telling:
    """Latencies that depend on the time alone, the candidate's `factor` as long, and all else in order."""

    def telling(arm: ArmName, now: float) -> Sequence[AnySample]:
        draw = random.Random(f"{arm} {now - START:.3f}").lognormvariate(-4, 0.25)
        seconds = draw * (factor if arm == "candidate" else 1.0)
        return [
            Latency(t=now, arm=arm, seconds=seconds),
            Proof(t=now, arm=arm, psd="valid", trace_error=1e-12, key="state:1"),
            Degradation(t=now, arm=arm, on=False),
        ]

    return telling


def both(telling: Telling) -> list[FakeSource]:
    return [FakeSource(arm, telling) for arm in ARMS]


def spec(
    criteria: str = "{invariants: {}, latency: {max: 60ms, margin: 100%}, degraded: {max_share: 5%}}",
    more: str = "window: 200s\ninterval: 1s",
    arms: str = "{baseline: {source: samples, file: x}, candidate: {source: samples, file: x}}",
) -> Spec:
    return read_spec(f"version: 1\n{more}\narms: {arms}\ncriteria: {criteria}", "canary.yaml")
