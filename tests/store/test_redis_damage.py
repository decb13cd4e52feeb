"""The Redis store when parts of it are lost, evicted, or overwritten by another program."""

from __future__ import annotations

import asyncio

import pytest

from somactl.errors import (
    CorruptValue,
    KeyNotFound,
    SchemaMismatch,
    StoreDamaged,
)
from somactl.store.contract import Retention, Stat
from somactl.store.redis import RedisStore, connection, layout, reading
from somactl.suggestion import run
from somactl.testing.values import compact_fully, delete, envelope, listed, put, write
from store.redis_backend import RedisBackend, backend as backend, store as store

LARGE = 300
"""n of matrices that are staged, and do not travel with their commit."""
AT_ONCE = {"repl-diskless-sync-delay": "0"}
"""A primary that does not wait for more replicas before it sends its data to one."""


# Parts that are lost


async def test_without_its_head_a_namespace_is_damaged(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a", "b", commit_id="first")
    await delete(store, "b")
    backend.raw.delete(backend.name("default", "head"))
    calls = (
        store.head(), store.read("a"), store.read("a", 1), store.read_many(["a"]), store.stat_many(["a"]),
        listed(store.scan()), store.history("a"), store.log(), store.commit_status("x"),
        store.commit_status("x", resolve=True), store.compact(), store.compact(dry_run=True),
        store.namespaces(), put(store, "a"), store.init(), store.init(retention=Retention(1, 1.0, 1.0)),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(StoreDamaged) as caught:
            await call
        assert (caught.value.exit_code, caught.value.retryable) == (13, False)
        assert run("init", new_incarnation=True) in caught.value.next
    assert {f.check: f.status for f in await store.diagnose()}["layout"] == "problem"


@pytest.mark.parametrize("lost", [("head",), ("head", "log"), ("head", "log", "records")])
async def test_a_new_incarnation_is_the_way_out(
    backend: RedisBackend, store: RedisStore, lost: tuple[str, ...]
) -> None:
    await put(store, "a", "b", commit_id="first")
    await put(store, "a", seed=1)
    await delete(store, "b")
    before = await store.head()
    backend.raw.delete(*(backend.name("default", part) for part in lost))
    after = await store.init(new_incarnation=True)
    assert (after.version, after.retention) == (3, layout.RETENTION)
    assert after.incarnation != before.incarnation
    assert (await store.read("a")).version == 2
    assert (await store.read("a", 1)).version == 1
    (summary,) = await store.namespaces()
    assert (summary.keys, summary.tombstones) == (1, 1)
    assert summary.stored_bytes == len(envelope("a"))
    assert [s.key for s in await listed(store.scan())] == ["a"]
    assert (await put(store, "a", "b", seed=2)).version == 4
    assert (await store.init()) == await store.head()


async def test_a_registered_namespace_of_which_nothing_is_left_is_damaged(
    backend: RedisBackend, store: RedisStore
) -> None:
    backend.raw.delete(backend.name("default", "head"))
    with pytest.raises(StoreDamaged):
        await store.init()
    assert (await store.init(new_incarnation=True)).version == 0
    assert (await put(store, "a")).version == 1


async def test_a_namespace_missing_in_the_registry_is_entered_again(
    backend: RedisBackend, store: RedisStore
) -> None:
    backend.raw.delete(layout.REGISTRY)
    assert await store.namespaces() == []
    await store.init()
    assert len(await store.namespaces()) == 1


async def test_a_head_that_is_not_what_was_written(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a")
    head = backend.name("default", "head")
    for field, value in (("version", "many"), ("seconds", "")):
        old = backend.raw.hget(head, field)
        backend.raw.hset(head, field, value)
        with pytest.raises(StoreDamaged):
            await store.read("a")
        backend.raw.hset(head, field, old)
    backend.raw.hdel(head, "floor")
    with pytest.raises(StoreDamaged):
        await store.head()


async def test_a_newer_layout_is_left_alone(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a")
    head = backend.name("default", "head")
    backend.raw.hset(head, mapping={"layout": 3, "least_writer": 3})
    assert (await store.read("a")).version == 1  # it may still be read
    writes = (
        put(store, "a"), delete(store, "a"), store.init(), store.commit_status("x", resolve=True),
        store.compact(), store.write_notes({"n": b"1"}),
    )  # fmt: skip
    for call in writes:
        with pytest.raises(SchemaMismatch, match="layout 3"):
            await call
    backend.raw.hset(head, "least_reader", 3)
    for read in (store.read("a"), store.head(), store.log(), listed(store.scan()), store.compact()):
        with pytest.raises(SchemaMismatch, match="layout 3"):
            await read


async def test_an_evicted_value_is_corrupt_and_can_be_replaced(
    backend: RedisBackend, store: RedisStore
) -> None:
    first = await put(store, "a", "b")
    backend.raw.delete(backend.name("default", "live:a"))
    for version in (None, 1):
        with pytest.raises(CorruptValue) as caught:
            await store.read("a", version)
        assert caught.value.facts["defect"] == "MissingBytes"
    snapshot = await store.read_many(["a", "b", "c"])
    assert (list(snapshot.entries), snapshot.absent, list(snapshot.corrupt)) == (["b"], ("c",), ["a"])
    assert [s.key for s in await listed(store.scan())] == ["a", "b"]
    assert isinstance((await store.stat_many(["a"])).stats["a"], Stat)
    await put(store, "a", seed=1, expected=first.version)
    assert (await store.read("a")).version == 2
    with pytest.raises(CorruptValue):
        await store.read("a", 1)
    await store.init(retention=Retention(1, 0.0, 0.0))
    await compact_fully(store)
    assert (await store.read("a")).version == 2


async def test_an_evicted_value_can_be_deleted(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a")
    backend.raw.delete(backend.name("default", "live:a"))
    await delete(store, "a", expected=1)
    with pytest.raises(KeyNotFound):
        await store.read("a")


async def test_a_key_without_its_history(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a", "b")
    backend.raw.delete(backend.name("default", "history:a"))
    with pytest.raises(CorruptValue):
        await store.read("a")
    for call in (put(store, "a"), listed(store.scan())):
        with pytest.raises(StoreDamaged, match="key"):
            await call
    backend.raw.delete(backend.name("default", "live:a"))
    with pytest.raises(CorruptValue):
        await store.read("a")
    assert (await store.read("b")).version == 1


@pytest.mark.parametrize("index", ["keys", "deleted"])
async def test_an_index_that_has_lost_keys_stops_writing(
    backend: RedisBackend, store: RedisStore, index: str
) -> None:
    await put(store, "a", "b")
    await delete(store, "b")
    backend.raw.delete(backend.name("default", index))
    with pytest.raises(StoreDamaged, match="index"):
        await put(store, "c")
    assert (await store.read("a")).version == 1
    assert (await store.head()).version == 2


async def test_a_lost_record_is_not_skipped_silently(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a", commit_id="first")
    backend.raw.delete(backend.name("default", "commit:first"))
    with pytest.raises(StoreDamaged, match="first"):
        await store.log()


async def test_a_log_that_is_ahead_of_the_head_stops_writing(
    backend: RedisBackend, store: RedisStore
) -> None:
    await put(store, "a")
    backend.raw.zadd(backend.name("default", "log"), {"foreign": 7})
    for attempt in (put(store, "a", seed=1), delete(store, "a", expected=1)):
        with pytest.raises(StoreDamaged, match="ahead"):
            await attempt
    assert (await store.read("a")).version == 1
    assert (await store.init(new_incarnation=True)).version == 1


# Foreign values under our names

PARTS = [*layout.PARTS, "delete_batches", "expiring_batches", "commit:next", "history:a", "live:a"]


@pytest.mark.parametrize("part", PARTS)
async def test_a_foreign_value_under_one_of_our_names_tears_nothing(
    backend: RedisBackend, store: RedisStore, part: str
) -> None:
    await put(store, "a", "b", commit_id="first")
    await delete(store, "b")
    name = backend.name("default", part)
    backend.raw.delete(name)
    backend.raw.lpush(name, "foreign")
    before = {key: backend.raw.dump(key) for key in backend.raw.scan_iter()}
    for n in (3, LARGE):
        with pytest.raises(StoreDamaged):
            await write(store, {k: envelope(k, 1, n=n) for k in ("a", "b")}, commit_id="next")
    assert {key: backend.raw.dump(key) for key in backend.raw.scan_iter()} == before
    for call in (
        store.head(), store.read("a"), store.read("a", 1), store.read_many(["a", "b"]), store.log(),
        store.stat_many(["a"]), listed(store.scan()), listed(store.scan(deleted=True)), store.history("a"),
        store.commit_status("next", resolve=True), store.compact(), store.init(), store.namespaces(),
    ):  # fmt: skip
        outcome = (await asyncio.gather(call, return_exceptions=True))[0]
        assert not isinstance(outcome, BaseException) or isinstance(outcome, StoreDamaged | CorruptValue)


async def test_a_foreign_value_of_another_type_is_corrupt(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a", "b")
    for foreign in ("lpush", "set"):
        backend.raw.delete(backend.name("default", "live:a"))
        getattr(backend.raw, foreign)(backend.name("default", "live:a"), "foreign")
        with pytest.raises(CorruptValue) as caught:
            await store.read("a")
        assert caught.value.facts["defect"] == {"lpush": "WrongType", "set": "WrongLength"}[foreign]
        snapshot = await store.read_many(["a", "b"])
        assert (list(snapshot.entries), list(snapshot.corrupt)) == (["b"], ["a"])


async def test_large_foreign_values_are_told_by_their_keys(
    backend: RedisBackend, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MGET would give all of them; what is more than a reply may take is not read."""
    monkeypatch.setattr(connection, "TALK_BYTES", 50_000)
    monkeypatch.setattr(connection, "PAYLOAD_BYTES", 20_000)
    monkeypatch.setattr(reading, "_WHOLE_BYTES", 10_000)
    values = await put(store, "a", "b", "c", "d")
    assert len((await store.read_many(values.keys)).entries) == 4
    for key in ("b", "c"):
        await backend.overwrite("default", key, 1, bytes(1 << 20))
    snapshot = await store.read_many(list(values.keys))
    assert (list(snapshot.entries), sorted(snapshot.corrupt)) == (["a", "d"], ["b", "c"])
    assert {each.facts["defect"] for each in snapshot.corrupt.values()} == {"WrongLength"}


async def test_many_are_read_without_the_right_to_mget(backend: RedisBackend, store: RedisStore) -> None:
    values = await put(store, "a", "b")
    backend.raw.acl_setuser("default", enabled=True, commands=["-mget"])
    try:
        assert list((await store.read_many(list(values.keys))).entries) == ["a", "b"]
        assert len(backend.raw.acl_log()) > 0
    finally:
        backend.raw.acl_setuser("default", enabled=True, commands=["+mget"])


async def test_a_foreign_registry(backend: RedisBackend, store: RedisStore) -> None:
    backend.raw.delete(layout.REGISTRY)
    backend.raw.set(layout.REGISTRY, "foreign")
    for call in (store.namespaces(), store.init()):
        with pytest.raises(StoreDamaged):
            await call
    assert (await put(store, "a")).version == 1
