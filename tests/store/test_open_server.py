"""One server for many namespaces: its connections stay within one pool, and none disturbs another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import somactl
from servers.postgres import Databases
from servers.redis import RedisServer
from somactl.errors import NamespaceNotFound, SomactlError
from somactl.runtime import Server
from somactl.store.contract import Store
from somactl.store.postgres import PostgresServer
from somactl.store.redis.pool import LANES
from somactl.testing.values import fresh_id, put
from store.postgres_backend import PostgresBackend

NAMESPACES = [f"tenant-{number:02}" for number in range(50)]
POOL = 4


class Place:
    """What one test opens, and how many connections of somactl's each server behind it counts."""

    def __init__(self, url: str, cache: str | None = None, **counts: tuple[Callable[[], int], int]) -> None:
        self.url = url
        self.cache = cache
        self.counts = counts

    def open(self) -> contextlib.AbstractAsyncContextManager[Server]:
        return somactl.open_server(self.url, cache=self.cache)


@pytest.fixture(params=["sqlite", "postgres", "redis", "hybrid"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_server: Databases, redis_server: RedisServer
) -> Iterator[Place]:
    if request.param == "sqlite":
        yield Place(f"sqlite:///{tmp_path / 'store.db'}")
        return
    with redis_server.client() as raw:
        raw.flushdb()

        def clients() -> int:
            return sum(each["name"].startswith("somactl") for each in raw.client_list())

        if request.param == "redis":
            yield Place(redis_server.url, redis=(clients, LANES))
            return
        url = postgres_server.create_database()
        database = urlsplit(url).path.removeprefix("/")

        def backends() -> int:
            asked = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
            return int(postgres_server.run(asked)[0][0])

        counts = {"postgres": (backends, POOL)}
        cache = redis_server.url if request.param == "hybrid" else None
        if cache:
            counts["redis"] = (clients, LANES)
        yield Place(f"{url}{'&' if '?' in url else '?'}pool_size={POOL}", cache, **counts)
        postgres_server.drop_database(url)


async def most(counts: Callable[[], int], done: asyncio.Event) -> int:
    """The most that was counted until `done`."""
    seen = 0
    while not done.is_set():
        seen = max(seen, await asyncio.to_thread(counts))
    return seen


async def use(store: Store) -> None:
    """Commit and read, several at a time, and look whether every answer is of this namespace."""
    for seed in range(2):
        await put(store, "a", seed=seed, commit_id=fresh_id())
        entries = await asyncio.gather(*(store.read("a") for _ in range(4)))
        assert {entry.incarnation for entry in entries} == {(await store.head()).incarnation}
        assert {entry.version for entry in entries} == {seed + 1}


async def test_fifty_namespaces_share_the_connections_of_one_pool(place: Place) -> None:
    done = asyncio.Event()
    async with place.open() as server:
        stores = [server.namespace(name) for name in NAMESPACES]
        for store in stores:  # one by one: a cache must answer in time to be told of each
            await store.init()
        watched = {
            name: (asyncio.create_task(most(count, done)), bound)
            for name, (count, bound) in place.counts.items()
        }
        await asyncio.gather(*map(use, stores))
        done.set()
        for name, (peak, bound) in watched.items():
            assert 1 <= await peak <= bound, name
        assert len({(await store.head()).incarnation for store in stores}) == len(NAMESPACES)
        await asyncio.gather(*(store.close() for store in stores[1:]))
        await use_again(stores[0])
    for name, (count, _) in place.counts.items():
        await none_left(count, name)
    with pytest.raises(SomactlError, match="after it was closed"):
        await stores[0].head()


async def use_again(store: Store) -> None:
    assert (await store.read("a")).version == 2
    await put(store, "b", commit_id=fresh_id())


async def none_left(count: Callable[[], int], name: str) -> None:
    """A server notices in its own time that a connection was closed; the test's timeout is the judge."""
    while await asyncio.to_thread(count):
        await asyncio.sleep(0.01)


async def test_a_failure_in_one_namespace_leaves_the_others_alone(place: Place) -> None:
    async with place.open() as server:
        sound = [server.namespace(name) for name in NAMESPACES[:6]]
        missing, cancelled, closed = (server.namespace(name) for name in NAMESPACES[6:9])
        for store in (*sound, cancelled, closed):
            await store.init()

        async def fail() -> None:
            for _ in range(20):
                with pytest.raises(NamespaceNotFound):
                    await missing.head()

        async def cancel() -> None:
            for number in range(20):
                task = asyncio.create_task(put(cancelled, "a", seed=number, commit_id=fresh_id()))
                await asyncio.sleep(0.001 * (number % 5))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        async def close() -> None:
            await put(closed, "a", commit_id=fresh_id())
            late = asyncio.create_task(put(closed, "a", seed=1, commit_id=fresh_id()))
            await asyncio.sleep(0)
            await closed.close()
            assert late.done() or (await asyncio.gather(late, return_exceptions=True))
            writes = (partial(put, closed, "a", seed=2), partial(closed.mark_published, 1))
            for call in (closed.head, *writes, partial(closed.set_publishing, None)):
                with pytest.raises(SomactlError, match="after it was closed"):
                    await call()

        await asyncio.gather(fail(), cancel(), close(), *map(use, sound))
        again = server.namespace(NAMESPACES[8])
        assert (await again.read("a")).version >= 1
        await again.head()


async def test_writers_that_wait_in_one_namespace_leave_connections_to_the_others(
    postgres_server: Databases,
) -> None:
    """Another program holds the lock of a namespace; more commits wait for it than there are connections."""
    backend = PostgresBackend(postgres_server)
    server = PostgresServer(f"{backend.url}?pool_size={POOL}", timeout=300.0)
    async with contextlib.AsyncExitStack() as stack, backend.raw() as outsider:
        stack.push_async_callback(server.close)
        stuck, sound = server.namespace("stuck"), server.namespace("sound")
        await asyncio.gather(stuck.init(), sound.init())
        async with outsider.transaction():
            await outsider.fetch("SELECT 1 FROM somactl.namespace WHERE name = 'stuck' FOR UPDATE")
            waiting = [
                asyncio.create_task(put(stuck, "a", seed=seed, commit_id=fresh_id()))
                for seed in range(3 * POOL)
            ]
            waits = "datname = current_database() AND wait_event_type = 'Lock'"
            while not await backend.rows(f"SELECT 1 FROM pg_stat_activity WHERE {waits}"):
                await asyncio.sleep(0.01)
            await use(sound)
            assert not any(task.done() for task in waiting)
        receipts = await asyncio.gather(*waiting)
        assert sorted(receipt.version for receipt in receipts) == list(range(1, 3 * POOL + 1))
    await backend.dispose()
