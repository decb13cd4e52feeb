"""A PostgreSQL database under test, and the hooks that go round its store: straight to the tables."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import asyncpg

from servers.pgbouncer import PgBouncer
from servers.postgres import Databases
from somactl.store.postgres import PostgresStore

REVISION = (
    "SELECT id FROM somactl.revision WHERE key = $2 AND version = $3 "
    "AND namespace = (SELECT id FROM somactl.namespace WHERE name = $1)"
)


class PostgresBackend:
    """A new database on `server`. Stores reach it through `pgbouncer`, where one is given; hooks never do."""

    implicit_init = False
    outbox = True
    problems: frozenset[str] = frozenset({"fsync", "full_page_writes"})

    def __init__(self, server: Databases, pgbouncer: PgBouncer | None = None) -> None:
        self.server = server
        self.direct_url = server.create_database()
        self.database = urlsplit(self.direct_url).path.removeprefix("/")
        self.url = pgbouncer.url(self.database) if pgbouncer else self.direct_url

    def open(self, namespace: str = "default", **options: Any) -> PostgresStore:
        return PostgresStore(self.url, namespace, **options)

    async def rows(self, statement: str, *parameters: Any) -> list[Any]:
        connection = await asyncpg.connect(**{**self.server.admin(), "database": self.database})
        try:
            return await connection.fetch(statement, *parameters)
        finally:
            await connection.close()

    async def stored(self, namespace: str) -> set[tuple[str, int]]:
        rows = await self.rows(
            "SELECT key, version FROM somactl.payload JOIN somactl.revision USING (id) "
            "WHERE namespace = (SELECT id FROM somactl.namespace WHERE name = $1)",
            namespace,
        )
        # A payload without its revision would be missed by the join, and nobody would ever remove it.
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
            "UPDATE somactl.revision SET committed_at = committed_at - $2, superseded_at = superseded_at - $2 "
            f"WHERE {ours}",
            f"UPDATE somactl.commit_record SET recorded_at = recorded_at - $2 WHERE {ours}",
            "UPDATE somactl.outbox SET recorded_at = recorded_at - $2 WHERE namespace = $1",
        ):
            await self.rows(statement, namespace, seconds)

    async def events(self, namespace: str) -> list[int]:
        rows = await self.rows(
            "SELECT version FROM somactl.outbox WHERE namespace = $1 ORDER BY id", namespace
        )
        return [version for (version,) in rows]

    async def dispose(self) -> None:
        self.server.drop_database(self.direct_url)
