"""Stores around a store: the same contract, with one behaviour added."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NoReturn

from somactl.errors import ReadOnlyStore
from somactl.store.contract import (
    CommitMetadata,
    CommitRecord,
    CommitStatus,
    Compaction,
    Degradation,
    Entry,
    Expected,
    Finding,
    Head,
    NamespaceSummary,
    Note,
    PastDegradation,
    Receipt,
    Retention,
    Revision,
    Snapshot,
    Stat,
    Stats,
    Store,
)


class ReadOnly:
    """Reads pass, a write raises ReadOnlyStore: a dry run that tries to write is a bug, and shows it.

    `compact(dry_run=True)` and `commit_status` without `resolve` write nothing, so they pass.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = store.name
        self.namespace = store.namespace

    def _refuse(self, what: str) -> NoReturn:
        raise ReadOnlyStore(f"{what} on store {self.name}, which was opened read-only")

    @property
    def degradations(self) -> tuple[Degradation, ...]:
        return self._store.degradations

    @property
    def degraded_since_opened(self) -> tuple[PastDegradation, ...]:
        return self._store.degraded_since_opened

    async def durability(self) -> str:
        return await self._store.durability()

    async def diagnose(self) -> list[Finding]:
        return await self._store.diagnose()

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

    async def namespaces(self) -> list[NamespaceSummary]:
        return await self._store.namespaces()

    async def head(self) -> Head:
        return await self._store.head()

    async def summary(self) -> NamespaceSummary:
        return await self._store.summary()

    async def clock(self) -> float:
        return await self._store.clock()

    async def read(self, key: str, version: int | None = None) -> Entry:
        return await self._store.read(key, version)

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        return await self._store.read_many(keys)

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        return await self._store.stat_many(keys)

    def scan(
        self,
        match: str | None = None,
        after: str | None = None,
        *,
        deleted: bool = False,
        page_bytes: int = 64 << 20,
        page_keys: int = 1000,
    ) -> AsyncIterator[list[Stat]]:
        return self._store.scan(match, after, deleted=deleted, page_bytes=page_bytes, page_keys=page_keys)

    async def history(self, key: str) -> list[Revision]:
        return await self._store.history(key)

    async def log(self, *, before: int | None = None, limit: int = 50) -> list[CommitRecord]:
        return await self._store.log(before=before, limit=limit)

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        return await self._store.read_notes(names)

    def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        return self._store.scan_notes(prefix, after)

    async def close(self) -> None:
        await self._store.close()
