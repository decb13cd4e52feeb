"""A copy that is stopped, slowed, resumed, run twice, and run twice at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from migration.forms import density, numpy_form, text
from migration.places import OTHER, RHO, VALUES, fill
from migration.running import DISCOVER, Migration, of_lines, outcomes, settled
from migration.stopping import after_batches
from somactl.config import Settings
from somactl.errors import LockHeld, StoreDamaged, UsageError
from somactl.legacy import batches
from somactl.legacy.journal import Journal
from somactl.legacy.request import MigrationProgress
from somactl.operations.commit import commit_matrix_update
from somactl.operations.jobs.pace import Pace
from somactl.report import MigrateReport
from source.backends import RedisBackend
from support.sqlite_backend import SqliteBackend

MANY = {f"k{i:03d}": text(numpy_form(density(3, seed=i))) for i in range(30)}


@pytest.fixture
def ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch for each value."""
    monkeypatch.setattr(batches, "BATCH_VALUES", 1)


def alike(report: MigrateReport) -> MigrateReport:
    """What must be the same of a run that was stopped and of one that was not."""
    return msgspec.structs.replace(report, migration=None)


@pytest.mark.usefixtures("ones")
async def test_a_run_that_was_stopped_ends_as_one_that_was_not(sqlite: Settings, tmp_path: Path) -> None:
    undisturbed = of_lines(VALUES, Settings(store=f"sqlite:///{tmp_path / 'undisturbed.db'}"), DISCOVER)
    whole = await undisturbed.copy()
    migration = of_lines(VALUES, sqlite, DISCOVER)
    for count in (2, 1, 0, 3):
        stopped = await migration.copy(resume=count != 2, pace=after_batches(count))
        assert (stopped.complete, stopped.phase, stopped.stopped) == (False, "copying", "--max-duration")
    report = await migration.copy(resume=True)
    assert msgspec.json.encode(alike(report)) == msgspec.json.encode(alike(whole))
    assert report.migration == whole.migration, "its name does not depend on the store"
    assert await migration.contents() == await undisturbed.contents()
    async with migration.store() as store, undisturbed.store() as other:
        assert (await store.head()).version == (await other.head()).version


async def test_without_resume_a_run_that_was_stopped_is_refused(sqlite: Settings) -> None:
    migration = of_lines(VALUES, sqlite, DISCOVER)
    await migration.copy(pace=after_batches(0))
    with pytest.raises(UsageError, match="was stopped after 0 batches") as caught:
        await migration.copy()
    assert (caught.value.exit_code, "--resume" in (caught.value.hint or "")) == (2, True)
    other = of_lines(VALUES, sqlite)
    assert (await other.copy()).complete, "another request is another migration"


async def test_a_second_run_finds_everything_identical_and_commits_nothing(
    redis_values: RedisBackend, target: Settings
) -> None:
    await redis_values.put(MANY)
    migration = Migration(redis_values.open, target)
    assert outcomes(await migration.copy()) == {"migrate": 30}
    async with migration.store() as store:
        before = await store.head()
    assert outcomes(await migration.copy()) == {"identical": 30}
    async with migration.store() as store:
        assert await store.head() == before


@pytest.mark.usefixtures("ones")
async def test_values_that_come_and_go_between_two_runs_do_not_confuse_the_second(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """Whether it came to its end is no matter of counting."""
    await redis_values.put(MANY)
    migration = Migration(redis_values.open, sqlite)
    await migration.copy(pace=after_batches(20))
    await redis_values.put({f"k{i:03d}": None for i in range(10)} | {f"a{i}": b"1" for i in range(3)})
    await redis_values.put({"k025": None, "k028": text(OTHER.tolist()), "l": text(RHO.tolist())})
    stopped = await migration.copy(resume=True, pace=after_batches(5))
    assert (stopped.complete, stopped.values) == (False, 25)
    report = await migration.copy(resume=True)
    assert (report.complete, report.phase, report.values) == (True, "copied", 30)
    contents = await migration.contents()
    assert set(contents) == {*(key for key in MANY if key != "k025"), "l"}
    anew = await migration.copy()
    assert anew.values == 23
    assert outcomes(anew) == {"identical": 20, "not-a-matrix": 3}


@pytest.mark.usefixtures("ones")
async def test_a_matrix_that_was_lost_behind_the_checkpoint_is_copied_again(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """As if the store had forgotten its newest commits; what was deleted is not brought back."""
    await redis_values.put(MANY)
    migration = Migration(redis_values.open, sqlite)
    await migration.copy(pace=after_batches(10))
    behind = SqliteBackend(Path(sqlite.store.removeprefix("sqlite:///")))
    with behind.raw() as raw:
        for key in ("k008", "k009"):
            raw.execute("DELETE FROM payload WHERE id = (SELECT id FROM revision WHERE key = ?)", (key,))
            raw.execute("DELETE FROM revision WHERE key = ?", (key,))
    async with migration.store() as store:
        await commit_matrix_update(store, {"k007": None})
    report = await migration.copy(resume=True)
    assert report.complete
    assert set(await migration.contents()) == MANY.keys() - {"k007"}


@pytest.mark.usefixtures("ones")
async def test_a_corrupt_last_batch_is_an_error_and_not_built_upon(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    await redis_values.put(MANY)
    migration = Migration(redis_values.open, sqlite)
    await migration.copy(pace=after_batches(10))
    behind = SqliteBackend(Path(sqlite.store.removeprefix("sqlite:///")))
    data = bytearray(await behind.stored_bytes("default", "k009", 10))
    data[-1] ^= 1
    await behind.overwrite("default", "k009", 10, bytes(data))
    with pytest.raises(StoreDamaged, match="'k009', which this migration wrote, is corrupt"):
        await migration.copy(resume=True)


@pytest.mark.usefixtures("ones")
async def test_the_journal_has_a_page_for_each_batch(sqlite: Settings) -> None:
    migration = of_lines(VALUES, sqlite, DISCOVER)
    report = await migration.copy()
    async with migration.store() as store, migration.source() as source:
        journal = await migration.journal(source, store)
        assert journal.id == report.migration
        pages = [page async for page in journal.pages(1)]
        assert [bytes.fromhex(page.after).decode() for page in pages] == sorted(VALUES)
        assert [page.values for page in pages] == [1] * 7
        assert (journal.state.phase, journal.state.pages, journal.state.begun) == ("copied", 7, False)
        for page in pages:
            migrated = {row.target for row in page.rows if row.outcome == "migrate"}
            assert bool(page.commit_id) == bool(migrated)
            if migrated:
                record = (await store.commit_status(page.commit_id)).record
                assert record is not None
                assert record.receipt is not None
                assert set(record.receipt.keys) == migrated
                assert record.metadata is not None
                assert record.metadata.command == "migrate-json"
                assert record.metadata.user["migration"] == report.migration


@pytest.mark.usefixtures("ones")
async def test_of_two_runs_at_once_one_is_told_that_it_is_not_alone(
    redis_values: RedisBackend, target: Settings
) -> None:
    """The second takes over with --resume; the first finds out before it writes on."""
    await redis_values.put(MANY)
    first, second = Migration(redis_values.open, target), Migration(redis_values.open, target)
    reached, taken_over = asyncio.Event(), asyncio.Event()

    class Held(Pace):
        turns = 0

        async def turn(self, stop: asyncio.Event | None = None) -> bool:
            self.turns += 1
            if self.turns == 6:
                reached.set()
                await taken_over.wait()
            return True

    running = asyncio.create_task(first.copy(pace=Held()))
    await reached.wait()
    while len(await first.contents()) < 5:  # what had begun is written; from now on it only waits
        await asyncio.sleep(0.01)
    with pytest.raises(UsageError, match="was stopped"):
        await second.copy()
    report = await second.copy(resume=True)
    taken_over.set()
    with pytest.raises(LockHeld) as caught:
        await running
    assert caught.value.exit_code == 16
    assert (report.complete, outcomes(report)) == (True, {"migrate": 30})
    assert set(await second.contents()) == set(MANY)


async def test_somebody_who_writes_a_target_meanwhile_is_not_overwritten(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from somactl.legacy import copying

    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    commit, calls = copying._commit, 0

    async def late(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            async with migration.store() as store:
                await commit_matrix_update(store, {"whole": OTHER})
        await commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "_commit", late)
    report = await migration.copy()
    assert outcomes(report) == {"conflict": 1, "migrate": 5, "not-a-matrix": 1, "rejected": 2}
    assert len(await migration.contents()) == 6


# Gentle.


@pytest.mark.usefixtures("ones")
async def test_nothing_begins_while_the_pause_file_is_there(sqlite: Settings, tmp_path: Path) -> None:
    pause, remarks = tmp_path / "pause", []
    migration = of_lines(MANY, sqlite)

    def after_some(progress: MigrationProgress) -> None:
        if progress.done == 5:
            pause.touch()

    migration.watch = after_some
    running = asyncio.create_task(migration.copy(pace=Pace(pause_file=str(pause), remark=remarks.append)))
    await settled(lambda: len(remarks) == 1)
    await asyncio.sleep(0.3)
    held = len(await migration.contents())
    await asyncio.sleep(0.7)
    assert len(await migration.contents()) == held < 30
    assert "paused" in remarks[0]
    pause.unlink()
    report = await running
    assert (report.complete, remarks[1]) == (True, "going on")


@pytest.mark.usefixtures("ones")
async def test_time_that_is_up_ends_it_at_a_checkpoint(sqlite: Settings, tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    pause.touch()
    began = time.monotonic()
    report = await of_lines(MANY, sqlite).copy(pace=Pace(pause_file=str(pause), max_seconds=0.5))
    assert time.monotonic() - began < 5
    assert (report.complete, report.stopped, report.values, report.code) == (False, "--max-duration", 0, 4)


@pytest.mark.usefixtures("ones")
async def test_a_signal_finishes_the_batch_and_leaves_a_checkpoint(sqlite: Settings) -> None:
    """A signal is the cancellation of the task, `somactl.cli.signals` sees to that."""
    migration = of_lines(MANY, sqlite)

    def after_some(progress: MigrationProgress) -> None:
        if progress.done == 5:
            running.cancel()

    migration.watch = after_some
    running = asyncio.create_task(migration.copy())
    report = await running
    assert (report.complete, report.stopped, report.phase) == (False, "a signal", "copying")
    assert report.values == len(await migration.contents()) < 30
    async with migration.store() as store, migration.source() as source:
        state = (await migration.journal(source, store)).state
    assert (state.begun, state.pages) == (False, report.values)
    migration.watch = lambda progress: None
    assert (await migration.copy(resume=True)).complete


async def test_the_journal_of_nothing_is_not_made_by_looking(sqlite: Settings) -> None:
    migration = of_lines(VALUES, sqlite)
    async with migration.store() as store:
        assert not (await Journal.open(store, "0123456789ab")).exists
    assert not Path(sqlite.store.removeprefix("sqlite:///")).exists()
