"""The databases under test: how to open a store on each, and how to look behind its back."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import redis
from msgspec.structs import replace

from faults.opening import Spec
from servers.postgres import PostgresServer
from servers.redis import RedisCluster, RedisServer
from somactl.store.contract import Store
from somactl.store.redis.cache_entries import Names as CacheNames
from somactl.store.redis.layout import Names

TIMEOUT = 0.5
"""Seconds that a server may take to answer: far more than it needs, far less than it is paused for."""
PATIENT = 30.0
"""The same where no fault is awaited: on a busy machine a client may not get to work for TIMEOUT."""


class Place:
    """One namespace of a server, as `faults.checker.Place`, and how to get there."""

    stale_seconds: float | None = None
    server: Any
    """What holds the truth."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.namespace = spec.namespace

    def open(self, *, patient: bool = False) -> Store:
        return (replace(self.spec, timeout=PATIENT) if patient else self.spec).open()

    def through(self, port: int) -> Spec:
        """The way there that leads through a proxy on `port`."""
        parts = urlsplit(self.spec.url)
        login = parts.netloc.rpartition("@")[0]
        netloc = f"{login}@127.0.0.1:{port}" if login else f"127.0.0.1:{port}"
        return replace(self.spec, url=parts._replace(netloc=netloc).geturl())

    async def init(self) -> None:
        store = self.open(patient=True)
        try:
            await store.init()
        finally:
            await store.close()

    async def litter(self) -> list[str]:
        raise NotImplementedError

    def connections(self) -> int:
        """How many clients the server has now, besides the one that counts."""
        raise NotImplementedError


class RedisPlace(Place):
    """One namespace on a Redis, or on a cluster."""

    def __init__(
        self, server: RedisServer | RedisCluster, namespace: str, *, timeout: float = TIMEOUT
    ) -> None:
        super().__init__(Spec(server.url, namespace, timeout))
        self.server = server

    def raw(self) -> Any:
        """A plain client of the server that holds the namespace."""
        if isinstance(self.server, RedisCluster):
            return self.server.node_of(Names(self.namespace).head).client()
        return self.server.client()

    def expiring(self) -> dict[str, int]:
        """Names on their way in or out -> milliseconds until they vanish; -1 for never."""
        with self.raw() as raw:
            return {name: raw.pttl(name) for name in self._names(raw) if _passing(name)}

    async def litter(self) -> list[str]:
        """What is on its way must vanish by itself, and what is committed must not."""
        wrong = [f"{name} never expires" for name, life in self.expiring().items() if life == -1]
        with self.raw() as raw:
            kept = [name for name in self._names(raw) if not _passing(name)]
            return wrong + [f"{name} would vanish" for name in kept if raw.pttl(name) != -1]

    def _names(self, raw: redis.Redis) -> list[str]:
        return [name.decode() for name in raw.scan_iter(Names(self.namespace).tag + "*", count=1000)]

    def connections(self) -> int:
        with self.raw() as raw:
            return len(raw.client_list(_type="normal")) - 1


def _passing(name: str) -> bool:
    part = name.split(":")[2]
    return part in ("stage", "trash")


class PostgresPlace(Place):
    """One namespace in the database `url` of a PostgreSQL."""

    def __init__(self, server: PostgresServer, url: str, namespace: str, *, timeout: float = TIMEOUT) -> None:
        super().__init__(Spec(url, namespace, timeout))
        self.server = server
        self.database = urlsplit(url).path.removeprefix("/")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self.server.run(statement, self.database)
        return rows

    async def litter(self) -> list[str]:
        return []

    def connections(self) -> int:
        ((count,),) = self.rows(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return int(count)


class HybridPlace(Place):
    """A namespace on a PostgreSQL with a Redis before it."""

    def __init__(
        self,
        authority: PostgresPlace,
        cache: RedisServer,
        *,
        ttl: float = 1.0,
        cache_timeout: float = 0.05,
        allow_stale: bool = False,
    ) -> None:
        super().__init__(
            replace(
                authority.spec,
                cache=cache.url,
                cache_ttl=ttl,
                cache_timeout=cache_timeout,
                allow_stale=allow_stale,
            )
        )
        self.authority = authority
        self.server = authority.server
        self.cache = cache
        self.stale_seconds = ttl

    def through_cache(self, port: int, *, cache_timeout: float) -> Spec:
        """The way there whose cache is reached through a proxy, and waited for longer."""
        return replace(self.spec, cache=f"redis://127.0.0.1:{port}/0", cache_timeout=cache_timeout)

    async def litter(self) -> list[str]:
        """Everything in the cache expires, and a value when it is as old as a value may be."""
        most = int(self.spec.cache_ttl * 1000)
        wrong = []
        tag = CacheNames.of(self.namespace).marker
        with self.cache.client() as raw:
            for name in raw.scan_iter(f"{tag}*", count=1000):
                ends = raw.pexpiretime(name)
                if ends == -1:
                    wrong.append(f"{name} in the cache never expires")
                if not name.startswith(f"{tag}:".encode()):
                    continue
                content, filled_at = raw.hmget(name, "content", "filled_at")
                if content and ends > int(filled_at) // 1000 + most:
                    wrong.append(f"{name} in the cache lives until {ends}, and was filled at {filled_at}")
        return wrong

    def connections(self) -> int:
        with self.cache.client() as raw:
            return self.authority.connections() + len(raw.client_list(_type="normal")) - 1
