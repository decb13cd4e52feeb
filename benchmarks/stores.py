"""Commits and reads on real servers, against the same bytes sent plainly through the same driver.

The servers are the tests' own, started here with the settings that an operator would choose: Postgres
with fsync, Redis without persistence (which both sides would pay alike).
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
from matrices import density
from measure import Effort, Row, Side, interleave, ratio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from redis.asyncio import Redis

from servers.postgres import PostgresServer
from servers.prometheus import Pushgateway
from servers.redis import RedisServer
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.store.contract import CommitMetadata, Store
from somactl.store.postgres import PostgresStore
from somactl.store.redis import RedisStore
from somactl.store.redis.connection import READ_BYTES

VERDICT = {"status": "valid", "rigour": "proved"}
DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB", "max_wal_size": "4GB"}
MIB = 1 << 20


@contextmanager
def redis_server(**config: str) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder), config=config) as server:
        yield server


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory() as folder, PostgresServer(Path(folder), settings=DURABLE) as server:
        yield server


@contextmanager
def pushgateway() -> Iterator[str]:
    """The URL of a Pushgateway."""
    with tempfile.TemporaryDirectory() as folder, Pushgateway(Path(folder)) as server:
        yield server.url


def payload(size: int, key: str = "bench", namespace: str = "default") -> bytes:
    """An envelope of some `size` bytes that holds random numbers: kind `matrix`, layout full."""
    numbers = np.random.default_rng(size).random((size // 8192 or 1, min(size, 8192) // 8))
    return serialize_matrix(numbers, key=key, namespace=namespace, kind="matrix", timestamp=0.0)


def rho(n: int, layout: str, key: str = "bench", namespace: str = "default") -> bytes:
    return serialize_matrix(density(n), key=key, namespace=namespace, layout=layout, timestamp=0.0)


class Commits:
    """Commits to one key of a store, each expecting what the one before left."""

    def __init__(self, store: Store, data: bytes, key: str = "bench") -> None:
        self._store = store
        self._data = data
        self._key = key
        self._metadata = CommitMetadata(verdicts={peek(data).content: VERDICT})
        self._version = 0

    async def __call__(self) -> None:
        receipt = await self._store.commit_matrix_update(
            {self._key: self._data},
            self._metadata,
            self._version,
            commit_id=f"bench-{id(self)}-{self._version}",
        )
        self._version = receipt.version


def timed(
    name: str, runner: asyncio.Runner, call: Callable[[], Awaitable[object]], *, inner: int = 1
) -> Side:
    """A side that awaits `call` `inner` times on the runner's loop."""

    async def run() -> float:
        start = time.perf_counter()
        for _ in range(inner):
            await call()
        return (time.perf_counter() - start) / inner

    return Side(name, lambda _threads: runner.run(run()), threaded=False)


def many_rounds(effort: Effort) -> Effort:
    """These calls take milliseconds: more rounds steady the median at no cost."""
    return Effort(effort.seconds, effort.least, 4 * effort.most)


def redis_commit(effort: Effort) -> list[Row]:
    with redis_server() as server, asyncio.Runner() as runner:
        data = payload(8 * MIB)
        store = RedisStore(server.url)
        runner.run(store.init())
        plain = plain_redis(server.url)
        ours, bare = interleave(
            [
                timed("commit", runner, Commits(store, data)),
                timed("SET", runner, lambda: plain.set("plain", data)),
            ],
            many_rounds(effort),
        )
        runner.run(plain.aclose())
        runner.run(store.close())
    return [
        ratio(
            "redis-commit",
            "Redis commit of 8 MB with compare-and-set / plain SET, same client",
            ours,
            bare,
            sense="<=",
            goal=1.25,
            digits=2,
        )
    ]


def plain_redis(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=30.0, socket_read_size=READ_BYTES)


def redis_script(effort: Effort) -> list[Row]:
    """What the commit script takes inside Redis, by its slow log: no other client is served meanwhile."""
    times: dict[str, list[float]] = {}
    config = {"slowlog-log-slower-than": "0", "slowlog-max-len": "1024"}
    with redis_server(**config) as server, asyncio.Runner() as runner, server.client() as raw:
        store = RedisStore(server.url)
        runner.run(store.init())
        for name, size in (("32 KB", 32 << 10), ("32 MB", 32 * MIB)):
            commits = [
                Commits(store, payload(size, f"{name}-{key}"), f"{name}-{key}")
                for key in range(max(3, effort.least))
            ]
            for label in ("first", "later", "later"):
                raw.slowlog_reset()
                for commit in commits:
                    runner.run(commit())
                times.setdefault(f"{name}, {label}", []).extend(_script_seconds(raw))
        runner.run(store.close())
    medians = {name: statistics.median(each) for name, each in times.items()}
    small, large = (
        [medians[f"{size}, {label}"] for label in ("first", "later")] for size in ("32 KB", "32 MB")
    )
    worst = max(s for each in times.values() for s in each)
    detail = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in medians.items())
    ratios = [a / b for a, b in zip(large, small, strict=True)]
    return [
        Row(
            "redis-script-equal",
            "commit script inside Redis: 32 MB payloads / 32 KB payloads, first and later versions",
            max(ratios),
            min(ratios),
            max(ratios),
            "<=",
            1.5,
            2,
            detail=detail,
        ),
        Row(
            "redis-script-time",
            "the same: its slowest median",
            1000 * max(medians.values()),
            1000 * min(min(each) for each in times.values()),
            1000 * worst,
            "<=",
            1.0,
            2,
            " ms",
        ),
    ]


def _script_seconds(raw: Any) -> list[float]:
    """The writing script's times in the slow log: of all scripts, the one that names staged payloads."""
    return [
        entry["duration"] / 1e6
        for entry in raw.slowlog_get(1024)
        if entry["command"].upper().startswith(b"EVALSHA ") and b":stage:" in entry["command"]
    ]


def redis_read(effort: Effort) -> list[Row]:
    with redis_server() as server, asyncio.Runner() as runner:
        data = payload(4 * MIB)
        store = RedisStore(server.url)
        runner.run(store.init())
        runner.run(Commits(store, data)())
        plain = plain_redis(server.url)
        runner.run(plain.set("plain", data))
        ours, bare = interleave(
            [
                timed("read", runner, lambda: store.read("bench")),
                timed("GET", runner, lambda: plain.get("plain")),
            ],
            many_rounds(effort),
        )
        runner.run(plain.aclose())
        runner.run(store.close())
    return [
        ratio(
            "redis-read",
            "Redis read of 4 MB, digests checked / plain GET, same client",
            ours,
            bare,
            sense="<=",
            goal=1.3,
            digits=2,
        )
    ]


UPSERT = "INSERT INTO plain VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET data = EXCLUDED.data"
PLAIN_TABLE = (
    "CREATE TABLE IF NOT EXISTS plain (key text PRIMARY KEY, data bytea);"
    "ALTER TABLE plain ALTER COLUMN data SET STORAGE EXTERNAL"
)


async def plain_postgres(url: str) -> asyncpg.Connection[Any]:
    connection = await asyncpg.connect(url)
    await connection.execute(PLAIN_TABLE)
    return connection


async def upsert(connection: asyncpg.Connection[Any], key: str, data: bytes) -> None:
    async with connection.transaction():
        await connection.execute(UPSERT, key, data)


def postgres_commit(effort: Effort) -> list[Row]:
    with postgres_server() as server, asyncio.Runner() as runner:
        url = server.create_database()
        data = payload(4 * MIB)
        store = PostgresStore(url)
        runner.run(store.init())
        plain = runner.run(plain_postgres(url))
        ours, bare = interleave(
            [
                timed("commit", runner, Commits(store, data)),
                timed("upsert", runner, lambda: upsert(plain, "plain", data)),
            ],
            many_rounds(effort),
        )
        runner.run(plain.close())
        runner.run(store.close())
    return [
        ratio(
            "postgres-commit",
            "Postgres commit of 4 MB / bare bytea upsert in one transaction",
            ours,
            bare,
            sense="<=",
            goal=1.25,
            digits=2,
        )
    ]


def layouts(effort: Effort) -> list[Row]:
    """The hermitian layout against the full one, n = 1024, on both servers."""
    rows: list[Row] = []
    with redis_server() as redis, postgres_server() as postgres:
        url = postgres.create_database()
        for name, store_of in (
            ("redis", lambda namespace: RedisStore(redis.url, namespace)),
            ("postgres", lambda namespace: PostgresStore(url, namespace)),
        ):
            with asyncio.Runner() as runner:
                rows += _layout_rows(name, runner, store_of, effort)
    return rows


def _layout_rows(
    name: str, runner: asyncio.Runner, store_of: Callable[[str], Any], effort: Effort
) -> list[Row]:
    stores = {layout: store_of(layout) for layout in ("full", "hermitian")}
    commits = {}
    for layout, store in stores.items():
        runner.run(store.init())
        commits[layout] = Commits(store, rho(1024, layout, namespace=layout))
        runner.run(commits[layout]())
    rows = []
    for verb, calls in (
        ("write", commits),
        ("read", {layout: lambda s=store: s.read("bench") for layout, store in stores.items()}),
    ):
        full, hermitian = interleave(
            [timed(layout, runner, calls[layout]) for layout in ("full", "hermitian")], many_rounds(effort)
        )
        rows.append(
            ratio(
                f"layout-{name}-{verb}",
                f"{name} {verb} of rho, n = 1024: full layout / hermitian layout",
                full,
                hermitian,
                sense=">=",
                goal=2.0,
                digits=2,
            )
        )
    for store in stores.values():
        runner.run(store.close())
    return rows
