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

from servers.redis import RedisServer
from somactl.errors import KeyNotFound, StoreUnavailable
from somactl.store.hybrid import HybridStore
from somactl.store.redis.cache import RedisCache
from somactl.store.redis.cache_entries import NAME as CACHE, Names
from somactl.store.sqlite import SqliteStore
from somactl.testing.values import delete, envelope, put, write
from store.hybrid_backend import ALL_KINDS, PATIENT

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
