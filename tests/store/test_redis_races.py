"""What others commit, delete and compact between two commands of one call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from somactl.core.names import Pattern
from somactl.errors import CorruptValue, KeyNotFound, StoreBusy, StoreUnavailable, VersionCompacted
from somactl.store.contract import Compaction, Retention
from somactl.store.redis import RedisStore, compaction, listing, reading
from somactl.testing.values import compact_fully, delete, envelope, event_versions, listed, put, write
from store.redis_backend import RedisBackend, backend as backend, store as store

NOTHING_KEPT = Retention(1, 0.0, 0.0)


@pytest.fixture
def writer(store: RedisStore) -> RedisStore:
    return store


@pytest_asyncio.fixture
async def reader(backend: RedisBackend, writer: RedisStore) -> AsyncIterator[RedisStore]:
    store = backend.open()
    yield store
    await store.close()


def between(store: RedisStore, acts: dict[int, Callable[[], Awaitable[Any]]]) -> None:
    """Have `acts[n]` happen before the store's n-th command from now, each of which goes out alone."""
    ask = store._link.ask
    count = 0

    async def slowly(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        nonlocal count
        replies = []
        for command in commands:
            if count in acts:
                await acts[count]()
            count += 1
            replies += await ask(command, commit_id=commit_id, **rest)
        return replies

    store._link.ask = slowly  # type: ignore[method-assign]


@pytest.mark.parametrize("moment", [1, 2])
async def test_a_value_replaced_while_it_is_read(reader: RedisStore, writer: RedisStore, moment: int) -> None:
    """Bytes, entry and head are read one after the other; what is returned is one of the two versions."""
    await put(writer, "a")
    between(reader, {moment: lambda: put(writer, "a", seed=1)})
    entry = await reader.read("a")
    assert entry.version == {1: 2, 2: 1}[moment]
    assert bytes(entry.data) == envelope("a", entry.version - 1)


async def test_a_value_replaced_again_and_again_while_it_is_read(
    reader: RedisStore, writer: RedisStore
) -> None:
    await put(writer, "a")
    between(reader, {n: lambda n=n: put(writer, "a", seed=n) for n in range(1, 5)})  # type: ignore[misc]
    entry = await reader.read("a")
    assert bytes(entry.data) == envelope("a", entry.version - 1)


async def test_a_value_replaced_and_compacted_while_it_is_read(
    reader: RedisStore, writer: RedisStore
) -> None:
    await writer.init(retention=NOTHING_KEPT)
    await put(writer, "a")

    async def replace() -> None:
        await put(writer, "a", seed=1)
        await compact_fully(writer)

    between(reader, {0: replace, 1: replace, 2: replace, 3: replace})
    assert bytes((await reader.read("a")).data) == envelope("a", 1)


async def test_a_key_deleted_or_made_while_it_is_read(reader: RedisStore, writer: RedisStore) -> None:
    await put(writer, "a")
    between(reader, {1: lambda: delete(writer, "a"), 3: lambda: put(writer, "b")})
    with pytest.raises(KeyNotFound):
        await reader.read("a")
    try:
        assert (await reader.read("b")).version == 3
    except KeyNotFound:
        pytest.fail("`b` was there before the last look at it")


async def test_a_new_incarnation_while_a_value_is_read(reader: RedisStore, writer: RedisStore) -> None:
    """A version is never shown with an incarnation in which it was not there."""
    await put(writer, "a")
    first = await writer.head()

    async def begin_anew() -> None:
        await writer.init(new_incarnation=True)
        await put(writer, "a", seed=1)

    for moment in (1, 2):
        between(reader, {moment: begin_anew})
        entry = await reader.read("a")
        assert entry.incarnation != first.incarnation
        first = await writer.head()


@pytest.mark.parametrize("moment", [1, 2, 3])
async def test_a_snapshot_is_of_one_version_whatever_happens_meanwhile(
    reader: RedisStore, writer: RedisStore, moment: int
) -> None:
    keys = ["a", "b", "c", "gone"]
    await put(writer, *keys)
    await delete(writer, "gone")

    async def change() -> None:
        await put(writer, "a", "b", "new", seed=1)
        await delete(writer, "c")

    between(reader, {moment: change})
    snapshot = await reader.read_many([*keys, "new"])
    assert (snapshot.version, snapshot.absent) == (2, ("gone", "new"))
    assert {key: entry.version for key, entry in snapshot.entries.items()} == {"a": 1, "b": 1, "c": 1}
    assert {entry.incarnation for entry in snapshot.entries.values()} == {snapshot.incarnation}
    for key in "abc":
        assert bytes(snapshot.entries[key].data) == envelope(key)


async def test_a_snapshot_begins_anew_where_compaction_took_its_values(
    reader: RedisStore, writer: RedisStore
) -> None:
    await writer.init(retention=NOTHING_KEPT)
    await put(writer, "a", "b")

    async def change() -> None:
        await put(writer, "a", "b", seed=1)
        await compact_fully(writer)

    between(reader, {1: change})
    snapshot = await reader.read_many(["a", "b"])
    assert {entry.version for entry in snapshot.entries.values()} == {2} == {snapshot.version}


async def test_a_snapshot_that_never_stands_still_is_given_up(
    reader: RedisStore, writer: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await writer.init(retention=NOTHING_KEPT)
    await put(writer, "a")
    seed = 0

    async def change() -> None:
        nonlocal seed
        seed += 1
        await put(writer, "a", seed=seed)
        await compact_fully(writer)

    between(reader, dict.fromkeys(range(1000), change))
    monkeypatch.setattr(reading, "_SNAPSHOTS", 3)
    with pytest.raises(StoreBusy) as caught:
        await reader.read_many(["a"])
    assert caught.value.retryable


async def test_stats_in_portions_are_of_one_version(
    reader: RedisStore, writer: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"k{i}" for i in range(10)]
    await put(writer, *keys)
    monkeypatch.setattr(reading, "_STAT_KEYS", 3)
    between(reader, {n: lambda: put(writer, *keys) for n in (1, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30)})
    stats = await reader.stat_many(keys)
    assert {stat.version for stat in stats.stats.values()} == {stats.version}
    assert len(stats.stats) == 10


async def test_a_page_is_of_one_moment(reader: RedisStore, writer: RedisStore) -> None:
    await put(writer, "a", "c")
    between(reader, {1: lambda: put(writer, "b"), 2: lambda: delete(writer, "a")})
    assert [(s.key, s.version) for s in await listed(reader.scan())] == [("b", 2), ("c", 1)]


async def test_a_listing_comes_to_an_end_where_keys_come_and_go(
    reader: RedisStore, writer: RedisStore
) -> None:
    keys = [f"k{i:02}" for i in range(20)]
    await put(writer, *keys)
    number = 0

    async def churn() -> None:
        nonlocal number
        number += 1
        if number % 3:
            await (put if number % 2 else delete)(writer, "k05-flickers")
        else:
            await put(writer, f"k{number:02}-new")

    between(reader, dict.fromkeys(range(10_000), churn))
    for arguments in ({}, {"page_keys": 3}, {"match": "k?5*"}, {"match": "k0*"}):
        found = [s.key for s in await listed(reader.scan(**arguments))]
        pattern = Pattern(arguments.get("match", "*"))
        assert [key for key in found if key in keys] == [key for key in keys if pattern.matches(key)]
        assert len(set(found)) == len(found)


async def test_a_listing_cut_by_bytes_fetches_little_more_than_it_shows(
    reader: RedisStore, writer: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"k{i:03}" for i in range(200)]
    await put(writer, *keys)
    fetched = 0
    call = reader._link.call

    async def counted(*arguments: Any) -> Any:
        nonlocal fetched
        reply = await call(*arguments)
        fetched += len(reply[2]) if reply[0] == b"page" else 0
        return reply

    monkeypatch.setattr(reader._link, "call", counted)
    monkeypatch.setattr(listing, "_FEWEST", 4)
    assert [s.key for s in await listed(reader.scan(page_bytes=1))] == keys
    assert fetched < 5 * len(keys)


async def test_a_large_value_is_read_in_pieces(
    backend: RedisBackend, reader: RedisStore, writer: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_WHOLE_BYTES", 10_000)
    monkeypatch.setattr(reading, "_PIECE_BYTES", 7_000)
    data = [envelope("a", seed, n=90) for seed in range(3)]
    await write(writer, {"a": data[0]})
    between(reader, {4: lambda: write(writer, {"a": data[1]})})
    entry = await reader.read("a")
    assert bytes(entry.data) == data[entry.version - 1]
    with memoryview(entry.data) as view:
        assert view.readonly
    for damaged in (data[1][:30_000], data[1] + b"x", data[1][:-1] + b"x", b""):
        await backend.overwrite("default", "a", 2, damaged)
        with pytest.raises(CorruptValue):
            await backend_read(backend, "a")
    await backend.overwrite("default", "a", 2, data[1])
    assert bytes((await backend_read(backend, "a")).data) == data[1]


async def backend_read(backend: RedisBackend, key: str) -> Any:
    store = backend.open()
    try:
        return await store.read(key)
    finally:
        await store.close()


# Compaction


async def test_two_that_compact_at_once_count_each_removal_once(
    backend: RedisBackend, writer: RedisStore, reader: RedisStore
) -> None:
    await writer.init(retention=NOTHING_KEPT)
    for seed in range(30):
        await put(writer, "a", "b", seed=seed)
    await delete(writer, "b")
    plan = await writer.compact(dry_run=True)
    totals = await asyncio.gather(*(compact_fully(store, 7) for store in (writer, reader) * 3))
    assert [sum(each) for each in zip(*totals, strict=True)] == [
        plan.revisions, plan.tombstones, plan.records, plan.events, plan.bytes_freed,
    ]  # fmt: skip
    assert await backend.stored("default") == {("a", 30)}


async def test_what_comes_back_to_life_is_not_removed(writer: RedisStore, reader: RedisStore) -> None:
    """A tombstone found to be removable, and overwritten before it is removed."""
    await writer.init(retention=NOTHING_KEPT)
    await put(writer, "a")
    await delete(writer, "a")
    ask, done = reader._link.ask, False

    async def late(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        nonlocal done
        if not done and "prune" in str(getattr(getattr(commands[0], "script", None), "name", "")):
            done = True
            await put(writer, "a", seed=1)
        return await ask(*commands, commit_id=commit_id, **rest)

    reader._link.ask = late  # type: ignore[method-assign]
    found = await reader.compact()
    assert done
    assert found.tombstones == 0
    assert (await writer.read("a")).version == 3
    assert (await writer.namespaces())[0].tombstones == 0
    await compact_fully(writer)
    assert (await writer.read("a")).version == 3


async def test_freed_bytes_vanish_even_if_nobody_comes_to_free_them(
    backend: RedisBackend, writer: RedisStore, reader: RedisStore
) -> None:
    await writer.init(retention=NOTHING_KEPT)
    await put(writer, "a")
    await put(writer, "a", seed=1)
    ask = reader._link.ask

    async def dying(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        if isinstance(commands[0], tuple) and commands[0][0] == "UNLINK":
            raise StoreUnavailable("gone")
        return await ask(*commands, commit_id=commit_id, **rest)

    reader._link.ask = dying  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await reader.compact()
    (rest,) = backend.names("default", "trash")
    assert 0 < backend.raw.ttl(backend.name("default", f"trash:{rest}")) <= 3600
    with pytest.raises(VersionCompacted):
        await writer.read("a", 1)
    backend.raw.delete(backend.name("default", f"trash:{rest}"))


async def test_a_retention_that_keeps_less_from_now_on(backend: RedisBackend, writer: RedisStore) -> None:
    await writer.init(retention=Retention(versions=20))
    for seed in range(12):
        await put(writer, "a", seed=seed)
    assert await writer.compact() == Compaction()
    await writer.init(retention=Retention(versions=3))
    assert (await writer.compact(dry_run=True)).revisions == 9
    await compact_fully(writer, 4)
    assert await backend.stored("default") == {("a", 10), ("a", 11), ("a", 12)}
    await delete(writer, "a")
    assert await writer.compact() == Compaction()
    assert len(await backend.stored("default")) == 3


async def test_candidates_beyond_one_page(
    backend: RedisBackend, writer: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from somactl.store.redis import compaction

    monkeypatch.setattr(compaction, "_PAGE", 4)
    monkeypatch.setattr(compaction, "_HISTORIES", 2)
    monkeypatch.setattr(compaction, "_AT_ONCE", 3)
    monkeypatch.setattr(compaction, "_FREED_BYTES", 1)
    await writer.init(retention=NOTHING_KEPT)
    keys = [f"k{i}" for i in range(11)]
    for seed in range(6):
        await put(writer, *keys, seed=seed)
    await delete(writer, *keys[3:])
    plan = await writer.compact(dry_run=True)
    assert (plan.revisions, plan.tombstones, plan.events) == (6 * 11 - 3, 8, 7)
    assert await compact_fully(writer, 50) == (
        plan.revisions, plan.tombstones, plan.records, plan.events, plan.bytes_freed,
    )  # fmt: skip
    assert len(await backend.stored("default")) == 3
    assert sorted(backend.names("default", "history")) == keys[:3]


async def test_events_that_begin_to_wait_between_finding_and_removing_stay(writer: RedisStore) -> None:
    await writer.init(retention=NOTHING_KEPT)
    for seed in range(4):
        await put(writer, "a", seed=seed)
    found = await compaction.candidates(writer._reader, None)
    assert found.summary().events == 4
    await writer.mark_published(1)
    done = await compaction.remove(writer._reader, found)
    assert (done.events, done.dropped) == (1, 0)
    assert await event_versions(writer) == [2, 3, 4]


async def test_records_removed_while_their_events_are_read_are_told_as_gone(
    reader: RedisStore, writer: RedisStore
) -> None:
    """The log is read, then the records that it names."""
    await writer.init(retention=NOTHING_KEPT)
    for seed in range(4):
        await put(writer, "a", seed=seed)
    between(reader, {3: lambda: writer.compact(), 4: lambda: put(writer, "a")})
    page = await reader.events(0, 3)
    assert (page.events, page.gone, page.after) == ((), (1, 3), 3)
    page = await reader.events(3)
    assert ([event.version for event in page.events], page.gone) == ([5], (4, 4))
