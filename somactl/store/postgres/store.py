"""The PostgreSQL store's face: coroutines over a pool of connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from somactl.core.names import Pattern, validate_commit_id, validate_key, validate_namespace
from somactl.errors import InputRejected, NamespaceNotFound, StoreUnavailable
from somactl.store import waiting
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
from somactl.store.postgres import (
    compaction,
    diagnosis,
    failures,
    listing,
    notes,
    reading,
    records,
    schema,
    target,
    writing,
)
from somactl.store.postgres.committing import commit
from somactl.store.postgres.connections import Connections
from somactl.store.postgres.session import Session
from somactl.store.postgres.waiting import watched
from somactl.store.request import Request, check_retention, prepare

T = TypeVar("T")
_MANY = (1 << 63) - 1
"""PostgreSQL's largest bigint."""
_ATTEMPTS = 6
_PAUSE_SECONDS = 0.02
_OFFLOADED_BYTES = 4 << 20
"""A commit from this size on is verified on another thread: the event loop has others to serve."""


@reads_replies("somactl.store.postgres", __name__)
class PostgresStore:
    """One namespace of the PostgreSQL database at `url`; see `somactl.store.contract.Store`.

    Constructing it touches nothing; raises ConfigurationError for a URL that is none of PostgreSQL's.
    `timeout` is how long, in seconds, one answer of the server may take; large values get more. A write
    that waits for another's lock is StoreBusy before that. `connect_timeout` bounds each connecting.
    """

    name = records.NAME
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
        self._connections = Connections(
            target.parse(url, client=waiting.client_name.get()),
            timeout=timeout,
            connect_timeout=connect_timeout,
        )
        self.place = self._connections.place
        self._writes = Writes()

    async def durability(self) -> str:
        return await self._read(reading.durability)

    async def diagnose(self) -> list[Finding]:
        return await diagnosis.diagnose(self._connections, self.namespace)

    async def init(self, *, retention: Retention | None = None, new_incarnation: bool = False) -> Head:
        if retention is not None:
            check_retention(retention)
        return await self._writes.run("", _again(lambda: self._init(retention, new_incarnation)))

    async def _init(self, retention: Retention | None, new_incarnation: bool) -> Head:
        async with self._connections.lease(bare=True) as session:
            return await writing.init(session, self.namespace, retention, new_incarnation)

    async def namespaces(self) -> list[NamespaceSummary]:
        try:
            return await self._read(reading.namespaces)
        except NamespaceNotFound:  # no tables yet
            return []

    async def head(self) -> Head:
        return await self._read(partial(reading.head, namespace=self.namespace))

    async def summary(self) -> NamespaceSummary:
        return await self._read(partial(reading.summary, namespace=self.namespace))

    async def clock(self) -> float:
        return await self._read(partial(reading.clock, namespace=self.namespace))

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        check: Callable[[], Request] = partial(
            prepare, self.namespace, updates, metadata, expected_version, commit_id
        )
        large = sum(len(data) for data in updates.values() if data is not None) >= _OFFLOADED_BYTES
        request = await asyncio.to_thread(check) if large else check()
        return await self._write(partial(commit, request=request), commit_id)

    async def read(self, key: str, version: int | None = None) -> Entry:
        validate_key(key)
        if version is not None and version < 0:
            raise InputRejected(f"version {version} of {key!r}: versions are numbers from 0")
        wanted = None if version is None else min(version, _MANY)
        return await self._read(partial(reading.read, namespace=self.namespace, key=key, version=wanted))

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        for key in keys:
            validate_key(key)
        return await self._read(partial(reading.read_many, namespace=self.namespace, keys=keys))

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        for key in keys:
            validate_key(key)
        return await self._read(partial(reading.stat_many, namespace=self.namespace, keys=keys))

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
        while True:
            page, last = await self._read(
                partial(
                    listing.page,
                    namespace=self.namespace,
                    pattern=pattern,
                    after=last,
                    deleted=deleted,
                    page_bytes=page_bytes,
                    page_keys=page_keys,
                )
            )
            if page:
                yield page
            if last is None:
                return

    async def history(self, key: str) -> list[Revision]:
        validate_key(key)
        return await self._read(partial(reading.history, namespace=self.namespace, key=key))

    async def log(self, *, before: int | None = None, limit: int = 50) -> list[CommitRecord]:
        if limit < 0:
            raise InputRejected(f"a log of {limit} commits cannot be listed")
        end = _MANY if before is None else max(0, min(before, _MANY))
        return await self._read(
            partial(reading.log, namespace=self.namespace, before=end, limit=min(limit, _MANY))
        )

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> CommitStatus:
        validate_commit_id(commit_id)
        await self._writes.wait_for(commit_id)
        if resolve:
            return await self._write(
                partial(writing.resolve, namespace=self.namespace, commit_id=commit_id), commit_id
            )
        return await self._read(partial(reading.commit_status, namespace=self.namespace, commit_id=commit_id))

    async def compact(
        self, *, limit: int = 500, dry_run: bool = False, past_grace: bool = False
    ) -> Compaction:
        if limit < 1:
            raise InputRejected(f"a compaction of {limit} removals does nothing")
        stages = schema.UNGRACED if past_grace else schema.STAGES
        if dry_run:
            return await self._read(partial(compaction.count, namespace=self.namespace, stages=stages))
        found = await self._read(
            partial(compaction.candidates, namespace=self.namespace, limit=min(limit, _MANY), stages=stages)
        )
        if found.empty:
            return Compaction()
        return await self._write(partial(compaction.remove, namespace=self.namespace, found=found))

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        check_note_names(names)
        return await self._read(partial(notes.read, namespace=self.namespace, names=names))

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        check_notes(changes, expected)
        return await self._write(
            partial(notes.write, namespace=self.namespace, changes=changes, expected=expected or {})
        )

    async def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        check_note_prefix(prefix)
        check_note_names([after] if after else [])
        last = after
        while True:
            page = await self._read(partial(notes.page, namespace=self.namespace, prefix=prefix, after=last))
            if page:
                yield page
            if len(page) < notes.PAGE_NOTES:
                return
            last = page[-1].name

    async def close(self) -> None:
        """Writes under way are finished before anything is released."""
        await self._writes.drain()
        await self._connections.close()

    async def _read(self, job: Callable[[Session], Awaitable[T]]) -> T:
        async def once() -> T:
            async with self._connections.lease() as session:
                return await job(session)

        return await _again(once)

    async def _write(self, job: Callable[[Session], Awaitable[T]], commit_id: str = "") -> T:
        """The result of `job`, which runs to its end even if our caller is cancelled."""

        async def once() -> T:
            async with self._connections.lease(write=True) as session:
                with understood(self.place, commit_id or None):
                    if not waiting.is_heard():
                        return await job(session)
                    place = f"the lock of {self.namespace!r} in {self.place}"
                    async with watched(
                        session, self._connections, lambda by: waiting.wait_for(f"{place}, held by {by}")
                    ):
                        return await job(session)

        return await self._writes.run(commit_id, _again(once))


async def _again(once: Callable[[], Awaitable[T]]) -> T:
    """The result of `once`, tried again where the server undid it for the sake of another transaction.

    Each pause is drawn evenly from 0 to a ceiling that doubles, so that two who met do not meet again.
    """
    ceiling = _PAUSE_SECONDS
    for _ in range(_ATTEMPTS - 1):
        try:
            return await once()
        except StoreUnavailable as exc:
            if failures.sqlstate(exc) not in (*failures.CONTENDED, *failures.FORGOTTEN):
                raise
        await asyncio.sleep(random.random() * ceiling)
        ceiling *= 2
    return await once()
