"""Notes in Redis: what its servers add to the contract, and what may go wrong there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from somactl.errors import (
    NamespaceNotFound,
    OutcomeUnknown,
    SchemaMismatch,
    StoreDamaged,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
)
from somactl.store.contract import Note
from somactl.store.redis import RedisStore, notes
from store.redis_backend import RedisBackend, backend as backend, store as store

LARGE = bytes(200_000)
"""Data that are staged, and do not travel with their script."""


def leftovers(backend: RedisBackend) -> list[str]:
    return [*backend.names("default", "stage"), *backend.names("default", "trash")]


async def listed(store: RedisStore, prefix: str = "") -> list[Note]:
    return [note async for page in store.scan_notes(prefix) for note in page]


@pytest.mark.parametrize("size", [0, 1, 70_000, 9 << 20])
async def test_notes_of_all_sizes_come_back_and_leave_nothing_behind(
    backend: RedisBackend, store: RedisStore, size: int
) -> None:
    for seed in (b"x", b"y"):
        data = seed * size
        await store.write_notes({"a": data, "b/c": b"small"})
        found = await store.read_notes(["b/c", "a", "never"])
        assert list(found) == ["b/c", "a"]
        assert (found["a"].data, found["a"].size) == (data, size)
        assert backend.raw.ttl(backend.name("default", "note:a")) == -1
        assert leftovers(backend) == []
    assert await store.write_notes({"a": None, "b/c": None, "never": None}) == {"a": 0, "b/c": 0, "never": 0}
    assert [*backend.names("default", "note")] == [*leftovers(backend)] == []
    assert await listed(store) == []


async def test_a_conflict_writes_nothing_and_leaves_nothing_staged(
    backend: RedisBackend, store: RedisStore
) -> None:
    await store.write_notes({"a": b"1"})
    with pytest.raises(VersionConflict) as caught:
        await store.write_notes({"a": LARGE, "b": None, "c": LARGE}, {"a": 1, "d": 2})
    assert list(caught.value.conflicts) == ["d"]
    assert leftovers(backend) == []
    assert [(note.name, note.version) for note in await listed(store)] == [("a", 1)]


async def test_a_full_server_refuses_a_write_whole_and_lets_notes_be_deleted(
    backend: RedisBackend, store: RedisStore
) -> None:
    await store.write_notes({"a": b"1", "b": LARGE})
    backend.raw.config_set("maxmemory", 1)
    for changes in ({"a": b"2"}, {"b": None, "a": b"2"}, {"a": LARGE}):
        with pytest.raises(StoreFull):
            await store.write_notes(changes)
    assert {name: note.version for name, note in (await store.read_notes(["a", "b"])).items()} == {
        "a": 1, "b": 1,
    }  # fmt: skip
    assert await store.write_notes({"b": None}, {"b": 1}) == {"b": 0}
    assert leftovers(backend) == []


async def test_a_lost_reply_is_an_unknown_outcome_without_a_commit_id(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.head()
    (connection,) = store._link._pool._idle
    send = connection.send_packed_command

    async def deaf(command: Any, check_health: bool = True) -> None:
        await send(command, check_health)
        if any(notes.WRITE.digest.encode() in bytes(part) or notes.WRITE.source[:99] in bytes(part)
               for part in command):  # fmt: skip
            connection._reader.feed_eof()

    monkeypatch.setattr(connection, "send_packed_command", deaf)
    with pytest.raises(OutcomeUnknown, match="notes") as caught:
        await store.write_notes({"a": b"1"})
    assert caught.value.commit_id == ""
    assert "status" not in (caught.value.hint or "")


async def test_data_that_vanished_before_they_were_taken_are_told(
    backend: RedisBackend, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = store._link.ask

    async def slow(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        if commit_id is not None:
            for token in list(backend.names("default", "stage")):
                backend.raw.delete(backend.name("default", f"stage:{token}"))
        return await ask(*commands, commit_id=commit_id, **rest)

    monkeypatch.setattr(store._link, "ask", slow)
    with pytest.raises(StoreUnavailable, match="gone before"):
        await store.write_notes({"a": LARGE, "b": b"1"})
    assert await store.read_notes(["a", "b"]) == {}


@pytest.mark.parametrize("harm", ["lost", "other", "longer", "type"])
async def test_data_that_are_not_what_was_written_are_never_served(
    backend: RedisBackend, store: RedisStore, harm: str
) -> None:
    await store.write_notes({"a": LARGE, "b": b"1"})
    name = backend.name("default", "note:a")
    if harm == "other":
        backend.raw.setrange(name, 7, b"!")
    elif harm == "longer":
        backend.raw.append(name, b"!")
    else:
        backend.raw.delete(name)
        if harm == "type":
            backend.raw.lpush(name, "foreign")
    with pytest.raises(StoreDamaged):
        await store.read_notes(["a", "b"])
    assert list(await store.read_notes(["b"])) == ["b"]


@pytest.mark.parametrize("part", ["note:a", "noted", "notes", "head"])
async def test_a_foreign_value_tears_no_write(backend: RedisBackend, store: RedisStore, part: str) -> None:
    await store.write_notes({"a": b"1", "b": b"1"})
    name = backend.name("default", part)
    backend.raw.delete(name)
    backend.raw.lpush(name, "foreign")
    before = {key: backend.raw.dump(key) for key in backend.raw.scan_iter()}
    for data in (b"2", None, LARGE):
        with pytest.raises(StoreDamaged):
            await store.write_notes({"b": data, "a": data})
    assert {key: backend.raw.dump(key) for key in backend.raw.scan_iter()} == before


async def test_large_notes_are_read_as_of_one_moment(backend: RedisBackend, store: RedisStore) -> None:
    writer = backend.open()

    async def write() -> None:
        for turn in range(20):
            await writer.write_notes(dict.fromkeys("ab", b"%03d" % turn * 200_000))
            await asyncio.sleep(0.01)

    await writer.write_notes(dict.fromkeys("ab", b"---"))
    writing = asyncio.create_task(write())
    seen = set()
    while not writing.done():
        found = await store.read_notes(["a", "b"])
        assert found["a"].data == found["b"].data
        assert found["a"].version == found["b"].version
        seen.add(found["a"].version)
    assert len(seen) > 3
    await writer.close()


async def test_a_namespace_that_has_nothing_but_notes_is_damaged_without_its_head(
    backend: RedisBackend, store: RedisStore
) -> None:
    await store.write_notes({"a": b"1"})
    backend.raw.delete(backend.name("default", "head"), "somactl:namespaces")
    for call in (store.read_notes(["a"]), store.write_notes({"a": b"2"}), listed(store), store.clock(),
                 store.summary()):  # fmt: skip
        with pytest.raises(StoreDamaged):
            await call
    await store.init(new_incarnation=True)
    assert (await store.read_notes(["a"]))["a"].data == b"1"


async def test_notes_stay_away_from_a_namespace_that_is_not_there_or_newer(
    backend: RedisBackend, store: RedisStore
) -> None:
    other = backend.open("elsewhere")
    for call in (other.read_notes(["a"]), other.write_notes({"a": b"1"}), listed(other), other.clock(),
                 other.summary()):  # fmt: skip
        with pytest.raises(NamespaceNotFound):
            await call
    await other.close()
    backend.raw.hset(backend.name("default", "head"), mapping={"layout": 9, "least_writer": 9})
    with pytest.raises(SchemaMismatch, match="layout 9"):
        await store.write_notes({"a": b"1"})
    assert await store.read_notes(["a"]) == {}
