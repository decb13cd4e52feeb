"""Compaction where the clock was set back, and beside others who write and compact."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from somactl.errors import KeyNotFound, VersionCompacted
from somactl.store.contract import Receipt, Retention
from somactl.store.postgres import PostgresStore, compaction, failures
from somactl.store.postgres.session import Session
from somactl.testing.values import compact_fully, delete, envelope, event_versions, put
from store.postgres_backend import (
    Opener,
    PostgresBackend,
    backend as backend,
    opener as opener,
    store as store,
)

KEEP = Retention(10, 1000.0, 5000.0)


async def test_a_clock_set_back_makes_no_deleted_value_shine_through(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    """The tombstone between two lives is removed before the value that it hides."""
    await store.init(retention=KEEP)
    await put(store, "a")
    await delete(store, "a")
    await put(store, "a", seed=1)
    await backend.rows("UPDATE somactl.revision SET superseded_at = superseded_at - 9000 WHERE version = 2")
    assert (await compact_fully(store))[2] == 1
    assert bytes((await store.read("a", 1)).data) == envelope("a")
    with pytest.raises(VersionCompacted):
        await store.read("a", 2)


async def test_a_tombstone_waits_for_the_older_entries_of_its_key(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    await store.init(retention=KEEP)
    await put(store, "a")
    await delete(store, "a")
    await backend.rows("UPDATE somactl.revision SET committed_at = committed_at - 9000 WHERE version = 2")
    await compact_fully(store, limit=1)
    assert [r.version for r in await store.history("a")] == [2, 1]
    with pytest.raises(KeyNotFound):
        await store.read("a")
    await backend.age("default", 2000)
    await compact_fully(store)
    with pytest.raises(KeyNotFound):
        await store.history("a")


async def test_what_changes_between_finding_and_removing(
    backend: PostgresBackend, opener: Opener, store: PostgresStore
) -> None:
    """A key that comes back stays, and so does the tombstone of one whose older entry is still there."""
    await store.init(retention=KEEP)
    await put(store, "a", "b")
    await delete(store, "a", "b")
    await backend.age("default", 2000)
    async with store._connections.lease() as session:
        found = await compaction.candidates(session, "default", 500)
        assert [len(ids) for ids in found.ids.values() if ids] == [2, 2, 2]
        found.ids["removable_entries"].pop()  # as if it had been too many
        await put(opener(), "a", seed=1)
        done = await compaction.remove(session, "default", found)
    assert (done.revisions, done.records, done.tombstones) == (2, 1, 0)
    assert bytes((await store.read("a")).data) == envelope("a", 1)
    for version in (1, 2):
        with pytest.raises((VersionCompacted, KeyNotFound)):
            await store.read("a", version)
    with pytest.raises(KeyNotFound):
        await store.read("b")
    assert (await compact_fully(store))[2] == 1


async def test_two_who_compact_take_turns(backend: PostgresBackend, opener: Opener) -> None:
    """Together they remove what was to be removed, and each tells what it was that removed."""
    stores = [opener(), opener()]
    await stores[0].init(retention=Retention(1, 0.0, 0.0))
    for number in range(12):
        await put(stores[0], "a", "b", seed=number)
    plan = await stores[0].compact(dry_run=True)
    done = await asyncio.gather(*(compact_fully(store, 5) for store in stores))
    assert sum(revisions for revisions, *_ in done) == plan.revisions == 22
    assert sum(freed for *_, freed in done) == plan.bytes_freed
    assert await backend.stored("default") == {("a", 12), ("b", 12)}


async def test_a_commit_beside_a_compaction_waits_and_does_not_clash(
    backend: PostgresBackend, opener: Opener, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit brings a key back whose tombstone is being removed."""
    await store.init(retention=KEEP)
    await put(store, "a")
    await delete(store, "a")
    await backend.age("default", 6000)
    other = opener()
    await other.head()
    commits: list[asyncio.Task[Receipt]] = []
    states: list[str] = []
    rows, sqlstate = Session.rows, failures.sqlstate

    async def interrupted(session: Session, name: str, *arguments: object, **options: Any) -> Any:
        if name == "delete_records":  # the tombstone is gone, and nothing is committed yet
            commits.append(asyncio.create_task(put(other, "a", seed=1)))
            await backend.until_one_waits_for_a_lock()
        return await rows(session, name, *arguments, **options)

    def noted(exc: BaseException) -> str:
        states.append(sqlstate(exc))
        return states[-1]

    monkeypatch.setattr(Session, "rows", interrupted)
    monkeypatch.setattr(failures, "sqlstate", noted)
    assert (await store.compact()).tombstones == 1
    assert (await commits[0]).version == 3
    assert states == []  # one of the two would have been undone
    assert [r.version for r in await store.history("a")] == [3]


async def test_large_deletions_do_not_hold_the_lock(
    backend: PostgresBackend, opener: Opener, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.init(retention=Retention(1, 0.0, 0.0))
    for number in range(3):
        await put(store, "a", seed=number)
    other = opener(timeout=5.0)
    rows = Session.rows

    async def interrupted(session: Session, name: str, *arguments: object, **options: Any) -> Any:
        found = await rows(session, name, *arguments, **options)
        if name == "delete_entries":
            assert (await put(other, "a", seed=9)).version == 4
        return found

    monkeypatch.setattr(Session, "rows", interrupted)
    assert (await store.compact()).revisions == 2
    assert (await store.read("a")).version == 4


async def test_events_that_begin_to_wait_between_finding_and_removing_stay(store: PostgresStore) -> None:
    await store.init(retention=Retention(1, 0.0, 0.0))
    for seed in range(4):
        await put(store, "a", seed=seed)
    async with store._connections.lease(write=True) as session:
        found = await compaction.candidates(session, "default", 500)
        assert len(found.ids["expired_records"]) == 4
        await store.mark_published(1)
        done = await compaction.remove(session, "default", found)
    assert (done.events, done.dropped) == (1, 0)
    assert await event_versions(store) == [2, 3, 4]
