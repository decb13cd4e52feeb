"""The progress display is told of every step: comparing, copying, finalizing and reverting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from migration.places import VALUES, fill
from migration.running import DISCOVER, Migration
from migration.stopping import after_batches
from somactl.config import Settings
from somactl.legacy import batches
from somactl.legacy.context import Progress
from somactl.legacy.copying import copy
from somactl.legacy.finalize import finalize
from somactl.legacy.journal import Original, find
from somactl.legacy.revert import revert
from somactl.operations.jobs.pace import Pace
from source.backends import FilesBackend


async def test_a_run_that_was_begun_without_the_words_of_its_source_has_them_when_it_is_resumed(
    tmp_path: Path, sqlite: Settings
) -> None:
    folder = tmp_path / "values"
    folder.mkdir()
    backend = FilesBackend(folder)
    await fill(backend)
    migration = Migration(backend.open, sqlite, DISCOVER)
    await migration.copy(pace=after_batches(0))
    async with migration.run() as run:
        assert (await copy(replace(run, words=["k=/a.json"]), resume=True)).phase == "copied"
        assert (await find(run.store, run.source.identity, None)).state.words == ["k=/a.json"]


async def test_each_step_is_told_of(
    tmp_path: Path, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_VALUES", 2)
    folder = tmp_path / "values"
    folder.mkdir()
    backend = FilesBackend(folder)
    await fill(backend)
    seen: list[Progress] = []
    migration = Migration(backend.open, sqlite, DISCOVER, seen.append)
    await migration.plan(tmp_path / "plan")
    seen.clear()
    await migration.apply(tmp_path / "plan")
    steps = [(each.what, each.done, each.total) for each in seen]
    compared = [("values compared with the plan", done, 7) for done in (2, 4, 6, 7)]
    assert steps == [*compared, *(("values", done, 7) for done in (2, 4, 6, 7))]
    assert sum(each.json_bytes for each in seen) == 2 * sum(map(len, VALUES.values()))
    assert sorted(row.key for each in seen for row in each.rows if row.outcome == "rejected") == [
        "broken", "half"
    ]  # fmt: skip

    seen.clear()
    async with migration.source(read_only=False) as source, migration.store() as store:
        journal = await find(store, source.identity, None)
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
