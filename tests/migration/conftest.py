"""Targets for migrations: an empty store of each kind, and its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from migration.places import make_backend
from servers.external import ExternalPostgres, ExternalRedis
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.runtime import open_store
from source.backends import Backend, RedisBackend

KINDS = ("sqlite", "postgres", "redis", "hybrid")


@pytest.fixture
def sqlite(tmp_path: Path) -> Settings:
    """A store that does not exist yet; it will with the first write."""
    return Settings(store=f"sqlite:///{tmp_path / 'target.db'}")


@pytest.fixture
def clean_redis(redis_server: RedisServer | ExternalRedis) -> Iterator[RedisServer | ExternalRedis]:
    """The tests' own database, empty before and after."""
    for moment in ("before", "after"):
        with redis_server.client() as raw:
            raw.flushdb()
        if moment == "before":
            yield redis_server


@pytest.fixture(params=KINDS)
def target(
    request: pytest.FixtureRequest, sqlite: Settings, postgres_server: PostgresServer | ExternalPostgres
) -> Iterator[Settings]:
    """Settings of an empty store, its namespace initialised."""
    yield from make_target(request.param, request, sqlite, postgres_server)


def make_target(
    kind: str,
    request: pytest.FixtureRequest,
    sqlite: Settings,
    server: PostgresServer | ExternalPostgres,
) -> Iterator[Settings]:
    if kind == "sqlite":
        yield initialised(sqlite)
        return
    redis = request.getfixturevalue("clean_redis")
    if kind == "redis":
        yield initialised(Settings(store=redis.url))
        return
    url = server.create_database()
    cache = redis.url if kind == "hybrid" else ""
    yield initialised(Settings(store=url, cache=cache, read_timeout=2.0))
    server.drop_database(url)


def initialised(settings: Settings) -> Settings:
    async def init() -> None:
        async with open_store(settings) as store:
            await store.init()

    asyncio.run(init())
    return settings


@pytest.fixture(params=["postgres", "redis", "files"])
def legacy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A source that can be changed, empty."""
    yield from make_backend(
        request.param,
        tmp_path,
        lambda: request.getfixturevalue("postgres_server"),
        lambda: request.getfixturevalue("clean_redis"),
    )


@pytest.fixture
def redis_values(clean_redis: RedisServer | ExternalRedis) -> RedisBackend:
    """The same in Redis alone."""
    return RedisBackend(clean_redis)
