"""Databases of every kind for tests of prunes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servers.postgres import Databases
from servers.redis import RedisServer
from store.hybrid_backend import postgres_and_redis
from store.postgres_backend import PostgresBackend
from store.redis_backend import RedisBackend
from support.sqlite_backend import SqliteBackend


@pytest.fixture
def sqlite_backend(tmp_path: Path) -> SqliteBackend:
    return SqliteBackend(tmp_path / "store.db")


@pytest.fixture(params=["sqlite", "redis", "postgres", "hybrid"])
def any_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    make: dict[str, Callable[[], Any]] = {
        "sqlite": lambda: SqliteBackend(tmp_path / "store.db"),
        "redis": lambda: _redis(request.getfixturevalue("redis_server")),
        "postgres": lambda: PostgresBackend(request.getfixturevalue("postgres_server")),
        "hybrid": lambda: _hybrid(request),
    }
    return make[request.param]()


def _redis(server: RedisServer) -> RedisBackend:
    raw = server.client()
    raw.flushdb()
    return RedisBackend(server.url, raw)


def _hybrid(request: pytest.FixtureRequest) -> Any:
    postgres: Databases = request.getfixturevalue("postgres_server")
    return postgres_and_redis(postgres, request.getfixturevalue("redis_server"))()
