"""Databases with a cache before them, and hooks that look behind both."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakeredis
from fakeredis.aioredis import FakeAsyncRedisConnection

from servers.postgres import Databases
from servers.redis import RedisCluster, RedisServer
from somactl.core.names import KINDS
from somactl.store.contract import Store
from somactl.store.hybrid import HybridStore
from somactl.store.redis.cache import RedisCache
from somactl.store.redis.cache_entries import Names
from somactl.store.redis.link import Link
from somactl.store.redis.pool import Call, Command, Pool, Reply
from store.postgres_backend import PostgresBackend
from support.sqlite_backend import SqliteBackend

ALL_KINDS = frozenset(KINDS)
NOWHERE = "redis://fake.invalid"
PATIENT = 2.0
"""Seconds for a cache to answer where a test is not about its not answering."""


INFO = "redis_version:7.0.0\r\nused_memory:1000000\r\nmaxmemory:100000000\r\nmaxmemory_policy:allkeys-lru\r\n"


class FakeLink(Link):
    """Answers INFO, which fakeredis does not know."""

    async def ask(self, *commands: Command | Call, **rest: Any) -> list[Reply]:
        if not isinstance(commands[0], Call) and commands[0][0] == "INFO":
            return [INFO.encode()]
        return await super().ask(*commands, **rest)


class FakeCacheServer:
    """A Redis in this process that runs the same Lua."""

    def __init__(self) -> None:
        self.server = fakeredis.FakeServer(version=(7,))
        self.raw = fakeredis.FakeRedis(server=self.server)

    def link(self) -> Link:
        return FakeLink(Pool(self._connection, ("fake", 0), "the fake"))

    def _connection(self) -> Any:
        return FakeAsyncRedisConnection(server=self.server, protocol=2)

    def cache(self, namespace: str = "default", **options: Any) -> RedisCache:
        return RedisCache(NOWHERE, namespace, link=self.link(), **{"timeout": PATIENT, **options})


class HybridBackend:
    """`authority` with a cache before it, of which copies of all kinds are kept, so that the suite, which
    mostly writes plain matrices, reads from it.

    `overwrite` damages the authority. A good copy in the cache would rightly hide that, so it goes too.
    """

    def __init__(self, authority: Any, cache: Callable[[str], RedisCache], raw: Any) -> None:
        self.authority = authority
        self.cache = cache
        self.raw = raw
        self.implicit_init = authority.implicit_init
        self.problems = getattr(authority, "problems", frozenset())

    def open(self, namespace: str = "default") -> Store:
        return HybridStore(self.authority.open(namespace), self.cache(namespace), kinds=ALL_KINDS)

    async def overwrite(self, namespace: str, key: str, version: int, data: bytes) -> None:
        await self.authority.overwrite(namespace, key, version, data)
        self.raw.delete(Names.of(namespace).entry(key))

    async def dispose(self) -> None:
        self.raw.close()
        await self.authority.dispose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.authority, name)


def sqlite_and_fake(tmp_path: Path) -> Callable[[], HybridBackend]:
    numbers = itertools.count()

    def make() -> HybridBackend:
        server = FakeCacheServer()
        authority = SqliteBackend(tmp_path / f"authority-{next(numbers)}.db")
        return HybridBackend(authority, server.cache, server.raw)

    return make


def redis_cache(server: RedisServer | RedisCluster, namespace: str = "default", **options: Any) -> RedisCache:
    return RedisCache(server.url, namespace, **{"timeout": PATIENT, **options})


def postgres_and_redis(postgres: Databases, server: RedisServer) -> Callable[[], HybridBackend]:
    """Each on a new database and an empty Redis."""

    def make() -> HybridBackend:
        raw = server.client()
        raw.flushdb()
        return HybridBackend(PostgresBackend(postgres), lambda namespace: redis_cache(server, namespace), raw)

    return make
