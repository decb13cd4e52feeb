"""The Redis store's face: coroutines over a reader, and commits that no cancellation cuts in half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from somactl.core.names import Pattern, validate_commit_id, validate_key, validate_namespace
from somactl.errors import InputRejected
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
)
from somactl.store.inflight import Writes
from somactl.store.misread import reads_replies, understood
from somactl.store.notes import check_note_names, check_note_prefix, check_notes
from somactl.store.redis import compaction, connection, diagnosis, layout, listing, notes, writing
from somactl.store.redis.layout import Names
from somactl.store.redis.link import Link, Nodes
from somactl.store.redis.reading import Reader
from somactl.store.redis.server_settings import WriteGuard
from somactl.store.request import check_retention, prepare

T = TypeVar("T")
_THREAD_BYTES = 32 << 20
"""From this size on a request is checked in a thread, so that it holds up no other task."""


@reads_replies("somactl.store.redis", __name__)
class RedisStore:
    """One namespace of the Redis at `url`; see `somactl.store.contract.Store`.

    Constructing it touches nothing; raises ConfigurationError for a URL that is not understood. `timeout`
    is how long, in seconds, the server may take to answer one exchange, `connect_timeout` to accept a
    connection.
    """

    name = layout.NAME
    degradations: tuple[Degradation, ...] = ()
    degraded_since_opened: tuple[PastDegradation, ...] = ()

    def __init__(
        self,
        url: str,
        namespace: str = "default",
        *,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
    ) -> None:
        self.namespace = validate_namespace(namespace)
        self._server = connection.parse(url)
        self.place = self._server.place
        self._nodes = Nodes(self._server, timeout=timeout, connect_timeout=connect_timeout)
        self._registry = self._nodes.link()
        self._link = self._nodes.link()
        self._reader = self._reader_of(namespace, self._link)
        self._gate = WriteGuard(self._link)
        self._writes = Writes()

    def _reader_of(self, namespace: str, link: Link) -> Reader:
        return Reader(link, self._registry, Names(namespace))

    async def durability(self) -> str:
        return (await self._gate.settings()).durability

    async def diagnose(self) -> list[Finding]:
        return await diagnosis.diagnose(self._reader, self._server)

    async def init(self, *, retention: Retention | None = None, new_incarnation: bool = False) -> Head:
        if retention is not None:
            check_retention(retention)
        return await self._write("", self._init(retention, new_incarnation))

    async def namespaces(self) -> list[NamespaceSummary]:
        (names,) = self._registry.values(await self._registry.ask(("SMEMBERS", layout.REGISTRY)))
        found = sorted(bytes(name).decode() for name in names)
        return [await listing.summary(self._reader_of(name, self._nodes.link())) for name in found]

    async def head(self) -> Head:
        return (await self._reader.place()).head

    async def summary(self) -> NamespaceSummary:
        return await listing.summary(self._reader)

    async def clock(self) -> float:
        return await self._reader.clock()

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        arguments = (self.namespace, updates, metadata, expected_version, commit_id)
        if sum(len(data) for data in updates.values() if data is not None) < _THREAD_BYTES:
            request = prepare(*arguments)
        else:
            request = await asyncio.to_thread(prepare, *arguments)

        async def commit() -> Receipt:
            with understood(self.place):
                settings = await self._gate.writable()
            return await writing.commit(self._reader, request, settings, self._server.wait_replicas)

        return await self._write(commit_id, commit(), sent=commit_id)

    async def read(self, key: str, version: int | None = None) -> Entry:
        validate_key(key)
        if version is not None and version < 0:
            raise InputRejected(f"version {version} of {key!r}: versions are numbers from 0")
        return await self._reader.read(key, version)

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        for key in keys:
            validate_key(key)
        return await self._reader.read_many(keys)

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        for key in keys:
            validate_key(key)
        return await self._reader.stat_many(keys)

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
        last = validate_key(after) if after else None
        async for page in listing.pages(
            self._reader, pattern, last, deleted=deleted, page_bytes=page_bytes, page_keys=page_keys
        ):
            yield page

    async def history(self, key: str) -> list[Revision]:
        validate_key(key)
        return await self._reader.history(key)

    async def log(self, *, before: int | None = None, limit: int = 50) -> list[CommitRecord]:
        if limit < 0:
            raise InputRejected(f"a log of {limit} commits cannot be listed")
        return await self._reader.log(before, limit)

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> CommitStatus:
        validate_commit_id(commit_id)
        await self._writes.wait_for(commit_id)
        if not resolve:
            return await self._reader.commit_status(commit_id)

        async def claim() -> CommitStatus:
            await self._gate.writable()
            return await self._reader.resolve(commit_id)

        return await self._write("", claim())

    async def compact(
        self, *, limit: int = 500, dry_run: bool = False, past_grace: bool = False
    ) -> Compaction:
        if limit < 1:
            raise InputRejected(f"a compaction of {limit} removals does nothing")
        found = await compaction.candidates(self._reader, None if dry_run else limit, past_grace=past_grace)
        if dry_run or found.empty:
            return found.summary()
        return await self._write("", compaction.remove(self._reader, found))

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        check_note_names(names)
        return await notes.read(self._reader, names)

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        check_notes(changes, expected)

        async def write() -> dict[str, int]:
            with understood(self.place):
                await self._gate.writable()
            return await notes.write(self._reader, changes, expected or {})

        return await self._write("", write(), sent="")

    async def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        check_note_prefix(prefix)
        if after:
            check_note_names([after])
        async for page in notes.scan(self._reader, prefix, after or None):
            yield page

    async def close(self) -> None:
        """Writes under way are finished before anything is released."""
        try:
            await self._writes.drain()
        finally:
            await self._nodes.close()

    async def _init(self, retention: Retention | None, new_incarnation: bool) -> Head:
        await self._gate.writable()
        return await writing.init(self._reader, retention, new_incarnation)

    async def _write(self, commit_id: str, write: Coroutine[Any, Any, T], sent: str | None = None) -> T:
        """`write` runs to its end even where the caller is cancelled.

        `sent` ('' for notes): what a reply that makes no sense leaves unknown.
        """

        async def run() -> T:
            with understood(self.place, sent):
                return await write

        return await self._writes.run(commit_id, run())
