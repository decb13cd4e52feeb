"""Redis databases under test, and the hooks that go round their store: straight to the server."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import fakeredis
import pytest
import pytest_asyncio
import redis
from fakeredis.aioredis import FakeAsyncRedisConnection

from servers.redis import RedisServer
from somactl.core.names import commit_id_time
from somactl.store.contract import Retention
from somactl.store.redis import RedisStore, connection, link
from somactl.store.redis.link import Link, ServerSettings


class RedisBackend:
    """The database that `raw`, a client of any kind, leads to; flushed when it is disposed of."""

    implicit_init = False
    default_retention = Retention(versions=2)
    frees_itself = True

    def __init__(self, url: str, raw: redis.Redis | redis.RedisCluster) -> None:
        self.url = url
        self.raw: Any = raw

    def open(self, namespace: str = "default") -> RedisStore:
        return RedisStore(self.url, namespace)

    def name(self, namespace: str, rest: str) -> str:
        return f"somactl:{{{namespace}}}:{rest}"

    def names(self, namespace: str, kind: str) -> Iterable[str]:
        """What is behind `somactl:{namespace}:kind:` in the names that begin so."""
        start = self.name(namespace, kind + ":")
        for name in self.raw.scan_iter(match=start.replace("[", "\\[") + "*", count=1000):
            yield name.decode().removeprefix(start)

    async def stored(self, namespace: str) -> set[tuple[str, int]]:
        found = set()
        for key in self.names(namespace, "history"):
            for line, version in self.raw.zrange(
                self.name(namespace, f"history:{key}"), 0, -1, withscores=True
            ):
                location = _where(line)
                if location not in ("tomb", "gone") and self.raw.exists(
                    self._place(namespace, key, location)
                ):
                    found.add((key, int(version)))
        kept = [*self.names(namespace, "live"), *self.names(namespace, "old")]
        assert len(kept) == len(found)  # nothing is kept that no history tells of
        assert not list(self.names(namespace, "trash"))
        return found

    def _place(self, namespace: str, key: str, location: str) -> str:
        return self.name(namespace, f"live:{key}" if location == "live" else f"old:{location}:{key}")

    def place_of(self, namespace: str, key: str, version: int) -> str:
        """The name under which a value lies."""
        (line,) = self.raw.zrangebyscore(self.name(namespace, f"history:{key}"), version, version)
        return self._place(namespace, key, _where(line))

    async def stored_bytes(self, namespace: str, key: str, version: int) -> bytes:
        data: bytes = self.raw.get(self.place_of(namespace, key, version))
        return data

    async def overwrite(self, namespace: str, key: str, version: int, data: bytes) -> None:
        assert self.raw.set(self.place_of(namespace, key, version), data, xx=True)

    async def age(self, namespace: str, seconds: float) -> None:
        def older(time: bytes) -> str:
            return f"{float(time) - seconds:.6f}"

        for part in ("superseded", "bodiless", "delete_batches", "expiring_batches"):
            name = self.name(namespace, part)
            for member, score in self.raw.zrange(name, 0, -1, withscores=True):
                self.raw.zadd(name, {member: older(score)})
        for key in list(self.names(namespace, "history")):
            name = self.name(namespace, f"history:{key}")
            for line, version in self.raw.zrange(name, 0, -1, withscores=True):
                state, _, rest = line.partition(b"\n")
                words = state.split(b" ")
                words[1] = older(words[1]).encode()
                words[3] = words[3] if words[3] == b"-" else older(words[3]).encode()
                rest = _UNTIL.sub(lambda found: b'"until":' + older(found[1]).encode(), rest)
                self.raw.zrem(name, line)
                self.raw.zadd(name, {b" ".join(words) + b"\n" + rest: version})
        for kind in ("live", "old"):
            for rest in list(self.names(namespace, kind)):
                self._age_expiry(self.name(namespace, f"{kind}:{rest}"), seconds)
        for commit_id in list(self.names(namespace, "commit")):
            name = self.name(namespace, f"commit:{commit_id}")
            at = older(self.raw.hget(name, "at"))
            self.raw.hset(name, "at", at)
            forget = max(float(at), commit_id_time(commit_id) or 0.0)
            self.raw.zadd(self.name(namespace, "records"), {commit_id: forget})
        for note, facts in self.raw.hgetall(self.name(namespace, "noted")).items():
            version, written_at, rest = facts.split(b" ", 2)
            aged = b" ".join([version, older(written_at).encode(), rest])
            self.raw.hset(self.name(namespace, "noted"), note, aged)

    def _age_expiry(self, name: str, seconds: float) -> None:
        left = self.raw.pttl(name)
        if left > 0:
            self.raw.pexpire(name, int(left - seconds * 1000))

    async def dispose(self) -> None:
        self.raw.flushdb()
        self.raw.close()


_UNTIL = re.compile(rb'"until":([\d.]+)')


def _where(line: bytes) -> str:
    """Where an entry says that its bytes are."""
    return line.split(b"\n")[0].split(b" ")[4].decode()


@pytest.fixture
def backend(redis_server: RedisServer) -> Iterator[RedisBackend]:
    backend = RedisBackend(redis_server.url, redis_server.client())
    yield backend
    backend.raw.config_set("maxmemory", 0)
    backend.raw.config_set("maxmemory-policy", "noeviction")
    asyncio.run(backend.dispose())


@pytest_asyncio.fixture
async def store(backend: RedisBackend) -> AsyncIterator[RedisStore]:
    store = backend.open()
    await store.init()
    yield store
    await store.close()


class _FakeConnection(FakeAsyncRedisConnection):
    """Lets other tasks run, as every wait for a real server does."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        await asyncio.sleep(0)
        await super().send_packed_command(command, check_health)


class FakeBackend(RedisBackend):
    """A server made of Python, with the same scripts; `use` must have led the store to it."""

    def __init__(self) -> None:
        self.server = fakeredis.FakeServer(version=(7,), server_type="redis")
        super().__init__("redis://fake", fakeredis.FakeRedis(server=self.server))

    def use(self, patch: pytest.MonkeyPatch) -> FakeBackend:
        kind = functools.partial(_FakeConnection, server=self.server)
        patch.setattr(connection, "connection_class", lambda server: kind)
        patch.setattr(link, "inspect_settings", self._settings)
        return self

    async def _settings(self, _: Link) -> ServerSettings:
        """Of CONFIG and INFO it knows nothing."""
        return ServerSettings("noeviction", fsync=False)
