"""The face that every store shows, and the checks of its arguments; a store answers what has passed them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from somactl.core.names import Pattern, validate_commit_id, validate_key, validate_namespace
from somactl.errors import InputRejected, SomactlError
from somactl.store.calls import hear
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
    StoreServer,
)
from somactl.store.events import MAX_KEEP_EVENTS, PAGE_EVENTS
from somactl.store.notes import check_note_name, check_notes
from somactl.store.reading import Listing
from somactl.store.request import Request, check_retention, prepare

T = TypeVar("T")
LARGEST = (1 << 63) - 1
"""What SQLite and PostgreSQL take, and more than there are versions, rows or bytes: larger ones mean it."""
OFFLOADED_BYTES = 4 << 20
"""From this size on digests are computed on another thread: the event loop has others to serve."""


class BaseStore(ABC):
    """See `somactl.store.contract.Store`, which says what each method promises.

    The public methods check their arguments, clamp numbers to LARGEST, take away repetitions, and ask the
    method of the same name with an underscore, which a store implements. Where there is nothing to check, it
    implements the public method itself.
    """

    name: str
    degradations: tuple[Degradation, ...] = ()
    degraded_since_opened: tuple[PastDegradation, ...] = ()

    def __init__(self, namespace: str, own: StoreServer | None = None) -> None:
        """own: a server that this store alone uses, and closes."""
        self.namespace = validate_namespace(namespace)
        self._own = own
        self._closed = False

    @abstractmethod
    async def durability(self) -> str: ...

    @abstractmethod
    async def diagnose(self) -> list[Finding]: ...

    @abstractmethod
    async def namespaces(self) -> list[NamespaceSummary]: ...

    @abstractmethod
    async def head(self) -> Head: ...

    @abstractmethod
    async def summary(self) -> NamespaceSummary: ...

    @abstractmethod
    async def clock(self) -> float: ...

    async def close(self) -> None:
        """Finish the writes under way; then release the connections, if no other store uses them."""
        try:
            await self._finish()
        finally:
            self._closed = True
            if self._own is not None:
                await self._own.close()

    @abstractmethod
    async def _finish(self) -> None:
        """Return when no write of this store object is under way any more."""

    def _refuse_closed(self) -> None:
        """To be called before anything is asked of connections that may outlive this store."""
        if self._closed:
            raise SomactlError(f"the store of namespace {self.namespace!r} is used after it was closed")

    async def init(self, *, retention: Retention | None = None, new_incarnation: bool = False) -> Head:
        if retention is not None:
            check_retention(retention)
        return await self._init(retention, new_incarnation)

    @abstractmethod
    async def _init(self, retention: Retention | None, new_incarnation: bool) -> Head: ...

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        size = sum(len(data) for data in updates.values() if data is not None)
        arguments = (self.namespace, updates, metadata, expected_version, commit_id)
        receipt = await self._commit(await offloaded(size, partial(prepare, *arguments)))
        if not receipt.replayed:
            hear(receipt.committed_at, incarnation=receipt.incarnation, version=receipt.version)
        return receipt

    @abstractmethod
    async def _commit(self, request: Request) -> Receipt: ...

    async def read(self, key: str, version: int | None = None) -> Entry:
        validate_key(key)
        if version is not None and version < 0:
            raise InputRejected(f"version {version} of {key!r}: versions are numbers from 0")
        return await self._read(key, None if version is None else min(version, LARGEST))

    @abstractmethod
    async def _read(self, key: str, version: int | None) -> Entry: ...

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        return await self._read_many(_once(map(validate_key, keys)))

    @abstractmethod
    async def _read_many(self, keys: list[str]) -> Snapshot: ...

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        return await self._stat_many(_once(map(validate_key, keys)))

    @abstractmethod
    async def _stat_many(self, keys: list[str]) -> Stats: ...

    async def scan(
        self,
        match: str | None = None,
        after: str | None = None,
        *,
        deleted: bool = False,
        page_bytes: int = 64 << 20,
        page_keys: int = 1000,
    ) -> AsyncIterator[list[Stat]]:
        pattern = None if match is None else Pattern(match)
        listing = Listing(pattern, deleted, _between(0, page_bytes), _between(1, page_keys))
        async for page in self._pages(listing, validate_key(after) if after else None):
            yield page

    @abstractmethod
    def _pages(self, listing: Listing, after: str | None) -> AsyncIterator[list[Stat]]: ...

    async def history(self, key: str) -> list[Revision]:
        return await self._history(validate_key(key))

    @abstractmethod
    async def _history(self, key: str) -> list[Revision]: ...

    async def log(self, *, before: int | None = None, limit: int = 50) -> list[CommitRecord]:
        if limit < 0:
            raise InputRejected(f"a log of {limit} commits cannot be listed")
        end = LARGEST if before is None else _between(0, before)
        return await self._log(end, min(limit, LARGEST))

    @abstractmethod
    async def _log(self, before: int, limit: int) -> list[CommitRecord]: ...

    async def events(self, after: int = 0, limit: int = PAGE_EVENTS) -> EventPage:
        if after < 0 or limit < 1:
            raise InputRejected(f"{limit} events after version {after} cannot be listed")
        return await self._events(min(after, LARGEST), min(limit, PAGE_EVENTS))

    @abstractmethod
    async def _events(self, after: int, limit: int) -> EventPage: ...

    @abstractmethod
    async def publishing(self) -> Publishing: ...

    async def mark_published(self, version: int, *, incarnation: str | None = None) -> Publishing:
        if version < 0:
            raise InputRejected(f"version {version} was never published: versions are numbers from 0")
        return await self._mark_published(min(version, LARGEST), incarnation)

    @abstractmethod
    async def _mark_published(self, version: int, incarnation: str | None) -> Publishing: ...

    async def set_publishing(self, keep: int | None) -> Publishing:
        if keep is not None and not 0 <= keep <= MAX_KEEP_EVENTS:
            raise InputRejected(
                f"{keep} unpublished events cannot be kept", hint=f"keep 0 to {MAX_KEEP_EVENTS} of them"
            )
        return await self._set_publishing(keep)

    @abstractmethod
    async def _set_publishing(self, keep: int | None) -> Publishing: ...

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> CommitStatus:
        validate_commit_id(commit_id)
        await self._wait_for(commit_id)
        return await (self._resolve(commit_id) if resolve else self._commit_status(commit_id))

    @abstractmethod
    async def _wait_for(self, commit_id: str) -> None:
        """Return when this store object is not at work on that commit any more."""

    @abstractmethod
    async def _commit_status(self, commit_id: str) -> CommitStatus: ...

    @abstractmethod
    async def _resolve(self, commit_id: str) -> CommitStatus: ...

    async def compact(
        self, *, limit: int = 500, dry_run: bool = False, past_grace: bool = False
    ) -> Compaction:
        if limit < 1:
            raise InputRejected(f"a compaction of {limit} removals does nothing")
        return await self._compact(min(limit, LARGEST), dry_run, past_grace)

    @abstractmethod
    async def _compact(self, limit: int, dry_run: bool, past_grace: bool) -> Compaction: ...

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        return await self._read_notes(_once(map(check_note_name, names)))

    @abstractmethod
    async def _read_notes(self, names: list[str]) -> dict[str, Note]: ...

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        changes, expected = dict(changes), dict(expected or {})
        check_notes(changes, expected)
        return await self._write_notes(changes, expected)

    @abstractmethod
    async def _write_notes(
        self, changes: dict[str, bytes | None], expected: dict[str, int]
    ) -> dict[str, int]: ...

    async def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        for name in (prefix, after):
            if name:
                check_note_name(name)
        async for page in self._note_pages(prefix, after or None):
            yield page

    @abstractmethod
    def _note_pages(self, prefix: str, after: str | None) -> AsyncIterator[list[Note]]: ...


async def offloaded(size: int, function: Callable[[], T]) -> T:
    """`function()`, which looks at `size` bytes: on a thread where they are many."""
    return await asyncio.to_thread(function) if size >= OFFLOADED_BYTES else function()


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _between(least: int, number: int) -> int:
    return max(least, min(number, LARGEST))
