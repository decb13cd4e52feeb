"""One run of a canary check: asks the sources on a schedule, feeds the judge, keeps what it saw.

It ends at FAIL, with the window, or with one look if that is what is asked for. Probes read one after the
other, the arms in turn, so that what happens to both happens to both; other sources are asked beside them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from somactl.core.canary_samples import AnySample, ArmName, Doubt
from somactl.core.canary_spec import Spec
from somactl.core.canary_verdict import CanaryVerdict, as_duration
from somactl.errors import UsageError
from somactl.operations.canary.sources import Source
from somactl.operations.canary.state import Kept, Look
from somactl.operations.canary.watch import Watch
from somactl.suggestion import again

KEEP_SECONDS: Final = 10.0
"""So often a run that stays keeps what it saw; as much is lost where it is killed."""

PASS_SECONDS: Final = 3600.0
"""So long, or for another window, a PASS is said again by a run that has ended."""


class Clock:
    """Seconds since 1970 as this machine said when the clock was made, and a time that only goes on."""

    def __init__(self) -> None:
        self._wall, self._began = time.time(), time.monotonic()

    def now(self) -> float:
        return self._wall + (time.monotonic() - self._began)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class Ended:
    """How a run ended. is_final: at FAIL, or with the window."""

    verdict: CanaryVerdict
    watch: Watch
    is_final: bool


def replay(watch: Watch, kept: Kept | None) -> None:
    """Take in what an earlier process saw, in the steps in which it saw it."""
    for look in kept.looks if kept else ():
        watch.take(look.samples)
        if watch.look(look.at):
            break


@dataclass
class Run:
    """sources of both arms; told is called after each look, with its time. `begin` comes first."""

    spec: Spec
    sources: Sequence[Source]
    kept: Kept | None = None
    clock: Clock = field(default_factory=Clock)
    told: Callable[[Watch, float], None] = lambda watch, now: None

    def __post_init__(self) -> None:
        self.start = self.clock.now()
        self.watch = Watch(self.spec, self.start)
        self._unkept: list[Look] = []
        self._asked: dict[ArmName, asyncio.Task[list[AnySample]]] = {}
        self._rounds = 0

    async def begin(self) -> None:
        """Open the sources, begin the window, or take in what an earlier process saw of it."""
        for source in self.sources:
            await source.begin()
        head = self.kept.head if self.kept else None
        self.start = self._kept_at = self.clock.now() if head is None else head.start
        self.watch = Watch(self.spec, self.start)
        if self.kept is not None and head is None:
            await self.kept.begin(self.start)
        for source in self.sources:
            source.start = self.start
            source.cursor = dict(head.cursors.get(source.arm, {})) if head else {}
        replay(self.watch, self.kept)
        self._rounds = len(self.kept.looks) if self.kept else 0

    @property
    def end(self) -> float:
        return self.start + self.spec.window

    async def go_on(self) -> Ended:
        """Look every interval until it fails or the window ends."""
        try:
            while not self.watch.failed:  # which what was kept may show already
                now = self.clock.now()
                due = now + max(self.spec.interval, self.spec.gap)
                is_last = now >= self.end
                await self._look(due, whole=is_last)
                if is_last or self.watch.failed:
                    break
                await self._keep_if_due()
                await self.clock.sleep(max(min(due, self.end) - self.clock.now(), 0.0))
        finally:
            await self._stop()
        return await self._finish()

    async def once(self, reads: int) -> Ended:
        """One look: every source is asked, and a probe reads `reads` times, with the least gap between."""
        if not self.watch.failed:
            try:
                await self._look(self.clock.now(), whole=True, reads=reads)
            finally:
                await self._stop()
        if self.watch.failed or self.clock.now() >= self.end:
            return await self._finish()
        await self._keep()
        return Ended(self.watch.verdict(self.clock.now()), self.watch, is_final=False)

    async def stopped(self) -> Ended:
        """What is known of a run that was ended from outside: never a pass."""
        await self._keep()
        return Ended(self.watch.verdict(self.clock.now()), self.watch, is_final=False)

    async def _look(self, due: float, *, whole: bool, reads: int = 1) -> None:
        """Take in what there is. whole: wait for every answer, however long it takes."""
        beside = [source for source in self.sources if not source.is_timed]
        for source in beside:
            if source.arm not in self._asked:
                self._asked[source.arm] = asyncio.create_task(self._ask(source))
        samples: list[AnySample] = []
        for left in reversed(range(reads if self.clock.now() < self.end else 0)):
            samples += await self._read_in_turn()
            if left:
                await self.clock.sleep(self.spec.gap)
        if self._asked:
            timeout = None if whole else max(due - self.clock.now(), 0.0)
            await asyncio.wait(self._asked.values(), timeout=timeout)
        for arm in [arm for arm, task in self._asked.items() if task.done()]:
            samples += self._asked.pop(arm).result()
        self._take(samples)

    async def _ask(self, source: Source) -> list[AnySample]:
        """What it tells. What it cannot tell when asked behind the end is missing at the end."""
        now = self.clock.now()
        return [
            msgspec.structs.replace(sample, t=self.end)
            if isinstance(sample, Doubt) and sample.t >= now > self.end
            else sample
            for sample in await source.look(now)
        ]

    def _take(self, samples: list[AnySample]) -> None:
        samples.sort(key=lambda sample: sample.t)
        at = min(self.clock.now(), self.end)
        self.watch.take(samples)
        self.watch.look(at)
        self._unkept.append(Look(at, samples))
        self.told(self.watch, at)

    async def _read_in_turn(self) -> list[AnySample]:
        """One read of each probe, the other one first each time."""
        self._rounds += 1
        samples: list[AnySample] = []
        for source in [source for source in self.sources if source.is_timed][
            :: 1 if self._rounds % 2 else -1
        ]:
            samples += await source.look(self.clock.now())
        return samples

    async def _keep_if_due(self) -> None:
        if self.kept is not None and self.clock.now() >= self._kept_at + KEEP_SECONDS:
            await self._keep()

    async def _keep(self, ended_at: float | None = None) -> None:
        if self.kept is not None and self.kept.head is not None:
            cursors = {source.arm: dict(source.cursor) for source in self.sources}
            looks, self._unkept = self._unkept, []
            await self.kept.keep(looks, cursors, ended_at=ended_at)
            self._kept_at = self.clock.now()

    async def _finish(self) -> Ended:
        at = min(self.clock.now(), self.end)
        await self._keep(ended_at=at)
        return Ended(self.watch.finish(at), self.watch, is_final=True)

    async def _stop(self) -> None:
        """End what is asked. What was answered is taken in: its cursor has moved, so it is not told again."""
        for task in self._asked.values():
            task.cancel()
        told = await asyncio.gather(*self._asked.values(), return_exceptions=True)
        self._asked.clear()
        samples = [sample for each in told if not isinstance(each, BaseException) for sample in each]
        if samples and not self.watch.failed:
            self._take(samples)


def refuse_old_pass(spec: Spec, kept: Kept, ended: Ended, now: float) -> None:
    """Raises UsageError for a PASS of long ago: it says nothing of a rollout that has begun since."""
    age = now - ((kept.head and kept.head.ended_at) or now)
    if ended.verdict.outcome == "PASS" and age > max(spec.window, PASS_SECONDS):
        raise UsageError(
            f"the canary check of this spec passed {as_duration(age)} ago, and none ran since",
            hint="a new rollout takes a new window",
            next=again(restart=True),
        )


def ended_before(spec: Spec, kept: Kept) -> Ended | None:
    """The verdict of a run that has ended, from what was kept of it; None where it goes on."""
    head = kept.head
    if head is None or head.ended_at is None:
        return None
    watch = Watch(spec, head.start)
    replay(watch, kept)
    return Ended(watch.finish(head.ended_at), watch, is_final=True)
