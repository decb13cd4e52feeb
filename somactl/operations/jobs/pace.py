"""The pace of a job: no faster than is allowed, not while it is in the way, no longer than was given."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from somactl.errors import SomactlError, StoreUnavailable
from somactl.operations.jobs.throttle import Throttle

_LOOK_SECONDS = 0.5
ASK_SECONDS = 0.25
"""The store is asked for its latency no more often than this."""
TRIES = 3
"""The best answer of so many counts: a process that is busy with proofs is often late to look."""
BETWEEN_TRIES_SECONDS = 0.02
"""An answer comes just when the store is free: asked again at once, it would be free for that."""
CALM_SECONDS = 10.0
"""Only when nothing held the job back for so long is that over: a sentence each time would be no news."""

Probe = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Pace:
    """How gentle a run is.

    items, bytes_    at most so many per second; None: as many as go
    pause_file       as long as a file of that name exists, nothing new is begun
    max_seconds      after so many seconds nothing new is begun
    max_latency      while `probe` takes more seconds than this, the job pauses before each step, as
                     `Throttle` says: longer and longer, but never for good
    probe            one small question to the store, such as `Store.head`; None: it is not asked. How long a
                     page takes says little: a large one takes long in an idle store, too. A store object that
                     the job does not read with is best, or the question waits behind the job's own reads
    remark           called with a sentence when a pause begins and ends
    waiting          called twice a second in a pause, to show `reason` where a person looks on
    now              seconds by the clock that all of this goes by

    A job with several workers asks for a turn only where it reads what they are given. That holds all of them
    back: the queue between is short, and what is not read is not worked on.

    Pauses of either kind do not count for a rate, which is not made up for afterwards; they count for
    `max_seconds`.
    """

    items: float | None = None
    bytes_: float | None = None
    pause_file: str | None = None
    max_seconds: float | None = None
    remark: Callable[[str], None] = lambda sentence: None
    max_latency: float | None = None
    probe: Probe | None = None
    waiting: Callable[[], None] = lambda: None
    now: Callable[[], float] = time.monotonic
    held_back: float = field(default=0.0, init=False)
    """Seconds in which --max-latency held the job back, so far."""
    _began: float = field(default=0.0, init=False)
    _paused: float = field(default=0.0, init=False)
    _done_items: int = field(default=0, init=False)
    _done_bytes: int = field(default=0, init=False)
    _throttle: Throttle = field(init=False)
    _asked: float = field(default=-math.inf, init=False)
    _is_told: bool = field(default=False, init=False)
    _held_last: float = field(default=-math.inf, init=False)
    _sees_file: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._began = self.now()
        self._throttle = Throttle(math.inf if self.max_latency is None else self.max_latency)

    async def turn(self, stop: asyncio.Event | None = None) -> bool:
        """Wait until the next step may begin; False where the time is up, or `stop` is set first."""
        stop = stop or asyncio.Event()
        await self._while_paused(stop)
        await self._while_slow(stop)
        ahead = max(self._ahead(self._done_items, self.items), self._ahead(self._done_bytes, self.bytes_))
        if ahead > 0:
            await self._sleep(ahead, stop)
        return not stop.is_set() and not self.time_is_up

    def portion(self, most: int) -> int:
        """How many items to take at once, `most` at most: no more than the rate allows in a second."""
        return most if self.items is None else max(1, min(most, int(self.items)))

    @property
    def time_is_up(self) -> bool:
        return self._left() <= 0

    @property
    def reason(self) -> str:
        """What holds the job back at the moment, in a few words; empty: nothing does."""
        if self._sees_file:
            return f"paused while {self.pause_file} exists"
        return f"held back: {self._answers()}" if self._throttle.pause else ""

    def did(self, items: int, bytes_: int) -> None:
        """So much more was read or moved."""
        self._done_items += items
        self._done_bytes += bytes_

    def _ahead(self, done: int, rate: float | None) -> float:
        """Seconds by which `done` is ahead of the rate; time in a pause does not count."""
        return 0.0 if rate is None else done / rate - (self.now() - self._began - self._paused)

    def _left(self) -> float:
        return math.inf if self.max_seconds is None else self.max_seconds - (self.now() - self._began)

    def _may_wait(self, stop: asyncio.Event) -> bool:
        return not stop.is_set() and not self.time_is_up

    async def _sleep(self, seconds: float, stop: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.0, min(seconds, self._left())))

    async def _while_paused(self, stop: asyncio.Event) -> None:
        if self.pause_file is None or not os.path.exists(self.pause_file):
            return
        since, self._sees_file = self.now(), True
        self.remark(f"paused for as long as {self.pause_file} exists")
        while os.path.exists(self.pause_file) and self._may_wait(stop):
            self.waiting()
            await self._sleep(_LOOK_SECONDS, stop)
        self._paused += self.now() - since
        self._sees_file = False
        self.remark("going on")

    async def _while_slow(self, stop: asyncio.Event) -> None:
        """Pause for as long as the throttle says, which goes on listening meanwhile."""
        if self.max_latency is None or self.probe is None:
            return
        await self._listen(self.probe, stop)
        if not self._throttle.pause:
            return
        since = self.now()
        while (left := self._throttle.pause - (self.now() - since)) > 0 and self._may_wait(stop):
            self.waiting()
            await self._sleep(min(left, _LOOK_SECONDS), stop)
            await self._listen(self.probe, stop, in_pause=True)
        held = self.now() - since
        self.held_back += held
        self._paused += held

    async def _listen(self, probe: Probe, stop: asyncio.Event, *, in_pause: bool = False) -> None:
        """Let the throttle know how the store answers now, unless it was asked a moment ago."""
        if self.now() - self._asked < ASK_SECONDS or not self._may_wait(stop):
            return
        self._asked = self.now()
        best = await self._latency(probe, stop)
        for _ in range(TRIES - 1):
            if best is None or best <= self._throttle.limit or best == math.inf:
                break
            await self._sleep(BETWEEN_TRIES_SECONDS, stop)
            latency = await self._latency(probe, stop)
            best = None if latency is None else min(best, latency)
        if best is None:
            return
        self._throttle.heard(best, in_pause=in_pause)
        self._tell()

    async def _latency(self, probe: Probe, stop: asyncio.Event) -> float | None:
        """Seconds that one answer takes, infinity where there is none; None where the run ends before."""
        began = self.now()
        try:
            if not await self._answered(probe, stop):
                return None
        except StoreUnavailable:  # which the job's own reading meets as well, and tells
            return math.inf
        except SomactlError:  # an answer all the same
            pass
        return self.now() - began

    async def _answered(self, probe: Probe, stop: asyncio.Event) -> bool:
        """Whether the probe came to an end before the run does. Raises what it raises."""
        asking, stopping = asyncio.ensure_future(probe()), asyncio.ensure_future(stop.wait())
        left = self._left()
        try:
            await asyncio.wait(
                {asking, stopping},
                timeout=None if left == math.inf else max(0.0, left),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if asking.done():
                asking.result()
            return asking.done()
        finally:
            asking.cancel()
            stopping.cancel()
            await asyncio.gather(asking, stopping, return_exceptions=True)

    def _tell(self) -> None:
        """Say that it is held back when that begins, and when it is over."""
        if self._throttle.pause:
            self._held_last = self.now()
            if not self._is_told:
                self._is_told = True
                more = (
                    f", more than {_shown(self._throttle.limit)}" if self._throttle.latency < math.inf else ""
                )
                self.remark(f"holding back: {self._answers()}{more} (--max-latency)")
        elif self._is_told and self.now() - self._held_last >= CALM_SECONDS:
            self._is_told = False
            self.remark(f"not held back any more: {self._answers()}")

    def _answers(self) -> str:
        latency = self._throttle.latency
        return (
            "the store does not answer" if latency == math.inf else f"the store answers in {_shown(latency)}"
        )


def _shown(seconds: float) -> str:
    """`48 ms`, `0.34 ms`, `2.5 s`."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.2g} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
