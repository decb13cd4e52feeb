"""The Redis cache by itself: on a real server, and on fakeredis, which runs the same scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from servers.redis import RedisCluster, RedisServer
from somactl.core.framing import peek
from somactl.errors import ConfigurationError, InvalidName, ReadOnlyStore
from somactl.store.cached import ESTABLISHING, INITIALISING, Cached, Fill
from somactl.store.contract import Entry
from somactl.store.redis.cache import RedisCache
from somactl.store.redis.cache_entries import Names
from somactl.testing.reads import ODD_KEYS
from somactl.testing.values import VALID, envelope
from store.hybrid_backend import FakeCacheServer, redis_cache

NAMES = Names.of("default")
MINUTE = 60.0


class Bench:
    """An empty cache that serves the incarnation `inc`, and a look behind it."""

    def __init__(self, make: Callable[..., RedisCache], raw: Any) -> None:
        self.make = make
        self.raw = raw
        self.caches: list[RedisCache] = []
        self.cache = self.open()

    def open(self, **options: Any) -> RedisCache:
        self.caches.append(self.make(**{"ttl": MINUTE, **options}))
        return self.caches[-1]

    async def now(self) -> float:
        return (await self.cache.find([])).now

    async def value(
        self, key: str, version: int, *, seed: int | None = None, n: int = 3, **more: Any
    ) -> Fill:
        data = envelope(key, version if seed is None else seed, n=n)
        entry = Entry(key, version, "inc", f"commit-{version}", 12.5, data, VALID, "")
        fields = {"read_at": await self.now(), **more}
        return Fill(key, version, "inc", entry=entry, content=peek(data).content, **fields)

    async def put(self, *fills: Fill) -> tuple[str, ...]:
        done = await self.cache.put(fills)
        return (done.refusal,) if done.refusal else done.outcomes

    async def get(self, key: str) -> Cached | None:
        return (await self.cache.find([key])).entries.get(key)

    async def listed(self) -> list[str]:
        keys: list[str] = []
        async for page in self.cache.keys():
            keys += page
        return sorted(keys)

    def name(self, key: str) -> str:
        return NAMES.entry(key)

    def names(self) -> list[str]:
        """Of all that lies in the server."""
        return sorted(name.decode() for name in self.raw.scan_iter(match="*"))


def tombstone(key: str, version: int) -> Fill:
    return Fill(key, version, "inc", 0.0)


@pytest.fixture(params=["redis", "cluster", "fake"])
def server(request: pytest.FixtureRequest) -> Any:
    if request.param == "fake":
        return FakeCacheServer()
    return request.getfixturevalue("redis_server" if request.param == "redis" else "redis_cluster")


@pytest_asyncio.fixture
async def bench(server: Any) -> AsyncIterator[Bench]:
    if isinstance(server, FakeCacheServer):
        bench = Bench(lambda **options: server.cache(**options), server.raw)
    else:
        bench = Bench(lambda **options: redis_cache(server, **options), server.client())
        bench.raw.flushall()
    assert await bench.cache.mark(None, "inc", seconds=2 * MINUTE)
    yield bench
    for cache in bench.caches:
        await cache.close()
    bench.raw.close()


async def test_what_was_put_is_found_whole(bench: Bench) -> None:
    fill = await bench.value("a", 7)
    assert await bench.put(fill) == ("stored",)
    view = await bench.cache.find(["a", "b"])
    assert list(view.entries) == ["a"]
    found = view.entries["a"]
    assert (found.version, found.incarnation, found.content, found.defect) == (7, "inc", fill.content, None)
    assert (view.marker, view.serving) == ("inc", "inc")
    assert found.filled_at == pytest.approx(fill.read_at, abs=1e-5)
    assert 0 <= view.now - found.filled_at < 5
    entry, given = found.entry, fill.entry
    assert entry is not None
    assert given is not None
    assert bytes(entry.data) == given.data
    assert (entry.key, entry.version, entry.incarnation) == ("a", 7, "inc")
    assert (entry.commit_id, entry.committed_at, entry.verdict) == ("commit-7", 12.5, VALID)
    assert (entry.served_by, entry.degraded) == ("redis cache", False)


@pytest.mark.parametrize("n", [1, 89, 91, 400])
async def test_values_of_many_sizes(bench: Bench, n: int) -> None:
    """On both sides of the size up to which a value comes with the first look."""
    assert await bench.put(await bench.value("a", 1, n=n)) == ("stored",)
    found = await bench.get("a")
    assert found is not None
    assert found.entry is not None
    assert bytes(found.entry.data) == envelope("a", 1, n=n)
    view = await bench.cache.find(["a"], payloads=False)
    assert (view.entries["a"].entry, view.entries["a"].size) == (None, len(envelope("a", 1, n=n)))


async def test_many_keys_at_once_odd_ones_among_them(bench: Bench) -> None:
    keys = [*ODD_KEYS, *(f"k{i}" for i in range(150)), "}{", "a:b", "a/staged:0"]
    fills = [await bench.value(key, 1) for key in keys]
    assert set(await bench.put(*fills)) == {"stored"}
    view = await bench.cache.find([*keys, "absent", *keys])
    assert list(view.entries) == keys
    assert all(one.entry is not None for one in view.entries.values())
    assert await bench.listed() == sorted(keys)


@pytest.mark.parametrize(
    ("first", "second", "outcome", "kept"),
    [
        (("value", 5), ("value", 6), "stored", ("value", 6)),
        (("value", 5), ("value", 4), "older", ("value", 5)),
        (("value", 5), ("value", 5), "same", ("value", 5)),
        (("value", 5), ("tombstone", 6), "stored", ("tombstone", 6)),
        (("value", 5), ("tombstone", 4), "older", ("value", 5)),
        (("value", 5), ("tombstone", 5), "same", ("value", 5)),
        (("tombstone", 5), ("value", 6), "stored", ("value", 6)),
        (("tombstone", 5), ("value", 5), "stored", ("value", 5)),
        (("tombstone", 5), ("value", 4), "older", ("tombstone", 5)),
        (("tombstone", 5), ("tombstone", 6), "stored", ("tombstone", 6)),
        (("value", 9), ("value", 10), "stored", ("value", 10)),  # as numbers, not as text
    ],
)
async def test_only_newer_displaces(
    bench: Bench, first: tuple[str, int], second: tuple[str, int], outcome: str, kept: tuple[str, int]
) -> None:
    async def fill(kind: str, version: int) -> Fill:
        return await bench.value("a", version) if kind == "value" else tombstone("a", version)

    assert await bench.put(await fill(*first)) == ("stored",)
    assert await bench.put(await fill(*second)) == (outcome,)
    found = await bench.get("a")
    assert found is not None
    assert ("value" if found.entry else "tombstone", found.version) == kept
    assert (found.content == "") == (kept[0] == "tombstone")


async def test_another_content_at_the_same_version_is_replaced(bench: Bench) -> None:
    """It cannot be, unless the authority was restored: and then the authority is right."""
    await bench.put(await bench.value("a", 5, seed=1))
    assert await bench.put(await bench.value("a", 5, seed=2)) == ("stored",)
    found = await bench.get("a")
    assert found is not None
    assert found.entry is not None
    assert bytes(found.entry.data) == envelope("a", 2)


async def test_the_same_version_again_makes_a_copy_younger_and_never_older(bench: Bench) -> None:
    now = await bench.now()
    await bench.put(await bench.value("a", 5, read_at=now - 40))
    assert bench.raw.pttl(bench.name("a")) == pytest.approx(20_000, abs=3000)
    await bench.put(await bench.value("a", 5, read_at=now - 10))
    assert bench.raw.pttl(bench.name("a")) == pytest.approx(50_000, abs=3000)
    await bench.put(await bench.value("a", 5, read_at=now - 30))
    found = await bench.get("a")
    assert found is not None
    assert found.filled_at == pytest.approx(now - 10, abs=1e-3)
    assert bench.raw.pttl(bench.name("a")) == pytest.approx(50_000, abs=3000)


async def test_a_tombstone_makes_no_value_younger(bench: Bench) -> None:
    now = await bench.now()
    await bench.put(await bench.value("a", 5, read_at=now - 40))
    assert await bench.put(Fill("a", 5, "inc", now)) == ("same",)
    found = await bench.get("a")
    assert found is not None
    assert found.filled_at == pytest.approx(now - 40, abs=1e-3)
    assert bench.raw.pttl(bench.name("a")) == pytest.approx(20_000, abs=3000)


async def test_lives_are_counted_from_the_read_and_bounded_by_the_ttl(bench: Bench) -> None:
    now = await bench.now()
    for key, more, seconds in (
        ("read just now", {}, 60),
        ("read before", {"read_at": now - 25}, 35),
        ("shorter", {"ttl": 10.0}, 10),
        ("never longer", {"ttl": 3600.0}, 60),
    ):
        assert await bench.put(await bench.value(key, 1, **more)) == ("stored",)
        assert bench.raw.pttl(bench.name(key)) == pytest.approx(seconds * 1000, abs=3000)
    assert await bench.put(await bench.value("late", 1, read_at=now - 61)) == ("late",)
    assert await bench.put(tombstone("deleted", 1)) == ("stored",)
    assert bench.raw.pttl(bench.name("deleted")) == pytest.approx(60_000, abs=3000)
    assert bench.cache.counts.late == 1


@pytest.mark.parametrize(
    ("marker", "refusal"),
    [
        (None, "unmarked"),
        ("other", "foreign"),
        (f"{INITIALISING}x", "blocked"),
        (f"{ESTABLISHING}x", "blocked"),
    ],
)
async def test_what_is_not_of_the_served_incarnation_is_refused_whole(
    bench: Bench, marker: str | None, refusal: str
) -> None:
    if marker is None:
        bench.raw.delete(NAMES.marker)
    else:
        bench.raw.set(NAMES.marker, marker)
    assert await bench.put(await bench.value("a", 1), tombstone("b", 1)) == (refusal,)
    view = await bench.cache.find(["a", "b"])
    assert (dict(view.entries), view.marker) == ({}, marker)
    assert view.serving == (marker if refusal == "foreign" else None)
    await settled(bench)
    assert bench.names() == ([] if marker is None else [NAMES.marker])


async def settled(bench: Bench) -> None:
    """Closing waits for what is still being freed; another cache takes its place."""
    await bench.caches[-1].close()
    bench.cache = bench.open()


async def test_nothing_is_left_behind_but_entries(bench: Bench) -> None:
    for version in (3, 4, 2):
        await bench.put(await bench.value("a", version, n=200), tombstone("b", version))
    found = await bench.get("a")
    assert found is not None
    await bench.cache.evict([found])
    await settled(bench)
    assert bench.names() == [NAMES.marker, bench.name("b")]


async def test_a_fill_makes_the_marker_last(bench: Bench) -> None:
    bench.raw.pexpire(NAMES.marker, 5000)
    await bench.put(await bench.value("a", 1))
    assert bench.raw.pttl(NAMES.marker) == pytest.approx(120_000, abs=3000)
    bench.raw.pexpire(NAMES.marker, 900_000)
    await bench.put(await bench.value("a", 2))
    assert bench.raw.pttl(NAMES.marker) > 800_000


async def test_the_marker_changes_only_from_what_was_expected(bench: Bench) -> None:
    cache = bench.cache
    assert not await cache.mark(None, "new", seconds=10.0)
    assert not await cache.mark("other", "new", seconds=10.0)
    assert await cache.mark("inc", "new", seconds=10.0)
    assert (await cache.find([])).marker == "new"
    assert 0 < bench.raw.pttl(NAMES.marker) <= 10_000
    await cache.block("!x", seconds=10.0)
    assert (await cache.find([])).serving is None
    bench.raw.delete(NAMES.marker)
    assert not await cache.mark("!x", "new", seconds=10.0)
    assert await cache.mark(None, "new", seconds=10.0)


async def test_a_marker_of_a_foreign_type_serves_nothing_until_it_is_overwritten(bench: Bench) -> None:
    bench.raw.delete(NAMES.marker)
    bench.raw.rpush(NAMES.marker, "mine")
    assert (await bench.cache.find([])).marker is None
    assert await bench.put(await bench.value("a", 1)) == ("foreign",)
    assert not await bench.cache.mark(None, "inc", seconds=10.0)
    await bench.cache.block("!x", seconds=10.0)
    assert await bench.cache.mark("!x", "inc", seconds=10.0)


def flipped(value: bytes) -> bytes:
    middle = len(value) // 2
    return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]


@pytest.mark.parametrize(
    "field",
    [
        "version",
        "incarnation",
        "content",
        "digest",
        "commit_id",
        "committed_at",
        "verdict",
        "seal",
        "envelope",
    ],
)
async def test_a_flipped_bit_anywhere_is_a_defect(bench: Bench, field: str) -> None:
    await bench.put(await bench.value("a", 12))
    bench.raw.hset(bench.name("a"), field, flipped(bench.raw.hget(bench.name("a"), field)))
    found = await bench.get("a")
    assert found is not None
    assert found.defect
    assert found.entry is None


DAMAGE: dict[str, Callable[[Any, str], None]] = {
    "truncated": lambda raw, name: raw.hset(name, "envelope", raw.hget(name, "envelope")[:-1]),
    "extended": lambda raw, name: raw.hset(name, "envelope", raw.hget(name, "envelope") + b"\0"),
    "empty": lambda raw, name: raw.hset(name, "envelope", b""),
    "missing": lambda raw, name: raw.hdel(name, "envelope"),
    "another key's": lambda raw, name: raw.hset(name, "envelope", envelope("b", 1)),
    "another namespace's": lambda raw, name: raw.hset(name, "envelope", envelope("a", 1, namespace="x")),
    "another value": lambda raw, name: raw.hset(name, "envelope", envelope("a", 2)),
    "another label": lambda raw, name: raw.hset(name, "envelope", envelope("a", 1, timestamp=5.0)),
    "no version": lambda raw, name: raw.hdel(name, "version"),
    "a number that is none": lambda raw, name: raw.hset(name, "filled_at", "soon"),
    "a string": lambda raw, name: (raw.delete(name), raw.set(name, "mine")),
    "a list": lambda raw, name: (raw.delete(name), raw.rpush(name, "mine")),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_is_told_evicted_and_overwritten(bench: Bench, damage: str) -> None:
    await bench.put(await bench.value("a", 1))
    DAMAGE[damage](bench.raw, bench.name("a"))
    found = await bench.get("a")
    assert found is not None
    assert found.defect
    assert found.entry is None
    assert await bench.cache.evict([found]) == 1
    assert await bench.get("a") is None
    assert await bench.put(await bench.value("a", 1)) == ("stored",)
    assert (await bench.get("a") or found).entry is not None


async def test_a_foreign_value_in_the_way_is_displaced(bench: Bench) -> None:
    bench.raw.set(bench.name("a"), "mine")
    assert await bench.put(await bench.value("a", 1)) == ("stored",)
    assert (await bench.get("a") or Cached("")).entry is not None


async def test_an_entry_that_has_changed_since_is_not_evicted(bench: Bench) -> None:
    await bench.put(await bench.value("a", 1), await bench.value("b", 1))
    view = await bench.cache.find(["a", "b"])
    await bench.put(await bench.value("a", 2))
    assert await bench.cache.evict(list(view.entries.values())) == 1
    assert (await bench.get("a") or Cached("")).version == 2
    assert await bench.get("b") is None
    assert bench.cache.counts.evicted == 1


async def test_what_was_garbage_and_is_none_any_more_is_not_evicted(bench: Bench) -> None:
    bench.raw.set(bench.name("a"), "mine")
    found = await bench.get("a")
    assert found is not None
    await bench.put(await bench.value("a", 1))
    assert await bench.cache.evict([found]) == 0


async def test_drop_removes_whatever_is_there(bench: Bench) -> None:
    await bench.put(await bench.value("a", 1), tombstone("b", 3))
    bench.raw.set(bench.name("c"), "mine")
    await bench.cache.drop(["a", "b", "c", "absent"])
    assert (await bench.cache.find(["a", "b", "c"])).entries == {}


async def test_namespaces_do_not_see_each_other(bench: Bench) -> None:
    await bench.put(await bench.value("a", 1))
    other = bench.open(namespace="other")
    view = await other.find(["a"])
    assert (dict(view.entries), view.marker) == ({}, None)
    await bench.put(await bench.value("b", 1))
    assert await bench.listed() == ["a", "b"]
    bench.cache = other
    assert await bench.listed() == []
    with pytest.raises(InvalidName):
        bench.open(namespace="a}b")


async def test_a_read_only_cache_writes_nothing(bench: Bench) -> None:
    await bench.put(await bench.value("a", 1))
    before = bench.names()
    cache = bench.open(read_only=True)
    done = await cache.put([await bench.value("a", 2)])
    assert (done.refusal, done.outcomes) == ("read-only", ())
    view = await cache.find(["a"])
    assert await cache.evict(list(view.entries.values())) == 0
    await cache.drop(["a"])
    for call in (cache.mark("inc", "new", seconds=1.0), cache.block("!x", seconds=1.0)):
        with pytest.raises(ReadOnlyStore):
            await call
    assert (view.entries["a"].version, (await cache.find([])).marker) == (1, "inc")
    assert bench.names() == before


async def test_every_key_of_the_scripts_is_in_one_slot() -> None:
    names = [NAMES.marker, NAMES.entry("a}{b"), NAMES.staged("n", 1), NAMES.displaced("n", 1)]
    assert {name.split("{")[1].split("}")[0] for name in names} == {"default"}
    assert len(set(names)) == 4
    assert NAMES.entry("/staged:n:1") != NAMES.staged("n", 1)


async def test_memory_is_told(bench: Bench) -> None:
    memory = await bench.cache.memory()
    assert memory.used > 0
    assert memory.policy


@pytest.mark.parametrize("url", ["http://host", "redis://a,b", "redis://host/x"])
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        RedisCache(url)


async def test_a_cache_that_was_closed_twice(redis_server: RedisServer | RedisCluster) -> None:
    cache = redis_cache(redis_server)  # type: ignore[arg-type]
    await cache.find([])
    await cache.close()
    await cache.close()
