"""The pace of a job: no faster than is allowed, not while a pause file exists, no longer than was given."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_PAUSE_LOOK_SECONDS = 0.5


@dataclass(slots=True)
class Pace:
    """How gentle a run is.

    items, bytes_    at most so many per second; None: as many as go
    pause_file       as long as a file of that name exists, nothing new is begun
    max_seconds      after so many seconds nothing new is begun
    remark           called with a sentence when a pause begins and ends
    """

    items: float | None = None
    bytes_: float | None = None
    pause_file: str | None = None
    max_seconds: float | None = None
    remark: Callable[[str], None] = lambda sentence: None
    _began: float = field(default_factory=time.monotonic)
    _paused: float = 0.0
    _done_items: int = 0
    _done_bytes: int = 0

    async def turn(self, stop: asyncio.Event | None = None) -> bool:
        """Wait until the next step may begin; False where the time is up, or `stop` is set first."""
        stop = stop or asyncio.Event()
        await self._while_paused(stop)
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

    def did(self, items: int, bytes_: int) -> None:
        """So much more was read or moved."""
        self._done_items += items
        self._done_bytes += bytes_

    def _ahead(self, done: int, rate: float | None) -> float:
        """Seconds by which `done` is ahead of the rate; time in a pause does not count."""
        return 0.0 if rate is None else done / rate - (time.monotonic() - self._began - self._paused)

    def _left(self) -> float:
        return math.inf if self.max_seconds is None else self.max_seconds - (time.monotonic() - self._began)

    async def _sleep(self, seconds: float, stop: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(0.0, min(seconds, self._left())))

    async def _while_paused(self, stop: asyncio.Event) -> None:
        if self.pause_file is None or not os.path.exists(self.pause_file):
            return
        since = time.monotonic()
        self.remark(f"paused for as long as {self.pause_file} exists")
        while os.path.exists(self.pause_file) and not stop.is_set() and not self.time_is_up:
            await self._sleep(_PAUSE_LOOK_SECONDS, stop)
        self._paused += time.monotonic() - since
        self.remark("going on")
