"""What the server does for each statement: it follows indexes, whatever it knows of the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from somactl.store.postgres import PostgresStore, schema
from somactl.testing.values import delete, put
from store.postgres_backend import (
    Opener,
    PostgresBackend,
    backend as backend,
    opener as opener,
    store as store,
    until,
)

FILL = """
INSERT INTO somactl.namespace (name, incarnation, version, created_at, keep_versions, keep_seconds,
    keep_record_seconds) SELECT 'space-' || i, 'x', 1, 0, 10, 600, 600 FROM generate_series(1, 200) AS i;
INSERT INTO somactl.revision (id, namespace, key, version, commit_id, committed_at, superseded_version,
    superseded_at, size, content, expires_at)
SELECT i, 1 + i % 5, 'key-' || (i % 2000) / 5, i, 'c' || i, i, CASE WHEN i <= 28000 THEN i + 1 END,
    CASE WHEN i <= 28000 THEN i + 1 END, 100, CASE WHEN i % 3 > 0 THEN 'c' END,
    CASE WHEN i % 12 = 0 THEN i END
FROM generate_series(1, 30000) AS i;
INSERT INTO somactl.payload (id, data) SELECT i, '\\x00' FROM generate_series(1, 30000) AS i;
INSERT INTO somactl.commit_record (namespace, commit_id, version, recorded_at)
SELECT 1 + i % 5, 'c' || i, i, i FROM generate_series(1, 30000) AS i;
INSERT INTO somactl.note (namespace, name, version, written_at, data)
SELECT 1 + i % 5, 'note-' || i, 1, i, '\\x00' FROM generate_series(1, 30000) AS i;
ANALYZE;
"""
LARGE = {"revision", "payload", "commit_record", "note"}
PAGE = ("space-1", "key-1", "key-2", "key-10", "%7%", 100, 10, 10_000)
IDS = ["17", "18"]

CALLS: dict[str, tuple[object, ...]] = {
    "namespace": ("space-1",),
    "retained": ("space-1",),
    "newest_values": ("space-1", ["key-1", "key-7"], 1000),
    "value_as_of": ("space-1", "key-1", 20_000, 1000),
    "payloads": (IDS,),
    "live_stats": ("space-1", ["key-1", "key-7"]),
    "live_page": PAGE,
    "tombstone_page": PAGE,
    "history": ("space-1", "key-1"),
    "commit_record": ("space-1", "c1"),
    "notes": ("space-1", ["note-1", "note-2"], 1000),
    "note_page": ("space-1", "note-1", "note-2", "note-10", 10),
    "commit_log": ("space-1", 20_000, 10),
    "standing": ("space-1", "c1", ["key-1", "key-7"]),
    "ungraced_values": (1, 100, 50.0),
    "ungraced_entries": (1, 100, 50.0),
    "ungraced_tombstones": (1, 100, 50.0),
    "prunable_values": (1, 100, 50.0, 3, 90.0),
    "removable_entries": (1, 100, 50.0, 3, 90.0, 40.0),
    "expired_tombstones": (1, 100, 50.0),
    "expired_records": (1, 100, 50.0, 20_000, 7),
    "events": ("space-1", 20_000, 10),
    "publishing": ("space-1",),
    "prune_values": (IDS,),
    "delete_payloads": (IDS,),
    "delete_entries": (IDS,),
    "delete_tombstones": (IDS,),
    "delete_records": (1, ["c1", "c2"]),
    "raise_floor": (1, 5, 5.0, 0),
    "mark_published": ("space-1", 1, None, 100),
    "set_publishing": ("space-1", 100),
    "lock_namespace": ("space-1", "1000"),
    "set_incarnation": ("space-1", "y"),
    "set_retention": ("space-1", 1, 1.0, 1.0),
    "insert_aborted": ("space-1", "c1", None),
}
ELSEWHERE = {
    *("newest_schema", "has_schema", "server", "diagnosis", "rights", "durability"),  # look at no large table
    *("blockers", "broken_indexes"),  # nor do these
    *("lock_schema", "lock_compaction", "record_schema", "create_namespace", "insert_payload"),
    *("commit", "write_notes"),  # functions
    "namespace_summaries",  # counts everything
    *(f"count_{stage}" for stage in schema.STAGES),  # as the statement whose rows they count
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def test_every_statement_follows_indexes(backend: PostgresBackend, store: PostgresStore) -> None:
    assert set(CALLS) | ELSEWHERE == set(schema.queries())
    async with backend.raw() as connection:
        await connection.execute(FILL)
        for name, arguments in CALLS.items():
            statement = f"EXPLAIN (FORMAT JSON) {schema.queries()[name]}"
            (plan,) = json.loads(await connection.fetchval(statement, *arguments))
            found = list(nodes(plan["Plan"]))
            scanned = {node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"}
            assert not scanned & LARGE, (name, plan)
            indexes = {node.get("Index Name") for node in found}
            if name in ("live_page", "tombstone_page"):
                assert f"revision_{name.removesuffix('_page')}" in indexes, plan
                # What the page begins after is a condition of the index, not a filter of what was read.
                (scan,) = [
                    node
                    for node in found
                    if node.get("Index Name") in ("revision_live", "revision_tombstone")
                ]
                assert "key > " in scan["Index Cond"]
                assert "key < " in scan["Index Cond"]
            if name.startswith("ungraced"):
                assert "revision_expiring" in indexes, plan
            if name == "commit_log":
                assert "commit_record_version" in indexes, plan
                assert not {node["Node Type"] for node in found} & {"Bitmap Heap Scan"}


async def test_commits_do_not_walk_through_history(backend: PostgresBackend, opener: Opener) -> None:
    """The plans of the commit function are made while the tables are empty, and are kept. One that suited an
    empty table would read all of it for each commit, once it is full."""
    store = opener()
    await store.init()
    for table in LARGE:
        await backend.rows(f"ALTER TABLE somactl.{table} SET (autovacuum_enabled = off)")
    for number in range(150):
        await put(store, "a", f"k{number % 10}", seed=number, expected={"a": number})
    await delete(store, "a")
    await store.close()  # its processes tell what they did when they end

    found: dict[str, Any] = {}

    async def told() -> bool:
        for row in await backend.rows(
            "SELECT relname, seq_tup_read, idx_tup_fetch, n_tup_ins FROM pg_stat_user_tables "
            "WHERE schemaname = 'somactl'"
        ):
            found[row["relname"]] = row
        return bool(found["commit_record"]["n_tup_ins"] == 151)

    await until(told, "the statistics")
    for table in LARGE:
        assert found[table]["seq_tup_read"] == 0, found[table]
        assert found[table]["idx_tup_fetch"] <= 6 * found[table]["n_tup_ins"], found[table]
