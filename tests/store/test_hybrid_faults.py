"""The hybrid on real servers that pause, die, forget, fill up and refuse."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from servers.postgres import Databases
from servers.redis import RedisServer
from somactl.errors import KeyNotFound, StoreUnavailable
from somactl.store.contract import Receipt
from somactl.store.hybrid import HybridStore
from somactl.store.redis.cache import RedisCache
from somactl.store.redis.cache_entries import NAME as CACHE, Names
from somactl.store.sqlite import SqliteStore
from somactl.testing.values import content_of, delete, envelope, fresh_id, put, write
from store.hybrid_backend import ALL_KINDS, PATIENT
from store.postgres_backend import PostgresBackend

Opener = Callable[..., HybridStore]
HASTE = 0.05
"""Seconds for a cache to answer where the test is about its not answering."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be ill-treated."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest_asyncio.fixture
async def opener(tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens stores on one SQLite file, before a cache at `url`."""
    stores: list[HybridStore] = []

    def open_store(url: str, **options: Any) -> HybridStore:
        settings = {"ttl": 60.0, "timeout": PATIENT, **options}
        authority = SqliteStore(tmp_path / "authority.db")
        stores.append(HybridStore(authority, RedisCache(url, **settings), kinds=ALL_KINDS))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()


async def served(store: HybridStore, key: str = "a") -> tuple[int, str]:
    entry = await store.read(key)
    return entry.version, entry.served_by


async def until(condition: Callable[[], bool], *, act: Callable[[], Any] | None = None) -> None:
    """Return when it holds; the test's own timeout is the judge."""
    for _ in range(2000):
        if act is not None:
            await act()
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to hold")


def breaker(store: HybridStore) -> str:
    """Its state; closed where the cache is not degraded."""
    return next((d.breaker for d in store.degradations if d.service == CACHE), "closed")


async def test_a_paused_cache_costs_a_few_reads_their_patience_and_then_nothing(
    redis: RedisServer, opener: Opener
) -> None:
    store = opener(redis.url, timeout=HASTE)
    await store.init()
    await put(store, "a")
    await until(lambda: store.cache.counts.hits > 0, act=lambda: store.read("a"))
    assert (store.degradations, store.degraded_since_opened) == ((), ())
    began = time.time()
    redis.pause()
    try:
        for _ in range(20):
            assert await served(store) == (1, "sqlite")
        receipt = await put(store, "a", seed=1)
        assert [durable.store for durable in receipt.stores] == ["sqlite"]
        # Three failures open the breaker; after it, only the one that tries again for all fails.
        assert breaker(store) in ("open", "half-open")
        assert 3 <= store.cache.counts.failures <= 6
        assert "may serve to others" in store.degradations[0].detail
    finally:
        redis.resume()
    await until(lambda: breaker(store) == "closed", act=lambda: store.read("a"))
    await until(lambda: not store._copies.written.owed, act=lambda: store.read("a"))
    assert store.degradations == ()
    (past,) = store.degraded_since_opened
    assert (past.service, past.count) == (CACHE, store.cache.counts.failures)
    assert began <= past.first_at < past.last_at <= time.time()
    other = opener(redis.url)
    assert (await served(other))[0] == 2


async def test_a_cache_that_died_and_came_back_empty_is_used_again(
    redis: RedisServer, opener: Opener
) -> None:
    store = opener(redis.url)
    await store.init()
    await put(store, "a")
    assert await served(store) == (1, CACHE)
    redis.kill()
    for _ in range(5):
        assert await served(store) == (1, "sqlite")
    await put(store, "a", seed=1)
    await delete(store, "a")
    with pytest.raises(KeyNotFound):
        await store.read("a")
    await put(store, "a", seed=2)
    assert await served(store) == (4, "sqlite")
    redis.start()
    await until(lambda: breaker(store) == "closed", act=lambda: store.read("a"))
    await until(lambda: store.cache.counts.hits > 1, act=lambda: store.read("a"))
    assert await served(opener(redis.url)) == (4, CACHE)


async def test_a_server_that_forgets_its_scripts_is_told_them_again(
    redis: RedisServer, opener: Opener
) -> None:
    store = opener(redis.url)
    await store.init()
    with redis.client() as raw:
        for seed in range(3):
            raw.script_flush()
            await put(store, "a", seed=seed)
            raw.script_flush()
            assert await served(store) == (seed + 1, CACHE)
    assert store.degradations == ()


async def test_without_a_server_all_works_and_says_so(opener: Opener) -> None:
    store = opener("redis://127.0.0.1:1")
    with pytest.raises(StoreUnavailable):
        await store.init()  # a new incarnation, which the cache would have to be told
    receipt = await put(store, "a")
    assert [durable.store for durable in receipt.stores] == ["sqlite"]
    assert await served(store) == (1, "sqlite")
    assert (await store.read_many(["a"])).entries["a"].served_by == "sqlite"
    assert "cannot be reached" in store.degradations[0].detail
    assert [f.check for f in await store.diagnose() if f.status == "problem"] == ["reachable"]


async def test_a_wrong_password_degrades_and_never_shows(tmp_path: Path, opener: Opener) -> None:
    with RedisServer(tmp_path / "locked", config={"requirepass": "right-one"}) as server:
        store = opener(f"redis://:wrong-one@127.0.0.1:{server.port}/0")
        await put(store, "a")
        assert await served(store) == (1, "sqlite")
        problems = [f for f in await store.diagnose() if f.status == "problem"]
        assert [f.check for f in problems] == ["reachable"]
        said = repr((store.degradations, problems))
        assert "password" in said
        assert "wrong-one" not in said
        good = opener(f"redis://:right-one@127.0.0.1:{server.port}/0")
        await until(lambda: good.cache.counts.hits > 0, act=lambda: good.read("a"))


async def test_a_user_without_the_right_to_scripts_degrades(tmp_path: Path, opener: Opener) -> None:
    users = ["default off", "poor on >secret ~* +@all -@scripting"]
    with RedisServer(tmp_path / "acl", config={"user": users}) as server:
        store = opener(f"redis://poor:secret@127.0.0.1:{server.port}/0")
        await put(store, "a")
        assert await served(store) == (1, "sqlite")
        assert "lacks a right" in store.degradations[0].detail


async def test_a_full_cache_that_evicts_nothing_keeps_nothing_outdated(
    tmp_path: Path, opener: Opener
) -> None:
    with RedisServer(tmp_path / "full") as server, server.client() as raw:
        store = opener(server.url)
        await store.init()
        await put(store, "a")
        assert await served(store) == (1, CACHE)
        raw.config_set("maxmemory", "1000")
        receipt = await put(store, "a", seed=1)
        assert [durable.store for durable in receipt.stores] == ["sqlite"]
        assert "memory is full" in store.degradations[0].detail
        assert raw.hlen(Names.of("default").entry("a")) == 0
        assert await served(opener(server.url)) == (2, "sqlite")
        for _ in range(3):  # that it answers does not mean that it takes anything
            await store.read_many(["a"])
            assert "memory is full" in store.degradations[0].detail
        raw.config_set("maxmemory", "0")
        await until(lambda: store.cache.counts.hits > 1, act=lambda: store.read("a"))
        assert store.degradations == ()
        assert "memory is full" in store.degraded_since_opened[0].detail


async def test_a_cache_that_evicts_all_the_time_serves_nothing_wrong(tmp_path: Path, opener: Opener) -> None:
    """Entries, tombstones, the marker and what is staged: anything may go at any moment."""
    config = {"maxmemory": "3mb", "maxmemory-policy": "allkeys-random", "maxmemory-samples": "1"}
    with RedisServer(tmp_path / "small", config=config) as server:
        store, other = opener(server.url), opener(server.url)
        await store.init()
        dice = random.Random(3)
        newest: dict[str, bytes | None] = {}
        for seed in range(150):
            key = f"k{dice.randrange(12)}"
            if dice.random() < 0.2:
                await delete(store, key)
                newest[key] = None
            else:
                newest[key] = envelope(key, seed, n=150)
                await write(store, {key: newest[key]})
            probe = dice.choice(list(newest))
            # What a store wrote itself it always sees; what another wrote, unless its copy was evicted
            # before a late fill: here no fill is late, so it sees that too.
            for reader in (store, other):
                try:
                    found: bytes | None = bytes((await reader.read(probe)).data)
                except KeyNotFound:
                    found = None
                assert found == newest[probe]
        with server.client() as raw:
            assert raw.info("stats")["evicted_keys"] > 20
        assert other.cache.counts.hits > 10


async def test_reads_cancelled_at_random_points_leave_everything_usable(
    redis: RedisServer, opener: Opener
) -> None:
    """Large values come in two steps; a cancelled call closes its connection, so no late reply counts."""
    store = opener(redis.url)
    await store.init()
    sizes = {"small": 3, "large": 300}
    await write(store, {key: envelope(key, n=n) for key, n in sizes.items()})
    dice = random.Random(5)
    for _ in range(60):
        tasks = [asyncio.create_task(store.read(dice.choice(list(sizes)))) for _ in range(8)]
        tasks.append(asyncio.create_task(store.read_many(list(sizes))))  # type: ignore[arg-type]
        for _ in range(dice.randrange(12)):
            await asyncio.sleep(dice.choice([0, 0, 0.0003]))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for key, n in sizes.items():
            assert bytes((await store.read(key)).data) == envelope(key, n=n)
    assert store.cache.counts.corrupt == 0
    with redis.client() as raw:
        assert raw.info("clients")["connected_clients"] < 60


class Ledger:
    """What was committed, and which reads may have seen it: two stores, several writers and readers."""

    def __init__(self) -> None:
        self.committed: dict[tuple[str, int], str | None] = {}
        self.finished: dict[str, int] = {}

    def record(self, receipt: Receipt) -> None:
        for key, content in receipt.keys.items():
            self.committed[key, receipt.version] = content
            self.finished[key] = max(self.finished.get(key, 0), receipt.version)


async def test_both_servers_real_while_the_cache_is_killed_paused_and_flushed(
    postgres_server: Databases, redis: RedisServer
) -> None:
    """Whatever the cache suffers: no value that was not committed, no mixture, no error, and a store never
    reads less than it has committed itself.
    """
    backend = PostgresBackend(postgres_server)
    stores = [
        HybridStore(backend.open(), RedisCache(redis.url, ttl=60.0, timeout=HASTE), kinds=ALL_KINDS)
        for _ in range(2)
    ]
    ledger = Ledger()
    ended = asyncio.Event()
    keys = ("a", "b", "c")

    async def writer(store: HybridStore, own: str, seed: int) -> None:
        """Alone in writing its own key, so what it reads of it must be what it wrote last."""
        number = 0
        while not ended.is_set():
            number += 1
            updates = {key: envelope(key, 1000 * seed + number, n=60) for key in (own, "c")}
            receipt = await write(store, updates, commit_id=fresh_id())
            ledger.record(receipt)
            assert (await store.read(own)).version == receipt.version

    async def reader(store: HybridStore) -> None:
        while not ended.is_set():
            for key in keys:
                try:
                    entry = await store.read(key)
                except KeyNotFound:
                    assert key not in ledger.finished
                    continue
                await until(lambda at=(key, entry.version): at in ledger.committed)  # type: ignore[misc]
                assert ledger.committed[key, entry.version] == content_of(entry.data)
            snapshot = await store.read_many(keys)
            versions = {key: entry.version for key, entry in snapshot.entries.items()}
            assert all(version <= snapshot.version for version in versions.values())
            if len(versions) == 3:  # the last commit of all wrote `c`, and either `a` or `b` with it
                assert versions["c"] == max(versions["a"], versions["b"]) == snapshot.version
            await asyncio.sleep(0)

    async def tormentor() -> None:
        with redis.client() as raw:
            for _ in range(3):
                await asyncio.sleep(0.3)
                raw.flushall()
        redis.pause()
        await asyncio.sleep(0.5)
        redis.resume()
        await asyncio.sleep(0.5)
        redis.kill()
        await asyncio.sleep(0.3)
        redis.start()
        await asyncio.sleep(0.7)
        ended.set()

    try:
        await stores[0].init()
        await asyncio.gather(
            writer(stores[0], "a", 1),
            writer(stores[1], "b", 2),
            *(reader(store) for store in stores for _ in range(2)),
            tormentor(),
        )
        assert all(store.cache.counts.hits > 0 and store.cache.counts.failures > 0 for store in stores)
        assert all(store.cache.counts.corrupt == 0 for store in stores)
    finally:
        for store in stores:
            await store.close()
        await backend.dispose()
