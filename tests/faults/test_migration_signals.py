"""Migrations that are asked to stop, or meet another run, or whose source changes meanwhile."""

from __future__ import annotations

import json
import signal

import pytest

from faults.migrations import (
    BATCH,
    Ground,
    Target,
    density,
    live,
    numpy_form,
    originals,
    outcome,
    state,
)

STOPS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


async def pages(target: Target) -> int:
    known = await state(target)
    return known.pages if known is not None else 0


async def copied(ground: Ground) -> Target:
    target = await ground.target("sqlite")
    run = ground.runs.run(ground.sources["redis"].url, target)
    assert run.code == 3, run.err
    return target


@pytest.fixture
def source(ground: Ground) -> str:
    """The URL of the source."""
    return ground.sources["redis"].url


@pytest.mark.parametrize(("number", "code"), STOPS, ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("step", ["before commit 3", "after notes 4"])
async def test_a_signal_lets_the_batch_end_and_leaves_a_checkpoint(
    ground: Ground, source: str, number: signal.Signals, code: int, step: str
) -> None:
    target = await ground.target("sqlite")
    run = ground.runs.run(source, target, signals={step: number})
    assert run.code == code, run.err
    report = run.report
    assert (report["complete"], report["stopped"], report["phase"]) == (False, "a signal", "copying")
    assert report["next"].endswith("--resume")
    known = await state(target)
    assert known is not None
    assert (known.begun, known.phase) == (False, "copying")
    assert report["values"] == known.pages * BATCH
    assert 3 <= known.pages <= 6  # what was read ahead may be done as well
    refused = ground.runs.run(source, target)
    assert refused.code == 2
    assert "--resume" in refused.err
    run = ground.runs.run(source, target, "--resume")
    assert run.code == 3, run.err
    assert run.report["complete"]
    assert await outcome(target) == (await ground.undisturbed("sqlite", "redis")).outcome


@pytest.mark.parametrize("verb", ["finalize", "revert"])
async def test_a_signal_stops_what_follows_a_copy_where_it_can_go_on(
    ground: Ground, source: str, verb: str
) -> None:
    target = await copied(ground)
    if verb == "revert":
        run = ground.runs.run(source, target, "finalize", "--yes")
        assert run.code == 0, run.err
    run = ground.runs.run(source, target, verb, "--yes", signals={"before swap 2": signal.SIGTERM})
    assert run.code == 143, run.err
    report = run.report
    assert (report["complete"], report["stopped"]) == (False, "a signal")
    assert verb in report["next"]
    run = ground.runs.run(source, target, verb, "--yes")
    assert run.code == 0, run.err
    assert run.report["complete"]
    if verb == "revert":
        assert ground.sources["redis"].all() == ground.values


@pytest.mark.parametrize("verb", ["", "finalize", "revert"])
async def test_a_signal_at_the_very_last_write_changes_nothing(
    ground: Ground, source: str, verb: str
) -> None:
    words = [verb, "--yes"] if verb else []
    target = await copied(ground) if verb else await ground.target("sqlite")
    copy = ground.clone(target)
    steps = ground.runs.run(source, copy, *words).steps
    ground.sources["redis"].load(ground.values)
    run = ground.runs.run(source, target, *words, signals={steps[-2][0]: signal.SIGTERM})
    assert run.code == (0 if verb else 3), run.err
    assert run.report["complete"]


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
@pytest.mark.parametrize("step", ["after notes 4", "before commit 4", "after commit 4", "before notes 5"])
async def test_of_two_runs_the_one_that_was_overtaken_stops(
    ground: Ground, source: str, kind: str, step: str
) -> None:
    wanted = await ground.undisturbed("sqlite", "redis")
    target = await ground.target(kind)
    first = ground.runs.start(source, target, signals={step: signal.SIGSTOP})
    first.wait_until_stopped()
    second = ground.runs.run(source, target)
    assert second.code == 2, second.err  # no run is taken over without saying so
    second = ground.runs.run(source, target, "--resume")
    assert second.code == 3, second.err
    first.signal(signal.SIGCONT)
    assert first.wait().code == 16, first.err
    assert await outcome(target) == wanted.outcome
    run = ground.runs.run(source, target, "revert")
    assert run.code == 0, run.err
    async with target.store() as store:
        assert await live(store) == {}


@pytest.mark.parametrize("step", ["before commit 4", "after commit 4", "before notes 5"])
async def test_a_copy_that_a_revert_overtook_writes_nothing_more(
    ground: Ground, source: str, step: str
) -> None:
    target = await ground.target("sqlite")
    first = ground.runs.start(source, target, signals={step: signal.SIGSTOP})
    first.wait_until_stopped()
    second = ground.runs.run(source, target, "revert")
    assert second.code == 0, second.err
    first.signal(signal.SIGCONT)
    assert first.wait().code == 16, first.err
    async with target.store() as store:
        assert await live(store) == {}


async def test_two_runs_at_once_never_do_the_same_batch_twice(ground: Ground, source: str) -> None:
    wanted = await ground.undisturbed("sqlite", "redis")
    target = await ground.target("postgres")
    runs = [ground.runs.start(source, target, "--resume") for _ in range(3)]
    codes = sorted(run.wait().code or 0 for run in runs)
    assert set(codes) <= {3, 16}, [run.err for run in runs]
    if 3 not in codes:  # each took the run over from another
        assert ground.runs.run(source, target, "--resume").code == 3
    assert await outcome(target) == wanted.outcome


async def test_of_two_finalizing_runs_one_stops_and_nothing_is_lost(ground: Ground, source: str) -> None:
    target = await copied(ground)
    words = ("finalize", "--yes")
    first = ground.runs.start(source, target, *words, signals={"before swap 2": signal.SIGSTOP})
    first.wait_until_stopped()
    second = ground.runs.run(source, target, *words)
    assert second.code == 0, second.err
    first.signal(signal.SIGCONT)
    assert first.wait().code == 16, first.err
    run = ground.runs.run(source, target, "revert")
    assert run.code == 0, run.err
    assert ground.sources["redis"].all() == ground.values


async def test_a_finalizing_run_that_a_revert_overtook_takes_nothing_out(ground: Ground, source: str) -> None:
    """It may have been about to, for however long: what it then takes out, no other run would put back."""
    target = await copied(ground)
    words = ("finalize", "--yes")
    first = ground.runs.start(source, target, *words, signals={"before swap 2": signal.SIGSTOP})
    first.wait_until_stopped()
    second = ground.runs.run(source, target, "revert")
    assert second.code == 0, second.err
    first.signal(signal.SIGCONT)
    assert first.wait().code == 16, first.err
    assert ground.sources["redis"].all() == ground.values


async def test_values_that_go_while_a_migration_is_stopped_do_not_make_it_complete(
    ground: Ground, source: str
) -> None:
    """As many were looked at then as the source still has, though not the same."""
    target = await ground.target("sqlite")
    run = ground.runs.run(source, target, signals={"after notes 9": signal.SIGKILL})
    assert run.code is None
    seen = BATCH * 7
    fewer = dict(sorted(ground.values.items())[seen:])
    assert len(fewer) < seen
    ground.sources["redis"].load(fewer)
    run = ground.runs.run(source, target, "--resume", signals={"after commit 1": signal.SIGTERM})
    assert run.code == 143, run.err
    assert not run.report["complete"]
    run = ground.runs.run(source, target, "--resume")
    assert run.code == 3, run.err
    assert run.report["phase"] == "copied"


async def test_values_that_come_while_a_migration_is_stopped_let_it_end(ground: Ground, source: str) -> None:
    target = await ground.target("sqlite")
    run = ground.runs.run(source, target, signals={"after notes 5": signal.SIGKILL})
    assert run.code is None
    more = {f"!{number}": b"[[1.0]]" for number in range(3)}  # before all that was looked at
    ground.sources["redis"].load({**ground.values, **more})
    run = ground.runs.run(source, target, "--resume")
    assert (run.code, run.report["complete"], run.report["phase"]) == (3, True, "copied"), run.err
    run = ground.runs.run(source, target)  # the next pass finds them
    assert run.report["outcomes"]["migrate"]["count"] == len(more)


async def test_what_was_taken_out_first_is_kept_when_a_value_gets_another_matrix(
    ground: Ground, source: str
) -> None:
    import numpy as np

    dice = np.random.default_rng(7)
    redis = ground.sources["redis"]
    before = {"memory": json.dumps({"rho": numpy_form(density(dice)), "n": 1}).encode()}
    redis.load(before)
    target = await ground.target("sqlite")
    for words in ((), ("finalize", "--yes")):
        assert ground.runs.run(source, target, *words).code == 0
    again = json.loads(redis.all()["memory"])
    again["other"] = numpy_form(density(dice))
    redis.load({"memory": json.dumps(again).encode()})
    assert ground.runs.run(source, target).code == 0
    run = ground.runs.run(source, target, "finalize", "--yes")
    assert run.code == 4
    assert list(run.report["left_alone"]) == ["memory"]
    assert await originals(target) == before
    run = ground.runs.run(source, target, "revert")
    assert run.code == 4  # it is not what was left there
    async with target.store() as store:
        assert "memory#/rho" in await live(store)  # to which the source still refers
