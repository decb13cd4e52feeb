"""What `diagnose` says of a server, and that it neither raises, writes, nor tells a secret."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from servers.redis import RedisServer
from somactl.store.contract import Finding
from somactl.store.redis import RedisStore, diagnosis
from somactl.store.redis.connection import parse
from somactl.testing.values import envelope, write

CHECKS = [
    "reachable", "version", "tls", "maxmemory-policy", "memory", "persistence", "replicas", "clock",
    "permissions", "layout", "indexes", "retention", "commit",
]  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    config = {"appendonly": "yes", "appendfsync": "always", "requirepass": "kingfisher"}
    with RedisServer(tmp_path, config=config) as server:
        yield server


@pytest_asyncio.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url.replace("//", "//:kingfisher@"))
    await store.init()
    yield store
    await store.close()


async def diagnosed(store: RedisStore) -> dict[str, Finding]:
    findings = await store.diagnose()
    assert all(f.service == "redis" and f.detail for f in findings)
    assert all(bool(f.advice) == (f.status != "ok") for f in findings)
    assert "kingfisher" not in repr(findings)
    return {finding.check: finding for finding in findings}


async def test_a_sound_server(server: RedisServer, store: RedisStore) -> None:
    with server.client(password="kingfisher") as raw:
        before = raw.info("keyspace"), raw.lastsave()
        found = await diagnosed(store)
        assert (raw.info("keyspace"), raw.lastsave()) == before
    assert list(found) == CHECKS
    assert {f.status for f in found.values()} == {"ok"}
    assert "fsync" in found["persistence"].detail
    assert found["retention"].detail == "2 versions, 7 days; records 30 days"


@pytest.mark.parametrize(
    ("settings", "check", "status"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "maxmemory-policy", "problem"),
        ({"appendfsync": "everysec"}, "persistence", "warning"),
        ({"appendonly": "no"}, "persistence", "warning"),
    ],
)
async def test_settings_that_promise_less(
    server: RedisServer, store: RedisStore, settings: dict[str, str], check: str, status: str
) -> None:
    with server.client(password="kingfisher") as raw:
        for name, value in settings.items():
            raw.config_set(name, value)
    found = await diagnosed(store)
    assert {f.check for f in found.values() if f.status != "ok"} == {check}
    assert found[check].status == status


async def test_a_server_that_is_nearly_full(server: RedisServer, store: RedisStore) -> None:
    await write(store, {"a": envelope("a", n=700)})
    with server.client(password="kingfisher") as raw:
        used = int(raw.info("memory")["used_memory"])
        for share, status in ((0.5, "ok"), (0.87, "warning"), (0.99, "problem")):
            raw.config_set("maxmemory", int(used / share))
            found = await diagnosed(store)
            assert (found["memory"].status, "MiB" in found["memory"].detail) == (status, True)


async def test_a_namespace_that_is_not_there(store: RedisStore, server: RedisServer) -> None:
    other = RedisStore(server.url.replace("//", "//:kingfisher@"), "elsewhere")
    found = await diagnosed(other)
    assert found["namespace"].status == "problem"
    assert [suggestion.command for suggestion in found["namespace"].next] == ["init"]
    await other.close()


async def test_a_server_that_cannot_be_reached(store: RedisStore, server: RedisServer) -> None:
    server.stop()
    found = await diagnosed(store)
    assert list(found) == ["reachable"]
    assert found["reachable"].status == "problem"


async def test_fewer_replicas_than_commits_wait_for(server: RedisServer) -> None:
    other = RedisStore(server.url.replace("//", "//:kingfisher@") + "?wait_replicas=2")
    found = await diagnosed(other)
    assert found["replicas"].status == "problem"
    await other.close()


def told(**fields: Any) -> dict[str, str]:
    return {name.replace("__", "-"): str(value) for name, value in fields.items()}


@pytest.mark.parametrize(
    ("finding", "status"),
    [
        (diagnosis._version(told(redis_version="6.2.14")), "problem"),
        (diagnosis._version(told(redis_version="8.0.1")), "ok"),
        (diagnosis._version({}), "unknown"),
        (diagnosis._tls(parse("redis://example.org")), "warning"),
        (diagnosis._tls(parse("rediss://example.org")), "ok"),
        (diagnosis._tls(parse("rediss://example.org?ssl_cert_reqs=none")), "warning"),
        (diagnosis._tls(parse("rediss://127.0.0.1")), "ok"),
        (diagnosis._tls(parse("unix:///run/redis.sock")), "ok"),
        (diagnosis._policy({}), "unknown"),
        (diagnosis._policy(told(maxmemory_policy="noeviction", evicted_keys=3)), "warning"),
        (diagnosis._memory({}), "unknown"),
        (diagnosis._memory(told(used_memory=99, maxmemory=0, total_system_memory=100)), "problem"),
        (diagnosis._persistence({}), "unknown"),
        (diagnosis._persistence(told(appendonly="yes", aof_last_write_status="err")), "problem"),
        (diagnosis._replicas({}, 0), "unknown"),
        (diagnosis._replicas(told(role="slave"), 0), "problem"),
        (diagnosis._clock((1_000 - 60, 0), 1_000.0, 1_000.0), "problem"),
        (diagnosis._clock((1_000 + 60, 0), 1_000.0, 1_000.0), "problem"),
        (diagnosis._clock(ValueError(), 0.0, 0.0), "unknown"),
    ],
)
def test_each_aspect(finding: Finding, status: str) -> None:
    assert finding.status == status
    assert bool(finding.advice) == (status != "ok")
