"""The Redis store's face: coroutines over a reader, and commits that no cancellation cuts in half."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

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
from somactl.store.reading import Listing, pages
from somactl.store.redis import compaction, connection, diagnosis, events, layout, listing, notes, writing
from somactl.store.redis.layout import Names
from somactl.store.redis.link import Link, Nodes, ServerSettings, WriteGuard
from somactl.store.redis.reading import Reader
from somactl.store.request import Request

T = TypeVar("T")


class RedisServer:
    """The Redis at `url`, one server or a cluster, and the connections to each node, for the stores of its
    namespaces; see `somactl.store.contract.StoreServer`.

    Raises ConfigurationError for a URL that is not understood. `timeout` is how long, in seconds, a server
    may take to answer one exchange, `connect_timeout` to accept a connection.
    """

    def __init__(self, url: str, *, timeout: float = 30.0, connect_timeout: float = 5.0) -> None:
        server = connection.parse(url)
        self.nodes = Nodes(server, timeout=timeout, connect_timeout=connect_timeout, timed=True)

    def namespace(self, name: str) -> RedisStore:
        return RedisStore(self, name)

    async def close(self) -> None:
        await self.nodes.close()


@reads_replies("somactl.store.redis", __name__)
class RedisStore(BaseStore):
    """One namespace of a Redis; see `somactl.store.contract.Store`.

    server  shared with other stores; or the URL and the options of one of its own
    """

    name = layout.NAME

    def __init__(self, server: str | RedisServer, namespace: str = "default", **options: float) -> None:
        own = server if isinstance(server, RedisServer) else RedisServer(server, **options)
        super().__init__(namespace, None if own is server else own)
        self._nodes = own.nodes
        self._server = own.nodes.server
        self.place = self._server.place
        self._registry = self._nodes.link()
        self._link = self._nodes.link()
        self._own_reader = self._reader_of(namespace, self._link)
        self._guard = WriteGuard(self._link)
        self._writes: Tasks[str] = Tasks()

    @property
    def _reader(self) -> Reader:
        self._refuse_closed()
        return self._own_reader

    def _reader_of(self, namespace: str, link: Link) -> Reader:
        return Reader(link, self._registry, Names(namespace))

    async def durability(self) -> str:
        return (await self._guard.settings()).durability

    async def diagnose(self) -> list[Finding]:
        return await diagnosis.diagnose(self._reader, self._server)

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

    async def _init(self, retention: Retention | None, new_incarnation: bool) -> Head:
        return await self._write(lambda _: writing.init(self._reader, retention, new_incarnation))

    async def _commit(self, request: Request) -> Receipt:
        replicas, commit_id = self._server.wait_replicas, request.commit_id
        job = partial(writing.commit, self._reader, request, wait_replicas=replicas)
        return await self._write(job, commit_id=commit_id, sent=commit_id)

    async def _read(self, key: str, version: int | None) -> Entry:
        return await self._reader.read(key, version)

    async def _read_many(self, keys: list[str]) -> Snapshot:
        return await self._reader.read_many(keys)

    async def _stat_many(self, keys: list[str]) -> Stats:
        return await self._reader.stat_many(keys)

    def _pages(self, listing_: Listing, after: str | None) -> AsyncIterator[list[Stat]]:
        return listing.pages(self._reader, listing_, after)

    async def _history(self, key: str) -> list[Revision]:
        return await self._reader.history(key)

    async def _log(self, before: int, limit: int) -> list[CommitRecord]:
        return await self._reader.log(before, limit)

    async def _events(self, after: int, limit: int) -> EventPage:
        return await events.read(self._reader, after, limit)

    async def publishing(self) -> Publishing:
        return await events.publishing(self._reader)

    async def _mark_published(self, version: int, incarnation: str | None) -> Publishing:
        return await self._write(lambda _: events.mark(self._reader, version, incarnation))

    async def _set_publishing(self, keep: int | None) -> Publishing:
        return await self._write(lambda _: events.set_keep(self._reader, keep))

    async def _wait_for(self, commit_id: str) -> None:
        await self._writes.wait_for(commit_id)

    async def _commit_status(self, commit_id: str) -> CommitStatus:
        return await self._reader.commit_status(commit_id)

    async def _resolve(self, commit_id: str) -> CommitStatus:
        return await self._write(lambda _: self._reader.resolve(commit_id))

    async def _compact(self, limit: int, dry_run: bool, past_grace: bool) -> Compaction:
        found = await compaction.candidates(self._reader, None if dry_run else limit, past_grace=past_grace)
        if dry_run or found.empty:
            return found.summary()
        return await self._writes.run("", compaction.remove(self._reader, found))

    async def _read_notes(self, names: list[str]) -> dict[str, Note]:
        return await notes.read(self._reader, names)

    async def _write_notes(
        self, changes: dict[str, bytes | None], expected: dict[str, int]
    ) -> dict[str, int]:
        return await self._write(lambda _: notes.write(self._reader, changes, expected), sent="")

    def _note_pages(self, prefix: str, after: str | None) -> AsyncIterator[list[Note]]:
        return pages(partial(notes.page, self._reader, prefix), after)

    async def _finish(self) -> None:
        await self._writes.drain()

    async def _write(
        self, job: Callable[[ServerSettings], Awaitable[T]], *, commit_id: str = "", sent: str | None = None
    ) -> T:
        """What `job` does on a server that is fit for writes; to its end even where the caller is cancelled.

        `sent` ('' for notes): what a reply that makes no sense leaves unknown.
        """

        async def run() -> T:
            with understood(self.place):
                settings = await self._guard.writable()
            with understood(self.place, sent):
                return await job(settings)

        return await self._writes.run(commit_id, run())
