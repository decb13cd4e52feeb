"""What the contract of sources is tested against, with hooks that go round the source."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import asyncpg

from servers.external import ExternalPgBouncer, ExternalPostgres, ExternalRedis
from servers.pgbouncer import PgBouncer
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.legacy.source.contract import Source
from somactl.legacy.source.files import FilesSource
from somactl.legacy.source.ndjson import NdjsonSource
from somactl.legacy.source.postgres import PostgresSource
from somactl.legacy.source.redis import RedisSource
from somactl.legacy.source.workspace import to_bytes

TABLE = "CREATE TABLE kv_store (key text PRIMARY KEY, value jsonb NOT NULL)"


class Backend(Protocol):
    """Some place for values. `put` and `read` are another program's; a value of None is none."""

    def open(self, *, read_only: bool = True) -> Source: ...

    async def put(self, values: Mapping[str, bytes | None]) -> None: ...

    async def read(self, key: str) -> bytes | None: ...


class PostgresBackend:
    """A table in a database of its own, reached through `pgbouncer` where one is given."""

    def __init__(
        self,
        server: PostgresServer | ExternalPostgres,
        pgbouncer: PgBouncer | ExternalPgBouncer | None = None,
        *,
        table: str = TABLE,
        name: str = "kv_store",
        parameter: str = "",
    ) -> None:
        self.server = server
        self.direct_url = server.create_database()
        self.database = urlsplit(self.direct_url).path.removeprefix("/")
        self.url = pgbouncer.url(self.database) if pgbouncer else self.direct_url
        if parameter:
            self.url += f"?table={quote(parameter)}"
        self.name = name
        for statement in table.split(";"):
            server.run(statement, self.database)

    def open(self, *, read_only: bool = True, **options: Any) -> PostgresSource:
        return PostgresSource(self.url, read_only=read_only, **options)

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[Any]:
        """A connection of the superuser's."""
        connection = await asyncpg.connect(**{**self.server.admin(), "database": self.database})
        try:
            yield connection
        finally:
            await connection.close()

    async def put(self, values: Mapping[str, bytes | None]) -> None:
        async with self.raw() as connection:
            await connection.executemany(
                f"DELETE FROM {self.name} WHERE key = $1", [(key,) for key in values]
            )
            await connection.executemany(
                f"INSERT INTO {self.name} VALUES ($1, $2)",
                [(key, value.decode()) for key, value in values.items() if value is not None],
            )

    async def read(self, key: str) -> bytes | None:
        async with self.raw() as connection:
            value = await connection.fetchval(f"SELECT value::text FROM {self.name} WHERE key = $1", key)
        return None if value is None else str(value).encode()

    async def number_of_transactions(self) -> int:
        """How many transactions of the whole server have written, or will: PostgreSQL counts only these."""
        async with self.raw() as connection:
            return int(
                await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            )

    def dispose(self) -> None:
        self.server.drop_database(self.direct_url)


class RedisBackend:
    """The tests' own database, emptied before."""

    def __init__(self, server: RedisServer | ExternalRedis) -> None:
        self.server = server
        with server.client() as raw:
            raw.flushdb()

    def open(self, *, read_only: bool = True, **options: Any) -> RedisSource:
        return RedisSource(self.server.url, read_only=read_only, **options)

    async def put(self, values: Mapping[str, bytes | None]) -> None:
        with self.server.client() as raw:
            for key, value in values.items():
                raw.delete(to_bytes(key)) if value is None else raw.set(to_bytes(key), value)

    async def read(self, key: str) -> bytes | None:
        with self.server.client() as raw:
            value = raw.get(to_bytes(key))
        assert value is None or isinstance(value, bytes)
        return value

    def dispose(self) -> None:
        with self.server.client() as raw:
            raw.flushdb()


class FilesBackend:
    """Files in `folder`; those of values that are gone are named to the source all the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: dict[str, str] = {}

    def open(self, *, read_only: bool = True) -> FilesSource:
        paths = self.paths
        if read_only:
            paths = {key: path for key, path in paths.items() if Path(path).exists()}
        return FilesSource(paths, read_only=read_only)

    async def put(self, values: Mapping[str, bytes | None]) -> None:
        for key, value in values.items():
            path = Path(self.paths.setdefault(key, str(self.folder / f"{len(self.paths)}.json")))
            if value is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(value)

    async def read(self, key: str) -> bytes | None:
        path = Path(self.paths[key])
        return path.read_bytes() if path.exists() else None

    def dispose(self) -> None:
        """pytest removes the folder."""


class NdjsonBackend:
    """Lines that a source reads when it is opened."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def open(self, *, read_only: bool = True) -> NdjsonSource:
        return NdjsonSource(io.BytesIO(b"".join(map(line, self.values, self.values.values()))))

    async def put(self, values: Mapping[str, bytes | None]) -> None:
        for key, value in values.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value

    async def read(self, key: str) -> bytes | None:
        return self.values.get(key)

    def dispose(self) -> None:
        """Nothing is left."""


def line(key: str, value: bytes) -> bytes:
    """A line of NDJSON with the bytes of `value` as they are."""
    return b'{"key": %s, "value": %s}\n' % (json.dumps(key).encode(), value)
