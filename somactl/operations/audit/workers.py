"""Where the tasks of an audit are proven: in this process, or in worker processes beside it.

Most of the time at small orders is spent in Python, not in LAPACK, so threads would wait for one another;
processes do not. A worker opens the store itself: only names of keys go to it, and only findings come back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractAsyncContextManager, suppress
from multiprocessing import get_context
from typing import Protocol, TypeAlias

from somactl.errors import WorkerLost
from somactl.operations.audit.model import Check, Proven, Task
from somactl.operations.audit.prove import prove_keys
from somactl.store.contract import Store

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Store]]
"""Opens the store in a worker; it travels there, so it can be pickled."""
TRIES = 3
"""How often a task is given out whose worker was killed."""
_WATCH_SECONDS = 1.0


class Workers(Protocol):
    """What proves tasks, `count` of them at once."""

    count: int

    async def prove(self, task: Task) -> Proven: ...

    async def close(self) -> None: ...


class Inline:
    """Proves in this process, through the store that the audit has open."""

    count = 1

    def __init__(self, store: Store, check: Check) -> None:
        self._store, self._check = store, check

    async def prove(self, task: Task) -> Proven:
        return await prove_keys(self._store, task, self._check)

    async def close(self) -> None:
        pass


class Processes:
    """Proves in `count` processes, made when the first task is given out.

    A worker that is killed takes the pool with it: a new one is made, and its tasks are given out again.
    Raises WorkerLost for a task that has lost its worker `TRIES` times.
    """

    def __init__(self, opener: Opener, check: Check, count: int) -> None:
        self.count = count
        self._opener, self._check = opener, check
        self._pool: ProcessPoolExecutor | None = None

    async def prove(self, task: Task) -> Proven:
        for _ in range(TRIES):
            pool = self._pool = self._pool or self._start()
            try:
                return await asyncio.wrap_future(pool.submit(_prove, task))
            except BrokenProcessPool:
                if self._pool is pool:  # the first of those that find it so
                    self._pool = None
                    pool.shutdown(wait=False)
        raise WorkerLost(
            f"a worker process was killed {TRIES} times over the keys from {task.keys[0]!r} to "
            f"{task.keys[-1]!r}",
            hint="look whether the machine ran out of memory; fewer workers need less",
        )

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        # A fork is there at once, where a new interpreter takes half a second to import what is needed. It is
        # made from the event loop's thread, while no other one computes; stores are made for being forked.
        context = get_context("fork" if sys.platform == "linux" else "spawn")
        pool = ProcessPoolExecutor(
            self.count,
            mp_context=context,
            initializer=_begin,
            initargs=(self._opener, self._check, self.count, os.getpid()),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside BLAS's idle threads
            pool.submit(os.getpid)
        return pool


class _Worker:
    """One worker process: its event loop, and the store it has open, for as long as it lives."""

    def __init__(self, opener: Opener, check: Check) -> None:
        self._runner = asyncio.Runner()
        self._opened = opener()
        self._store = self._runner.run(self._opened.__aenter__())
        self._check = check

    def prove(self, task: Task) -> Proven:
        return self._runner.run(prove_keys(self._store, task, self._check))


_worker: _Worker | None = None


def _begin(opener: Opener, check: Check, count: int, parent: int) -> None:
    """Make this process a worker: signals are the parent's, and its death is this one's."""
    from somactl.core.lapack import share_threads

    global _worker
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)  # it would wake the parent's event loop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    share_threads(count)
    _worker = _Worker(opener, check)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _prove(task: Task) -> Proven:
    assert _worker is not None
    return _worker.prove(task)
