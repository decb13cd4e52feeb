"""Many clients at once: cached reads under an open and a closed loop, with Redis paused, and small commits.

All clients are tasks of one process, so that both sides of a ratio pay for the same interpreter.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from measure import Effort, Row
from stores import (
    UPSERT,
    VERDICT,
    payload,
    plain_postgres,
    plain_redis,
    postgres_server,
    redis_server,
    rho,
)

from somactl.core.framing import peek
from somactl.store.contract import CommitMetadata, Store
from somactl.store.hybrid import HybridStore
from somactl.store.postgres import PostgresStore
from somactl.store.redis import RedisStore
from somactl.store.redis.cache import RedisCache

CLIENTS = 8
READS_PER_SECOND = 3.0
READ_TIMEOUT = 0.020
KEYS = [f"rho-{number}" for number in range(CLIENTS)]

Call = Callable[[], Awaitable[object]]


def p95(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=20, method="inclusive")[-1]


async def open_loop(call: Callable[[int], Awaitable[object]], seconds: float) -> list[float]:
    """Latencies from the scheduled moment, so that a slow answer cannot hide the wait of the next one."""
    dice = random.Random(1)
    times: list[float] = []

    async def client(number: int) -> None:
        due = time.perf_counter() + dice.random() / READS_PER_SECOND
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await call(number)
            times.append(time.perf_counter() - due)
            due += 1 / READS_PER_SECOND

    await asyncio.gather(*map(client, range(CLIENTS)))
    return times


async def closed_loop(call: Callable[[int], Awaitable[object]], seconds: float) -> list[float]:
    """Each client asks again as soon as it was answered."""
    end = time.perf_counter() + seconds
    times: list[float] = []

    async def client(number: int) -> None:
        while (start := time.perf_counter()) < end:
            await call(number)
            times.append(time.perf_counter() - start)

    await asyncio.gather(*map(client, range(CLIENTS)))
    return times


async def in_turn(sides: Sequence[Callable[[], Awaitable[list[float]]]], rounds: int) -> list[list[float]]:
    """Each side's p95, round by round, A B A B."""
    columns: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for column, side in zip(columns, sides, strict=True):
            column.append(p95(await side()))
    return columns


def _ratio_row(
    name: str, measure: str, ours: Sequence[float], theirs: Sequence[float], goal: float, detail: str = ""
) -> Row:
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    figure = statistics.median(ours) / statistics.median(theirs)
    return Row(name, measure, figure, min(each), max(each), "<=", goal, 2, detail=detail)


def _share(served: Counter[str]) -> str:
    """How many of the reads the cache has answered: under load some may find it too slow."""
    return f"{served['redis cache'] / served.total():.1%} from the cache"


def hybrid(effort: Effort) -> list[Row]:
    """Reads of rho, n = 1024, through the cache: open loop, saturated, and with Redis paused."""
    with redis_server() as redis, postgres_server() as postgres:
        return asyncio.run(_hybrid(redis, postgres, effort))


async def _hybrid(redis: Any, postgres: Any, effort: Effort) -> list[Row]:
    url = postgres.create_database()
    seconds, rounds = max(1.0, effort.seconds / 3), max(3, effort.least)
    stores = [
        HybridStore(PostgresStore(url), RedisCache(redis.url, ttl=3600.0, timeout=READ_TIMEOUT))
        for _ in range(CLIENTS)
    ]
    bare = [PostgresStore(url) for _ in range(CLIENTS)]
    plain = [plain_redis(redis.url) for _ in range(CLIENTS)]
    await stores[0].init()
    for number, key in enumerate(KEYS):
        data = rho(1024, "hermitian", key)
        metadata = CommitMetadata(verdicts={peek(data).content: VERDICT})
        await stores[0].commit_matrix_update({key: data}, metadata, commit_id=f"bench-{number}")
        await plain[0].set(f"plain-{number}", data)

    served: Counter[str] = Counter()

    async def read(number: int) -> None:
        served[(await stores[number].read(KEYS[number])).served_by] += 1

    async def get(number: int) -> None:
        await plain[number].get(f"plain-{number}")

    async def read_postgres(number: int) -> None:
        await bare[number].read(KEYS[number])

    async def read_anywhere(number: int) -> None:
        await stores[number].read(KEYS[number])

    for number in range(CLIENTS):
        await asyncio.gather(read(number), get(number), read_postgres(number))
    served.clear()
    opened = [1000 * p95(await open_loop(read, 2 * seconds)) for _ in range(rounds)]
    open_share = _share(served)
    served.clear()
    ours, theirs = await in_turn(
        [lambda: closed_loop(read, seconds), lambda: closed_loop(get, seconds)], rounds
    )
    rows = [
        Row(
            "hybrid-open",
            "hybrid read of rho, n = 1024, warm cache, 8 clients at 3 reads/s each, open loop: p95",
            statistics.median(opened),
            min(opened),
            max(opened),
            "<=",
            60.0,
            1,
            " ms",
            detail=open_share,
        ),
        _ratio_row(
            "hybrid-saturated",
            "the same, saturated closed loop / plain GET: p95",
            ours,
            theirs,
            1.5,
            f"GET {1000 * statistics.median(theirs):.0f} ms; {_share(served)}",
        ),
    ]
    redis.pause()
    try:
        first = []
        for number in range(CLIENTS):
            start = time.perf_counter()
            await read_anywhere(number)
            first.append(1000 * (time.perf_counter() - start))
        for number in range(CLIENTS):
            for _ in range(10):  # until each one's breaker is open
                await read_anywhere(number)
        paused, healthy = await in_turn(
            [lambda: closed_loop(read_anywhere, seconds), lambda: closed_loop(read_postgres, seconds)], rounds
        )
    finally:
        redis.resume()
    rows += [
        Row(
            "hybrid-paused-first",
            "Redis paused, the first read of a client (median of 8)",
            statistics.median(first),
            min(first),
            max(first),
            "<=",
            60.0 + 1000 * READ_TIMEOUT,
            1,
            " ms",
        ),
        _ratio_row(
            "hybrid-paused",
            "Redis paused and the breaker open, saturated / bare Postgres: p95",
            paused,
            healthy,
            1.5,
        ),
    ]
    for store in [*stores, *bare]:
        await store.close()
    for client in plain:
        await client.aclose()
    return rows


def small_commits(effort: Effort) -> list[Row]:
    """Commits of 64 x 64 matrices by 8 clients, per second, against bare writes in a transaction."""
    rows = []
    with postgres_server() as postgres:
        rows += asyncio.run(_small("postgres", postgres.create_database(), effort))
    with redis_server() as redis:
        rows += asyncio.run(_small("redis", redis.url, effort))
    return rows


async def _small(name: str, url: str, effort: Effort) -> list[Row]:
    rows = []
    seconds, rounds = max(0.5, effort.seconds / 4), max(3, effort.least)
    for goal, label, namespaces in (
        (0.60, "8 namespaces", [f"space-{number}" for number in range(CLIENTS)]),
        (0.35, "one namespace", ["shared"] * CLIENTS),
    ):
        stores: list[Store] = [
            PostgresStore(url, space) if name == "postgres" else RedisStore(url, space)
            for space in namespaces
        ]
        for store in stores:
            await store.init()
        ours = _committers(stores)
        theirs, close = await (_upserts(url) if name == "postgres" else _sets(url))
        await closed_loop(ours, 0.3)  # connections, scripts and plans are there from now on
        await closed_loop(theirs, 0.3)
        rates: list[list[float]] = [[], []]
        for _ in range(rounds):
            for column, call in zip(rates, (ours, theirs), strict=True):
                start = time.perf_counter()
                done = len(await closed_loop(call, seconds))
                column.append(done / (time.perf_counter() - start))
        each = [a / b for a, b in zip(*rates, strict=True)]
        rows.append(
            Row(
                f"small-{name}-{'many' if len(set(namespaces)) > 1 else 'one'}",
                f"{name}: small commits (64 x 64), 8 clients on {label} / bare "
                f"{'upserts' if name == 'postgres' else 'SETs'} in a transaction: rate",
                statistics.median(rates[0]) / statistics.median(rates[1]),
                min(each),
                max(each),
                ">=",
                goal,
                2,
                detail=f"{statistics.median(rates[0]):,.0f}/s and {statistics.median(rates[1]):,.0f}/s",
            )
        )
        for store in stores:
            await store.close()
        await close()
    return rows


def _committers(stores: Sequence[Store]) -> Callable[[int], Awaitable[object]]:
    data = [rho(64, "full", f"key-{n}", store.namespace) for n, store in enumerate(stores)]
    metadata = [CommitMetadata(verdicts={peek(each).content: VERDICT}) for each in data]
    counts = [0] * len(stores)

    async def commit(number: int) -> None:
        counts[number] += 1
        await stores[number].commit_matrix_update(
            {f"key-{number}": data[number]},
            metadata[number],
            commit_id=f"bench-{number}-{counts[number]}",
        )

    return commit


async def _upserts(url: str) -> tuple[Callable[[int], Awaitable[object]], Call]:
    connections = [await plain_postgres(url) for _ in range(CLIENTS)]
    data = payload(64 * 64 * 8)

    async def write(number: int) -> None:
        connection = connections[number]
        async with connection.transaction():
            await connection.execute(UPSERT, f"key-{number}", data)

    async def close() -> None:
        for connection in connections:
            await connection.close()

    return write, close


async def _sets(url: str) -> tuple[Callable[[int], Awaitable[object]], Call]:
    clients = [plain_redis(url) for _ in range(CLIENTS)]
    data = payload(64 * 64 * 8)

    async def write(number: int) -> None:
        async with clients[number].pipeline(transaction=True) as pipe:
            pipe.set(f"plain-{number}", data)
            await pipe.execute()

    async def close() -> None:
        for client in clients:
            await client.aclose()

    return write, close
