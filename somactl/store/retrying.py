"""A store that tries again: calls that failed without effect, and commits under their one id."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

from msgspec.structs import replace

from somactl.errors import OutcomeUnknown, SomactlError
from somactl.store.contract import (
    CommitMetadata,
    Expected,
    Receipt,
    Store,
)
from somactl.store.waiting import wait_for
from somactl.store.wrapper import StoreWrapper

T = TypeVar("T")
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


class Retrying(StoreWrapper):
    """Repeats a call whose error is `retryable`, for at most `seconds`, and then raises the last error.

    A commit with an unknown outcome is sent again under its own id, which cannot write it twice. If that
    is refused, the id is resolved, and the answer is what really happened; if it stays unknown, it is
    OutcomeUnknown, never a guess.
    """

    def __init__(self, store: Store, *, seconds: float, dice: Callable[[], float] = random.random) -> None:
        super().__init__(store)
        self._seconds = seconds
        self._dice = dice

    def _fresh_pauses(self) -> Iterator[float]:
        return pauses(self._seconds, self._dice)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        pauses = self._fresh_pauses()
        while True:
            try:
                return await call()
            except SomactlError as exc:
                pause = next(pauses, None) if exc.retryable else None
                if pause is None:
                    raise
                last = exc
            await _sleep(pause, last)

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        pauses = self._fresh_pauses()
        unknown: OutcomeUnknown | None = None
        while True:
            try:
                return await self._store.commit_matrix_update(
                    updates, metadata, expected_version, commit_id=commit_id
                )
            except OutcomeUnknown as exc:
                unknown = exc
            except SomactlError as exc:
                if not exc.retryable:
                    if unknown is None:
                        raise
                    return await self._what_happened(unknown, exc)
                last = exc
            pause = next(pauses, None)
            if pause is None:
                raise unknown or last
            await _sleep(pause, unknown or last)

    async def _what_happened(self, unknown: OutcomeUnknown, refusal: SomactlError) -> Receipt:
        """Settle a commit whose first attempt is unknown and whose repetition was refused.

        The refusal alone proves nothing: the first attempt may still be on its way. Resolving its id
        closes that door, or finds that it went through.
        """
        try:
            status = await self._store.commit_status(unknown.commit_id, resolve=True)
        except SomactlError:
            raise unknown from refusal
        if status.record is not None and status.record.receipt is not None:
            return replace(status.record.receipt, replayed=True)
        raise refusal

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """As the store's. A write of notes has no id, so one with an unknown outcome is settled by what is
        there, and returns if that is exactly what it was to write.

        It is sent again only where `expected` names every note it changes: then the two cannot both be
        done, however late the first arrives, unless one of the notes is deleted and made anew
        meanwhile. Whatever else is found stays OutcomeUnknown: the first may have been done and been
        written over, or may still arrive.
        """
        pauses = self._fresh_pauses()
        unknown: OutcomeUnknown | None = None
        while True:
            try:
                return await self._store.write_notes(changes, expected)
            except OutcomeUnknown as exc:
                unknown = exc
                if not set(changes) <= set(expected or {}):
                    return await self._what_notes_tell(unknown, exc, changes, expected or {})
            except SomactlError as exc:
                if not exc.retryable:
                    if unknown is None:
                        raise
                    return await self._what_notes_tell(unknown, exc, changes, expected or {})
                last = exc
            pause = next(pauses, None)
            if pause is None:
                if unknown is None:
                    raise last
                return await self._what_notes_tell(unknown, unknown, changes, expected or {})
            await _sleep(pause, unknown or last)

    async def _what_notes_tell(
        self,
        unknown: OutcomeUnknown,
        refusal: SomactlError,
        changes: Mapping[str, bytes | None],
        expected: Mapping[str, int],
    ) -> dict[str, int]:
        """The notes' versions, where all are what `changes` makes of them; else raises `unknown`."""
        try:
            found = await self.read_notes(list(changes))
        except SomactlError:
            raise unknown from refusal
        versions = {name: found[name].version if name in found else 0 for name in changes}
        for name, data in changes.items():
            there = found[name].data if name in found else None
            moved = data is None or name not in expected or versions[name] == expected[name] + 1
            if there != data or not moved:
                raise unknown from refusal
        return versions

    async def _pages(
        self,
        pages: Callable[[str | None], AsyncIterator[list[T]]],
        after: str | None,
        name: Callable[[T], str],
    ) -> AsyncIterator[list[T]]:
        """The pages; one that fails is asked for again after the last entry that came."""
        pauses = self._fresh_pauses()
        while True:
            try:
                async for page in pages(after):
                    yield page
                    after = name(page[-1])
                    pauses = self._fresh_pauses()
                return
            except SomactlError as exc:
                pause = next(pauses, None) if exc.retryable else None
                if pause is None:
                    raise
                last = exc
            await _sleep(pause, last)


def pauses(seconds: float, dice: Callable[[], float] = random.random) -> Iterator[float]:
    """Pauses between attempts until `seconds` are up; the clock runs during the attempts as well.

    The pause before attempt k is drawn evenly from 0 to min(0.05 s x 2^k, 1 s): full jitter, so that many
    clients that failed together do not come back together.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    ceiling = FIRST_PAUSE
    while (left := end - clock()) > 0:
        yield min(left, dice() * ceiling)
        ceiling = min(2 * ceiling, LONGEST_PAUSE)


async def _sleep(pause: float, reason: SomactlError) -> None:
    """Wait before the next attempt; a person who waits along is told why."""
    wait_for(f"another attempt: {reason.message}")
    await asyncio.sleep(pause)
