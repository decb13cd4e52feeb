"""The function that migrates one value, from Python."""

from __future__ import annotations

import pytest

import somactl
from migration.forms import text
from migration.places import OTHER, RHO, TARGETS, fill
from migration.running import DISCOVER, Migration, same_bits
from somactl.config import Settings
from somactl.errors import NamespaceNotFound
from somactl.legacy.request import Selection
from somactl.operations.admission import Policy
from somactl.operations.commit import commit_matrix_update
from source.backends import Backend, RedisBackend

EVERYWHERE = Selection(discover=True)


async def test_a_value_becomes_a_matrix(legacy: Backend, sqlite: Settings) -> None:
    await fill(legacy)
    migration = Migration(legacy.open, sqlite)
    async with migration.source() as source, migration.store() as store:
        (row,) = await somactl.migrate_json_payload_to_matrix("whole", source, store)
        assert (row.outcome, row.target, row.kind) == ("migrate", "whole", "rho")
        (again,) = await somactl.migrate_json_payload_to_matrix("whole", source, store)
        assert again.outcome == "identical"
        record = (await store.log())[0]
    assert same_bits(await migration.matrix("whole"), RHO)
    assert record.metadata is not None
    assert record.metadata.command == "migrate-json"


async def test_all_matrices_of_a_value_come_in_one_commit(legacy: Backend, sqlite: Settings) -> None:
    await fill(legacy)
    migration = Migration(legacy.open, sqlite, DISCOVER)
    async with migration.source() as source, migration.store() as store:
        rows = await somactl.migrate_json_payload_to_matrix("two", source, store, selection=EVERYWHERE)
        assert [(row.pointer, row.outcome) for row in rows] == [("/a", "migrate"), ("/b/c/1", "migrate")]
        assert (await store.head()).version == 1
        half = await somactl.migrate_json_payload_to_matrix("half", source, store, selection=EVERYWHERE)
    assert {row.pointer: row.outcome for row in half} == {"/good": "migrate", "/bad": "rejected"}
    for key in ("two#/a", "two#/b/c/1", "half#/good"):
        assert same_bits(await migration.matrix(key), TARGETS[key])


async def test_what_holds_none_or_is_not_there_says_so(redis_values: RedisBackend, sqlite: Settings) -> None:
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite)
    async with migration.source() as source, migration.store() as store:
        reasons = {}
        for key in ("note", "broken", "nothing"):
            (row,) = await somactl.migrate_json_payload_to_matrix(key, source, store)
            reasons[key] = (row.outcome, row.reason)
    assert reasons == {
        "note": ("not-a-matrix", "an object without `__np__`"),
        "broken": ("rejected", "InvalidJson"),
        "nothing": ("not-a-matrix", "gone before it was read"),
    }


async def test_a_dry_run_commits_nothing_and_needs_no_store(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite)
    async with migration.source() as source, migration.store(read_only=True) as store:
        (row,) = await somactl.migrate_json_payload_to_matrix("whole", source, store, dry_run=True)
        assert row.outcome == "migrate"
        with pytest.raises(NamespaceNotFound):
            await store.head()


async def test_a_taken_target_is_a_conflict_and_the_policy_counts(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    await redis_values.put({"k": text((1.01 * RHO).tolist()), "whole": text(RHO.tolist())})
    migration = Migration(redis_values.open, sqlite)
    async with migration.source() as source, migration.store() as store:
        await commit_matrix_update(store, {"whole": OTHER})
        (taken,) = await somactl.migrate_json_payload_to_matrix("whole", source, store)
        (refused,) = await somactl.migrate_json_payload_to_matrix("k", source, store)
        (mended,) = await somactl.migrate_json_payload_to_matrix(
            "k", source, store, policy=Policy(normalize=True)
        )
    assert (taken.outcome, refused.outcome, mended.outcome) == ("conflict", "rejected", "migrate")
    assert same_bits(await migration.matrix("whole"), OTHER)
