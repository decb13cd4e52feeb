"""Two migrations whose matrices go to the same keys: none takes away what the other has relied upon."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migration.forms import numpy_form, text
from migration.places import OTHER, RHO, shown
from migration.running import DISCOVER, Migration, outcomes, same_bits
from somactl.config import Settings
from somactl.errors import KeyNotFound
from somactl.legacy.request import MigrationRequest, Selection
from source.backends import FilesBackend, RedisBackend

VALUES = {"whole": text(numpy_form(RHO)), "embedded": b'{"rho": %s, "n": 1}' % text(OTHER.tolist())}


async def both_copied(backend: RedisBackend, target: Settings) -> list[Migration]:
    """One with --discover, and one with --pointer, which finds all of it in the store."""
    await backend.put(dict(VALUES))
    first = Migration(backend.open, target, DISCOVER)
    second = replace(first, request=MigrationRequest(selection=Selection(pointers=("", "/rho"))))
    for migration, outcome in ((first, "migrate"), (second, "identical")):
        assert outcomes(await migration.copy())[outcome] == 2
    return [first, second]


async def test_reverting_one_leaves_what_another_has_taken_out_of_the_source(
    redis_values: RedisBackend, target: Settings
) -> None:
    a, b = await both_copied(redis_values, target)
    assert (await b.finalize()).finalized == 2
    report = await a.revert()
    assert (report.withdrawn, set(report.left_alone)) == (0, {"whole", "embedded#/rho"})
    assert same_bits(await a.matrix("whole"), RHO)
    assert same_bits(await a.matrix("embedded#/rho"), OTHER)
    assert shown(await redis_values.read("embedded")) == {"rho": "embedded#/rho", "n": 1}
    assert (await b.revert()).restored == 2
    for key, value in VALUES.items():
        assert await redis_values.read(key) == value


async def test_a_reference_names_the_version_that_is_its_migrations_own(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    import json

    a, b = await both_copied(redis_values, sqlite)
    report = await b.finalize()
    left = json.loads(await redis_values.read("embedded") or b"")
    async with a.store() as store:
        entry = await store.read("embedded#/rho")
        status = await store.commit_status(entry.commit_id)
    assert left["rho"]["__somactl__"]["version"] == entry.version
    assert status.record is not None
    assert status.record.metadata is not None
    assert status.record.metadata.user == {"migration": report.migration, "adopted": "true"}
    assert entry.verdict is not None
    assert entry.verdict["status"] == "valid"


async def test_what_was_withdrawn_before_it_was_taken_out_is_left_in_the_source(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    a, b = await both_copied(redis_values, sqlite)
    assert (await a.revert()).withdrawn == 2
    report = await b.finalize()
    assert (report.finalized, set(report.left_alone), report.code) == (0, set(VALUES), 4)
    for key, value in VALUES.items():
        assert await redis_values.read(key) == value


async def test_another_source_with_the_same_keys_keeps_its_matrices(sqlite: Settings, tmp_path: Path) -> None:
    migrations = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        backend = FilesBackend(tmp_path / name)
        await backend.put({"whole": text(numpy_form(RHO))})
        # a file's name is its key, wherever it lies
        migration = Migration(backend.open, sqlite, DISCOVER)
        await migration.copy()
        migrations.append((migration, backend))
    (one, first), (two, second) = migrations
    assert (await one.finalize()).finalized == 1
    assert (await two.finalize()).finalized == 1
    assert (await one.revert()).restored == 1
    assert await first.read("whole") == text(numpy_form(RHO))
    assert await second.read("whole") is None
    assert same_bits(await two.matrix("whole"), RHO)


async def test_a_matrix_that_a_third_one_wrote_anew_is_made_ones_own_too(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """Its row says `migrate`, but the copy that it wrote is gone, and another wrote the same there."""
    a, b = await both_copied(redis_values, sqlite)
    async with a.store() as store:
        from somactl.operations.commit import commit_matrix_update

        await commit_matrix_update(store, {"whole": None, "embedded#/rho": None})
    assert outcomes(await b.copy())["migrate"] == 2
    assert (await a.finalize()).finalized == 2
    await b.revert()
    assert same_bits(await a.matrix("whole"), RHO)
    assert same_bits(await a.matrix("embedded#/rho"), OTHER)


async def test_a_target_that_changes_while_it_is_made_ones_own_keeps_the_value(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from somactl.legacy import finalize
    from somactl.operations.commit import commit_matrix_update

    _, b = await both_copied(redis_values, sqlite)
    readmit = finalize.readmit

    def late(*arguments: Any, **options: Any) -> object:
        import asyncio

        async def remove() -> None:
            async with b.store() as store:
                await commit_matrix_update(store, {"whole": None})

        monkeypatch.setattr(finalize, "readmit", readmit)
        asyncio.run(remove())
        return readmit(*arguments, **options)

    monkeypatch.setattr(finalize, "readmit", late)
    report = await b.finalize()
    assert (report.finalized, set(report.left_alone)) == (1, {"whole"})
    assert await redis_values.read("whole") == VALUES["whole"]
    with pytest.raises(KeyNotFound):
        await b.matrix("whole")


async def test_its_own_copies_are_its_own_after_their_records_have_expired(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finalized a year later, a migration must still be able to take its matrices back."""
    from somactl.legacy import target

    async def expired(store: object, commits: Iterable[str]) -> dict[str, dict[str, str]]:
        return {commit: {} for commit in commits}

    await redis_values.put(dict(VALUES))
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    monkeypatch.setattr(target, "labels_of", expired)
    assert (await migration.finalize()).finalized == 2
    report = await migration.revert()
    assert (report.restored, report.withdrawn, report.left_alone) == (2, 2, {})
