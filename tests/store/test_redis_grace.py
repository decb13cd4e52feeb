"""Deleted keys in Redis: where their bytes lie, when these expire, and what another release makes of it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from somactl.errors import (
    CorruptValue,
    KeyNotFound,
    SchemaMismatch,
    StoreDamaged,
    StoreFull,
    VersionCompacted,
    VersionConflict,
)
from somactl.store.contract import CommitMetadata, Compaction, Retention
from somactl.store.redis import RedisStore, writing
from somactl.store.redis.pool import Call
from somactl.testing.values import (
    commit_id_of_age,
    compact_fully,
    delete,
    envelope,
    fresh_id,
    listed,
    prune,
    put,
    write,
)
from store.redis_backend import RedisBackend, backend as backend, store as store

LARGE = 300
_TOKEN = re.compile("[0-9a-f]{16}")


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that commits, and ends before it has told the server when the bytes expire."""

    async def never(*arguments: object) -> None:
        pass

    monkeypatch.setattr(writing, "_let_lapse", never)


def seconds_left(backend: RedisBackend, rest: str) -> float:
    """How long a name lives; -1 for ever, -2 where it is not there."""
    left: int = backend.raw.pttl(backend.name("default", rest))
    return left / 1000 if left > 0 else left


# When the bytes go


async def test_the_hidden_bytes_expire_when_the_grace_is_over(
    backend: RedisBackend, store: RedisStore
) -> None:
    await write(
        store,
        {
            "large": envelope("large", n=LARGE),
            "small": envelope("small"),
            "kept": envelope("kept"),
        },
    )
    await prune(store, "large", "small", grace=1000.0)
    await prune(store, "kept", "never", grace=0.0)
    for key in ("large", "small"):
        assert 990 < seconds_left(backend, f"live:{key}") <= 1000
    assert 50 < seconds_left(backend, "live:kept") <= 60  # `compact` may free it before
    await backend.age("default", 1001.0)
    for key in ("large", "small", "kept"):
        assert seconds_left(backend, f"live:{key}") == -2
        with pytest.raises(VersionCompacted):
            await store.read(key, 1)
        assert [r.compacted for r in await store.history(key)] == [False, True]


@pytest.mark.usefixtures("dies")
async def test_a_client_that_died_behind_its_commit_changes_nothing_but_when_memory_is_free(
    backend: RedisBackend, store: RedisStore
) -> None:
    await put(store, "a", "b")
    await prune(store, "a", "b", grace=100.0)
    assert bytes((await store.read("a", 1)).data) == envelope("a")
    await backend.age("default", 101.0)
    assert seconds_left(backend, "live:a") == -1
    with pytest.raises(VersionCompacted):
        await store.read("a", 1)
    assert [r.compacted for r in await store.history("a")] == [False, True]
    await put(store, "b", seed=1)
    assert await store.compact(past_grace=True) == Compaction(
        revisions=1, tombstones=1, records=1, bytes_freed=len(envelope("a"))
    )
    assert seconds_left(backend, "live:a") == -2


@pytest.mark.usefixtures("dies")
async def test_a_value_put_over_a_lapsed_one_does_not_bring_it_back(
    backend: RedisBackend, store: RedisStore
) -> None:
    await put(store, "a")
    await prune(store, "a", grace=100.0)
    await backend.age("default", 101.0)
    await put(store, "a", seed=1)
    with pytest.raises(VersionCompacted):
        await store.read("a", 1)
    (old,) = backend.names("default", "old")
    assert 50 < seconds_left(backend, f"old:{old}") <= 60
    assert seconds_left(backend, "live:a") == -1
    assert [(r.version, r.compacted) for r in await store.history("a")] == [(3, False), (2, False), (1, True)]


async def test_a_replay_does_what_the_first_attempt_could_not(
    backend: RedisBackend, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, "a")
    lapse = writing._let_lapse

    async def never(*arguments: object) -> None:
        pass

    monkeypatch.setattr(writing, "_let_lapse", never)
    await prune(store, "a", grace=1000.0, commit_id="order")
    monkeypatch.setattr(writing, "_let_lapse", lapse)
    assert (await prune(store, "a", grace=5000.0, commit_id="order")).replayed
    assert 990 < seconds_left(backend, "live:a") <= 1000


async def test_a_value_that_came_back_in_time_keeps_its_past(
    backend: RedisBackend, store: RedisStore
) -> None:
    await put(store, "a")
    receipt = await prune(store, "a", grace=100.0)
    await put(store, "a", seed=1)
    (old,) = backend.names("default", "old")
    assert seconds_left(backend, f"old:{old}") == seconds_left(backend, "live:a") == -1
    await writing._let_lapse(store._reader, receipt, 100.0)  # late
    assert seconds_left(backend, "live:a") == -1
    await backend.age("default", 200.0)
    assert bytes((await store.read("a", 1)).data) == envelope("a")
    assert (await store.read("a")).version == 3


async def test_a_late_expiry_spares_a_key_that_was_deleted_again(
    backend: RedisBackend, store: RedisStore
) -> None:
    await put(store, "a", "plain")
    await delete(store, "plain")
    receipt = await prune(store, "a", "plain", grace=100.0)
    assert receipt.noops == ("plain",)
    assert seconds_left(backend, "live:plain") == -1
    await put(store, "a", seed=1)
    await delete(store, "a")
    await writing._let_lapse(store._reader, receipt, 100.0)
    assert seconds_left(backend, "live:a") == -1


async def test_bytes_that_are_missing_before_their_time_are_corrupt(
    backend: RedisBackend, store: RedisStore
) -> None:
    await put(store, "a", "b")
    await prune(store, "a", "b", grace=100.0)
    backend.raw.delete(backend.name("default", "live:a"), backend.name("default", "live:b"))
    await put(store, "b", seed=1)
    for key in ("a", "b"):
        with pytest.raises(CorruptValue) as caught:
            await store.read(key, 1)
        assert caught.value.facts["defect"] == "MissingBytes"
    await backend.age("default", 101.0)
    with pytest.raises(VersionCompacted):
        await store.read("a", 1)


async def test_nothing_is_left_of_many_keys_past_their_grace(
    backend: RedisBackend, store: RedisStore
) -> None:
    keys = [f"k{i:04}" for i in range(700)]
    await write(store, {key: envelope(key, n=1) for key in keys})
    await prune(store, *keys[:600], grace=0.0)
    await delete(store, *keys[600:])
    assert {seconds_left(backend, f"live:{key}") for key in keys[600:]} == {-1}
    revisions, tombstones, *_ = await compact_fully(store, 77, past_grace=True)
    assert (revisions, tombstones) == (600, 600)
    assert len([*backend.names("default", "delete_batch")]) == 1
    await store.init(retention=Retention(1, 0.0, 0.0))
    assert (await compact_fully(store, 90))[:2] == (100, 100)
    assert await store.compact() == Compaction()
    left = {name.decode().split(":", 2)[2] for name in backend.raw.scan_iter("somactl:{default}:*")}
    assert left == {"head"}
    summary = await store.summary()
    assert (summary.keys, summary.tombstones, summary.stored_bytes) == (0, 0, 0)


# The script for many deletes


def state(backend: RedisBackend) -> dict[str, Any]:
    """Everything in the database, without times and random parts."""
    found: dict[str, Any] = {}
    for name in map(bytes.decode, backend.raw.scan_iter("somactl:{default}:*")):
        kind = backend.raw.type(name)
        if kind == b"string":
            same = found.setdefault(_TOKEN.sub("", name), set())
            same.add((backend.raw.get(name), backend.raw.ttl(name) > 0))
        elif kind == b"hash":
            hidden = (b"at", b"created_at", b"incarnation")
            found[name] = {k: v for k, v in backend.raw.hgetall(name).items() if k not in hidden}
        elif kind == b"list":
            found[name.split(":")[2]] = backend.raw.lrange(name, 0, -1)
        elif kind == b"zset":
            rows = backend.raw.zrange(name, 0, -1, withscores=True)
            timed = name.rpartition(":")[2] in (
                "delete_batches",
                "expiring_batches",
                "records",
                "superseded",
                "bodiless",
            )
            found[name] = [(_plain(member), timed or score) for member, score in rows]
        else:
            found[name] = [event_id for event_id, _ in backend.raw.xrange(name)]
    return found


def _plain(member: bytes) -> bytes:
    first, newline, rest = member.partition(b"\n")
    if not newline:
        return first.split(b" ")[0] if first[:1].isdigit() else first
    words = first.split(b" ")
    where = b"old" if len(words[-1]) == 16 else words[-1]
    return b" ".join([words[0], where, rest.partition(b',"until"')[0]])


@pytest.mark.parametrize("grace", [None, 0.0, 5000.0])
@pytest.mark.parametrize("expected", [None, 3, {"k01": 3, "k39": 3}])
async def test_both_scripts_leave_the_same_behind(
    backend: RedisBackend,
    store: RedisStore,
    monkeypatch: pytest.MonkeyPatch,
    grace: float | None,
    expected: Any,
) -> None:
    keys = [f"k{i:02}" for i in range(40)]
    metadata = CommitMetadata({"by": "test"}, grace=grace, idempotency_key="order")
    asked: list[str] = []
    ask = store._link.ask

    async def note(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        asked.extend(
            each.script.name for each in commands if isinstance(each, Call) and commit_id is not None
        )
        return await ask(*commands, commit_id=commit_id, **rest)

    monkeypatch.setattr(store._link, "ask", note)
    plain = writing._is_plain_delete
    states, receipts = [], []
    for choose in (plain, lambda request: False):
        monkeypatch.setattr(writing, "_is_plain_delete", choose)
        await put(store, *keys, commit_id="one")
        await put(store, *keys[:20], seed=1, commit_id="two")
        await put(store, *keys[:5], *keys[20:], keys[7], seed=2, commit_id="three")
        await put(store, *keys[5:20], "stays", seed=3, commit_id="four")
        some = keys if expected is None else [*keys[:5], *keys[20:]]
        receipt = await store.commit_matrix_update(
            dict.fromkeys(some), metadata, expected, commit_id="delete"
        )
        states.append(state(backend))
        receipts.append((receipt.version, receipt.keys, receipt.noops))
        assert {s.key for s in await listed(store.scan(deleted=True))} == set(some)
        assert (await store.summary()).keys == 41 - len(some)
        backend.raw.flushdb()
        await store.init()
    assert asked.count("delete") == 1
    assert asked.count("commit") == 4 + 4 + 1
    assert states[0] == states[1]
    assert receipts[0] == receipts[1]


async def test_what_is_not_plain_is_left_to_the_other_script(
    backend: RedisBackend, store: RedisStore
) -> None:
    await put(store, "a", "b", "c", commit_id="first")
    await delete(store, "c")
    with pytest.raises(VersionConflict) as caught:
        await delete(store, "a", "b", expected={"a": 1, "b": 7})
    assert list(caught.value.conflicts) == ["b"]
    assert caught.value.conflicts["b"]["found"]["version"] == 1
    with pytest.raises(VersionConflict):
        await delete(store, "a", "c", expected=1)
    assert (await delete(store, "b", "c", "never", expected={"b": 1})).noops == ("c", "never")
    backend.raw.delete(backend.name("default", "live:a"))
    await delete(store, "a", expected=1)
    for commit_id, error in (("first", "CommitIdReused"), (commit_id_of_age(1e8), "CommitExpired")):
        (outcome,) = await asyncio.gather(
            write(store, {"a": None}, commit_id=commit_id), return_exceptions=True
        )
        assert type(outcome).__name__ == error
    assert (await store.head()).version == 4


async def test_a_full_server_refuses_many_deletes_whole(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a", "b")
    before = state(backend)
    backend.raw.config_set("maxmemory", 1)
    with pytest.raises(StoreFull):
        await prune(store, "a", "b", grace=10.0)
    backend.raw.config_set("maxmemory", 0)
    assert state(backend) == before
    assert (await delete(store, "a", "b", expected=1)).version == 2


@pytest.mark.parametrize(
    "part", ["keys", "deleted", "log", "records", "delete_batches", "expiring_batches", "history:b"]
)
async def test_a_foreign_value_tears_no_delete(backend: RedisBackend, store: RedisStore, part: str) -> None:
    await put(store, "a", "b")
    name = backend.name("default", part)
    backend.raw.delete(name)
    backend.raw.lpush(name, "foreign")
    before = {key: backend.raw.dump(key) for key in backend.raw.scan_iter()}
    with pytest.raises(StoreDamaged):
        await prune(store, "a", "b", grace=10.0)
    assert {key: backend.raw.dump(key) for key in backend.raw.scan_iter()} == before


async def test_many_deletes_race_with_writers_and_never_lose_the_newer_value(
    backend: RedisBackend, store: RedisStore
) -> None:
    keys = [f"k{i}" for i in range(30)]
    await put(store, *keys)
    writers = [backend.open() for _ in range(3)]

    async def overwrite(writer: RedisStore, seed: int) -> None:
        for key in keys[seed::4]:
            await put(writer, key, seed=seed)

    async def prune_as_of(versions: dict[str, int]) -> Any:
        return await store.commit_matrix_update(
            dict.fromkeys(versions), CommitMetadata(grace=100.0), versions, commit_id=fresh_id()
        )

    async def versions() -> dict[str, int]:
        return {key: stat.version for key, stat in (await store.stat_many(keys)).stats.items()}

    before = await versions()
    pruned, *written = await asyncio.gather(
        prune_as_of(before),
        *(overwrite(writer, seed) for seed, writer in enumerate(writers)),
        return_exceptions=True,
    )
    assert isinstance(pruned, VersionConflict) or pruned.version == 2  # behind a write, or before them all
    assert written == [None, None, None]
    for seed in range(3):
        for key in keys[seed::4]:
            assert bytes((await store.read(key)).data) == envelope(key, seed)
    left = await versions()
    assert len((await prune_as_of(left)).keys) == len(left) >= 23
    with pytest.raises(KeyNotFound):
        await store.read("k0")
    for writer in writers:
        await writer.close()


async def test_a_head_made_anew_still_hides_what_a_grace_keeps(
    backend: RedisBackend, store: RedisStore
) -> None:
    await put(store, "a", "b")
    await prune(store, "a", grace=100.0)
    backend.raw.delete(backend.name("default", "head"))
    await store.init(new_incarnation=True)
    assert bytes((await store.read("a", 1)).data) == envelope("a")
    summary = await store.summary()
    assert (summary.keys, summary.tombstones) == (1, 1)


async def test_a_layout_of_the_future_is_not_compacted(backend: RedisBackend, store: RedisStore) -> None:
    backend.raw.hset(backend.name("default", "head"), mapping={"layout": 2, "least_writer": 2})
    with pytest.raises(SchemaMismatch):
        await store.compact()
    assert await store.compact(dry_run=True) == Compaction()
