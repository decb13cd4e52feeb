"""The SQLite store's face: coroutines over a writer and a reader."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

from somactl.core.names import Pattern, validate_commit_id, validate_key, validate_namespace
from somactl.errors import ConfigurationError, InputRejected, NamespaceNotFound
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
from somactl.store.notes import check_note_names, check_note_prefix, check_notes, refuse_note_conflicts
from somactl.store.request import check_retention, prepare, refuse_conflicts
from somactl.store.sqlite import compaction, diagnosis, notes, reading, writing
from somactl.store.sqlite.database import Worker

BUSY_SECONDS = 5.0
_MANY = 1 << 31
"""More rows than a namespace has, and still a number that SQLite takes."""


class SqliteStore:
    """One namespace of the database file `path`; see `somactl.store.contract.Store`.

    Constructing it touches nothing. `init` and the first commit create the file; nothing else does.
    `busy_timeout` is how long, in seconds, a write waits for another process's before StoreBusy.
    """

    name = reading.NAME
    degradations: tuple[Degradation, ...] = ()
    degraded_since_opened: tuple[PastDegradation, ...] = ()

    def __init__(
        self, path: str | os.PathLike[str], namespace: str = "default", *, busy_timeout: float = BUSY_SECONDS
    ) -> None:
        self.namespace = validate_namespace(namespace)
        self.path = os.path.abspath(os.fsdecode(path))
        if "\0" in self.path:
            raise ConfigurationError(f"the path of the store, {self.path!r}, contains a NUL")
        self._busy_timeout = busy_timeout
        self._writer = Worker(self.path, write=True, busy_timeout=busy_timeout)
        self._reader = Worker(self.path, write=False, busy_timeout=busy_timeout)

    async def durability(self) -> str:
        return reading.DURABILITY

    async def diagnose(self) -> list[Finding]:
        diagnose = partial(diagnosis.diagnose, self.path, self.namespace, self._busy_timeout)
        return await self._reader.offload(diagnose)

    async def init(self, *, retention: Retention | None = None, new_incarnation: bool = False) -> Head:
        if retention is not None:
            check_retention(retention)
        return await self._writer.run(
            partial(
                writing.init,
                namespace=self.namespace,
                retention=retention,
                new_incarnation=new_incarnation,
            ),
            create=not new_incarnation,  # what was restored is there, or the path is wrong
        )

    async def namespaces(self) -> list[NamespaceSummary]:
        try:
            return await self._reader.run(reading.namespaces)
        except NamespaceNotFound:  # no database yet
            return []

    async def head(self) -> Head:
        return await self._reader.run(partial(reading.head, namespace=self.namespace))

    async def summary(self) -> NamespaceSummary:
        return await self._reader.run(partial(reading.summary, namespace=self.namespace))

    async def clock(self) -> float:
        await self.head()  # as the contract says: it knows the namespace or raises
        return time.time()

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        request = await self._writer.offload(
            partial(prepare, self.namespace, updates, metadata, expected_version, commit_id)
        )
        if not os.path.exists(self.path):
            refuse_conflicts(request.expectations, None, {})  # a refused commit leaves no file behind
        return await self._writer.run(partial(writing.commit, request=request), create=True)

    async def read(self, key: str, version: int | None = None) -> Entry:
        validate_key(key)
        if version is not None and version < 0:
            raise InputRejected(f"version {version} of {key!r}: versions are numbers from 0")
        return await self._reader.run(
            partial(reading.read, namespace=self.namespace, key=key, version=version)
        )

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        for key in keys:
            validate_key(key)
        return await self._reader.run(partial(reading.read_many, namespace=self.namespace, keys=keys))

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        for key in keys:
            validate_key(key)
        return await self._reader.run(partial(reading.stat_many, namespace=self.namespace, keys=keys))

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
            page, last = await self._reader.run(
                partial(
                    reading.page,
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
        return await self._reader.run(partial(reading.history, namespace=self.namespace, key=key))

    async def log(self, *, before: int | None = None, limit: int = 50) -> list[CommitRecord]:
        if limit < 0:
            raise InputRejected(f"a log of {limit} commits cannot be listed")
        return await self._reader.run(
            partial(reading.log, namespace=self.namespace, before=before, limit=min(limit, _MANY))
        )

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> CommitStatus:
        validate_commit_id(commit_id)
        if resolve:
            return await self._writer.run(
                partial(writing.resolve, namespace=self.namespace, commit_id=commit_id)
            )
        await self._writer.drain()
        return await self._reader.run(
            partial(reading.commit_status, namespace=self.namespace, commit_id=commit_id)
        )

    async def compact(
        self, *, limit: int = 500, dry_run: bool = False, past_grace: bool = False
    ) -> Compaction:
        if limit < 1:
            raise InputRejected(f"a compaction of {limit} removals does nothing")
        found = await self._reader.run(
            partial(
                compaction.candidates,
                namespace=self.namespace,
                limit=None if dry_run else min(limit, _MANY),
                past_grace=past_grace,
            )
        )
        if dry_run or found.empty:
            return found.summary()
        return await self._writer.run(partial(compaction.remove, found=found))

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        check_note_names(names)
        return await self._reader.run(partial(notes.read, namespace=self.namespace, names=names))

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        check_notes(changes, expected)
        expected = dict(expected or {})
        if not os.path.exists(self.path):
            refuse_note_conflicts(expected, {})  # what is refused leaves no file behind
        return await self._writer.run(
            partial(notes.write, namespace=self.namespace, changes=dict(changes), expected=expected),
            create=True,
        )

    async def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        check_note_prefix(prefix)
        last = after or ""
        if last:
            check_note_names([last])
        while True:
            page, more = await self._reader.run(
                partial(notes.page, namespace=self.namespace, prefix=prefix, after=last)
            )
            if page:
                yield page
                last = page[-1].name
            if not more:
                return

    async def close(self) -> None:
        """The writer first: a commit under way is finished before anything is released."""
        try:
            await self._writer.close()
        finally:
            await self._reader.close()
