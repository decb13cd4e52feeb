"""A plan is carried out exactly, or refused: stale, damaged, or made for something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migration.forms import numpy_form, text
from migration.places import OTHER, RHO, VALUES, fill
from migration.running import DISCOVER, Migration, outcomes
from migration.stopping import after_batches
from somactl.config import Settings
from somactl.errors import InputRejected, LockHeld, PlanStale, UsageError
from somactl.legacy import batches
from somactl.legacy.plan import Plan
from somactl.operations.commit import commit_matrix_update
from somactl.operations.jobs.pace import Pace
from source.backends import RedisBackend


@pytest.fixture
def migration(redis_values: RedisBackend, sqlite: Settings) -> Migration:
    return Migration(redis_values.open, sqlite, DISCOVER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.jsonl"


async def commit(migration: Migration, key: str, array: np.ndarray | None) -> None:
    async with migration.store() as store:
        await commit_matrix_update(store, {key: array})


async def notes(migration: Migration) -> list[str]:
    async with migration.store() as store:
        return [note.name async for page in store.scan_notes("migration/") for note in page]


async def test_a_plan_is_carried_out_exactly(
    redis_values: RedisBackend, migration: Migration, path: Path
) -> None:
    await fill(redis_values)
    await commit(migration, "whole", RHO)
    planned = await migration.plan(path)
    report = await migration.apply(path)
    assert (report.phase, report.code) == ("copied", 3)
    assert outcomes(report) == outcomes(planned)
    assert report.plan is not None
    rows = [json.loads(line) for line in path.read_bytes().splitlines()[1:-1]]
    contents = await migration.contents()
    assert contents == {row["target"]: row["content"] for row in rows if row.get("content")}
    (again,) = set(path.read_text().splitlines()[-1:])
    assert json.loads(again)["rows"] == len(rows)


async def test_two_plans_of_the_same_are_the_same_file(
    redis_values: RedisBackend, migration: Migration, path: Path, tmp_path: Path
) -> None:
    await fill(redis_values)
    await migration.plan(path)
    second = tmp_path / "second"
    await migration.plan(second)
    assert path.read_bytes() == second.read_bytes()


STALE: dict[str, dict[str, bytes | None]] = {
    "a value changed": {"note": b'{"task": "other"}'},
    "a matrix changed": {"whole": text(numpy_form(OTHER))},
    "only its spelling changed": {"whole": VALUES["whole"] + b" "},
    "a value is gone": {"lists": None},
    "the last one is gone": {"whole": None},
    "one is new at the beginning": {"a": b"1"},
    "one is new in the middle": {"m": text(RHO.tolist())},
    "one is new at the end": {"zzz": b"1"},
}


@pytest.mark.parametrize("what", STALE)
async def test_a_source_that_changed_makes_it_stale_and_nothing_is_written(
    redis_values: RedisBackend, migration: Migration, path: Path, what: str
) -> None:
    await fill(redis_values)
    await migration.plan(path)
    await redis_values.put(STALE[what])
    with pytest.raises(PlanStale) as caught:
        await migration.apply(path)
    assert caught.value.exit_code == 12
    assert "nothing of this one was carried out" in (caught.value.hint or "")
    if Path(migration.settings.store.removeprefix("sqlite:///")).exists():
        assert (await migration.contents(), await notes(migration)) == ({}, [])
    # And it stands in no run's way: the next plan is carried out, with no word about an earlier run.
    await migration.plan(path)
    assert (await migration.apply(path)).phase == "copied"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"whole": RHO}),
        ({}, {"whole": OTHER}),
        ({"whole": RHO}, {"whole": None}),
        ({"whole": OTHER}, {"whole": RHO}),
    ],
    ids=["written alike", "written otherwise", "deleted", "overwritten"],
)
async def test_a_target_that_changed_makes_it_stale_and_nothing_is_written(
    redis_values: RedisBackend,
    migration: Migration,
    path: Path,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    await fill(redis_values)
    for key, array in before.items():
        await commit(migration, key, array)
    await migration.plan(path)
    for key, array in after.items():
        await commit(migration, key, array)
    contents = await migration.contents()
    with pytest.raises(PlanStale, match="'whole' was to end as"):
        await migration.apply(path)
    assert (await migration.contents(), await notes(migration)) == (contents, [])


def edited(text_: bytes, how: str) -> bytes:
    head, *rows, seal = text_.splitlines(keepends=True)
    return {
        "cut before the seal": b"".join([head, *rows]),
        "cut in the middle": text_[: len(text_) // 2],
        "cut in the seal": text_[:-10],
        "a row left out": b"".join([head, *rows[1:], seal]),
        "a row twice": b"".join([head, rows[0], *rows, seal]),
        "rows swapped": b"".join([head, rows[1], rows[0], *rows[2:], seal]),
        "an outcome changed": text_.replace(b'"outcome":"rejected"', b'"outcome":"migrate"', 1),
        "the source changed": text_.replace(b'"source":"redis', b'"source":"Redis', 1),
        "something behind it": text_ + b"{}\n",
        "empty": b"",
        "no plan": b"hello\n",
        "another report": b'{"report":"audit"}\n',
        "binary": b"\xff\x00\xfe" * 100,
        "a line without end": b"[" * 3_000_000,
        "a later format": text_.replace(b'"plan":1', b'"plan":2', 1),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "cut before the seal", "cut in the middle", "cut in the seal", "a row left out", "a row twice",
        "rows swapped", "an outcome changed", "the source changed", "something behind it", "empty", "no plan",
        "another report", "binary", "a line without end", "a later format",
    ],
)  # fmt: skip
async def test_a_plan_that_is_not_whole_is_refused(
    redis_values: RedisBackend, migration: Migration, path: Path, how: str
) -> None:
    await fill(redis_values)
    await migration.plan(path)
    path.write_bytes(edited(path.read_bytes(), how))
    with pytest.raises(InputRejected, match="is no whole plan") as caught:
        await migration.apply(path)
    assert caught.value.exit_code == 11
    assert not Path(migration.settings.store.removeprefix("sqlite:///")).exists()


async def test_a_plan_for_another_source_or_namespace_is_refused(
    redis_values: RedisBackend, migration: Migration, path: Path
) -> None:
    await fill(redis_values)
    await migration.plan(path)
    with path.open("rb") as file:
        plan = Plan(file, "plan")
        plan.refuse_other(plan.head.source, "default")
        with pytest.raises(UsageError, match="namespace 'default', not 'other'"):
            plan.refuse_other(plan.head.source, "other")
        with pytest.raises(UsageError, match="not for this source"):
            plan.refuse_other("redis://elsewhere", "default")


# In the middle of it.


COMPARED = len(VALUES) + 1
"""Turns that the comparison takes, value by value, to find out that there is no more."""


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_VALUES", 1)


@pytest.mark.usefixtures("one_by_one")
async def test_a_value_that_changes_in_the_middle_ends_it_and_what_stands_is_told(
    redis_values: RedisBackend, migration: Migration, path: Path
) -> None:
    """`whole` comes last; it changes after the plan was compared, when the first batches are committed."""
    import asyncio

    await fill(redis_values)
    await migration.plan(path)
    done = 0

    def change(progress: Any) -> None:
        nonlocal done
        done += progress.what == "values"  # not while it is compared
        if done == 2:
            with redis_values.server.client() as raw:
                raw.set("whole", text(numpy_form(OTHER)))

    migration.watch = change
    with pytest.raises(PlanStale, match="'whole' at '' was to end as") as caught:
        await migration.apply(path)
    assert "what was copied before stands" in (caught.value.hint or "")
    migration.watch = lambda progress: None
    stands = await migration.contents()
    assert set(stands) == {"embedded#/rho", "half#/good", "lists", "two#/a", "two#/b/c/1"}
    await asyncio.sleep(0)
    with pytest.raises(PlanStale, match="has changed since the plan was made") as again:
        await migration.apply(path)
    assert "what was copied before stands" in (again.value.hint or "")
    # A new plan knows what is done, and goes on with nothing.
    planned = await migration.plan(path)
    assert outcomes(planned) == {"identical": 5, "migrate": 1, "not-a-matrix": 1, "rejected": 2}
    report = await migration.apply(path)
    assert (report.phase, outcomes(report)) == ("copied", outcomes(planned))
    assert (await migration.finalize()).finalized == 5


@pytest.mark.usefixtures("one_by_one")
async def test_a_target_that_is_written_in_the_middle_ends_it(
    redis_values: RedisBackend, migration: Migration, path: Path
) -> None:
    from somactl.legacy import copying

    await fill(redis_values)
    await migration.plan(path)
    committing = copying._commit

    async def late(store: Any, *arguments: Any) -> None:
        if "whole" in arguments[1]:
            await commit(migration, "whole", OTHER)
        await committing(store, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "_commit", late)
        with pytest.raises(PlanStale, match="'whole' at '' was to end as migrate, and ends as conflict"):
            await migration.apply(path)
    assert len(await migration.contents()) == 6


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("stop", range(8))
async def test_a_plan_that_was_stopped_is_resumed_to_the_same_end(
    redis_values: RedisBackend, migration: Migration, path: Path, stop: int
) -> None:
    await fill(redis_values)
    planned = await migration.plan(path)
    stopped = await migration.apply(path, pace=after_batches(COMPARED + stop))
    assert stopped.complete == (stop >= 7)
    if not stopped.complete:
        assert (stopped.values, stopped.stopped) == (stop, "--max-duration")
        assert stopped.code in (3, 4)
    report = await migration.apply(path)
    assert (report.phase, outcomes(report)) == ("copied", outcomes(planned))
    assert len(await migration.contents()) == 6


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("turns", [0, 3, COMPARED - 1])
async def test_a_comparison_that_is_stopped_has_written_nothing_and_leaves_nothing_to_resume(
    redis_values: RedisBackend, migration: Migration, path: Path, turns: int
) -> None:
    await fill(redis_values)
    await migration.plan(path)
    seen: list[Any] = []
    migration.watch = seen.append
    stopped = await migration.apply(path, pace=after_batches(turns))
    assert (stopped.complete, stopped.stopped, stopped.code) == (False, "--max-duration", 4)
    assert (stopped.phase, stopped.migration) == ("planned", None)
    assert [(each.done, each.total) for each in seen] == [(i + 1, 7) for i in range(turns)]
    assert not Path(migration.settings.store.removeprefix("sqlite:///")).exists()
    assert (await migration.apply(path)).phase == "copied"


@pytest.mark.usefixtures("one_by_one")
async def test_a_comparison_of_a_resumed_run_that_is_stopped_leaves_it_as_it_was(
    redis_values: RedisBackend, migration: Migration, path: Path
) -> None:
    await fill(redis_values)
    await migration.plan(path)
    begun = await migration.apply(path, pace=after_batches(COMPARED + 3))
    stopped = await migration.apply(path, pace=after_batches(1))
    assert (stopped.phase, stopped.migration, stopped.values) == ("copying", begun.migration, 3)
    assert (await migration.apply(path)).phase == "copied"


async def test_a_comparison_keeps_the_pace(
    redis_values: RedisBackend, migration: Migration, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value is read twice, at two a second in portions of two: with all waits, no more than that."""
    await fill(redis_values)
    await migration.plan(path)
    waits: list[float] = []

    async def waited(self: Pace, seconds: float, stop: Any) -> None:
        waits.append(seconds)
        self._paused -= seconds  # as if it had passed

    monkeypatch.setattr(Pace, "_sleep", waited)
    assert (await migration.apply(path, pace=Pace(items=2))).phase == "copied"
    assert 5.0 < sum(waits) <= 7.0


@pytest.mark.usefixtures("one_by_one")
async def test_a_run_that_carried_out_a_plan_is_gone_on_with_by_that_plan_alone(
    redis_values: RedisBackend, migration: Migration, path: Path
) -> None:
    await fill(redis_values)
    await migration.plan(path)
    await migration.apply(path, pace=after_batches(COMPARED + 2))
    with pytest.raises(UsageError, match="carried out a plan"):
        await migration.copy(resume=True)
    report = await migration.copy()
    assert report.phase == "copied"


async def test_two_applications_at_once_do_not_both_succeed(
    redis_values: RedisBackend, migration: Migration, path: Path
) -> None:
    import asyncio

    await fill(redis_values)
    await commit(migration, "elsewhere", RHO)
    await migration.plan(path)
    results = await asyncio.gather(migration.apply(path), migration.apply(path), return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    assert len(failed) <= 1
    for error in failed:
        assert isinstance(error, LockHeld | PlanStale | UsageError), error
    assert len(await migration.contents()) == 7
