"""Batches and reports that would grow beyond what a commit, a note or a reader takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from migration.forms import density, text
from migration.running import DISCOVER, Migration, by_place, of_lines, outcomes
from migration.stopping import after_batches
from somactl.config import Settings
from somactl.legacy import batches, examine, independent_parser, tally
from somactl.legacy.copying import copy
from somactl.legacy.request import MigrationContext
from somactl.operations.commit import commit_matrix_update
from somactl.operations.jobs.pace import Pace
from somactl.store import request
from source.backends import RedisBackend

MANY = {f"k{i:02d}": text({f"m{j}": [[float(i + 1)]] for j in range(6)}) for i in range(10)}


@pytest.fixture
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit takes ten keys, and a batch as many."""
    monkeypatch.setattr(request, "MAX_COMMIT_KEYS", 10)
    monkeypatch.setattr(batches, "BATCH_ROWS", 10)


@pytest.mark.usefixtures("small_commits")
async def test_more_matrices_than_one_commit_takes_go_into_several(sqlite: Settings) -> None:
    migration = of_lines(MANY, sqlite, DISCOVER)
    looked, rows = await migration.inspect()
    report = await migration.copy()
    assert outcomes(report) == outcomes(looked) == {"migrate": 60}
    assert len(by_place(rows)) == 60
    assert len(await migration.contents()) == 60
    async with migration.source() as source, migration.store() as store:
        journal = await migration.journal(source, store)
        pages = [page async for page in journal.pages(1)]
    assert [page.values for page in pages] == [1] * 10
    assert len({page.commit_id for page in pages}) == 10


@pytest.mark.usefixtures("small_commits")
async def test_a_portion_that_is_cut_is_gone_on_with_where_it_was_stopped(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    await redis_values.put(dict(MANY))
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    stopped = await migration.copy(pace=after_batches(3))
    assert (stopped.values, stopped.complete) == (3, False)
    report = await migration.copy(resume=True)
    assert (report.values, report.complete, outcomes(report)) == (10, True, {"migrate": 60})


async def test_a_batch_ends_before_its_envelopes_are_too_large(
    sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {f"k{i}": text(density(8, seed=i).tolist()) for i in range(6)}
    _, rows = await of_lines(values, sqlite).inspect()
    monkeypatch.setattr(batches, "BATCH_BYTES", 2 * rows[0].bytes)
    migration = of_lines(values, sqlite)
    assert outcomes(await migration.copy()) == {"migrate": 6}
    async with migration.source() as source, migration.store() as store:
        journal = await migration.journal(source, store)
        assert [page.values async for page in journal.pages(1)] == [2, 2, 2]


async def test_one_value_beyond_a_commit_is_rejected_alike_when_looked_at_and_when_copied(
    sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = text({f"m{i}": density(8, seed=i).tolist() for i in range(4)})
    migration = of_lines({"large": large, "small": text(density(8).tolist())}, sqlite, DISCOVER)
    _, rows = await migration.inspect()
    monkeypatch.setattr(examine, "MAX_COMMIT_BYTES", 2 * max(row.bytes for row in rows))
    looked, _ = await migration.inspect()
    report = await migration.copy()
    assert outcomes(looked) == outcomes(report) == {"migrate": 1, "rejected": 1}
    assert [(row.key, row.reason) for row in report.rejected] == [("large", "LimitExceeded")]
    assert report.rejected[0].json_bytes == len(large)
    assert set(await migration.contents()) == {"small"}


async def test_a_report_lists_only_so_many_rows_and_counts_the_others(
    sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "MAX_LISTED", 3)
    values = {f"bad{i}": b"[[1, 0], [0]]" for i in range(5)} | {"good": text(density(4).tolist())}
    async with of_lines(values | {"taken": text(density(4).tolist())}, sqlite).store() as store:
        await commit_matrix_update(store, {"taken": density(4, seed=3)})
    migration = of_lines(values | {"taken": text(density(4).tolist())}, sqlite)
    for report in ((await migration.inspect())[0], await migration.copy()):
        assert [row.key for row in report.rejected] == ["bad0", "bad1", "bad2"]
        assert (report.rejected_omitted, report.conflicts_omitted, report.moved_omitted) == (2, 0, 0)
        assert [row.key for row in report.conflicts] == ["taken"]
        assert outcomes(report)["rejected"] == 5
        assert any("2 rows are not listed" in warning for warning in report.warnings)


async def test_whoever_gets_every_row_as_it_comes_gets_none_of_them_in_the_report(sqlite: Settings) -> None:
    seen: list[str] = []
    values = {f"bad{i}": b"[[1, 0], [0]]" for i in range(5)}
    migration = of_lines(values, sqlite)
    async with migration.source() as source, migration.store() as store:
        run = MigrationContext(
            source,
            store,
            migration.request,
            Pace(),
            lambda progress: seen.extend(row.key for row in progress.rows),
            listing=False,
        )
        report = await copy(run)
    assert (report.rejected, report.rejected_omitted, outcomes(report)) == ([], 0, {"rejected": 5})
    assert seen == sorted(values)


async def test_what_could_not_be_read_is_not_among_the_largest(sqlite: Settings) -> None:
    migration = of_lines({"a": b"1, 2", "good": text(density(4).tolist())}, sqlite)
    report, rows = await migration.inspect()
    assert {row.form for row in rows} == {"unreadable", "lists"}
    assert [row.key for row in report.largest] == ["good"]


async def test_a_value_is_parsed_once_for_all_the_matrices_that_are_taken_out_of_it(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each would be quadratic, and end no more for thousands of them."""
    many = text({f"m{i}": density(2, seed=i).tolist() for i in range(300)})
    await redis_values.put({"many": many})
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    parsed: list[int] = []
    loads = json.loads

    def counted(text: Any, **options: Any) -> Any:
        parsed.append(len(text))
        return loads(text, **options)

    monkeypatch.setattr(independent_parser.json, "loads", counted)
    assert (await migration.finalize()).finalized == 1
    assert parsed.count(len(many)) == 1


async def test_finalizing_stops_between_the_portions_of_a_page(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await redis_values.put({f"k{i}": text(density(2, seed=i).tolist()) for i in range(6)})
    migration = Migration(redis_values.open, sqlite)
    await migration.copy()
    source_type = type(redis_values.open())
    fetch = source_type.fetch

    async def two(self: Any, keys: Any) -> Any:
        return await fetch(self, keys[:2])

    monkeypatch.setattr(source_type, "fetch", two)
    stopped = await migration.finalize(pace=after_batches(2))
    assert (stopped.phase, stopped.finalized, stopped.code) == ("finalizing", 4, 4)
    assert (await migration.finalize()).finalized == 6
    assert [await redis_values.read(f"k{i}") for i in range(6)] == [None] * 6
