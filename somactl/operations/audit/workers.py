"""Where the tasks of an audit are proven: in this process, or in worker processes beside it.

Most of the time at small orders is spent in Python, not in LAPACK, so threads would wait for one another;
processes do not. A worker opens the store itself: only names of keys go to it, and only findings come back.

Each worker has a socket of its own. When one side of it dies, however it does, the other learns so at once: a
task whose worker was killed goes to another one, and a worker whose parent was killed ends. The pools of
`concurrent.futures` share one pipe among all, so that one death takes every worker along, and the parent's
leaves them waiting for ever.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import socket
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from multiprocessing import get_context
from typing import Any, Protocol, TypeAlias

from somactl.errors import SomactlError, WorkerLost
from somactl.operations.audit.model import Check, Proven, Task
from somactl.operations.audit.prove import prove_keys
from somactl.store.contract import Store

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Store]]
"""Opens the store in a worker; it travels there, so it can be pickled."""
TRIES = 3
"""How often a task is begun whose worker is killed over it."""
AHEAD = 2
"""How many tasks a worker has, so that there is a next one when it is done with one."""
STUCK_SECONDS = 600.0
"""A worker that does not answer for so long is killed, so that an audit ends whatever a process may hang in;
it has as much again for each STUCK_BYTES that it was given. The slowest proof takes a fraction of that."""
STUCK_BYTES = 16 << 20
_GRACE_SECONDS = 10
"""How long a worker that is told to terminate goes on: its parent, told the same, wants what is under way."""
_END_SECONDS = 5.0
"""How long a worker may take to close its store."""
_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_SIZE = struct.Struct("!Q")


class Workers(Protocol):
    """What proves tasks, `count` of them at once.

    task_bytes  how large a task had best be; 0 where a page of the index is right
    """

    @property
    def count(self) -> int: ...
    @property
    def task_bytes(self) -> int: ...

    async def prove(self, task: Task) -> Proven:
        """What is found of the keys of a task. Raises what the store raises, and WorkerLost."""
        ...

    async def close(self) -> None:
        """Give up what is under way, and end the workers."""
        ...


class Inline:
    """Proves in this process, through the store that the audit has open."""

    count = 1
    task_bytes = 0

    def __init__(self, store: Store, check: Check) -> None:
        self._store, self._check = store, check

    async def prove(self, task: Task) -> Proven:
        return await prove_keys(self._store, task, self._check)

    async def close(self) -> None:
        pass


class Processes:
    """Proves in up to `jobs` processes. Each is made for a task that no other one is free for.

    method  how they are made. A `fork` is there at once, where the new interpreter of a `spawn` takes half a
            second to import what is needed. It is made in the event loop's thread, while no other one
            computes; stores are made for being forked
    """

    task_bytes = 0

    def __init__(self, opener: Opener, check: Check, jobs: int, *, method: str | None = None) -> None:
        self.count = jobs * AHEAD
        self._jobs = jobs
        self._method = method or ("fork" if sys.platform == "linux" else "spawn")
        self._does = (opener, check, jobs)
        self._workers: list[_Worker] = []

    async def prove(self, task: Task) -> Proven:
        if not task.keys:
            return Proven(results=[], absent=[])
        tries = 0
        while tries < TRIES:
            worker = self._free()
            try:
                return await worker.prove(task)
            except _Gone as exc:
                tries += exc.begun
                if worker in self._workers:
                    self._workers.remove(worker)
                    await worker.end()
        raise lost(f"a worker process was killed {TRIES} times", task)

    def _free(self) -> _Worker:
        """The worker with the fewest tasks; a new one where all have some, and there may be more of them."""
        found = min(self._workers, key=lambda worker: worker.tasks, default=None)
        if found is None or (found.tasks and len(self._workers) < self._jobs):
            if found is None and self._method == "fork":
                _import_once()
            found = _Worker(self._method, self._does, [worker.link for worker in self._workers])
            self._workers.append(found)
        return found

    async def close(self) -> None:
        workers, self._workers = self._workers, []
        await asyncio.gather(*(worker.end() for worker in workers))


def lost(what: str, task: Task) -> WorkerLost:
    """The error for a task that found no worker which lived to its end."""
    first, last = task.keys[0], task.keys[-1]
    keys = f"the key {first!r}" if first == last else f"the keys from {first!r} to {last!r}"
    return WorkerLost(
        f"{what} over {keys}",
        hint="look whether the machine ran out of memory; fewer workers need less",
        first_key=first,
        last_key=last,
    )


class _Gone(Exception):
    """A worker is gone; `begun`: while it was at this task, which may be what killed it."""

    def __init__(self, begun: bool) -> None:
        super().__init__(begun)
        self.begun = begun


class _Worker:
    """A worker process, as its parent sees it: tasks go to it one after another, and are done so.

    others  the parent's ends of the links to the workers before it, which a fork would keep open
    """

    def __init__(self, method: str, does: tuple[Opener, Check, int], others: Sequence[socket.socket]) -> None:
        self.link, theirs = socket.socketpair()
        self._waiting: dict[int, asyncio.Future[Proven]] = {}  # in the order in which they are done
        self._bytes = 0  # of those
        self._given = 0
        self._turn = asyncio.Lock()
        kept = [*others, self.link] if method == "fork" else []
        try:
            with _quiet_start():
                self._process = get_context(method).Process(  # type: ignore[attr-defined]
                    target=_serve, args=(theirs, kept, *does), name="somactl audit worker", daemon=True
                )
                self._process.start()
        except OSError as exc:
            self.link.close()
            raise WorkerLost(f"no worker process can be made: {exc}", hint="fewer jobs need less") from exc
        finally:
            theirs.close()
        self.link.setblocking(False)
        self._listening = asyncio.create_task(self._listen())

    @property
    def tasks(self) -> int:
        return len(self._waiting)

    async def prove(self, task: Task) -> Proven:
        if self._listening.done():
            raise _Gone(begun=False)
        outcome: asyncio.Future[Proven] = asyncio.get_running_loop().create_future()
        self._given += 1
        self._waiting[self._given] = outcome
        self._bytes += task.bytes_
        patience = STUCK_SECONDS * (1 + self._bytes / STUCK_BYTES)
        killing = asyncio.get_running_loop().call_later(patience, self._process.kill)
        try:
            return await self._answer(task, outcome)
        finally:
            killing.cancel()
            self._bytes -= task.bytes_

    async def _answer(self, task: Task, outcome: asyncio.Future[Proven]) -> Proven:
        number = self._given
        with suppress(OSError):  # it is gone, which the listener finds too
            async with self._turn:
                await _send(self.link, (number, task))
        return await outcome

    async def _listen(self) -> None:
        """Hand on what comes back, until the worker is gone."""
        try:
            while (answer := await _receive(self.link)) is not None:
                number, outcome = answer
                future = self._waiting.pop(number)
                if future.done():  # its caller has given up
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        finally:
            for place, future in enumerate(self._waiting.values()):
                if not future.done():
                    future.set_exception(_Gone(begun=place == 0))
            self._waiting.clear()

    async def end(self) -> None:
        """Hang up, which ends the process, and see that it does."""
        self._listening.cancel()
        await asyncio.wait([self._listening])
        self.link.close()
        await asyncio.to_thread(self._process.join, _END_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Around the start of a process. No signal is handled in it before it has handlers of its own; and Python
    does not warn of BLAS's idle threads, which are made for a fork too."""
    block = getattr(signal, "pthread_sigmask", None)
    before = block(signal.SIG_BLOCK, _SIGNALS) if block else set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if block:
            block(signal.SIG_SETMASK, before)


def _import_once() -> None:
    """Import what every worker needs: what is there before a fork costs none of them anything."""
    from somactl.core import batch, lapack  # noqa: F401

    lapack.describe_blas()


def _serve(
    link: socket.socket, others: Sequence[socket.socket], opener: Opener, check: Check, jobs: int
) -> None:
    """A worker process, from its first line to its end."""
    from somactl.core.lapack import share_threads

    for other in others:
        other.close()
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)  # it would wake the parent's event loop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate_later)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    gc.freeze()  # what came from the parent is never to be collected, nor looked through
    share_threads(jobs)
    link.setblocking(False)
    with suppress(OSError):  # the parent is gone
        asyncio.run(_work(link, opener, check))
    os._exit(0)


def _terminate_later(number: int, frame: object) -> None:
    alarm = getattr(signal, "alarm", None)
    if alarm is None:
        os._exit(128 + number)
    alarm(_GRACE_SECONDS)  # whose signal ends the process


async def _work(link: socket.socket, opener: Opener, check: Check) -> None:
    """Prove one task after another until the parent hangs up."""
    tasks: asyncio.Queue[tuple[int, Task]] = asyncio.Queue()
    working = asyncio.create_task(_prove_all(link, tasks, opener, check))
    while (message := await _receive(link)) is not None:
        tasks.put_nowait(message)
    working.cancel()
    await asyncio.wait([working])
    os._exit(0)  # a thread may still be at a matrix that is no longer asked for


async def _prove_all(
    link: socket.socket, tasks: asyncio.Queue[tuple[int, Task]], opener: Opener, check: Check
) -> None:
    async with AsyncExitStack() as stack:
        store: Store | None = None
        while True:
            number, task = await tasks.get()
            outcome: Proven | Exception
            try:
                if store is None:
                    store = await stack.enter_async_context(opener())
                outcome = await prove_keys(store, task, check)
            except Exception as exc:
                outcome = carried(exc)
            await _send(link, (number, outcome))


def carried(exc: Exception) -> Exception:
    """The error as it can travel; that of a bug tells where in the worker it came up."""
    if not isinstance(exc, SomactlError):
        exc.add_note("in a worker:\n" + "".join(traceback.format_tb(exc.__traceback__)))
    try:
        pickle.loads(pickle.dumps(exc))
    except Exception:
        return RuntimeError(f"{type(exc).__name__} in a worker: {exc}")
    return exc


async def _send(link: socket.socket, message: object) -> None:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    await asyncio.get_running_loop().sock_sendall(link, _SIZE.pack(len(data)) + data)


async def _receive(link: socket.socket) -> Any | None:
    """The next message; None where the other side is gone."""
    with suppress(ConnectionError, EOFError):
        (size,) = _SIZE.unpack(await _exactly(link, _SIZE.size))
        return pickle.loads(await _exactly(link, size))
    return None


async def _exactly(link: socket.socket, size: int) -> bytearray:
    loop = asyncio.get_running_loop()
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        more = await loop.sock_recv_into(link, view[got:])
        if not more:
            raise EOFError
        got += more
    return data
