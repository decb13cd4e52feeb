"""Background tasks, for which only `close` waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from somactl.store.home import Home

MOST_TASKS = 64
MOST_BYTES = 256 << 20


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
