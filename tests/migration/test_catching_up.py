"""What changed between two passes: the newer value takes the place of the migration's own older copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from migration.forms import density, numpy_form, text
from migration.places import OTHER, RHO, fill, shown
from migration.running import DISCOVER, Migration, by_place, outcomes, same_bits
from somactl.config import Settings
from somactl.operations.commit import commit_matrix_update
from source.backends import Backend, RedisBackend

NEWER = density(4, seed=7)
CHANGED = {"whole": text(numpy_form(NEWER)), "embedded": b'{"rho": %s, "n": 2}' % text(NEWER.tolist())}


async def copied_and_changed(backend: Backend, settings: Settings) -> Migration:
    await fill(backend)
    migration = Migration(backend.open, settings, DISCOVER)
    assert outcomes(await migration.copy())["migrate"] == 6
    await backend.put(dict(CHANGED))
    return migration


async def overwrite(migration: Migration, key: str, array: np.ndarray | None) -> None:
    async with migration.store() as store:
        await commit_matrix_update(store, {key: array})


async def test_dry_run_and_copy_bring_what_changed_since(
    redis_values: RedisBackend, target: Settings
) -> None:
    migration = await copied_and_changed(redis_values, target)
    looked, rows = await migration.inspect()
    places = by_place(rows)
    assert places["whole", ""].outcome == places["embedded", "/rho"].outcome == "migrate"
    report = await migration.copy()
    wanted = {"migrate": 2, "identical": 4, "not-a-matrix": 1, "rejected": 2}
    assert outcomes(looked) == outcomes(report) == wanted
    assert same_bits(await migration.matrix("whole"), NEWER)
    assert same_bits(await migration.matrix("embedded#/rho"), NEWER)
    done = await migration.finalize()
    assert (done.finalized, done.left_alone, done.code) == (5, {}, 0)
    reverted = await migration.revert()
    assert (reverted.restored, reverted.withdrawn, reverted.left_alone) == (5, 6, {})
    assert await migration.contents() == {}


async def test_a_plan_says_so_and_is_carried_out(
    redis_values: RedisBackend, sqlite: Settings, tmp_path: Path
) -> None:
    migration = await copied_and_changed(redis_values, sqlite)
    assert outcomes(await migration.plan(tmp_path / "plan"))["migrate"] == 2
    assert outcomes(await migration.apply(tmp_path / "plan"))["migrate"] == 2
    assert same_bits(await migration.matrix("whole"), NEWER)


async def test_three_passes_are_reverted_from_the_newest_to_the_oldest(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    migration = await copied_and_changed(redis_values, sqlite)
    await migration.copy()
    await redis_values.put({"whole": text(numpy_form(OTHER))})
    assert outcomes(await migration.copy())["migrate"] == 1
    reverted = await migration.revert()
    assert (reverted.withdrawn, reverted.left_alone, reverted.code) == (6, {}, 0)
    assert await migration.contents() == {}


@pytest.mark.parametrize("array", [OTHER, RHO], ids=["something else", "the same again"])
async def test_what_somebody_else_wrote_since_is_a_conflict(
    redis_values: RedisBackend, sqlite: Settings, array: np.ndarray
) -> None:
    migration = await copied_and_changed(redis_values, sqlite)
    await overwrite(migration, "whole", array)
    _, rows = await migration.inspect()
    report = await migration.copy()
    assert by_place(rows)["whole", ""].outcome == "conflict"
    assert [row.key for row in report.conflicts] == ["whole"]
    assert same_bits(await migration.matrix("whole"), array)
    done = await migration.finalize()
    assert (done.finalized, done.code) == (4, 0)
    assert len(done.warnings) == 1
    assert "1 matrices in conflict" in done.warnings[0]
    assert await redis_values.read("whole") == CHANGED["whole"]


async def test_what_was_found_and_made_its_own_is_not_its_copy(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """Another client had put it there, and finalizing has committed it again; it stays theirs."""
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await overwrite(migration, "half#/good", OTHER)
    assert outcomes(await migration.copy())["identical"] == 1
    await migration.finalize()
    await migration.revert()
    await redis_values.put({"half": b'{"good": %s}' % text(NEWER.tolist())})
    report = await migration.copy()
    assert [row.key for row in report.conflicts] == ["half"]
    assert same_bits(await migration.matrix("half#/good"), OTHER)


async def test_the_only_copy_of_a_value_that_was_taken_out_stays(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """Its twin is written anew afterwards, and goes to the same key of the store."""
    values = {"K": text({"rho": RHO.tolist()}), "K#/rho": text(RHO.tolist())}
    await redis_values.put(dict(values))
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    assert (await migration.finalize()).finalized == 2
    await redis_values.put({"K": text({"rho": NEWER.tolist()})})
    report = await migration.copy()
    assert [row.key for row in report.conflicts] == ["K"]
    assert same_bits(await migration.matrix("K#/rho"), RHO)
    reverted = await migration.revert()
    assert set(reverted.left_alone) == {"K"}
    assert await redis_values.read("K#/rho") == values["K#/rho"]


async def test_twins_are_brought_again_together(redis_values: RedisBackend, sqlite: Settings) -> None:
    await redis_values.put({"K": text({"rho": RHO.tolist()}), "K#/rho": text(RHO.tolist())})
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    await redis_values.put({"K": text({"rho": NEWER.tolist()}), "K#/rho": text(NEWER.tolist())})
    report = await migration.copy()
    assert outcomes(report) == {"migrate": 1, "identical": 1}
    assert (await migration.finalize()).finalized == 2
    assert shown(await redis_values.read("K")) == {"rho": "K#/rho"}
    assert same_bits(await migration.matrix("K#/rho"), NEWER)


async def test_what_a_forgotten_migration_copied_is_no_other_ones_to_write_over(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """The same command makes a migration of the same id, which has taken nothing out of the source."""
    migration = await copied_and_changed(redis_values, sqlite)
    await migration.forget()
    _, rows = await migration.inspect()
    assert by_place(rows)["whole", ""].outcome == "conflict"
    report = await migration.copy()
    assert [row.key for row in report.conflicts] == ["embedded", "whole"]
    assert same_bits(await migration.matrix("whole"), RHO)
