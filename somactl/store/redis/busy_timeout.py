"""A deadline that tells a server that does not answer from a process, or a server, that is just busy."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from somactl.store.home import Home

T = TypeVar("T")
SLICES = 4
MOST = 4
"""However busy all are, nothing waits longer than this many times its deadline."""


class BusyAwareTimeout:
    """Waits for calls to one server, and gives up those that take too long.

    A deadline of a few milliseconds is to find out that a server is dead. Where this very process is what is
    slow, because other tasks keep the event loop from looking at its sockets, or where the server is just
    sending megabytes to another client, a plain timeout would blame the wrong one. So the time is cut into
    slices, after each of which the loop has looked at what arrived. A slice that took more than twice its
    time does not count, nor one in which the server answered another call.
    """

    def __init__(self) -> None:
        self._answers = 0
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._home = Home(self._leave)

    async def within(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises TimeoutError. What is given up is cancelled."""
        self._home.enter(work)
        task = asyncio.create_task(work)
        try:
            await self._wait(task, seconds / SLICES)
            if task.done():
                self._answers += 1
                return task.result()
        finally:
            if not task.done():
                self._abandoned.add(task)
                task.add_done_callback(self._forget)
                task.cancel()
        raise TimeoutError(f"no answer within {seconds:g} s")

    async def _wait(self, task: asyncio.Task[Any], slice_: float) -> None:
        clock = asyncio.get_running_loop().time
        counted = 0
        for _ in range(SLICES * MOST):
            began, answers = clock(), self._answers
            await asyncio.wait({task}, timeout=slice_)
            counted += clock() - began < 2 * slice_ and answers == self._answers
            if task.done() or counted == SLICES:
                return

    async def drain(self) -> None:
        """Return when what was given up has let go of its connection."""
        self._home.enter()
        if self._abandoned:
            await asyncio.wait(set(self._abandoned))

    def _leave(self) -> object:
        left, self._abandoned = self._abandoned, set()
        return left

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # its caller is gone, and asyncio would complain
