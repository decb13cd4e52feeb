"""Migrations whose source, target or cache dies in the middle, or comes back without its newest writes."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.migrations import (
    BATCH,
    Ground,
    LegacyPostgres,
    Running,
    Target,
    live,
    outcome,
    state,
    the_journal,
)
from servers.postgres import PostgresServer
from servers.redis import RedisServer

STOPPED = (13, 14, 16)
"""The store is unavailable; it did not say what became of a write; it has lost what this run wrote."""


@pytest.fixture(scope="module")
def postgres_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("postgres-node")) as server:
        yield server


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that writes down all it does, and now and then makes sure of it."""
    config = {"appendonly": "yes", "appendfsync": "everysec", "auto-aof-rewrite-percentage": "0"}
    with RedisServer(tmp_path / "node", config=config) as server:
        yield server


def resume(ground: Ground, url: str, target: Target) -> Running:
    run = ground.runs.run(url, target, "--resume")
    assert run.code == 3, run.err
    return run


async def assert_revertible(ground: Ground, url: str, target: Target) -> None:
    run = ground.runs.run(url, target, "revert")
    assert run.code == 0, run.err
    async with target.store() as store:
        assert await live(store) == {}


@pytest.mark.parametrize("kind", ["redis", "postgres"])
@pytest.mark.parametrize("step", ["before notes 6", "after notes 6", "before commit 6", "after commit 6"])
async def test_a_target_that_dies_ends_the_run_which_is_resumed(
    ground: Ground, node: RedisServer, postgres_node: PostgresServer, kind: str, step: str
) -> None:
    url = ground.sources["redis"].url
    server = node if kind == "redis" else postgres_node
    wanted = await ground.undisturbed("redis", "redis")
    place = node.url if kind == "redis" else postgres_node.create_database()
    target = await Target(place, retry_seconds=0).init()
    run = ground.runs.start(url, target, signals={step: signal.SIGSTOP})
    run.wait_until_stopped()
    server.kill()
    run.signal(signal.SIGCONT)
    assert run.wait().code in STOPPED, run.err
    assert "--resume" in run.err
    server.start()
    resume(ground, url, target)
    assert await outcome(target) == wanted.outcome
    await assert_revertible(ground, url, target)


async def test_a_target_that_is_back_in_time_goes_unnoticed(ground: Ground, node: RedisServer) -> None:
    url = ground.sources["redis"].url
    wanted = await ground.undisturbed("redis", "redis")
    target = await Target(node.url, retry_seconds=30).init()
    run = ground.runs.start(url, target, signals={"before commit 6": signal.SIGSTOP})
    run.wait_until_stopped()
    node.kill()
    run.signal(signal.SIGCONT)
    node.start()
    assert run.wait().code == 3, run.err
    assert await outcome(target) == wanted.outcome


class Backup:
    """What a server had on disk at one moment."""

    def __init__(self, node: RedisServer, folder: Path) -> None:
        self._data = node.folder / "data"
        self._copy = folder / "backup"
        shutil.copytree(self._data, self._copy)

    def restore(self, node: RedisServer) -> None:
        """kill -9, and a start without what was written since."""
        node.kill()
        shutil.rmtree(self._data)
        shutil.copytree(self._copy, self._data)
        node.start()


EARLIER = ["before notes 2", "after notes 4", "after commit 4", "before notes 8"]


@pytest.mark.parametrize("earlier", EARLIER)
@pytest.mark.parametrize("later", ["after commit 8", "after notes 9"])
async def test_a_target_that_lost_its_newest_writes_gets_them_again(
    ground: Ground, node: RedisServer, tmp_path: Path, earlier: str, later: str
) -> None:
    """Commits and journal are of one server, and go back together."""
    url = ground.sources["redis"].url
    wanted = await ground.undisturbed("redis", "redis")
    target = await Target(node.url).init()
    run = ground.runs.start(url, target, signals={earlier: signal.SIGSTOP, later: signal.SIGKILL})
    run.wait_until_stopped()
    backup = Backup(node, tmp_path)
    run.signal(signal.SIGCONT)
    assert run.wait().code is None
    backup.restore(node)
    assert resume(ground, url, target).report == wanted.report
    assert await outcome(target) == wanted.outcome
    await assert_revertible(ground, url, target)


@pytest.mark.parametrize("earlier", EARLIER)
@pytest.mark.parametrize("later", ["before commit 8", "before notes 9"])
async def test_a_run_that_outlives_the_loss_stops_and_what_it_still_wrote_is_known_as_its_own(
    ground: Ground, node: RedisServer, tmp_path: Path, earlier: str, later: str
) -> None:
    """As where a replica takes over that has not heard of everything."""
    url = ground.sources["redis"].url
    wanted = await ground.undisturbed("redis", "redis")
    target = await Target(node.url).init()
    run = ground.runs.start(url, target, signals={earlier: signal.SIGSTOP, later: signal.SIGSTOP})
    run.wait_until_stopped()
    backup = Backup(node, tmp_path)
    run.signal(signal.SIGCONT)
    run.wait_for(later)
    run.wait_until_stopped()
    backup.restore(node)
    run.signal(signal.SIGCONT)
    assert run.wait().code in STOPPED, run.err
    assert resume(ground, url, target).report == wanted.report
    assert await outcome(target) == wanted.outcome
    await assert_revertible(ground, url, target)


@pytest.mark.parametrize("plain_pages", [0, 2])
async def test_a_journal_that_is_ahead_of_the_matrices_goes_back(ground: Ground, plain_pages: int) -> None:
    """No store loses commits and keeps the notes that were written after them, but one that was mended may.

    Pages without a matrix say nothing about what was lost.
    """
    source = ground.sources["redis"]
    source.load({**ground.values, **{f"~{number:03d}": b'"words"' for number in range(plain_pages * BATCH)}})
    target = await ground.target("sqlite")
    last = f"after notes {2 + -(-len(source.all()) // BATCH)}"  # the state is "copied" then
    run = ground.runs.start(source.url, target, signals={"before notes 9": signal.SIGSTOP})
    run.wait_until_stopped()
    older = ground.clone(target)
    run.signal(signal.SIGCONT)
    assert run.wait().code == 3, run.err
    assert run.steps[-1][0] == last
    wanted = await outcome(target)
    async with target.store() as store, older.store() as mended:
        journal = await the_journal(store)
        await journal.advance(phase="copying")
        names = [note.name async for page in store.scan_notes() for note in page]
        notes = await store.read_notes(names)
        await mended.write_notes({name: note.data for name, note in notes.items()})
    assert resume(ground, source.url, older).report == run.report
    assert await outcome(older) == wanted
    await assert_revertible(ground, source.url, older)


async def test_a_source_that_dies_ends_the_run_which_is_resumed(
    ground: Ground, postgres_node: PostgresServer
) -> None:
    wanted = await ground.undisturbed("sqlite", "postgres")
    source = LegacyPostgres(postgres_node)
    source.load(ground.values)
    target = await ground.target("sqlite")
    run = ground.runs.start(source.url, target, signals={"before commit 5": signal.SIGSTOP})
    run.wait_until_stopped()
    postgres_node.kill()
    run.signal(signal.SIGCONT)
    assert run.wait().code == 13, run.err
    assert "--resume" in run.err
    known = await state(target)
    assert known is not None
    assert known.phase == "copying"
    postgres_node.start()
    resume(ground, source.url, target)
    assert await outcome(target) == wanted.outcome
    await assert_revertible(ground, source.url, target)


async def test_taking_values_out_warns_where_the_store_may_lose_what_it_was_given(
    ground: Ground, node: RedisServer
) -> None:
    url = ground.sources["redis"].url
    with node.client() as raw:
        raw.config_set("appendfsync", "always")
    target = await Target(node.url).init()
    assert ground.runs.run(url, target).code == 3
    run = ground.runs.run(url, target, "finalize", "--yes", signals={"after swap 1": signal.SIGTERM})
    assert (run.code, "no more than memory" in str(run.report["warnings"])) == (143, False), run.err
    with node.client() as raw:
        raw.config_set("appendfsync", "everysec")
    run = ground.runs.run(url, target, "finalize", "--yes")
    assert run.code == 0, run.err
    durability, conflicts = run.report["warnings"]
    assert "no more than memory" in durability
    assert "conflict" in conflicts


async def test_a_dead_cache_does_not_stop_a_migration(ground: Ground, tmp_path: Path) -> None:
    url = ground.sources["redis"].url
    wanted = await ground.undisturbed("redis", "redis")
    with RedisServer(tmp_path / "cache") as cache:
        target = await ground.target("postgres")
        target.cache = cache.url
        run = ground.runs.start(url, target, signals={"before commit 4": signal.SIGSTOP})
        run.wait_until_stopped()
        cache.kill()
        run.signal(signal.SIGCONT)
        assert run.wait().code == 3, run.err
        report = run.report
        assert set(report["codes"]) == {3, 4}
        assert report["degraded"]
        assert [part["service"] for part in report["degraded_services"]] == ["redis cache"]
        assert (report["complete"], report["phase"]) == (True, "copied")
    assert await outcome(target) == wanted.outcome
