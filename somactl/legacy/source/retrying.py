"""A source that tries again. All that a source does may be repeated, whatever became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from somactl.core.names import Pattern
from somactl.errors import OutcomeUnknown, SomactlError
from somactl.legacy.source.contract import Change, Source, Value
from somactl.store.wrapper import pauses

T = TypeVar("T")
MOST_LISTINGS = 10


class Retrying:
    """Repeats what failed for a reason that may pass, for at most `seconds`, then raises the last error.

    Keys are listed from the beginning again: where a listing broke off, its place in it is no longer known. A
    long one may break off several times.
    """

    def __init__(self, source: Source, *, seconds: float) -> None:
        self._source = source
        self._seconds = seconds
        self.name = source.name
        self.identity = source.identity
        self.replaceable = source.replaceable

    async def names(self, match: Pattern | None) -> AsyncIterator[list[str]]:
        failures = 0
        left: Iterator[float] | None = None
        while True:
            try:
                async for page in self._source.names(match):
                    if failures < MOST_LISTINGS:
                        left = None
                    yield page
                return
            except SomactlError as exc:
                failures += 1
                left = left or pauses(self._seconds)
                pause = _pause(exc, left)
            await asyncio.sleep(pause)

    async def fetch(self, keys: Sequence[str]) -> list[Value]:
        return await self._again(lambda: self._source.fetch(keys))

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        """As the source's. Where an answer was lost, a repetition that finds another value tells nothing: it
        may have been written before the change or after it. That stays OutcomeUnknown."""
        lost: list[OutcomeUnknown] = []

        async def attempt() -> list[bool]:
            try:
                done = await self._source.swap(changes)
            except OutcomeUnknown as exc:
                lost.append(exc)
                raise
            if lost and not all(done):
                raise _Undecided from lost[0]
            return done

        try:
            return await self._again(attempt)
        except _Undecided:
            raise lost[0] from None

    async def close(self) -> None:
        await self._source.close()

    async def _again(self, call: Callable[[], Awaitable[T]]) -> T:
        left = pauses(self._seconds)
        while True:
            try:
                return await call()
            except SomactlError as exc:
                pause = _pause(exc, left)
            await asyncio.sleep(pause)


class _Undecided(Exception):
    """Whether a change was made before another writer's cannot be told any more."""


def _pause(exc: SomactlError, left: Iterator[float]) -> float:
    """How long to wait before it is tried again; raises `exc` where that would not help, or for long enough
    has not."""
    pause = next(left, None) if exc.retryable or isinstance(exc, OutcomeUnknown) else None
    if pause is None:
        raise exc
    return pause
