"""One run: when it looks, when it ends, and that a run which is killed and continued ends like another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from canary.fakes import START, FakeClock, FakeSource, both, latencies, spec
from somactl.config import Settings
from somactl.core.canary_samples import AnySample, ArmName, Latency, Proof
from somactl.core.canary_verdict import CanaryVerdict
from somactl.errors import CorruptValue, LockHeld
from somactl.operations.canary import watch
from somactl.operations.canary.run import KEEP_SECONDS, Ended, Run, ended_before
from somactl.operations.canary.state import HOOK_SECONDS, Kept
from somactl.operations.jobs.checkpoint import Notes
from somactl.operations.jobs.notes_file import NotesFile
from somactl.runtime import open_store

WHOLE = spec()


@pytest.fixture(autouse=True)
def few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are kept for plots, which take the most of the time."""
    monkeypatch.setattr(watch, "MOST_LOOKS", 10)


@pytest_asyncio.fixture(params=["file", "store"])
async def notes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Notes]:
    if request.param == "file":
        file = NotesFile(str(tmp_path / "state"))
        yield file
        await file.close()
    else:
        async with open_store(Settings(store=f"sqlite:///{tmp_path / 'store.db'}")) as store:
            await store.init()
            yield store


class Killed(Exception):
    """The process is gone, and what it had not kept with it."""


async def run(sources: Sequence[Any], kept: Kept | None = None, **options: Any) -> tuple[Run, Ended]:
    run = Run(options.pop("spec", WHOLE), sources, kept, clock=options.pop("clock", FakeClock()), **options)
    await run.begin()
    return run, await run.go_on()


async def test_it_passes_at_the_end_of_the_window_alone() -> None:
    told: list[float] = []
    sources = both(latencies())
    half = spec(more="window: 200s\ninterval: 500ms")
    one, ended = await run(sources, spec=half, told=lambda watch, now: told.append(now - START))
    assert (ended.verdict.outcome, ended.is_final) == ("PASS", True)
    assert told[-1] == 200.0
    assert one.watch.verdict(one.start + 199).outcome != "PASS"
    assert len(sources[0].looks) == len(sources[1].looks) == 400  # one an interval, none beyond the end
    assert ended.verdict.outside == 0


async def test_it_ends_as_soon_as_it_fails() -> None:
    def violated(arm: ArmName, now: float) -> Sequence[AnySample]:
        if arm == "candidate" and now >= START + 100:
            return [Proof(t=now, arm=arm, psd="violated", key="state:2")]
        return latencies()(arm, now)

    clock = FakeClock()
    _, ended = await run(both(violated), clock=clock)
    assert (ended.verdict.outcome, ended.verdict.criterion) == ("FAIL", "invariants")
    assert "state:2" in ended.verdict.first_line()
    assert clock.time == START + 100  # in the very interval


async def test_the_arms_take_turns_and_keep_their_gap() -> None:
    order: list[tuple[ArmName, float]] = []

    def telling(arm: ArmName, now: float) -> Sequence[AnySample]:
        order.append((arm, now))
        return [Latency(t=now, arm=arm, seconds=0.01)]

    await run(both(telling), spec=spec(more="window: 10s\ninterval: 100ms\ngap: 500ms"))
    assert [arm[0] for arm, _ in order[:6]] == ["b", "c", "c", "b", "b", "c"]
    mine = [now for arm, now in order if arm == "candidate"]
    assert min(b - a for a, b in pairwise(mine)) == pytest.approx(0.5)


async def test_a_slow_source_does_not_hold_up_the_probe_of_the_other_arm() -> None:
    answer = asyncio.Event()

    class Slow(FakeSource):
        async def look(self, now: float) -> list[AnySample]:
            await answer.wait()
            return await super().look(now)

    slow = Slow("candidate", latencies(), is_timed=False)
    probe = FakeSource("baseline", latencies())

    def told(watch: Any, now: float) -> None:
        if now >= START + 0.05:
            answer.set()

    _, ended = await run([probe, slow], spec=spec(more="window: 100ms\ninterval: 10ms\ngap: 10ms"), told=told)
    assert len(probe.looks) == 10
    assert ended.verdict.samples["candidate"] > 0


async def killed_at(seconds: float, kept: Kept) -> FakeClock:
    clock = FakeClock()

    def told(watch: Any, now: float) -> None:
        if now >= START + seconds:
            raise Killed

    with pytest.raises(Killed):
        await run(both(latencies(1.9)), kept, clock=clock, told=told)
    return clock


def steps(verdict: CanaryVerdict) -> Any:
    return verdict.outcome, verdict.criterion, verdict.criteria, verdict.at, verdict.samples


async def test_killed_half_way_and_continued_it_ends_as_if_it_was_not(notes: Notes) -> None:
    """What came after the last keeping is lost with the process, and comes anew here, since the sources tell
    by time alone and time stands still meanwhile."""
    _, undisturbed = await run(both(latencies(1.9)))
    clock = await killed_at(30, await Kept.open(notes, WHOLE))
    kept = await Kept.open(notes, WHOLE)
    assert kept.looks
    clock.time = kept.looks[-1].at + 1.0
    again, ended = await run(both(latencies(1.9)), kept, clock=clock)
    assert again.start == START
    assert len(ended.watch.samples) > sum(len(look.samples) for look in kept.looks)
    assert steps(ended.verdict) == steps(undisturbed.verdict)
    assert ended.watch.samples == undisturbed.watch.samples
    assert ended.watch.looks == undisturbed.watch.looks


async def test_what_it_kept_last_is_not_old(notes: Notes) -> None:
    await killed_at(50, await Kept.open(notes, WHOLE))
    kept = await Kept.open(notes, WHOLE)
    assert START + 50 - kept.looks[-1].at <= KEEP_SECONDS + 1
    assert kept.head is not None
    assert kept.head.cursors["candidate"]["told"] == kept.looks[-1].at


async def once(notes: Notes, clock: FakeClock, factor: float = 0.8, reads: int = 1) -> Ended:
    kept = await Kept.open(notes, WHOLE)
    found = ended_before(WHOLE, kept)
    if found is not None:
        return found
    run = Run(WHOLE, both(latencies(factor)), kept, clock=clock)
    await run.begin()
    return await run.once(reads)


async def test_looks_of_many_processes_add_up(notes: Notes) -> None:
    clock = FakeClock()
    outcomes = []
    for _ in range(26):
        ended = await once(notes, clock, reads=10)
        outcomes.append((ended.verdict.outcome, ended.is_final))
        clock.time = START + 8 * len(outcomes)
    assert outcomes[:25] == [("INSUFFICIENT", False)] * 25
    assert outcomes[25] == ("PASS", True)
    assert ended.verdict.samples == {"baseline": 25 * 10 * 3, "candidate": 25 * 10 * 3}
    clock.time += 1000
    assert (await once(notes, clock)).verdict == ended.verdict  # which does not begin anew


async def test_a_look_that_fails_is_the_last(notes: Notes) -> None:
    clock, looks = FakeClock(), 0
    while not (ended := await once(notes, clock, factor=4.0, reads=10)).is_final:
        clock.time += 8
        looks += 1
    assert ended.verdict.outcome == "FAIL"
    assert looks < 20
    assert (await once(notes, clock)).verdict == ended.verdict


async def test_of_two_at_once_one_stops_and_nothing_is_counted_twice(notes: Notes) -> None:
    clock = FakeClock()
    await once(notes, clock)
    one, other = [Run(WHOLE, both(latencies()), await Kept.open(notes, WHOLE), clock=clock) for _ in "ab"]
    for each in (one, other):
        await each.begin()
    clock.time += 10
    await one.once(1)
    with pytest.raises(LockHeld, match="another canary check"):
        await other.once(1)
    assert (await once(notes, clock)).verdict.samples == {"baseline": 9, "candidate": 9}


async def test_of_two_that_begin_at_once_one_stops(notes: Notes) -> None:
    one, other = [
        Run(WHOLE, both(latencies()), await Kept.open(notes, WHOLE), clock=FakeClock()) for _ in "ab"
    ]
    await one.begin()
    with pytest.raises(LockHeld):
        await other.begin()


async def test_a_gap_while_nothing_ran_is_no_pass(notes: Notes) -> None:
    clock = await killed_at(15, await Kept.open(notes, WHOLE))
    clock.time = START + 60
    _, ended = await run(both(latencies()), await Kept.open(notes, WHOLE), clock=clock)
    assert (ended.verdict.outcome, ended.verdict.why) == ("INSUFFICIENT", "gap")


async def test_restart_forgets_and_another_spec_is_another_run(notes: Notes) -> None:
    clock = FakeClock()
    await once(notes, clock)
    assert (await Kept.open(notes, spec("{invariants: {}}"))).head is None
    kept = await Kept.open(notes, WHOLE, restart=True)
    assert (kept.head, kept.looks) == (None, [])
    assert not [note async for page in notes.scan_notes("canary/") for note in page]


async def test_a_missing_or_damaged_part_is_named(notes: Notes) -> None:
    await once(notes, FakeClock())
    part = [note.name async for page in notes.scan_notes("canary/") for note in page][-1]
    await notes.write_notes({part: b"nonsense"})
    with pytest.raises(CorruptValue, match=part):
        await Kept.open(notes, WHOLE)
    await notes.write_notes({part: None})
    with pytest.raises(CorruptValue, match="missing"):
        await Kept.open(notes, WHOLE)


async def test_a_hook_is_claimed_once_until_it_was_lost(notes: Notes) -> None:
    await once(notes, FakeClock())
    one, other = await Kept.open(notes, WHOLE), await Kept.open(notes, WHOLE)
    assert await one.claim_hook(START, 30)
    with pytest.raises(LockHeld):
        await other.claim_hook(START, 30)
    later = await Kept.open(notes, WHOLE)
    assert not await later.claim_hook(START + 29, 30)  # it may be at it
    assert await later.claim_hook(START + 31 + HOOK_SECONDS, 30)
    await later.hook_ended()
    assert not await (await Kept.open(notes, WHOLE)).claim_hook(START + 1e6, 30)
