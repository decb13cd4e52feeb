"""Replies that are not what their command answers: what stumbles over one is the server's error, not ours.

What a server says is taken apart in many places, each of which knows what it asked for. A reply of another
type or shape (a proxy that mixes up replies, another product behind the port, damaged memory) ends there as
whatever Python raises. It is told here from a bug by where it was raised: in the modules that read replies.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from somactl.errors import OutcomeUnknown, SomactlError, StoreDamaged

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

C = TypeVar("C", bound=type)


def misread(exc: BaseException, place: str, commit_id: str | None = None) -> SomactlError:
    """The error for a reply of `place` that makes no sense; `commit_id` ('' for notes) of what was sent."""
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
