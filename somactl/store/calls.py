"""Calls in flight: cancelled callers, forks, locks held by others, and replies that make no sense.

`Tasks`      a caller is cancelled, and the work goes on to its end
`Home`       the process forks, or another event loop begins
`wait_for`   a lock is held by others: the listener is told
`misread`    a reply makes no sense: an error of the server's, not of ours
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from somactl.errors import OutcomeUnknown, SomactlError, StoreDamaged, UsageError

C = TypeVar("C", bound=type)
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
_homes: WeakSet[Home] = WeakSet()
_inherited: list[asyncio.AbstractEventLoop] = []
_kept: list[object] = []
NOTICED_SECONDS = 1.0
"""What is shorter than this is no waiting."""
client_name: ContextVar[str] = ContextVar("client_name", default="somactl")
"""What pg_stat_activity and CLIENT LIST show, so that another who waits can tell what for."""
_heard: ContextVar[Heard | None] = ContextVar("heard", default=None)
_listener: ContextVar[Callable[[str], None] | None] = ContextVar("waiting", default=None)
STUMBLES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    LookupError,
    MemoryError,
    RecursionError,
    SystemError,
    TypeError,
    ValueError,
)
_CHARACTERS = 200
_HINT = "check host, port and what stands between; look at the server's log"


class Tasks(Generic[K]):
    """Tasks that run to their end, each under a name that need not be its own; a store's writes, for one."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], K] = {}
        self._home = Home(self._leave)

    def start(self, name: K, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that does `work`."""
        self._home.enter(work)
        task = asyncio.create_task(work)
        self._tasks[task] = name
        task.add_done_callback(self._forget)
        return task

    async def run(self, name: K, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. If the caller is cancelled, the work goes on to its end."""
        return await asyncio.shield(self.start(name, work))

    async def wait_for(self, name: K) -> None:
        """Return when none of that name is under way any more."""
        self._home.enter()
        if named := [task for task, other in self._tasks.items() if other == name]:
            await asyncio.wait(named)

    async def drain(self) -> None:
        """Return when nothing is under way any more."""
        self._home.enter()
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _leave(self) -> object:
        left, self._tasks = self._tasks, {}
        return left

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # a caller that was cancelled never asks, and asyncio would complain


class Home:
    """The event loop, and with it the process, that its owner's connections and tasks belong to.

    A forked child has a copy of its parent's sockets and event loops, and none of its threads. If it spoke
    over one of these sockets, both would get each other's answers. Were it to close one, it would take it
    out of the selector that it shares with its parent; so would the garbage collector. So in the child all
    that was open is put away, for as long as the process lives, and what needs a connection makes its own.

    An event loop that is closed takes its connections with it; what is used in another one begins anew.

    leave  called when they belong to another process, or to a loop that is closed: it forgets them, closing
           nothing, and returns them
    """

    def __init__(self, leave: Callable[[], object]) -> None:
        self._leave = leave
        self._loop: asyncio.AbstractEventLoop | None = None
        _homes.add(self)

    def enter(self, work: Coroutine[Any, Any, Any] | None = None) -> None:
        """Called before anything is done: what is open belongs to the loop that runs now.

        Raises UsageError where it belongs to another one that is at work, and where the loop is the parent
        process's; `work`, which was to be done, is closed then.
        """
        try:
            self._enter(own_loop())
        except BaseException:
            if work is not None:
                work.close()
            raise

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is loop:
            return
        if self._loop is not None:
            if not self._loop.is_closed():
                raise UsageError(
                    "a store is used in two event loops at once",
                    hint="open one in each loop: its connections belong to the loop that made them",
                )
            self._leave()
        self._loop = loop

    def put_away(self) -> None:
        """In a forked child: keep what is the parent's, so that it is never collected."""
        if self._loop is not None:
            _inherited.append(self._loop)
        _kept.append(self._leave())
        self._loop = None


def own_loop() -> asyncio.AbstractEventLoop:
    """The event loop that runs; raises UsageError where none of this process does."""
    try:
        loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop is None or loop in _inherited:
        raise UsageError(
            "no event loop of this process is running",
            hint="start one with asyncio.run(...); after a fork the parent's cannot be used",
        )
    return loop


def _in_child() -> None:
    for home in list(_homes):
        home.put_away()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


@contextmanager
def listening(tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block, `tell` is called with what a store waits for; it may be the same several times."""
    token = _listener.set(tell)
    try:
        yield
    finally:
        _listener.reset(token)


class Heard:
    """What a store has said in passing, so that a report need not ask: the time by the store's clock, when it
    was first and last told, and where the namespace was."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None
        self.incarnation: str | None = None
        self.version: int | None = None


def hear(now: float, *, incarnation: str | None = None, version: int | None = None) -> None:
    """Note the time by the store's clock, and where the namespace is if that is told."""
    heard = _heard.get()
    if heard is None:
        return
    heard.first = now if heard.first is None else min(heard.first, now)
    heard.last = now if heard.last is None else max(heard.last, now)
    if version is not None:
        heard.incarnation, heard.version = incarnation, version


@contextmanager
def hearing(heard: Heard) -> Iterator[None]:
    """Within the block, what stores tell in passing is noted in `heard`."""
    token = _heard.set(heard)
    try:
        yield
    finally:
        _heard.reset(token)


def is_heard() -> bool:
    """Whether it is worth finding out what is waited for."""
    return _listener.get() is not None


def wait_for(what: str) -> None:
    """Tell that `what` is waited for."""
    tell = _listener.get()
    if tell is not None:
        tell(what)


def misread(exc: BaseException, place: str, commit_id: str | None = None) -> SomactlError:
    """The error for a reply of `place` that makes no sense; `commit_id` ('' for notes) of what was sent.

    What a server says is taken apart in many places, each of which knows what it asked for. A reply of
    another type or shape (a proxy that mixes up replies, another product behind the port, damaged memory)
    ends there as whatever Python raises. It is told from a bug by where that was raised: in the modules that
    read replies.
    """
    why = f"{type(exc).__name__}: {exc}"[:_CHARACTERS]
    if commit_id is not None:
        what = f"commit {commit_id} was made" if commit_id else "notes were written"
        return OutcomeUnknown(
            f"no sense can be made of what {place} answered, so it cannot be told whether {what} ({why})",
            commit_id=commit_id,
            **({} if commit_id else {"hint": "read the notes again: their versions tell"}),
        )
    return StoreDamaged(f"no sense can be made of what {place} answered ({why})", hint=_HINT)


@contextmanager
def understood(place: str, commit_id: str | None = None) -> Iterator[None]:
    """Raise what stumbles over a reply inside as `misread` has it."""
    try:
        yield
    except SomactlError:
        raise
    except STUMBLES as exc:
        raise misread(exc, place, commit_id) from exc


def reads_replies(package: str, face: str) -> Callable[[C], C]:
    """Decorates a class whose public coroutines and iterators, inherited ones too, read replies in `package`.

    `face` is the module of the class itself: what is raised there, or outside of the package, is the
    caller's.
    """

    def decorate(cls: C) -> C:
        for name, method in inspect.getmembers_static(cls, inspect.isfunction):
            if name.startswith("_"):
                continue
            if inspect.isasyncgenfunction(method):
                setattr(cls, name, _iterating(method, package, face))
            elif inspect.iscoroutinefunction(method):
                setattr(cls, name, _awaiting(method, package, face))
        return cls

    return decorate


def _awaiting(method: Callable[..., Any], package: str, face: str) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return await method(self, *arguments, **options)
        except STUMBLES as exc:
            if isinstance(exc, SomactlError) or not _raised_in(exc, package, face):
                raise
            raise misread(exc, self.place) from exc

    return call


def _iterating(method: Callable[..., Any], package: str, face: str) -> Callable[..., Any]:
    @functools.wraps(method)
    async def iterate(self: Any, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        try:
            async for each in method(self, *arguments, **options):
                yield each
        except STUMBLES as exc:
            if isinstance(exc, SomactlError) or not _raised_in(exc, package, face):
                raise
            raise misread(exc, self.place) from exc

    return iterate


def _raised_in(exc: BaseException, package: str, face: str) -> bool:
    """Whether a module of `package` other than `face` was at work."""
    trace = exc.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.startswith(package) and module != face:
            return True
        trace = trace.tb_next
    return False
