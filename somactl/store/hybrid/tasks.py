"""Single-flight calls, which several callers share, and background tasks, for which only `close` waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from somactl.errors import StoreTimeout
from somactl.store.calls import Tasks

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

MOST_TASKS = 64
MOST_BYTES = 256 << 20


class Background(Tasks[int]):
    """Tasks for which only `close` waits, bounded in number and in the bytes they hold on to: their names."""

    def start_if_room(self, work: Coroutine[Any, Any, None], *, size: int = 0) -> bool:
        """Whether there was room for it; otherwise nothing is done."""
        self._home.enter(work)
        if len(self._tasks) >= MOST_TASKS or size + sum(self._tasks.values()) > MOST_BYTES:
            work.close()
            return False
        self.start(size, work)
        return True

    async def drain(self) -> None:
        """Return when nothing is under way any more; raises what a task raised, which is a bug."""
        self._home.enter()
        while self._tasks:
            done, _ = await asyncio.wait(list(self._tasks))
            for task in done:
                task.result()


class SingleFlight(Tasks[K], Generic[K, T]):
    """Shares one call among all who want the same at the same time.

    The call has a deadline of its own: a caller that is cancelled leaves alone, and
    the others still get the answer. If the call fails, all who wait get that error. Nothing is remembered:
    a caller after the answer starts anew; and so does one that comes more than `joinable` seconds (by
    `clock`) after the call began, since its answer may be as old as that.
    """

    def __init__(self, seconds: float, joinable: float, clock: Callable[[], float]) -> None:
        super().__init__()
        self._seconds = seconds
        self._joinable = joinable
        self._clock = clock
        self._open: dict[K, tuple[asyncio.Task[T], float]] = {}

    async def share(self, name: K, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the call under way for `name`, or of `call`; StoreTimeout past the deadline."""
        self._home.enter()
        task, until = self._open.get(name, (None, 0.0))
        if task is None or self._clock() > until:
            task = self.start(name, self._bounded(call))
            self._open[name] = task, self._clock() + self._joinable
        return await asyncio.shield(task)

    def forsake(self, names: Callable[[K], bool]) -> None:
        """Let no other caller join the calls for these: what they will bring may already be outdated."""
        for name in [name for name in self._open if names(name)]:
            del self._open[name]

    async def _bounded(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            async with asyncio.timeout(self._seconds) as deadline:
                return await call()
        except TimeoutError:
            if not deadline.expired():
                raise
            raise StoreTimeout(
                f"the store did not answer within {self._seconds:g} s",
                hint="run it again",
            ) from None

    def _leave(self) -> object:
        left, self._open = self._open, {}
        return left, super()._leave()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        name = self._tasks.get(task)
        if name is not None and self._open.get(name, (None,))[0] is task:
            del self._open[name]
        super()._forget(task)
