"""Work beside the callers: questions that several of them share, and what only `close` waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from somactl.errors import StoreTimeout
from somactl.store.calls import Home

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

MOST_TASKS = 64
MOST_BYTES = 256 << 20


class SingleFlight(Generic[K, T]):
    """Shares one call among all who want the same at the same time.

    The call runs as a task of its own with its own deadline: a caller that is cancelled leaves alone, and
    the others still get the answer. If the call fails, all who wait get that error. Nothing is remembered:
    a caller that comes after the answer starts anew; and so does one that comes more than `joinable` seconds
    (by `clock`) after the call began, since its answer may be as old as that.
    """

    def __init__(self, seconds: float, joinable: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._joinable = joinable
        self._clock = clock
        self._tasks: dict[K, tuple[asyncio.Task[T], float]] = {}
        self._running: set[asyncio.Task[T]] = set()
        self._home = Home(self._leave)

    async def run(self, name: K, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the call under way for `name`, or of `call`; StoreTimeout past the deadline."""
        self._home.enter()
        task, until = self._tasks.get(name, (None, 0.0))
        if task is None or self._clock() > until:
            task = asyncio.create_task(self._bounded(call))
            self._tasks[name] = task, self._clock() + self._joinable
            self._running.add(task)
            task.add_done_callback(lambda done: self._forget(name, done))
        return await asyncio.shield(task)

    def forsake(self, names: Callable[[K], bool]) -> None:
        """Let no other caller join the calls for these: what they will bring may already be outdated."""
        for name in [name for name in self._tasks if names(name)]:
            del self._tasks[name]

    async def drain(self) -> None:
        """Return when no call is under way any more."""
        self._home.enter()
        while self._running:
            await asyncio.wait(set(self._running))

    def _leave(self) -> object:
        left = self._tasks, self._running
        self._tasks, self._running = {}, set()
        return left

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

    def _forget(self, name: K, task: asyncio.Task[T]) -> None:
        self._running.discard(task)
        if self._tasks.get(name, (None,))[0] is task:
            del self._tasks[name]
        if not task.cancelled():
            task.exception()  # callers that were all cancelled never ask, and asyncio would complain


class Background:
    """Tasks beside the callers', bounded in number and in the bytes they hold on to."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], int] = {}
        self._home = Home(self._leave)

    def start(self, work: Coroutine[Any, Any, None], *, size: int = 0) -> bool:
        """Whether there was room for it; otherwise nothing is done."""
        self._home.enter(work)
        if len(self._tasks) >= MOST_TASKS or size + sum(self._tasks.values()) > MOST_BYTES:
            work.close()
            return False
        task = asyncio.create_task(work)
        self._tasks[task] = size
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return True

    async def drain(self) -> None:
        """Return when nothing is under way any more; raises what a task raised, which is a bug."""
        self._home.enter()
        while self._tasks:
            done, _ = await asyncio.wait(set(self._tasks))
            for task in done:
                task.result()

    def _leave(self) -> object:
        left, self._tasks = self._tasks, {}
        return left
