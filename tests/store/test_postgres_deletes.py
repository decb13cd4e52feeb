"""Commits that delete many keys: one statement, whatever is expected of them, and no payload is touched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from somactl.errors import VersionConflict
from somactl.store.contract import CommitMetadata, Receipt
from somactl.store.postgres import PostgresStore
from somactl.store.postgres.session import Session
from somactl.testing.values import envelope, listed, put, write
from store.postgres_backend import (
    Opener,
    PostgresBackend,
    backend as backend,
    opener as opener,
    store as store,
    until,
)

MANY = 10_000


async def fill(backend: PostgresBackend, store: PostgresStore, count: int) -> list[str]:
    """One real value, and as many keys like it as asked for, written at versions that differ."""
    await put(store, "key-0")
    await backend.rows(
        "WITH copied AS (INSERT INTO somactl.revision (id, namespace, key, version, commit_id, "
        "committed_at, size, content, envelope, kind, dtype, shape, layout) "
        "SELECT nextval('somactl.revision_id'), namespace, 'key-' || i, 1 + i % 7, commit_id, "
        "committed_at, size, content, envelope, kind, dtype, shape, layout "
        "FROM somactl.revision, generate_series(1, $1::int - 1) AS i RETURNING id) "
        "INSERT INTO somactl.payload SELECT copied.id, data FROM copied, somactl.payload",
        count,
    )
    await backend.rows("UPDATE somactl.namespace SET version = 7")
    return [f"key-{number * 7919 % count}" for number in range(count)]  # neighbours stand far apart


async def prune(store: PostgresStore, expected: Mapping[str, int], commit_id: str = "order") -> Receipt:
    return await store.commit_matrix_update(
        dict.fromkeys(expected), CommitMetadata(grace=60.0), expected, commit_id=commit_id
    )


async def versions(store: PostgresStore, keys: list[str]) -> dict[str, int]:
    stats = await store.stat_many(keys)
    assert not stats.absent
    return {key: stats.stats[key].version for key in keys}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that were sent, by name."""
    names: list[str] = []
    rows = Session.rows

    async def noted(session: Session, name: str, *arguments: object, **options: Any) -> Any:
        names.append(name)
        return await rows(session, name, *arguments, **options)

    monkeypatch.setattr(Session, "rows", noted)
    return names


async def test_ten_thousand_keys_go_in_one_statement(
    backend: PostgresBackend, store: PostgresStore, asked: list[str]
) -> None:
    keys = await fill(backend, store, MANY)
    expected = await versions(store, keys)
    before = await backend.rows("SELECT xmin::text, id FROM somactl.payload ORDER BY id")
    asked.clear()
    receipt = await prune(store, expected)
    assert asked == ["commit"]
    assert (receipt.version, receipt.noops, list(receipt.keys)) == (8, (), keys)
    assert (await store.stat_many(keys)).absent == tuple(keys)
    deleted = await listed(store.scan(deleted=True))
    assert [stat.key for stat in deleted] == sorted(keys)
    assert {stat.version for stat in deleted} == {8}
    until_when = {(stat.recoverable_until or 0.0) - receipt.committed_at for stat in deleted}
    assert max(until_when) == pytest.approx(60.0, abs=1e-3)
    assert await backend.rows("SELECT xmin::text, id FROM somactl.payload ORDER BY id") == before
    superseded = await backend.rows(
        "SELECT DISTINCT superseded_version, superseded_at FROM somactl.revision WHERE content IS NOT NULL"
    )
    assert [tuple(row) for row in superseded] == [(8, receipt.committed_at)]


async def test_ten_thousand_keys_come_again(
    backend: PostgresBackend, store: PostgresStore, asked: list[str]
) -> None:
    """A replay looks the record up once, not once for each key: it names all of them."""
    expected = await versions(store, await fill(backend, store, MANY))
    first = await prune(store, expected)
    asked.clear()
    again = await prune(store, expected)
    assert (again.replayed, again.version, again.keys) == (True, first.version, first.keys)
    assert asked == ["commit", "standing"]
    async with store._connections.lease() as session:
        rows = await session.rows("standing", "default", "order", list(expected))
    assert len(rows) == 1
    assert rows[0]["found_keys"] is None


async def test_each_key_that_moved_is_named(
    backend: PostgresBackend, store: PostgresStore, asked: list[str]
) -> None:
    keys = await fill(backend, store, 500)
    expected = await versions(store, keys)
    await put(store, "key-17", seed=1)
    await write(store, {"key-250": None})
    asked.clear()
    with pytest.raises(VersionConflict) as caught:
        await prune(store, {**expected, "never": 3})
    assert asked == ["commit", "standing"]
    conflicts = caught.value.conflicts
    assert {key: facts["found"]["version"] for key, facts in conflicts.items()} == {
        "key-17": 8,
        "key-250": 0,
        "never": 0,
    }
    assert conflicts["key-250"]["found"]["deleted_since"] == 9
    assert {key: facts["expected"] for key, facts in conflicts.items()} == {
        "key-17": {"version": expected["key-17"]},
        "key-250": {"version": expected["key-250"]},
        "never": {"version": 3},
    }
    assert (await store.head()).version == 9
    assert len([s async for page in store.scan(deleted=True) for s in page]) == 1
    assert (await store.commit_status("order")).state == "unseen"


async def test_keys_that_are_absent_are_noops_in_the_order_of_the_request(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    await put(store, "m")
    await put(store, "gone")
    await write(store, {"gone": None})
    updates = {"z": None, "m": None, "gone": None, "a": None, "new": envelope("new")}
    receipt = await write(store, updates, expected={"z": 0, "m": 1, "gone": 0}, commit_id="mixed")
    assert receipt.noops == ("z", "gone", "a")
    assert list(receipt.keys) == list(updates)
    replayed = await write(store, updates, expected={"z": 0, "m": 1, "gone": 0}, commit_id="mixed")
    assert (replayed.replayed, replayed.noops) == (True, receipt.noops)
    assert (await store.read("new")).version == 4
    for key, history in {"m": [4, 1], "gone": [3, 2], "new": [4]}.items():
        assert [r.version for r in await store.history(key)] == history


async def test_of_two_who_delete_the_same_keys_one_does(
    backend: PostgresBackend, opener: Opener, store: PostgresStore
) -> None:
    """In opposite orders: the lock comes first, so that neither waits for a row of the other's."""
    keys = await fill(backend, store, 2000)
    expected = await versions(store, keys)
    backwards = dict(reversed(expected.items()))
    done = await asyncio.gather(
        *(
            prune(opener(), order, f"order-{number}")
            for number, order in enumerate([expected, backwards, expected, backwards])
        ),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in done) == ["Receipt"] + ["VersionConflict"] * 3
    assert all(len(r.conflicts) == 2000 for r in done if isinstance(r, VersionConflict))
    assert (await store.head()).version == 8


async def test_a_newer_write_beside_a_prune_is_never_lost(
    backend: PostgresBackend, opener: Opener, store: PostgresStore
) -> None:
    keys = await fill(backend, store, 300)
    other = opener()

    async def write_some() -> list[str]:
        for number, key in enumerate(keys[:20]):
            await put(other, key, seed=number)
        return keys[:20]

    async def prune_all() -> int:
        count = 0
        while True:
            there = await store.stat_many(keys)
            expected = {key: stat.version for key, stat in there.stats.items() if stat.version <= 7}
            if not expected:
                return count
            try:
                count += len((await prune(store, expected, f"order-{count}-{len(expected)}")).keys)
            except VersionConflict:
                continue

    written, _ = await asyncio.gather(write_some(), prune_all())
    live = await store.read_many(keys)
    for number, key in enumerate(written):
        assert bytes(live.entries[key].data) == envelope(key, number)


async def test_deleting_walks_through_no_history(backend: PostgresBackend, opener: Opener) -> None:
    """The plans are made while the tables are empty, and are kept."""
    store = opener()
    await store.init()
    for table in ("revision", "payload", "commit_record"):
        await backend.rows(f"ALTER TABLE somactl.{table} SET (autovacuum_enabled = off)")
    for number in range(5):  # each path of the function has its plans now
        await put(store, "a", "b", seed=number)
        await prune(store, {"a": 2 * number + 1, "b": 2 * number + 1}, f"small-{number}")
    keys = [f"k{number}" for number in range(1000)]
    for seed in range(3):
        await put(store, *keys, seed=seed)
    await prune(store, dict.fromkeys(keys, 13), "order")
    await store.close()  # its processes tell what they did when they end

    found: dict[str, Any] = {}

    async def told() -> bool:
        for row in await backend.rows(
            "SELECT relname, seq_tup_read, idx_scan, idx_tup_fetch, n_tup_ins FROM pg_stat_user_tables "
            "WHERE schemaname = 'somactl'"
        ):
            found[row["relname"]] = row
        return bool(found["commit_record"]["n_tup_ins"] == 14)

    await until(told, "the statistics")
    assert found["revision"]["seq_tup_read"] == found["payload"]["seq_tup_read"] == 0
    # Each key is looked up: what is live is never read once and compared with all of them.
    assert found["revision"]["idx_scan"] > 4 * 1000
    assert found["revision"]["idx_tup_fetch"] <= 3 * found["revision"]["n_tup_ins"], found["revision"]
    assert found["payload"]["idx_tup_fetch"] == 0
