"""Commits under way: a cancelled caller stops waiting, but never cuts a write in half."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from somactl.store.home import Home

T = TypeVar("T")


class Writes:
    """Runs each write as a task of its own, which its caller's cancellation does not reach."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], str] = {}
        self._home = Home(self._leave)

    async def run(self, commit_id: str, write: Coroutine[Any, Any, T]) -> T:
        """The result of `write`. If the caller is cancelled, the write goes on to its end."""
        self._home.enter(write)
        task = asyncio.create_task(write)
        self._tasks[task] = commit_id
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def wait_for(self, commit_id: str) -> None:
        """Return when no write of that commit id is under way any more."""
        self._home.enter()
        await self._wait([task for task, name in self._tasks.items() if name == commit_id])

    async def drain(self) -> None:
        """Return when nothing is under way any more."""
        self._home.enter()
        while self._tasks:
            await self._wait(list(self._tasks))

    async def _wait(self, tasks: list[asyncio.Task[Any]]) -> None:
        if tasks:
            await asyncio.wait(tasks)

    def _leave(self) -> object:
        left, self._tasks = self._tasks, {}
        return left

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled never asks, and asyncio would complain
