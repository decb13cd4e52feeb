"""Compaction where the clock was set back, and beside other writers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from somactl.errors import KeyNotFound, VersionCompacted
from somactl.store.contract import Retention, Store
from somactl.store.sqlite import SqliteStore, compaction
from somactl.testing.values import compact_fully, delete, envelope, event_versions, listed, prune, put


@pytest.fixture
def backend(make_backend: Callable[[], Any]) -> Any:
    return make_backend()


async def test_a_clock_set_back_makes_no_deleted_value_shine_through(backend: Any) -> None:
    """The tombstone between two lives is removed before the value that it hides."""
    store: Store = backend.open()
    await store.init(retention=Retention(10, 1000.0, 5000.0))
    await put(store, "a")
    await delete(store, "a")
    await put(store, "a", seed=1)
    with backend.raw() as connection:
        connection.execute("UPDATE revision SET superseded_at = superseded_at - 9000 WHERE version = 2")
    assert (await compact_fully(store))[2] == 1
    assert bytes((await store.read("a", 1)).data) == envelope("a")
    with pytest.raises(VersionCompacted):
        await store.read("a", 2)
    await store.close()


async def test_a_tombstone_waits_for_the_older_entries_of_its_key(backend: Any) -> None:
    store: Store = backend.open()
    await store.init(retention=Retention(10, 1000.0, 5000.0))
    await put(store, "a")
    await delete(store, "a")
    with backend.raw() as connection:
        connection.execute("UPDATE revision SET committed_at = committed_at - 9000 WHERE version = 2")
    await compact_fully(store, limit=1)
    assert [r.version for r in await store.history("a")] == [2, 1]
    with pytest.raises(KeyNotFound):
        await store.read("a")
    await backend.age("default", 2000)
    await compact_fully(store)
    with pytest.raises(KeyNotFound):
        await store.history("a")
    await store.close()


async def test_a_key_that_comes_back_between_finding_and_removing_stays(backend: Any) -> None:
    store: SqliteStore = backend.open()
    await store.init(retention=Retention(10, 1000.0, 5000.0))
    await put(store, "a")
    await delete(store, "a")
    await backend.age("default", 2000)
    found = await store._reader.run(lambda c: compaction.candidates(c, "default", None))
    assert (len(found.values), len(found.tombstones)) == (1, 1)
    await put(store, "a", seed=1)
    await store._writer.run(lambda c: compaction.remove(c, found))
    assert bytes((await store.read("a")).data) == envelope("a", 1)
    assert [r.version for r in await store.history("a")] == [3, 2]
    for version in (1, 2):
        with pytest.raises((VersionCompacted, KeyNotFound)):
            await store.read("a", version)
    await store.close()


async def test_two_who_found_the_same_remove_nothing_that_took_its_place(backend: Any) -> None:
    """SQLite gives a row the number of the last one that was removed: the second to remove must see that."""
    store: SqliteStore = backend.open()
    await store.init(retention=Retention(10, 1000.0, 1000.0))
    await put(store, "a", commit_id="old")
    await delete(store, "a")
    await backend.age("default", 2000)
    found = await store._reader.run(lambda c: compaction.candidates(c, "default", None))
    assert (len(found.values), len(found.entries), len(found.tombstones), len(found.records)) == (1, 1, 1, 2)
    await store._writer.run(lambda c: compaction.remove(c, found))
    await put(store, "b", commit_id="new")
    await put(store, "b", seed=1, commit_id="newer")
    ids = backend.rows("SELECT id FROM revision UNION SELECT rowid FROM commit_record")
    assert {row for row, _ in found.values} & {row for (row,) in ids}, "no row has taken the place of another"
    await store._writer.run(lambda c: compaction.remove(c, found))
    assert await backend.stored("default") == {("b", 3), ("b", 4)}
    assert bytes((await store.read("b", 3)).data) == envelope("b")
    assert [record.commit_id for record in await store.log()] == ["newer", "new"]
    await store.close()


async def test_a_key_pruned_again_between_finding_and_removing_keeps_its_new_grace(backend: Any) -> None:
    store: SqliteStore = backend.open()
    await put(store, "a")
    await prune(store, "a", grace=0.0)
    found = await store._reader.run(lambda c: compaction.candidates(c, "default", None, past_grace=True))
    await put(store, "a", seed=1)
    await prune(store, "a", grace=500.0)
    await store._writer.run(lambda c: compaction.remove(c, found))
    assert bytes((await store.read("a", 3)).data) == envelope("a", 1)
    (stat,) = await listed(store.scan(deleted=True))
    assert stat.version == 4
    assert backend.rows("SELECT count(*) FROM grace") == [(1,)]
    await store.close()


async def test_a_grace_leaves_no_row_behind(backend: Any) -> None:
    """Neither a key that comes back nor one that is forgotten."""
    store: Store = backend.open()
    await put(store, "back", "gone", "waiting")
    await prune(store, "back", "gone", grace=0.0)
    await prune(store, "waiting", grace=500.0)
    await put(store, "back")
    await compact_fully(store)
    assert backend.rows("SELECT key FROM grace JOIN revision USING (id)") == [("waiting",)]
    await store.close()


async def test_what_a_call_looks_at_does_not_grow_with_what_others_have_left_half_done(backend: Any) -> None:
    """Counted in instructions of SQLite's machine: for the last keys no more than for the first."""
    store: SqliteStore = backend.open()
    await store.init()
    keys = [f"k{number:04}" for number in range(1000)]
    await put(store, *keys)
    await prune(store, *keys, grace=0.0)
    work: list[int] = []
    more = True
    while more:
        with backend.raw() as connection:
            work.append(_steps_to_find(connection))
        more = (await store.compact(limit=50, past_grace=True)).more
    assert len(work) > 50
    assert max(work) < 3 * work[0]
    assert await listed(store.scan(deleted=True)) == []
    await store.close()


def _steps_to_find(connection: sqlite3.Connection) -> int:
    """How many hundreds of instructions it takes to find the next fifty removals."""
    steps: list[int] = []
    connection.row_factory = sqlite3.Row
    connection.set_progress_handler(lambda: steps.append(1), 100)
    compaction.candidates(connection, "default", 50, past_grace=True)
    connection.set_progress_handler(None, 0)
    return len(steps)


async def test_events_that_begin_to_wait_between_finding_and_removing_stay(backend: Any) -> None:
    store: SqliteStore = backend.open()
    await store.init(retention=Retention(1, 0.0, 0.0))
    for seed in range(4):
        await put(store, "a", seed=seed)
    found = await store._reader.run(lambda c: compaction.candidates(c, "default", None))
    assert found.summary().events == 4
    await store.mark_published(1)
    done = await store._writer.run(lambda c: compaction.remove(c, found))
    assert (done.events, done.dropped) == (1, 0)
    assert await event_versions(store) == [2, 3, 4]
    await store.close()
