"""Stores around a store: the same contract, passed on call by call, with one behaviour added."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from somactl.errors import OutcomeUnknown, ReadOnlyStore, SomactlError
from somactl.store.calls import wait_for
from somactl.store.contract import (
    CommitMetadata,
    CommitRecord,
    CommitStatus,
    Compaction,
    Degradation,
    Entry,
    EventPage,
    Expected,
    Finding,
    Head,
    NamespaceSummary,
    Note,
    PastDegradation,
    Publishing,
    Receipt,
    Retention,
    Revision,
    Snapshot,
    Stat,
    Stats,
    Store,
    is_dark,
)
from somactl.store.events import PAGE_EVENTS

T = TypeVar("T")
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


class StoreWrapper:
    """Passes every call of the contract on to `store`; a subclass overrides what it changes.

    `_call`, `_write` and `_pages` stand between: overridden, they change every call, every write, or every
    listing at once.
    `diagnose`, `degradations` and `close` go past them. `tests/store/test_wrappers.py` fails for a method of
    the contract that is not here.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = store.name
        self.namespace = store.namespace
        self.dark = is_dark(store)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to one call of the store."""
        return await call()

    async def _write(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to a call that may write `what`."""
        return await self._call(call)

    def _pages(
        self,
        pages: Callable[[str | None], AsyncIterator[list[T]]],
        after: str | None,
        name: Callable[[T], str],
    ) -> AsyncIterator[list[T]]:
        """The pages of a listing after `after`; `name` is that of an entry, after which another can begin."""
        return pages(after)

    @property
    def degradations(self) -> tuple[Degradation, ...]:
        return self._store.degradations

    @property
    def degraded_since_opened(self) -> tuple[PastDegradation, ...]:
        return self._store.degraded_since_opened

    async def durability(self) -> str:
        return await self._call(self._store.durability)

    async def diagnose(self) -> list[Finding]:
        return await self._store.diagnose()

    async def init(self, *, retention: Retention | None = None, new_incarnation: bool = False) -> Head:
        return await self._write(
            "init", lambda: self._store.init(retention=retention, new_incarnation=new_incarnation)
        )

    async def namespaces(self) -> list[NamespaceSummary]:
        return await self._call(self._store.namespaces)

    async def head(self) -> Head:
        return await self._call(self._store.head)

    async def summary(self) -> NamespaceSummary:
        return await self._call(self._store.summary)

    async def clock(self) -> float:
        return await self._call(self._store.clock)

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        return await self._write(
            f"commit {commit_id}",
            lambda: self._store.commit_matrix_update(
                updates, metadata, expected_version, commit_id=commit_id
            ),
        )

    async def read(self, key: str, version: int | None = None) -> Entry:
        return await self._call(lambda: self._store.read(key, version))

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        return await self._call(lambda: self._store.read_many(keys))

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        return await self._call(lambda: self._store.stat_many(keys))

    def scan(
        self,
        match: str | None = None,
        after: str | None = None,
        *,
        deleted: bool = False,
        page_bytes: int = 64 << 20,
        page_keys: int = 1000,
    ) -> AsyncIterator[list[Stat]]:
        def pages(after: str | None) -> AsyncIterator[list[Stat]]:
            return self._store.scan(match, after, deleted=deleted, page_bytes=page_bytes, page_keys=page_keys)

        return self._pages(pages, after, lambda stat: stat.key)

    async def history(self, key: str) -> list[Revision]:
        return await self._call(lambda: self._store.history(key))

    async def log(self, *, before: int | None = None, limit: int = 50) -> list[CommitRecord]:
        return await self._call(lambda: self._store.log(before=before, limit=limit))

    async def events(self, after: int = 0, limit: int = PAGE_EVENTS) -> EventPage:
        return await self._call(lambda: self._store.events(after, limit))

    async def publishing(self) -> Publishing:
        return await self._call(self._store.publishing)

    async def mark_published(self, version: int, *, incarnation: str | None = None) -> Publishing:
        return await self._write(
            "a mark of what was published",
            lambda: self._store.mark_published(version, incarnation=incarnation),
        )

    async def set_publishing(self, keep: int | None) -> Publishing:
        return await self._write("a change of publishing", lambda: self._store.set_publishing(keep))

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> CommitStatus:
        call = partial(self._store.commit_status, commit_id, resolve=resolve)
        return await (self._write(f"resolving commit {commit_id}", call) if resolve else self._call(call))

    async def compact(
        self, *, limit: int = 500, dry_run: bool = False, past_grace: bool = False
    ) -> Compaction:
        call = partial(self._store.compact, limit=limit, dry_run=dry_run, past_grace=past_grace)
        return await (self._call(call) if dry_run else self._write("compact", call))

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        return await self._call(lambda: self._store.read_notes(names))

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        return await self._write("a write of notes", lambda: self._store.write_notes(changes, expected))

    def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        return self._pages(lambda after: self._store.scan_notes(prefix, after), after, lambda note: note.name)

    async def close(self) -> None:
        await self._store.close()


class ReadOnly(StoreWrapper):
    """Reads pass, a write raises ReadOnlyStore: a dry run that tries to write is a bug, and shows it.

    `compact(dry_run=True)` and `commit_status` without `resolve` write nothing, so they pass.
    """

    async def _write(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        raise ReadOnlyStore(f"{what} on store {self.name}, which was opened read-only")


class Dark(StoreWrapper):
    """A store that was opened in dark mode: every commit to it says so, whatever it writes."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.dark = True

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        marked = replace(metadata, dark=True)
        return await super().commit_matrix_update(updates, marked, expected_version, commit_id=commit_id)


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
