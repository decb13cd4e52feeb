"""A PostgreSQL database under test, and the hooks that go round its store: straight to the tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, TypeAlias
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import asyncpg
import pytest
import pytest_asyncio

from servers.pgbouncer import PgBouncer
from servers.postgres import Databases
from somactl.store.postgres import PostgresStore

REVISION = (
    "SELECT id FROM somactl.revision WHERE key = $2 AND version = $3 "
    "AND namespace = (SELECT id FROM somactl.namespace WHERE name = $1)"
)


EMPTIED = """
DO $$ DECLARE name text; BEGIN
    SET LOCAL session_replication_role = replica; -- which checks no references between them
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'somactl' AND tablename <> 'somactl_schema'
    LOOP EXECUTE format('DELETE FROM somactl.%I', name); END LOOP;
END $$
"""


class PostgresBackend:
    """An empty database on `server`. Stores reach it through `pgbouncer`, where one is given; hooks never do.

    One that was disposed of is emptied and used again, with its tables: making them anew takes longer than
    most tests. A store's first `init` of a database is tried by `test_postgres_schema.py`.
    """

    _disposed: ClassVar[WeakKeyDictionary[Databases, list[str]]] = WeakKeyDictionary()

    implicit_init = False
    frees_itself = False
    problems: frozenset[str] = frozenset({"fsync", "full_page_writes"})

    def __init__(self, server: Databases, pgbouncer: PgBouncer | None = None) -> None:
        self.server = server
        self._shelf = self._disposed.setdefault(server, [])
        self.direct_url = self._shelf.pop() if self._shelf else server.create_database()
        self.database = urlsplit(self.direct_url).path.removeprefix("/")
        self.url = pgbouncer.url(self.database) if pgbouncer else self.direct_url

    def open(self, namespace: str = "default", **options: Any) -> PostgresStore:
        return PostgresStore(self.url, namespace, **options)

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[Any]:
        """A connection of the superuser's."""
        connection = await asyncpg.connect(**{**self.server.admin(), "database": self.database})
        try:
            yield connection
        finally:
            await connection.close()

    async def rows(self, statement: str, *parameters: Any) -> list[Any]:
        async with self.raw() as connection:
            rows: list[Any] = await connection.fetch(statement, *parameters)
            return rows

    async def stored(self, namespace: str) -> set[tuple[str, int]]:
        rows = await self.rows(
            "SELECT key, version FROM somactl.payload JOIN somactl.revision USING (id) "
            "WHERE namespace = (SELECT id FROM somactl.namespace WHERE name = $1)",
            namespace,
        )
        # A payload without its revision would be missed by the join, and never be removed.
        ((orphans,),) = await self.rows(
            "SELECT count(*) FROM somactl.payload WHERE id NOT IN (SELECT id FROM somactl.revision)"
        )
        assert orphans == 0
        return {(key, version) for key, version in rows}

    async def stored_bytes(self, namespace: str, key: str, version: int) -> bytes:
        ((data,),) = await self.rows(
            f"SELECT data FROM somactl.payload WHERE id = ({REVISION})", namespace, key, version
        )
        assert isinstance(data, bytes)
        return data

    async def overwrite(self, namespace: str, key: str, version: int, data: bytes) -> None:
        done = await self.rows(
            f"UPDATE somactl.payload SET data = $4 WHERE id = ({REVISION}) RETURNING id",
            namespace,
            key,
            version,
            data,
        )
        assert len(done) == 1

    async def age(self, namespace: str, seconds: float) -> None:
        ours = "namespace = (SELECT id FROM somactl.namespace WHERE name = $1)"
        for statement in (
            "UPDATE somactl.revision SET committed_at = committed_at - $2, "
            f"superseded_at = superseded_at - $2, expires_at = expires_at - $2 WHERE {ours}",
            f"UPDATE somactl.note SET written_at = written_at - $2 WHERE {ours}",
            f"UPDATE somactl.commit_record SET recorded_at = recorded_at - $2 WHERE {ours}",
        ):
            await self.rows(statement, namespace, seconds)

    async def dispose(self) -> None:
        await self.rows(EMPTIED)
        self._shelf.append(self.direct_url)

    async def refuse_records(self, state: str, *, in_commit: bool = False) -> None:
        """From now on each write of a commit's record fails with that SQLSTATE, at once or in COMMIT."""
        await self.rows(
            "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$BEGIN RAISE EXCEPTION 'provoked' USING ERRCODE = '{state}'; END$$"
        )
        kind, deferred = ("CONSTRAINT", "DEFERRABLE INITIALLY DEFERRED") if in_commit else ("", "")
        await self.rows(
            f"CREATE {kind} TRIGGER refuse AFTER INSERT ON somactl.commit_record {deferred} "
            "FOR EACH ROW EXECUTE FUNCTION public.refuse()"
        )

    async def accept_records(self) -> None:
        await self.rows("DROP TRIGGER refuse ON somactl.commit_record")

    async def processes(self) -> set[int]:
        """Those of the server that serve stores on this database."""
        rows = await self.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return {pid for (pid,) in rows}

    async def until_one_waits_for_a_lock(self) -> int:
        """Return its process."""
        found: list[int] = []

        async def waits() -> bool:
            rows = await self.rows(
                "SELECT pid FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            found.extend(pid for (pid,) in rows)
            return bool(found)

        await until(waits, "the wait for a lock")
        return found[0]


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> None:
    for _ in range(500):
        if await condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{what} did not come")


Opener: TypeAlias = "Callable[..., PostgresStore]"

# Fixtures for the test modules that import them.


@pytest.fixture
def backend(postgres_server: Databases) -> Iterator[PostgresBackend]:
    """One whose settings a test may change: it is not used again."""
    backend = PostgresBackend(postgres_server)
    yield backend
    postgres_server.drop_database(backend.direct_url)


@pytest_asyncio.fixture
async def opener(backend: PostgresBackend) -> AsyncIterator[Opener]:
    """Opens stores, on that database where no other URL is given; they are closed in the end."""
    stores: list[PostgresStore] = []

    def open_store(namespace: str = "default", *, url: str = "", **options: Any) -> PostgresStore:
        stores.append(PostgresStore(url or backend.url, namespace, **options))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()


@pytest_asyncio.fixture
async def store(opener: Opener) -> PostgresStore:
    """One on the database, initialised."""
    store = opener()
    await store.init()
    return store
