"""What an audit reads: pages of small values, each one checked, against the same bytes by the bare driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import numpy as np
from matrices import density
from measure import Effort, Row, interleave, ratio
from redis import Redis
from stores import many_rounds, postgres_server, redis_server, timed

from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.core.portions import batched
from somactl.store.contract import CommitMetadata, Store
from somactl.store.postgres import PostgresStore
from somactl.store.redis import RedisStore

VALUES, PAGE = 5000, 480
"""Matrices of 64 x 64 in the hermitian layout, 16.8 KB each; a page is the 8 MB that an audit asks for."""
VERDICT = {"status": "valid", "rigour": "proved", "trace_error": 1.1e-16, "lambda_min": 1.5e-6, "n": 64}


async def fill(store: Store) -> list[str]:
    """Commit the values; returns their keys."""
    await store.init()
    keys = [f"tenant:({number}.0, 14.0, 43.0):data" for number in range(VALUES)]
    array = density(64)
    for number, some in enumerate(batched(keys, 500)):
        updates = {}
        for key in some:
            array = array + np.diag([1e-12, *[0.0] * 63])  # so that no two are the same
            updates[key] = serialize_matrix(array, key=key, layout="hermitian", timestamp=0.0)
        verdicts = {peek(data).content: VERDICT for data in updates.values()}
        await store.commit_matrix_update(
            updates, CommitMetadata(verdicts=verdicts), commit_id=f"fill-{number}"
        )
    return keys


async def read(store: Store, pages: Iterable[list[str]]) -> None:
    for page in pages:
        snapshot = await store.read_many(page)
        assert len(snapshot.entries) == len(page)


def bulk_read_postgres(effort: Effort) -> list[Row]:
    import asyncpg

    async def bare(connection: asyncpg.Connection[Any]) -> None:
        last, fetched = -1, 0
        while rows := await connection.fetch(
            "SELECT id, data FROM somactl.payload WHERE id > $1 ORDER BY id LIMIT $2", last, PAGE
        ):
            last, fetched = rows[-1]["id"], fetched + len(rows)
        assert fetched == VALUES

    with postgres_server() as server, asyncio.Runner() as runner:
        url = server.create_database()
        store = PostgresStore(url)
        pages = list(batched(runner.run(fill(store)), PAGE))
        connection = runner.run(asyncpg.connect(url))
        row = _row(
            "postgres", "asyncpg", effort, runner, lambda: read(store, pages), lambda: bare(connection)
        )
        runner.run(connection.close())
        runner.run(store.close())
    return [row]


def bulk_read_redis(effort: Effort) -> list[Row]:
    async def bare(client: Redis, pages: Iterable[list[str]]) -> None:
        for page in pages:
            assert None not in client.mget([f"somactl:{{default}}:live:{key}" for key in page])

    with redis_server() as server, asyncio.Runner() as runner, server.client() as client:
        store = RedisStore(server.url)
        pages = list(batched(runner.run(fill(store)), PAGE))
        row = _row("redis", "MGET", effort, runner, lambda: read(store, pages), lambda: bare(client, pages))
        runner.run(store.close())
    return [row]


def _row(
    name: str,
    driver: str,
    effort: Effort,
    runner: asyncio.Runner,
    ours: Callable[[], Awaitable[None]],
    bare: Callable[[], Awaitable[None]],
) -> Row:
    sides = [timed("read_many", runner, ours), timed(driver, runner, bare)]
    checked, plain = interleave(sides, many_rounds(effort))
    told = ", ".join(f"{each.name} {1e6 * each.median / VALUES:.0f} us" for each in (checked, plain))
    return ratio(
        f"bulk-read-{name}",
        f"{name}: {VALUES} values of 17 KB in pages of 8 MB, digests checked / the bare driver",
        checked,
        plain,
        digits=2,
        detail=f"a value: {told}",
    )
