"""The progress display is told of every step: comparing, copying, finalizing and reverting."""

from __future__ import annotations

from pathlib import Path

import pytest

from migration.places import VALUES, fill
from migration.running import DISCOVER, Migration
from somactl.config import Settings
from somactl.legacy import batches
from somactl.legacy.finalize import finalize
from somactl.legacy.journal import Original
from somactl.legacy.request import MigrationProgress
from somactl.legacy.revert import revert
from somactl.operations.jobs.pace import Pace
from source.backends import FilesBackend


async def test_each_step_is_told_of(
    tmp_path: Path, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_VALUES", 2)
    folder = tmp_path / "values"
    folder.mkdir()
    backend = FilesBackend(folder)
    await fill(backend)
    seen: list[MigrationProgress] = []
    migration = Migration(backend.open, sqlite, DISCOVER, seen.append)
    await migration.plan(tmp_path / "plan")
    seen.clear()
    await migration.apply(tmp_path / "plan")
    steps = [(each.what, each.done, each.total) for each in seen]
    compared = [("values compared with the plan", done, 7) for done in (2, 4, 6, 7)]
    assert steps == [*compared, *(("values", done, 7) for done in (2, 4, 6, 7))]
    assert [each.read for each in seen if each.done == 7] == 2 * [sum(map(len, VALUES.values()))]
    assert sorted(row.key for each in seen for row in each.rows if row.outcome == "rejected") == [
        "broken", "half"
    ]  # fmt: skip

    seen.clear()
    async with migration.source(read_only=False) as source, migration.store() as store:
        journal = await migration.journal(source, store)
        await finalize(source, store, journal, Pace(), seen.append)
        assert [(each.what, each.done, each.total) for each in seen] == [
            ("batches finalized", done, 4) for done in (1, 2, 3, 4)
        ]
        seen.clear()
        await backend.put({"whole": b"newer"})
        kept: list[Original] = []
        await revert(source, store, journal, Pace(), seen.append, kept.append)
        assert [(each.what, each.done, each.total) for each in seen] == [
            ("values put back", 4, None), *(("batches taken back", done, 4) for done in (1, 2, 3, 4))
        ]  # fmt: skip
        assert [original.data for original in kept] == [VALUES["whole"]]
