"""A file that a somactl of schema 1 made: read as it is, migrated by the first write."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from somactl.errors import KeyNotFound, VersionConflict
from somactl.store.contract import Compaction, Retention
from somactl.store.sqlite import SqliteStore
from somactl.testing.grace import tombstones
from somactl.testing.notes import names
from somactl.testing.values import VALID, compact_fully, content_of, envelope, listed, prune, write

DUMP = Path(__file__).parents[1] / "data" / "sqlite" / "schema_1.sql"
ODD = "acme:(9.0, 14.0, 43.0):data"
CENTURY = 3e9

Opener = Callable[..., SqliteStore]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "older.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMP.read_text(encoding="utf-8"))
    return path


def schema_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        version: int = connection.execute("SELECT max(version) FROM somactl_schema").fetchone()[0]
    return version


async def test_everything_is_read_and_nothing_is_migrated(path: Path, opener: Opener) -> None:
    store = opener(path)
    assert [s.key for s in await listed(store.scan())] == ["a", ODD]
    assert (await store.read(ODD)).verdict == VALID
    assert bytes((await store.read("a", 1)).data) == envelope("a")
    (deleted,) = await tombstones(store)
    assert (deleted.key, deleted.recoverable_until) == ("b", deleted.committed_at + 7 * 86_400)
    log = {record.commit_id: record.metadata for record in await store.log()}
    assert list(log) == ["third", "second", "first"]
    assert log["first"] is not None
    assert (log["first"].user, log["first"].command) == ({"who": "me"}, "commit")
    assert {(m.stands_for, m.grace, len(m.facts)) for m in log.values() if m} == {(None, None, 0)}
    assert (await store.commit_status("given-up")).state == "aborted"
    assert (await store.summary()).tombstones == 1
    assert (await store.read_notes(["n"]), await names(store.scan_notes())) == ({}, [])
    assert {f.status for f in await store.diagnose()} == {"ok"}
    plan = await store.compact(dry_run=True)
    assert (plan.revisions, plan.tombstones) == (2, 1)
    assert await store.compact(dry_run=True, past_grace=True) == Compaction()
    assert schema_of(path) == 1


async def test_what_is_removed_needs_no_migration(path: Path, opener: Opener) -> None:
    store = opener(path)
    plan = await store.compact(dry_run=True)
    assert sum(await compact_fully(store)) == sum(
        (plan.revisions, plan.tombstones, plan.records, plan.events, plan.bytes_freed)
    )
    assert await tombstones(store) == []
    assert schema_of(path) == 1


async def test_a_commit_migrates_and_the_records_of_before_still_answer(path: Path, opener: Opener) -> None:
    store = opener(path)
    rho = envelope(ODD, kind="rho")
    first: dict[str, Any] = {"a": envelope("a"), "b": envelope("b"), ODD: rho}
    receipt = await write(
        store, first, expected=0, commit_id="first", user={"who": "me"}, verdicts={content_of(rho): VALID}
    )
    assert (receipt.replayed, receipt.version) == (True, 1)
    assert schema_of(path) == 2
    assert (await prune(store, "a", grace=CENTURY)).version == 4
    await store.init(retention=Retention(1, 0.0, 0.0))
    await compact_fully(store)
    assert [s.key for s in await tombstones(store)] == ["a"]
    assert bytes((await store.read("a", 3)).data) == envelope("a", 1)
    with pytest.raises(KeyNotFound):
        await store.read("b")


async def test_a_note_migrates_too_and_open_readers_notice(path: Path, opener: Opener) -> None:
    reader, writer = opener(path), opener(path)
    assert await names(reader.scan_notes()) == []
    assert await tombstones(reader) != []
    with pytest.raises(VersionConflict):
        await writer.write_notes({"n": b"x"}, {"n": 1})
    assert await writer.write_notes({"n": b"x"}) == {"n": 1}
    receipt = await prune(writer, "a", grace=50.0)
    assert (await reader.read_notes(["n"]))["n"].data == b"x"
    assert [s.recoverable_until for s in await tombstones(reader) if s.key == "a"] == [
        receipt.committed_at + 50.0
    ]


async def test_a_store_that_compacted_first_migrates_on_its_next_commit(path: Path, opener: Opener) -> None:
    """Its writer has been open on the older schema."""
    store = opener(path)
    await compact_fully(store)
    assert schema_of(path) == 1
    await prune(store, "a", grace=CENTURY)
    assert schema_of(path) == 2
    assert (await store.read("a", 3)).version == 2
