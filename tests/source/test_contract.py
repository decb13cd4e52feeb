"""Every source held to the contract, on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.external import ExternalPgBouncer, ExternalPostgres, ExternalRedis
from servers.pgbouncer import PgBouncer
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from source.backends import FilesBackend, NdjsonBackend, PostgresBackend, RedisBackend
from source.suite import MEGABYTE, ReadingContract, SwappingContract


class TestPostgres(SwappingContract):
    module = "somactl.legacy.source.postgres"

    @pytest.fixture
    def backend(self, postgres_server: PostgresServer | ExternalPostgres) -> Iterator[PostgresBackend]:
        backend = PostgresBackend(postgres_server)
        yield backend
        backend.dispose()


class TestPostgresBehindPgBouncer(SwappingContract):
    module = "somactl.legacy.source.postgres"
    largest = 20 * MEGABYTE

    @pytest.fixture
    def backend(
        self, postgres_server: PostgresServer | ExternalPostgres, pgbouncer: PgBouncer | ExternalPgBouncer
    ) -> Iterator[PostgresBackend]:
        backend = PostgresBackend(postgres_server, pgbouncer)
        yield backend
        backend.dispose()


class TestPostgresInAnotherOrder(SwappingContract):
    """A table of odd names, in whose keys' order `a` stands before `B`, and blanks count for less."""

    module = "somactl.legacy.source.postgres"
    largest = 20 * MEGABYTE

    @pytest.fixture
    def backend(self, postgres_server: PostgresServer | ExternalPostgres) -> Iterator[PostgresBackend]:
        name = '"odd ""schema"" %s"."old.Values"'
        backend = PostgresBackend(
            postgres_server,
            table=f'CREATE SCHEMA "odd ""schema"" %s"; CREATE TABLE {name} '
            '(key text COLLATE "en-x-icu" PRIMARY KEY, value jsonb NOT NULL, note int)',
            name=name,
            parameter='odd "schema" %s.old.Values',
        )
        yield backend
        backend.dispose()


class TestRedis(SwappingContract):
    module = "somactl.legacy.source.redis"

    @pytest.fixture
    def backend(self, redis_server: RedisServer | ExternalRedis) -> Iterator[RedisBackend]:
        backend = RedisBackend(redis_server)
        yield backend
        backend.dispose()


class TestFiles(SwappingContract):
    module = "somactl.legacy.source.files"

    @pytest.fixture
    def backend(self, tmp_path: Path) -> FilesBackend:
        return FilesBackend(tmp_path)


class TestNdjson(ReadingContract):
    module = "somactl.legacy.source.ndjson"

    @pytest.fixture
    def backend(self) -> NdjsonBackend:
        return NdjsonBackend()
