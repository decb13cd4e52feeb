"""The PostgreSQL store's face: coroutines over a pool of connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from somactl.errors import NamespaceNotFound, StoreUnavailable
from somactl.store import calls
from somactl.store.base import BaseStore
from somactl.store.calls import Tasks, reads_replies, understood
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
from somactl.store.postgres import (
    compaction,
    connections,
    diagnosis,
    events,
    failures,
    notes,
    reading,
    records,
    schema,
    writing,
)
from somactl.store.postgres.connections import Connections, Lease, watched
from somactl.store.postgres.session import Session
from somactl.store.postgres.writing import commit
from somactl.store.reading import Listing, pages
from somactl.store.request import Request

P = ParamSpec("P")
T = TypeVar("T")
_ATTEMPTS = 6
_PAUSE_SECONDS = 0.02


class PostgresServer:
    """The PostgreSQL database at `url`, and at most `?pool_size=` connections to it, for the stores of its
    namespaces; see `somactl.store.contract.StoreServer`.

    Raises ConfigurationError for a URL that is none of PostgreSQL's. `timeout` is how long, in seconds, one
    answer of the server may take; large values get more. A write that waits for another's lock is StoreBusy
    before that. `connect_timeout` bounds each connecting.
    """

    def __init__(self, url: str, *, timeout: float = 30.0, connect_timeout: float = 5.0) -> None:
        self.connections = Connections(
            connections.parse(url, client=calls.client_name.get()),
            timeout=timeout,
            connect_timeout=connect_timeout,
        )

    def namespace(self, name: str) -> PostgresStore:
        return PostgresStore(self, name)

    async def close(self) -> None:
        await self.connections.close()


@reads_replies("somactl.store.postgres", __name__)
class PostgresStore(BaseStore):
    """One namespace of a PostgreSQL database; see `somactl.store.contract.Store`.

    server  shared with other stores; or the URL and the options of one of its own
    """

    name = records.NAME

    def __init__(self, server: str | PostgresServer, namespace: str = "default", **options: float) -> None:
        own = server if isinstance(server, PostgresServer) else PostgresServer(server, **options)
        super().__init__(namespace, None if own is server else own)
        self._connections = own.connections
        self.place = self._connections.place
        self._writes: Tasks[str] = Tasks()

    async def durability(self) -> str:
        return await self._query(reading.durability)

    async def diagnose(self) -> list[Finding]:
        return await diagnosis.diagnose(self._connections, self.namespace)

    async def namespaces(self) -> list[NamespaceSummary]:
        try:
            return await self._query(reading.namespaces)
        except NamespaceNotFound:  # no tables yet
            return []

    async def head(self) -> Head:
        return await self._ask(reading.head)

    async def summary(self) -> NamespaceSummary:
        return await self._ask(reading.summary)

    async def clock(self) -> float:
        return await self._ask(reading.clock)

    async def _init(self, retention: Retention | None, new_incarnation: bool) -> Head:
        async def once() -> Head:
            async with self._lease(bare=True) as session:
                return await writing.init(session, self.namespace, retention, new_incarnation)

        return await self._writes.run("", _again(once))

    async def _commit(self, request: Request) -> Receipt:
        return await self._write(partial(commit, request=request), request.commit_id)

    async def _read(self, key: str, version: int | None) -> Entry:
        return await self._ask(reading.read, key, version)

    async def _read_many(self, keys: list[str]) -> Snapshot:
        return await self._ask(reading.read_many, keys)

    async def _stat_many(self, keys: list[str]) -> Stats:
        return await self._ask(reading.stat_many, keys)

    def _pages(self, listing_: Listing, after: str | None) -> AsyncIterator[list[Stat]]:
        return pages(lambda last: self._ask(reading.page, listing_, last), after)

    async def _history(self, key: str) -> list[Revision]:
        return await self._ask(reading.history, key)

    async def _log(self, before: int, limit: int) -> list[CommitRecord]:
        return await self._ask(reading.log, before, limit)

    async def _events(self, after: int, limit: int) -> EventPage:
        return await self._ask(events.read, after, limit)

    async def publishing(self) -> Publishing:
        return await self._ask(events.publishing)

    async def _mark_published(self, version: int, incarnation: str | None) -> Publishing:
        return await self._write(
            partial(events.mark, namespace=self.namespace, version=version, incarnation=incarnation)
        )

    async def _set_publishing(self, keep: int | None) -> Publishing:
        return await self._write(partial(events.set_keep, namespace=self.namespace, keep=keep))

    async def _wait_for(self, commit_id: str) -> None:
        await self._writes.wait_for(commit_id)

    async def _commit_status(self, commit_id: str) -> CommitStatus:
        return await self._ask(reading.commit_status, commit_id)

    async def _resolve(self, commit_id: str) -> CommitStatus:
        job = partial(writing.resolve, namespace=self.namespace, commit_id=commit_id)
        return await self._write(job, commit_id)

    async def _compact(self, limit: int, dry_run: bool, past_grace: bool) -> Compaction:
        stages = schema.UNGRACED if past_grace else schema.STAGES
        if dry_run:
            return await self._ask(compaction.count, stages)
        found = await self._ask(compaction.candidates, limit, stages)
        if found.empty:
            return Compaction()
        return await self._write(partial(compaction.remove, namespace=self.namespace, found=found))

    async def _read_notes(self, names: list[str]) -> dict[str, Note]:
        return await self._ask(notes.read, names)

    async def _write_notes(
        self, changes: dict[str, bytes | None], expected: dict[str, int]
    ) -> dict[str, int]:
        job = partial(notes.write, namespace=self.namespace, changes=changes, expected=expected)
        return await self._write(job)

    def _note_pages(self, prefix: str, after: str | None) -> AsyncIterator[list[Note]]:
        return pages(lambda last: self._ask(notes.page, prefix, last), after)

    async def _finish(self) -> None:
        await self._writes.drain()

    def _lease(self, *, write: bool = False, bare: bool = False) -> Lease:
        self._refuse_closed()
        return self._connections.lease(write=write, bare=bare)

    async def _ask(
        self,
        question: Callable[Concatenate[Session, str, P], Awaitable[T]],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> T:
        """What `question` reads of the namespace."""
        return await self._query(lambda session: question(session, self.namespace, *arguments, **options))

    async def _query(self, job: Callable[[Session], Awaitable[T]]) -> T:
        async def once() -> T:
            async with self._lease() as session:
                return await job(session)

        return await _again(once)

    async def _write(self, job: Callable[[Session], Awaitable[T]], commit_id: str = "") -> T:
        """The result of `job`, which runs to its end even if our caller is cancelled."""

        async def once() -> T:
            async with self._connections.turn(self.namespace), self._lease(write=True) as session:
                with understood(self.place, commit_id or None):
                    if not calls.is_heard():
                        return await job(session)
                    place = f"the lock of {self.namespace!r} in {self.place}"
                    async with watched(
                        session, self._connections, lambda by: calls.wait_for(f"{place}, held by {by}")
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
