"""Postgres with a Redis before it: whatever fails, no read returns what never was, or what is too old."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from faults.checker import judge
from faults.history import History
from faults.load import GROUPS, KEYS, Load
from faults.places import HybridPlace, PostgresPlace
from faults.processes import Clients
from faults.proxy import Proxy
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.errors import StoreUnavailable
from somactl.store.contract import Store
from somactl.store.redis.cache_entries import Names as CacheNames
from somactl.store.wrapper import Retrying

MakeHybrid = Callable[..., HybridPlace]
STAGING = b"/staged:"
"""Stands in what a client sends when it puts copies into the cache, and in nothing else."""
PATIENT = 20.0
"""Seconds for a client to wait for its cache: it shall still wait when the test is done with it."""


@asynccontextmanager
async def opened(*stores: Store) -> AsyncIterator[tuple[Store, ...]]:
    try:
        yield stores
    finally:
        for store in stores:
            await store.close()


async def read_all(history: History, stores: tuple[Store, ...]) -> None:
    """Read every key through every store, one by one: these may come from the cache."""
    for number, store in enumerate(stores):
        for key in KEYS:
            await history.read(store, f"one-{number}", key)


async def look_everywhere(history: History, stores: tuple[Store, ...]) -> None:
    """Read every key through every store, one by one and then at once, which repairs the cache."""
    await read_all(history, stores)
    for number, store in enumerate(stores):
        await history.snapshot(store, f"many-{number}", KEYS)


async def kill_cache(place: HybridPlace, dice: random.Random) -> None:
    """Its clients find no server for a while, and then an empty Redis."""
    await asyncio.to_thread(place.cache.kill)
    await asyncio.sleep(dice.random() * 0.2)
    await asyncio.to_thread(place.cache.start)


async def pause_cache(place: HybridPlace, dice: random.Random) -> None:
    """For longer than its copies live, perhaps; what was sent to it meanwhile arrives afterwards."""
    place.cache.pause()
    await asyncio.sleep(dice.random() * 1.5 * place.spec.cache_ttl)
    place.cache.resume()


async def flush_cache(place: HybridPlace, dice: random.Random) -> None:
    """Again and again: entries, tombstones and the marker are gone at any moment."""
    with place.cache.client() as raw:
        for _ in range(5):
            await asyncio.sleep(dice.random() * 0.1)
            await asyncio.to_thread(raw.flushall)


async def kill_authority(place: HybridPlace, dice: random.Random) -> None:
    await asyncio.to_thread(place.server.kill)
    await asyncio.sleep(dice.random() * 0.2)
    await asyncio.to_thread(place.server.start)


async def pause_authority(place: HybridPlace, dice: random.Random) -> None:
    place.server.pause()
    await asyncio.sleep(dice.random() * 1.5 * place.spec.timeout)
    place.server.resume()


@pytest.mark.parametrize("allow_stale", [False, True], ids=["strict", "allow-stale"])
async def test_a_storm_of_faults(hybrid_place: MakeHybrid, allow_stale: bool, seed: int) -> None:
    place = hybrid_place(f"storm-{allow_stale}-{seed}", timeout=0.3, ttl=0.4, allow_stale=allow_stale)
    await place.init()
    dice = random.Random(seed)
    history = History(place.namespace)
    faults = [kill_cache, pause_cache, flush_cache, kill_authority, pause_authority]
    dice.shuffle(faults)
    async with Load(place, history, dice, writers=3, readers=3) as load:
        for fault in faults:
            await load.progress(dice.randrange(10, 40))
            await fault(place, dice)
        await load.progress(20)
    assert {look.served_by for look in history.looks} >= {"redis cache", "postgres"}
    assert await judge(place, history) == []


async def test_a_client_that_dies_between_postgres_and_its_cache(hybrid_place: MakeHybrid) -> None:
    place = hybrid_place("died-between")
    await place.init()
    history = History(place.namespace)
    with Clients(place.cache.folder) as clients:
        async with Proxy(place.cache.port) as proxy, opened(place.open(), place.open()) as (store, reader):
            for number, group in enumerate(GROUPS):
                await history.commit(store, f"before-{number}", dict.fromkeys(group, number + 1))
            await look_everywhere(history, (store, reader))
            proxy.cut("sent", STAGING, "freeze")
            client = clients.start(place.through_cache(proxy.port, cache_timeout=PATIENT))
            async with asyncio.timeout(PATIENT):
                await proxy.happened.wait()
            await asyncio.to_thread(client.kill)
            client.add_to(history)
            assert history.count("sent") == 1
            assert (await reader.head()).version == len(GROUPS) + 1, "Postgres has it, the cache does not"
            end = time.time() + 1.5 * place.spec.cache_ttl
            while time.time() < end:
                await look_everywhere(history, (store, reader))
                await asyncio.sleep(0.02)
            proxy.thaw()
            await proxy.quiet()
            await look_everywhere(history, (store, reader))
    await all_is_new(place, history)
    assert await judge(place, history) == []


async def all_is_new(place: HybridPlace, history: History) -> None:
    """Copies from before have expired by now: single reads are as new as snapshots."""
    async with opened(place.open()) as (store,):
        snapshot = await history.snapshot(store, "new", KEYS)
        assert snapshot is not None
        for key in KEYS:
            one = await history.read(store, "new", key)
            assert one is not None
            assert one.seen[key] == snapshot.seen[key]


@pytest.mark.parametrize("deleted", [False, True], ids=["overwritten", "deleted"])
async def test_a_copy_that_arrives_late_hides_nothing_newer(hybrid_place: MakeHybrid, deleted: bool) -> None:
    """A read's copy, and a commit's own, lie in the network while another client commits."""
    place = hybrid_place(f"late-copy-{deleted}", ttl=10.0)
    await place.init()
    history = History(place.namespace)
    async with Proxy(place.cache.port) as proxy:
        slow = place.through_cache(proxy.port, cache_timeout=PATIENT)
        async with opened(slow.open(), place.open(), place.open()) as (slow_store, store, reader):
            await history.commit(slow_store, "first", dict.fromkeys(GROUPS[0], 1))
            with place.cache.client() as raw:
                raw.delete(*raw.scan_iter(f"*{place.namespace}*:{GROUPS[0][0]}"))
            proxy.cut("sent", STAGING, "freeze")
            assert await history.read(slow_store, "slow", GROUPS[0][0]) is not None
            await asyncio.wait_for(proxy.happened.wait(), PATIENT)
            proxy.cut("sent", STAGING, "freeze")
            second = asyncio.create_task(history.commit(slow_store, "second", dict.fromkeys(GROUPS[0], 2)))
            await asyncio.wait_for(proxy.happened.wait(), PATIENT)
            await history.commit(store, "third", dict.fromkeys(GROUPS[0], None if deleted else 3))
            before = await history.read(reader, "fast", GROUPS[0][0])
            proxy.thaw()
            assert (await second).receipt is not None
            await slow_store.close()  # whatever it had on its way has arrived
            after = await history.read(reader, "fast", GROUPS[0][0])
            assert before is not None
            assert after is not None
            assert before.seen == after.seen == {GROUPS[0][0]: None if deleted else (3, 3)}
    assert await judge(place, history) == []


async def test_copies_are_served_while_postgres_is_down_if_one_asks_for_it(hybrid_place: MakeHybrid) -> None:
    place = hybrid_place("down", ttl=1.0)
    stale = replace_spec(place, allow_stale=True)
    await place.init()
    history = History(place.namespace)
    async with opened(place.open(), stale.open()) as (strict_store, stale_store):
        for number, group in enumerate(GROUPS):
            await history.commit(strict_store, f"put-{number}", dict.fromkeys(group, number + 1))
        await asyncio.to_thread(place.server.kill)
        try:
            began = time.time()
            for store in (strict_store, stale_store):
                with pytest.raises(StoreUnavailable):
                    await store.head()
            assert await history.read(strict_store, "strict", KEYS[0]) is None
            look = await history.read(stale_store, "stale", KEYS[0])
            if look is None:  # a slow machine: the copies had already expired
                assert time.time() > began + place.spec.cache_ttl
            else:
                assert look.degraded
                assert stale_store.degradations
            # However long it lasts: what is served is never older than it may be, and in the end nothing is.
            async with asyncio.timeout(10 * place.spec.cache_ttl):
                while await history.read(stale_store, "stale", KEYS[0]) is not None:
                    await asyncio.sleep(0.01)
        finally:
            await asyncio.to_thread(place.server.start)
    assert await judge(place, history) == []


def replace_spec(place: HybridPlace, **changes: bool) -> HybridPlace:
    return HybridPlace(place.authority, place.cache, ttl=place.spec.cache_ttl, **changes)


def copy_database(server: PostgresServer, source: str, target: str) -> None:
    """Make the database `target` what `source` is now, whatever is connected to either."""
    server.run(f"DROP DATABASE IF EXISTS {target} WITH (FORCE)")
    server.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{source}' AND backend_type = 'client backend'"
    )
    server.run(f"CREATE DATABASE {target} TEMPLATE {source}")


async def test_postgres_is_restored_to_an_earlier_state(
    durable_postgres: PostgresServer, cache_server: RedisServer, seed: int
) -> None:
    """Copies of what was undone are in the cache, on their way to it, and known to old clients."""
    authority = PostgresPlace(durable_postgres, durable_postgres.create_database(), f"restored-{seed}")
    place = HybridPlace(authority, cache_server, ttl=10.0)
    backup = f"{authority.database}_backup"
    stale = replace_spec(place, allow_stale=True)
    await place.init()
    dice = random.Random(seed)
    kept, undone = History(place.namespace), History(place.namespace)
    async with Proxy(place.cache.port) as proxy:
        slow = place.through_cache(proxy.port, cache_timeout=PATIENT)
        async with opened(place.open(), stale.open(), slow.open()) as old:
            await commit_all(kept, old[0], "kept", 1, dice)
            await asyncio.to_thread(copy_database, durable_postgres, authority.database, backup)
            undone.newest = kept.newest
            await commit_all(undone, Retrying(old[0], seconds=5.0), "undone", 1_000, dice)
            await undone.commit(old[0], "undone-last", dict.fromkeys(GROUPS[0], 1_999))
            await look_everywhere(undone, old)
            # One copy of what will be undone is on its way while all the rest happens.
            with place.cache.client() as raw:
                raw.delete(*raw.scan_iter(f"*{place.namespace}*:{KEYS[0]}"))
            proxy.cut("sent", STAGING, "freeze")
            await undone.read(old[2], "slow", KEYS[0])
            await asyncio.wait_for(proxy.happened.wait(), PATIENT)

            await asyncio.to_thread(copy_database, durable_postgres, backup, authority.database)
            assert undone_copies(place, kept.newest) >= len(KEYS) // 2
            async with opened(place.open()) as (new,):
                reading = asyncio.create_task(read_for(undone, old[:2], 1.0))
                before = (await new.head()).incarnation
                restored = await Retrying(new, seconds=5.0).init(new_incarnation=True)
                assert (restored.incarnation != before, restored.version) == (True, kept.newest)
                # Everything that is read from here on must be of what was kept, or committed from now on.
                await read_all(kept, (new, *old[:2]))
                await commit_all(kept, new, "new", 2_000, dice, groups=2)
                await look_everywhere(kept, (new, *old[:2]))
                await reading
                proxy.thaw()
                for _ in range(5):
                    await look_everywhere(kept, (new, *old))
                    await asyncio.sleep(0.02)
    await all_is_new(place, kept)
    assert await judge(place, kept) == []
    assert not {id_ for id_, a in undone.attempts.items() if a.outcome != "acknowledged"}


def undone_copies(place: HybridPlace, newest: int) -> int:
    """How many values of a version that is no more lie in the cache."""
    with place.cache.client() as raw:
        names = list(raw.scan_iter(f"{CacheNames.of(place.namespace).marker}:*", count=1000))
        versions = [raw.hget(name, "version") for name in names if raw.hget(name, "content")]
    return sum(int(version) > newest for version in versions)


async def commit_all(
    history: History, store: Store, name: str, marker: int, dice: random.Random, groups: int = len(GROUPS)
) -> None:
    """Three commits to each of so many groups, some of them deletes."""
    for number in range(3 * groups):
        value = None if dice.random() < 0.15 else marker + number
        group = GROUPS[number % groups]
        attempt = await history.commit(store, f"{name}-{number}", dict.fromkeys(group, value))
        assert attempt.outcome == "acknowledged", attempt


async def read_for(history: History, stores: tuple[Store, ...], seconds: float) -> None:
    end = time.time() + seconds
    while time.time() < end:
        await read_all(history, stores)
        await asyncio.sleep(0)
