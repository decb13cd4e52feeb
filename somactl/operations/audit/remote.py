"""What runs on a worker of a Dask cluster: it opens the store there, and proves the tasks it is given.

The store stays open between the tasks of an audit, in an event loop of its own thread that all threads of the
worker share, until there was none for a while.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from contextlib import AsyncExitStack

from somactl.operations.audit.model import Check, Proven, Task
from somactl.operations.audit.prove import prove_keys
from somactl.operations.audit.workers import Opener, carried
from somactl.store.contract import Store

IDLE_SECONDS = 60.0
"""How long a store stays open that no task needs."""
_lock = threading.Lock()
_open: dict[bytes, _Open] = {}


def job(opener: Opener, check: Check) -> bytes:
    """What all tasks of an audit have in common, as it travels."""
    return pickle.dumps((opener, check))


def prove(job: bytes, task: bytes) -> bytes:
    """The outcome of a pickled task, what is proven of it or the error, and the seconds it took; pickled."""
    began = time.monotonic()
    with _lock:
        opened = _open.get(job)
        if opened is None:
            opened = _open[job] = _Open(job)
        opened.tasks += 1
    try:
        outcome: Proven | Exception = opened.prove(pickle.loads(task))
    except Exception as exc:
        outcome = carried(exc)
    return pickle.dumps((outcome, time.monotonic() - began))


class _Open:
    """The store of one audit, and how many tasks are at it."""

    def __init__(self, job: bytes) -> None:
        self._job = job
        given: tuple[Opener, Check] = pickle.loads(job)
        self._opener, self._check = given
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self.tasks = 0
        threading.Thread(target=self._run, name="somactl audit", daemon=True).start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._stack.aclose())
        self._loop.close()

    def prove(self, task: Task) -> Proven:
        return asyncio.run_coroutine_threadsafe(self._prove(task), self._loop).result()

    async def _prove(self, task: Task) -> Proven:
        try:
            return await prove_keys(await self._opened(), task, self._check)
        finally:
            with _lock:
                self.tasks -= 1
            if self._idle is not None:
                self._idle.cancel()
            self._idle = self._loop.call_later(IDLE_SECONDS, self._end)

    async def _opened(self) -> Store:
        async with self._opening:
            store = self._store
            if store is None:
                store = self._store = await self._stack.enter_async_context(self._opener())
            return store

    def _end(self) -> None:
        with _lock:
            if self.tasks:
                return  # one that has come since; the timer is set again when it is done
            del _open[self._job]
        self._loop.stop()
