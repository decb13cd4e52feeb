"""Stores around a store: the same contract, passed on call by call, with one behaviour added."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import NoReturn, TypeVar

from somactl.errors import ReadOnlyStore
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
)
from somactl.store.events import PAGE_EVENTS

T = TypeVar("T")


class StoreWrapper:
    """Passes every call of the contract on to `store`; a subclass overrides what it changes.

    `_call` and `_pages` stand between: overridden, they change every call and every listing at once.
    `diagnose`, `degradations` and `close` go past them. `tests/store/test_wrappers.py` fails for a method of
    the contract that is not here.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = store.name
        self.namespace = store.namespace

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to one call of the store."""
        return await call()

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
        return await self._call(
            lambda: self._store.init(retention=retention, new_incarnation=new_incarnation)
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
        return await self._call(
            lambda: self._store.commit_matrix_update(updates, metadata, expected_version, commit_id=commit_id)
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
        return await self._call(lambda: self._store.mark_published(version, incarnation=incarnation))

    async def set_publishing(self, keep: int | None) -> Publishing:
        return await self._call(lambda: self._store.set_publishing(keep))

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> CommitStatus:
        return await self._call(lambda: self._store.commit_status(commit_id, resolve=resolve))

    async def compact(
        self, *, limit: int = 500, dry_run: bool = False, past_grace: bool = False
    ) -> Compaction:
        return await self._call(
            lambda: self._store.compact(limit=limit, dry_run=dry_run, past_grace=past_grace)
        )

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        return await self._call(lambda: self._store.read_notes(names))

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        return await self._call(lambda: self._store.write_notes(changes, expected))

    def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        return self._pages(lambda after: self._store.scan_notes(prefix, after), after, lambda note: note.name)

    async def close(self) -> None:
        await self._store.close()


class ReadOnly(StoreWrapper):
    """Reads pass, a write raises ReadOnlyStore: a dry run that tries to write is a bug, and shows it.

    `compact(dry_run=True)` and `commit_status` without `resolve` write nothing, so they pass.
    """

    def _refuse(self, what: str) -> NoReturn:
        raise ReadOnlyStore(f"{what} on store {self.name}, which was opened read-only")

    async def init(self, *, retention: Retention | None = None, new_incarnation: bool = False) -> Head:
        self._refuse("init")

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        self._refuse(f"commit {commit_id}")

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> CommitStatus:
        if resolve:
            self._refuse(f"resolving commit {commit_id}")
        return await self._store.commit_status(commit_id)

    async def compact(
        self, *, limit: int = 500, dry_run: bool = False, past_grace: bool = False
    ) -> Compaction:
        if not dry_run:
            self._refuse("compact")
        return await self._store.compact(limit=limit, dry_run=True, past_grace=past_grace)

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        self._refuse("a write of notes")

    async def mark_published(self, version: int, *, incarnation: str | None = None) -> Publishing:
        self._refuse("a mark of what was published")

    async def set_publishing(self, keep: int | None) -> Publishing:
        self._refuse("a change of publishing")
