"""kill -9 of `somactl migrate-json` while it copies: resumed, it ends as if nothing had been."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from faults.migrations import Ground, Running, Target, live, outcome, state

KILLS = [
    ("sqlite", "redis", 14),
    ("postgres", "redis", 12),
    ("redis", "postgres", 12),
    ("hybrid", "postgres", 12),
]
"""Target, source, and how many runs are killed."""
MORE_KILLS = 2
"""How often the resumption of a killed run is killed as well, at most."""


async def resume(ground: Ground, source: str, target: Target) -> Running:
    run = ground.runs.run(ground.sources[source].url, target, "--resume")
    assert run.code == 3, run.err
    return run


async def withdrawn(ground: Ground, source: str, target: Target) -> dict[str, str]:
    """What is still in the store after a revert."""
    run = ground.runs.run(ground.sources[source].url, target, "revert")
    assert run.code == 0, run.err
    async with target.store() as store:
        return await live(store)


@pytest.mark.parametrize(("kind", "source", "kills"), KILLS, ids=[kind for kind, _, _ in KILLS])
async def test_a_copy_killed_at_random_ends_as_an_undisturbed_one(
    ground: Ground, kind: str, source: str, kills: int
) -> None:
    wanted = await ground.undisturbed(kind, source)
    half_way = 0
    for seed in range(kills):
        dice = random.Random(f"{kind} {seed}")
        target = await ground.target(kind)
        for attempt in range(1 + dice.randrange(MORE_KILLS + 1)):
            run = ground.runs.start(ground.sources[source].url, target, *(["--resume"] if attempt else []))
            run.wait_for(dice.choice(wanted.steps[4:-6]))
            time.sleep(dice.random() * wanted.seconds_of_a_step)
            run.kill()
            known = await state(target)
            half_way += attempt == 0 and known is not None and known.phase == "copying" and known.pages > 0
            if known is not None and known.phase == "copied":
                break
        else:
            run = await resume(ground, source, target)
            assert run.report == wanted.report, f"{kind}, seed {seed}"
        assert await outcome(target) == wanted.outcome, f"{kind}, seed {seed}"
        if seed % 3 == 0:
            assert await withdrawn(ground, source, target) == {}, f"{kind}, seed {seed}"
    assert half_way > kills * 2 // 3, f"only {half_way} of {kills} kills hit the middle"


def windows(steps: list[str]) -> list[str]:
    """Every step of the first two batches, of one in the middle, and of the last two."""
    middle = len(steps) // 2
    return [*steps[:8], *steps[middle : middle + 4], *steps[-8:]]


async def test_a_copy_killed_between_any_two_writes_ends_as_an_undisturbed_one(ground: Ground) -> None:
    wanted = await ground.undisturbed("sqlite", "redis")
    for step in windows(wanted.steps):
        target = await ground.target("sqlite")
        run = ground.runs.run(ground.sources["redis"].url, target, signals={step: signal.SIGKILL})
        assert run.code is None, step
        assert run.steps[-1][0] == step
        run = await resume(ground, "redis", target)
        report = run.report
        told = [warning for warning in report["warnings"] if "nothing was left to resume" in warning]
        assert told or step != wanted.steps[-1]
        report["warnings"] = [warning for warning in report["warnings"] if warning not in told]
        assert report == wanted.report, step
        assert await outcome(target) == wanted.outcome, step


@pytest.mark.parametrize("step", ["after notes 4", "after commit 4"])
@pytest.mark.parametrize(("kind", "source"), [(kind, source) for kind, source, _ in KILLS])
async def test_what_a_killed_run_committed_is_its_own_to_revert(
    ground: Ground, kind: str, source: str, step: str
) -> None:
    target = await ground.target(kind)
    run = ground.runs.run(ground.sources[source].url, target, signals={step: signal.SIGKILL})
    assert run.code is None
    async with target.store() as store:
        assert await live(store) != {}
    assert await withdrawn(ground, source, target) == {}


@pytest.mark.parametrize("step", ["after notes 1", "after notes 4", "after commit 4", "before notes 13"])
async def test_a_plan_that_was_killed_half_way_is_carried_out_to_its_end(
    ground: Ground, tmp_path: Path, step: str
) -> None:
    wanted = await ground.undisturbed("sqlite", "redis")
    url, plan, target = ground.sources["redis"].url, str(tmp_path / "plan"), await ground.target("sqlite")
    run = ground.runs.run(url, target, "--dry-run", "--plan-file", plan)
    assert run.code == 3, run.err
    run = ground.runs.run(url, target, "--apply", plan, signals={step: signal.SIGKILL})
    assert run.code is None
    run = ground.runs.run(url, target, "--apply", plan)
    assert run.code == 3, run.err
    assert run.report["complete"]
    assert await outcome(target) == wanted.outcome


async def test_a_run_killed_after_each_of_its_commits_still_comes_to_its_end(ground: Ground) -> None:
    wanted = await ground.undisturbed("sqlite", "redis")
    target = await ground.target("sqlite")
    runs = 0
    run = None
    while run is None or run.code is None:
        run = ground.runs.run(
            ground.sources["redis"].url,
            target,
            *(["--resume"] if runs else []),
            signals={"after commit 1": signal.SIGKILL},
        )
        runs += 1
    # Each commits one batch, and the last one finds nothing left to commit.
    assert runs == sum(step.startswith("after commit") for step in wanted.steps) + 1
    assert run.code == 3, run.err
    assert run.report == wanted.report
    assert await outcome(target) == wanted.outcome
