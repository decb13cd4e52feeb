"""A pipeline: reader -> bounded queue -> workers -> collector, that comes to an end whatever ends it.

::

    ended = await pipeline(
        pages(store),                      # an async generator: read one page after another
        lambda page: to_thread(prove, page),   # `workers` of them at once
        collect,                           # one result at a time, in the order of the reader
        pace=pace,
        cost=lambda page: (len(page.keys), page.size),
        workers=4,
    )

The collector is where a job counts, commits and saves its checkpoint: when it has been given a result it has
been given all that were read before it, each once, and nothing that comes after. So whatever it saved is a
place where the next run goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Generic, Literal, TypeVar

from somactl.operations.jobs.pace import Pace

A = TypeVar("A")
B = TypeVar("B")

Ended = Literal["done", "deadline", "signal"]


async def pipeline(
    read: AsyncGenerator[A, None],
    work: Callable[[A], Awaitable[B]],
    collect: Callable[[B], Awaitable[None]],
    *,
    pace: Pace | None = None,
    cost: Callable[[A], tuple[int, int]] = lambda item: (1, 0),
    workers: int = 1,
    ahead: int = 1,
    finish: Callable[[Ended], Awaitable[None]] | None = None,
) -> Ended:
    """Take all of `read` through `work` into `collect`, and say why it ended; `read` is closed by then.

    work     of each item, of `workers` items at once. CPU-bound work belongs on a thread of its own
    collect  one result after another, in the order of `read`
    pace     asked before each item is read; `cost` tells it how many things and bytes the item was
    ahead    how many items wait between reader and workers, so that at most `workers + ahead` items or
             results are in memory, and one more that is being collected
    finish   called with what ended it once all is collected, and no more cut off by a signal than `collect`;
             not after a failure

    done      `read` came to its end and all of it was collected
    deadline  the pace allows no more: what had been read was collected
    signal    this task was cancelled: a reading under way is given up, what had been read was collected.
              Cancelled again, the pipeline ends at once

    The first failure, in the order of `read`, ends it: what was read before the failing item is collected,
    nothing after it, and the error is raised. One of `collect` is raised at once.
    """
    flow = _Flow(read, work, pace or Pace(), cost, workers, ahead)
    task = asyncio.ensure_future(flow.run(collect, finish))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        flow.stop.set()
        return await task  # where it has ended already, what came of it counts


class _Flow(Generic[A, B]):
    """The tasks of one pipeline: one that reads, one for each item, and the caller's, which collects."""

    def __init__(
        self,
        read: AsyncGenerator[A, None],
        work: Callable[[A], Awaitable[B]],
        pace: Pace,
        cost: Callable[[A], tuple[int, int]],
        workers: int,
        ahead: int,
    ) -> None:
        self.stop = asyncio.Event()
        self._read = read
        self._work = work
        self._pace = pace
        self._cost = cost
        self._free_workers = asyncio.Semaphore(workers)
        self._room = asyncio.Semaphore(workers + ahead)  # which is what bounds the queue
        self._queue: asyncio.Queue[asyncio.Task[B] | None] = asyncio.Queue()

    async def run(
        self,
        collect: Callable[[B], Awaitable[None]],
        finish: Callable[[Ended], Awaitable[None]] | None,
    ) -> Ended:
        reader = asyncio.create_task(self._fill())
        try:
            while (item := await self._queue.get()) is not None:
                result = await item
                self._room.release()
                await collect(result)
            ended = await reader  # or raise what ended it, now that all it read is collected
            if finish is not None:
                await finish(ended)
            return ended
        finally:
            await _cancelled(reader)
            rest = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            await _cancelled(*(item for item in rest if item is not None))

    async def _fill(self) -> Ended:
        try:
            async with aclosing(self._read):
                while True:
                    await self._room.acquire()
                    if not await self._pace.turn(self.stop):
                        return "signal" if self.stop.is_set() else "deadline"
                    found = await self._next()
                    if found is None:
                        return "signal" if self.stop.is_set() else "done"
                    self._pace.did(*self._cost(found[0]))
                    self._queue.put_nowait(asyncio.create_task(self._one(found[0])))
        finally:
            self._queue.put_nowait(None)

    async def _next(self) -> tuple[A] | None:
        """The next item; None at the end, or where `stop` is set before it has come."""

        async def following() -> tuple[A] | None:
            async for item in self._read:
                return (item,)
            return None

        reading, stopping = asyncio.create_task(following()), asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            await _cancelled(reading, stopping)

    async def _one(self, item: A) -> B:
        async with self._free_workers:
            return await self._work(item)


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
