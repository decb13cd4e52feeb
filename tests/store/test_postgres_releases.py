"""Two neighbouring releases on one database: this one before its migration, the one before after it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from servers.pgbouncer import PgBouncer
from servers.postgres import Databases
from somactl.errors import SchemaMismatch, VersionConflict
from somactl.store import named_sql
from somactl.store.contract import CommitMetadata, Retention
from somactl.store.postgres import PostgresStore, schema
from somactl.suggestion import run
from somactl.testing.commits import CommitChapter
from somactl.testing.corruption import CorruptionChapter
from somactl.testing.reads import ReadChapter
from somactl.testing.retention import RetentionChapter
from somactl.testing.values import compact_fully, delete, envelope, fresh_id, listed, prune, put, write
from store.postgres_backend import Opener, PostgresBackend
from store.postgres_backend import backend as backend
from store.postgres_backend import opener as opener
from store.postgres_backend import store as store

BEFORE = named_sql.load(Path(__file__).parents[1] / "data" / "postgres" / "queries_schema_1.sql")
"""The statements of the release of schema 1."""


def before_migration(patch: pytest.MonkeyPatch) -> None:
    """From now on `init` goes no further than the release before did."""
    first = schema.migrations()[:1]
    patch.setattr(schema, "migrations", lambda: first)


@pytest_asyncio.fixture
async def unmigrated(opener: Opener) -> AsyncIterator[PostgresStore]:
    """A store of this release on a database that the release before has made."""
    store = opener()
    with pytest.MonkeyPatch.context() as patch:
        before_migration(patch)
        await store.init()
    yield store


class TestBeforeItsMigration(CommitChapter, RetentionChapter, ReadChapter, CorruptionChapter):
    """This release keeps the contract on a database of the one before."""

    @pytest.fixture
    def make_backend(
        self, postgres_server: Databases, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[], PostgresBackend]:
        before_migration(monkeypatch)
        return lambda: PostgresBackend(postgres_server)


async def test_every_statement_is_understood_before_the_migration(
    backend: PostgresBackend, unmigrated: PostgresStore
) -> None:
    async with backend.raw() as connection:
        for name, statement in schema.queries(1).items():
            if name not in ("commit", "notes", "note_page", "write_notes"):
                assert await connection.prepare(statement), name


async def test_what_a_database_of_the_release_before_cannot_hold_is_refused(
    backend: PostgresBackend, unmigrated: PostgresStore
) -> None:
    await put(unmigrated, "a")
    refused: tuple[CommitMetadata, ...] = (
        CommitMetadata(grace=0.0),
        CommitMetadata(facts={"n": 1}),
        CommitMetadata(stands_for="an order"),
    )
    for metadata in refused:
        with pytest.raises(SchemaMismatch, match="has schema 1") as caught:
            await unmigrated.commit_matrix_update({"a": None}, metadata, commit_id="x")
        assert caught.value.next == (run("init"),)
    with pytest.raises(SchemaMismatch, match="no notes"):
        await unmigrated.write_notes({"a": b"x"})
    assert ((await unmigrated.head()).version, (await unmigrated.read("a")).version) == (1, 1)
    assert (await unmigrated.commit_status("x")).state == "unseen"


async def test_everything_else_works_before_the_migration(
    backend: PostgresBackend, unmigrated: PostgresStore
) -> None:
    keys = [f"key-{number}" for number in range(300)]
    await put(unmigrated, *keys)
    first = await write(unmigrated, dict.fromkeys(keys), expected=1, commit_id="deletes")
    assert (await write(unmigrated, dict.fromkeys(keys), expected=1, commit_id="deletes")).replayed
    with pytest.raises(VersionConflict) as caught:
        await delete(unmigrated, *keys, expected=1)
    assert len(caught.value.conflicts) == 300
    (stat, *_) = await listed(unmigrated.scan(deleted=True))
    assert stat.recoverable_until == first.committed_at + Retention().seconds
    assert (await unmigrated.summary()).tombstones == 300
    assert abs(await unmigrated.clock() - first.committed_at) < 600
    assert await unmigrated.read_notes(["a"]) == {}
    assert [note async for page in unmigrated.scan_notes() for note in page] == []
    assert [record.version for record in [r.receipt for r in await unmigrated.log()] if record] == [2, 1]
    findings = {finding.check: finding for finding in await unmigrated.diagnose()}
    assert (findings["migrations"].status, findings["permissions"].status) == ("problem", "ok")


@pytest.mark.parametrize("pooled", [False, True], ids=["directly", "behind pgbouncer"])
async def test_a_store_sees_at_once_that_somebody_has_migrated(
    backend: PostgresBackend, opener: Opener, unmigrated: PostgresStore, pgbouncer: PgBouncer, pooled: bool
) -> None:
    """It had looked at the schema before, and would rely on that for minutes."""
    store = opener(url=pgbouncer.url(backend.database)) if pooled else unmigrated
    for number in range(3):
        await put(store, "a", "b", seed=number)
    await unmigrated.init()
    assert await store.write_notes({"n": b"x"}) == {"n": 1}
    receipt = await prune(store, "a", grace=50.0)
    (stat,) = await listed(store.scan(deleted=True))
    assert stat.recoverable_until == pytest.approx(receipt.committed_at + 50.0, abs=1e-3)


async def test_the_release_before_understands_what_this_one_has_made(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    """Its statements, its commits beside ours, and what it takes for the metadata of a commit."""
    assert schema.migrations()[-1].least_reader == schema.migrations()[-1].least_writer == 1
    async with backend.raw() as connection:
        for name, statement in BEFORE.items():
            assert await connection.prepare(statement), name
    await put(store, "a", "b")
    order = CommitMetadata({"k": "v"}, command="prune", stands_for="order", grace=9.0, facts={"n": 1})
    await store.commit_matrix_update({"a": None}, order, commit_id="order")
    (row,) = await backend.rows(BEFORE["commit_record"], "default", "order")
    assert json.loads(row["metadata"]) == {"user": {"k": "v"}, "verdicts": {}, "command": "prune"}
    await commit_as_before(backend, store, "a", expected=0)
    assert bytes((await store.read("a")).data) == envelope("a")
    await commit_as_before(backend, store, "a", expected=3, deletes=True)
    (tombstone,) = await listed(store.scan(deleted=True))
    assert tombstone.recoverable_until == tombstone.committed_at + Retention().seconds
    assert (await store.log())[2].metadata == order


async def commit_as_before(
    backend: PostgresBackend, store: PostgresStore, key: str, *, expected: int, deletes: bool = False
) -> None:
    """One put or delete by the function that the release before calls, with what it gives it."""
    data = envelope(key)
    (stat,) = await backend.rows("SELECT * FROM somactl.revision WHERE key = $1 AND size > 0 LIMIT 1", key)
    described = ("content", "envelope", "kind", "dtype", "shape", "layout", "verdict")
    columns = [[None] if deletes else [stat[name]] for name in described]
    contents = json.dumps({key: None if deletes else stat["content"]})
    metadata = '{"user":{},"verdicts":{},"command":""}'
    (row,) = await backend.rows(
        BEFORE["commit"],
        *("default", fresh_id(), None, "request", contents, metadata, False, "1000"),
        *([key], [str(expected)], None, [None if deletes else str(len(data))]),
        *(*columns, b"" if deletes else data),
    )
    assert row["version"] == (await store.head()).version


async def test_the_release_before_cannot_remove_what_a_grace_keeps(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    """Its `compact` knows the retention alone. It fails, instead of breaking a promise of ours."""
    await store.init(retention=Retention(1, 0.0, 0.0))
    await put(store, "a", "b", "c")
    await prune(store, "a", grace=1000.0)
    await delete(store, "b")
    await prune(store, "c", grace=0.0)
    (here,) = await backend.rows(BEFORE["retained"], "default")
    found = await backend.rows(BEFORE["prunable_values"], here["id"], 500, here["now"], 1)
    assert len(found) == 3
    pruned = {"b": "free", "c": "free", "a": "kept"}
    for key, fate in pruned.items():
        ((revision,),) = await backend.rows(
            "SELECT id::text FROM somactl.revision WHERE key = $1 AND content IS NOT NULL", key
        )
        if fate == "free":
            await backend.rows(BEFORE["delete_payloads"], [revision])
            continue
        with pytest.raises(asyncpg.PostgresError, match="kept by a grace") as caught:
            await backend.rows(BEFORE["delete_payloads"], [revision])
        assert caught.value.sqlstate == "42000"
    assert await backend.stored("default") == {("a", 1)}
    assert bytes((await store.read("a", 1)).data) == envelope("a")
    await backend.age("default", 2000.0)
    await backend.rows(
        "UPDATE somactl.revision SET compacted = true WHERE key IN ('b', 'c') AND content > ''"
    )
    assert (await compact_fully(store))[0] == 1
    assert await backend.stored("default") == set()
