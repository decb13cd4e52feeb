"""kill -9 of `somactl migration finalize` and `revert`: no byte of the source is ever lost."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Mapping
from typing import Any

import pytest

from faults.migrations import Ground, Legacy, Running, Target, live, lost, originals, state
from somactl.legacy.json_edit import REFERENCE_KEY

FINALIZE = ("finalize", "--yes")
WAYS = [("sqlite", "redis"), ("redis", "postgres"), ("postgres", "postgres")]
"""Target and source."""
KILLS = 3


async def copied(ground: Ground, kind: str, source: str) -> Target:
    """A target that holds all that the source has."""
    ground.sources[source].load(ground.values)
    target = await ground.target(kind)
    run = ground.runs.run(ground.sources[source].url, target)
    assert run.code == 3, run.err  # some values are rejected
    return target


async def finalized(ground: Ground, kind: str, source: str) -> tuple[Target, Running]:
    target = await copied(ground, kind, source)
    run = ground.runs.run(ground.sources[source].url, target, *FINALIZE)
    assert run.code == 0, run.err
    return target, run


def finish(ground: Ground, source: str, target: Target, *words: str) -> None:
    run = ground.runs.run(ground.sources[source].url, target, *words)
    assert run.code == 0, run.err
    assert run.report["left_alone"] == {}


async def assert_nothing_is_lost(source: Legacy, target: Target, before: Mapping[str, bytes]) -> None:
    """Every value is in the source as it was, or its bytes are kept and its matrices are in the store."""
    now = source.all()
    assert lost(before, now, await originals(target)) == []
    async with target.store() as store:
        stored = await live(store)
    for key, data in before.items():
        if key not in now:
            assert key in stored
        elif now[key] != data:
            referred = references(json.loads(now[key]))
            assert referred
            assert referred.items() <= stored.items()


def references(node: Any) -> dict[str, str]:
    """Key -> content digest of all that a finalized value refers to."""
    if isinstance(node, dict) and REFERENCE_KEY in node:
        return {node[REFERENCE_KEY]["key"]: node[REFERENCE_KEY]["digest"]}
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return {key: content for child in children for key, content in references(child).items()}


async def assert_undone(source: Legacy, target: Target, before: Mapping[str, bytes]) -> None:
    """The source is what it was, and nothing is left in the store, nor kept."""
    assert source.all() == before
    assert await originals(target) == {}
    async with target.store() as store:
        assert await live(store) == {}


def windows(steps: list[tuple[str, float]]) -> list[str]:
    """Every step of the first page, of one in the middle, and of the last one."""
    names = [step for step, _ in steps]
    middle = len(names) // 2
    return [*names[:6], *names[middle : middle + 4], *names[-4:]]


async def test_a_finalize_killed_between_any_two_writes_loses_nothing_and_ends_as_it_should(
    ground: Ground,
) -> None:
    source = ground.sources["redis"]
    full = await copied(ground, "sqlite", "redis")
    before = source.all()
    steps = ground.runs.run(source.url, ground.clone(full), *FINALIZE).steps
    wanted = source.all()
    assert len(wanted) < len(before)
    for number, step in enumerate(windows(steps)):
        source.load(before)
        target = ground.clone(full)
        run = ground.runs.run(source.url, target, *FINALIZE, signals={step: signal.SIGKILL})
        assert run.code is None, step
        await assert_nothing_is_lost(source, target, before)
        if number % 2:  # an operator who decides otherwise need not finish it first
            finish(ground, "redis", target, "revert")
            await assert_undone(source, target, before)
            continue
        finish(ground, "redis", target, *FINALIZE)
        assert source.all() == wanted, step
        await assert_nothing_is_lost(source, target, before)


async def test_a_revert_killed_between_any_two_writes_loses_nothing_and_ends_as_it_should(
    ground: Ground,
) -> None:
    source = ground.sources["redis"]
    full, _ = await finalized(ground, "sqlite", "redis")
    left = source.all()
    steps = [step for step, _ in ground.runs.run(source.url, ground.clone(full), "revert").steps]
    before = source.all()
    turn = steps.index("before commit 1")  # from what goes back into the source to what leaves the store
    for step in [*steps[:5], *steps[turn - 2 : turn + 4], *steps[-4:]]:
        source.load(left)
        target = ground.clone(full)
        run = ground.runs.run(source.url, target, "revert", signals={step: signal.SIGKILL})
        assert run.code is None, step
        await assert_nothing_is_lost(source, target, before)
        finish(ground, "redis", target, "revert")  # after the last write too: it says that it is done
        await assert_undone(source, target, before)


async def test_what_is_forgotten_in_part_cannot_be_reverted_and_is_forgotten_when_asked_again(
    ground: Ground,
) -> None:
    """A revert would take matrices out of the store whose values it could not put back."""
    source = ground.sources["redis"]
    full, _ = await finalized(ground, "sqlite", "redis")
    async with full.store() as store:
        stored = await live(store)
    steps = [step for step, _ in ground.runs.run(source.url, ground.clone(full), "forget", "--yes").steps]
    for step in steps[1:]:
        target = ground.clone(full)
        run = ground.runs.run(source.url, target, "forget", "--yes", signals={step: signal.SIGKILL})
        assert run.code is None, step
        for words in (("revert",), FINALIZE, ()) if step != steps[-1] else ():
            run = ground.runs.run(source.url, target, *words)
            assert run.code == 2, f"{step}: {run.err}"
            assert "forget" in run.err
        finish(ground, "redis", target, "forget", "--yes")
        assert await state(target) is None
        async with target.store() as store:
            assert await live(store) == stored
            assert [page async for page in store.scan_notes()] == []


@pytest.mark.parametrize(("kind", "name"), WAYS)
async def test_killed_at_random_a_finalize_and_its_revert_still_undo_each_other(
    ground: Ground, kind: str, name: str
) -> None:
    source = ground.sources[name]
    target = await copied(ground, kind, name)
    before = source.all()
    for seed in range(KILLS):
        dice = random.Random(f"{kind} {seed}")
        run = ground.runs.start(source.url, target, *FINALIZE)
        run.wait_for(f"after swap {dice.randrange(1, 9)}")
        time.sleep(dice.random() * 0.02)
        run.kill()
        assert run.code is None, f"seed {seed} did not hit"
        await assert_nothing_is_lost(source, target, before)
        if seed % 2:
            finish(ground, name, target, *FINALIZE)
            assert source.all() != before
        run = ground.runs.start(source.url, target, "revert")
        run.wait_for(f"after {dice.choice(['swap', 'commit'])} {dice.randrange(1, 9)}")
        time.sleep(dice.random() * 0.02)
        run.kill()
        await assert_nothing_is_lost(source, target, before)
        finish(ground, name, target, "revert")
        await assert_undone(source, target, before)
        run = ground.runs.run(source.url, target)  # and all of it from the beginning
        assert run.code == 3, f"seed {seed}: {run.err}"
