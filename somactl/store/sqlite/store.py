"""The SQLite store's face: coroutines over a writer and a reader."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from somactl.address import parse
from somactl.errors import ConfigurationError, NamespaceNotFound
from somactl.store.base import BaseStore
from somactl.store.calls import hear
from somactl.store.contract import (
    CommitRecord,
    CommitStatus,
    Compaction,
    Entry,
    EventPage,
    Finding,
    Head,
    NamespaceSummary,
    Note,
    Publishing,
    Receipt,
    Retention,
    Revision,
    Snapshot,
    Stat,
    Stats,
)
from somactl.store.notes import refuse_note_conflicts
from somactl.store.reading import Listing, pages
from somactl.store.request import Request, refuse_conflicts
from somactl.store.sqlite import compaction, diagnosis, events, notes, reading, writing
from somactl.store.sqlite.database import Worker

P = ParamSpec("P")
T = TypeVar("T")
BUSY_SECONDS = 5.0


class SqliteServer:
    """The database file `path`, with one writer and one reader for the stores of all its namespaces; see
    `somactl.store.contract.StoreServer`.

    `busy_timeout` is how long, in seconds, a write waits for another process's before StoreBusy.
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float = BUSY_SECONDS) -> None:
        self.path = os.path.abspath(os.fsdecode(path))
        if "\0" in self.path:
            raise ConfigurationError(f"the path of the store, {self.path!r}, contains a NUL")
        self.busy_timeout = busy_timeout
        self.writer = Worker(self.path, write=True, busy_timeout=busy_timeout)
        self.reader = Worker(self.path, write=False, busy_timeout=busy_timeout)

    def namespace(self, name: str) -> SqliteStore:
        return SqliteStore(self, name)

    async def close(self) -> None:
        """The writer first: a commit under way is finished before anything is released."""
        try:
            await self.writer.close()
        finally:
            await self.reader.close()


def server(url: str) -> SqliteServer:
    """What a `sqlite:///` URL names; raises ConfigurationError."""
    return SqliteServer(parse(url).path)


class SqliteStore(BaseStore):
    """One namespace of a database file; see `somactl.store.contract.Store`.

    `init` and the first commit create the file; nothing else does.

    server  shared with other stores; or the path and the options of one of its own
    """

    name = reading.NAME

    def __init__(
        self,
        server: str | os.PathLike[str] | SqliteServer,
        namespace: str = "default",
        **options: float,
    ) -> None:
        own = server if isinstance(server, SqliteServer) else SqliteServer(server, **options)
        super().__init__(namespace, None if own is server else own)
        self.path = own.path
        self._busy_timeout = own.busy_timeout
        self._writer, self._reader = own.writer, own.reader

    async def durability(self) -> str:
        return reading.DURABILITY

    async def diagnose(self) -> list[Finding]:
        inspect = partial(diagnosis.diagnose, self.path, self.namespace, self._busy_timeout)
        return await self._reader.offload(inspect)

    async def namespaces(self) -> list[NamespaceSummary]:
        try:
            return await self._reader.run(reading.namespaces)
        except NamespaceNotFound:  # no database yet
            return []

    async def head(self) -> Head:
        head = await self._ask(reading.head)
        hear(time.time(), incarnation=head.incarnation, version=head.version)
        return head

    async def summary(self) -> NamespaceSummary:
        return await self._ask(reading.summary)

    async def clock(self) -> float:
        await self.head()  # as the contract says: it knows the namespace or raises
        return time.time()

    async def _init(self, retention: Retention | None, new_incarnation: bool) -> Head:
        job = partial(
            writing.init, namespace=self.namespace, retention=retention, new_incarnation=new_incarnation
        )
        # What was restored is there, or the path is wrong.
        return await self._change(job, create=not new_incarnation)

    async def _commit(self, request: Request) -> Receipt:
        if not os.path.exists(self.path):
            refuse_conflicts(request.expectations, None, {})  # a refused commit leaves no file behind
        return await self._change(partial(writing.commit, request=request), create=True)

    async def _read(self, key: str, version: int | None) -> Entry:
        return await self._ask(reading.read, key, version)

    async def _read_many(self, keys: list[str]) -> Snapshot:
        return await self._ask(reading.read_many, keys)

    async def _stat_many(self, keys: list[str]) -> Stats:
        return await self._ask(reading.stat_many, keys)

    def _pages(self, listing: Listing, after: str | None) -> AsyncIterator[list[Stat]]:
        return pages(lambda last: self._ask(reading.page, listing, last), after)

    async def _history(self, key: str) -> list[Revision]:
        return await self._ask(reading.history, key)

    async def _log(self, before: int, limit: int) -> list[CommitRecord]:
        return await self._ask(reading.log, before, limit)

    async def _events(self, after: int, limit: int) -> EventPage:
        return await self._ask(events.read, after, limit)

    async def publishing(self) -> Publishing:
        return await self._ask(events.publishing)

    async def _mark_published(self, version: int, incarnation: str | None) -> Publishing:
        job = partial(events.mark, namespace=self.namespace, version=version, incarnation=incarnation)
        return await self._change(job)

    async def _set_publishing(self, keep: int | None) -> Publishing:
        return await self._change(partial(events.set_keep, namespace=self.namespace, keep=keep))

    async def _wait_for(self, commit_id: str) -> None:
        await self._writer.drain()

    async def _commit_status(self, commit_id: str) -> CommitStatus:
        return await self._ask(reading.commit_status, commit_id)

    async def _resolve(self, commit_id: str) -> CommitStatus:
        return await self._change(partial(writing.resolve, namespace=self.namespace, commit_id=commit_id))

    async def _compact(self, limit: int, dry_run: bool, past_grace: bool) -> Compaction:
        found = await self._ask(compaction.candidates, None if dry_run else limit, past_grace)
        if dry_run or found.empty:
            return found.summary()
        return await self._change(partial(compaction.remove, found=found))

    async def _read_notes(self, names: list[str]) -> dict[str, Note]:
        return await self._ask(notes.read, names)

    async def _write_notes(
        self, changes: dict[str, bytes | None], expected: dict[str, int]
    ) -> dict[str, int]:
        if not os.path.exists(self.path):
            refuse_note_conflicts(expected, {})  # what is refused leaves no file behind
        job = partial(notes.write, namespace=self.namespace, changes=changes, expected=expected)
        return await self._change(job, create=True)

    def _note_pages(self, prefix: str, after: str | None) -> AsyncIterator[list[Note]]:
        return pages(lambda last: self._ask(notes.page, prefix, last), after)

    async def _finish(self) -> None:
        self._closed = True  # what is handed over from now on would run behind what is waited for
        await self._writer.drain()

    async def _change(self, job: Callable[[sqlite3.Connection], T], *, create: bool = False) -> T:
        self._refuse_closed()
        hear(time.time())
        return await self._writer.run(job, create=create)

    async def _ask(
        self,
        question: Callable[Concatenate[sqlite3.Connection, str, P], T],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> T:
        """What `question` reads of the namespace, on the reader's thread."""
        self._refuse_closed()
        hear(time.time())
        return await self._reader.run(
            lambda connection: question(connection, self.namespace, *arguments, **options)
        )
