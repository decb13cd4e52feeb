"""The pipeline, in every order that its stages can take turns in, ended by whatever can end it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, strategies as st

from somactl.operations.jobs.pace import Pace
from somactl.operations.jobs.pipeline import Ended, pipeline

TURNS = st.integers(0, 4)


class BrokenError(Exception):
    pass


async def turns(count: int) -> None:
    """Let the other tasks go first, `count` times."""
    for _ in range(count):
        await asyncio.sleep(0)


class TurnsPace(Pace):
    """Allows so many turns; None: any number."""

    allowed: int | None = None

    async def turn(self, stop: asyncio.Event | None = None) -> bool:
        assert stop is not None
        if self.allowed == 0:
            return False
        self.allowed = None if self.allowed is None else self.allowed - 1
        return not stop.is_set()


@dataclass
class Case:
    """What the stages take, and where something fails: at which item, in which stage."""

    slowness: list[tuple[int, int, int]]
    workers: int
    ahead: int
    fails: dict[str, int] = field(default_factory=dict)
    allowed: int | None = None
    signal: int | None = None
    read: list[int] = field(default_factory=list)
    working: int = 0
    busiest: int = 0
    held: int = 0
    fullest: int = 0
    collected: list[int] = field(default_factory=list)
    is_closed: bool = False

    async def reader(self) -> AsyncGenerator[int, None]:
        try:
            for number, (slow, _, _) in enumerate(self.slowness):
                await turns(slow)
                self.fail("read", number)
                self.read.append(number)
                self.held += 1
                self.fullest = max(self.fullest, self.held)
                yield number
        finally:
            self.is_closed = True

    async def work(self, number: int) -> int:
        self.working += 1
        self.busiest = max(self.busiest, self.working)
        try:
            await turns(self.slowness[number][1])
            self.fail("work", number)
            return number
        finally:
            self.working -= 1

    async def collect(self, number: int) -> None:
        await turns(self.slowness[number][2])
        self.fail("collect", number)
        self.collected.append(number)
        self.held -= 1

    def fail(self, stage: str, number: int) -> None:
        if self.fails.get(stage) == number:
            raise BrokenError(stage, number)

    async def run(self) -> Ended:
        pace = TurnsPace()
        pace.allowed = self.allowed
        task = asyncio.create_task(
            pipeline(
                self.reader(), self.work, self.collect, pace=pace, workers=self.workers, ahead=self.ahead
            )
        )
        if self.signal is not None:
            await turns(self.signal)
            task.cancel()
        try:
            return await task
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert not others, "a task of the pipeline outlived it"


def cases(**more: st.SearchStrategy[object]) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        slowness=st.lists(st.tuples(TURNS, TURNS, TURNS), max_size=12),
        workers=st.integers(1, 4),
        ahead=st.integers(0, 3),
        **more,
    )


@given(cases())
def test_everything_is_collected_once_in_the_readers_order(case: Case) -> None:
    assert asyncio.run(case.run()) == "done"
    assert case.collected == case.read == list(range(len(case.slowness)))
    assert case.is_closed
    assert case.busiest <= case.workers
    assert case.fullest <= case.workers + case.ahead + 1


@given(cases(signal=st.integers(0, 60)))
def test_a_signal_loses_nothing_that_was_read(case: Case) -> None:
    try:
        ended = asyncio.run(case.run())
    except asyncio.CancelledError:
        assert case.signal == 0  # before it had begun
        return
    assert case.collected == case.read == list(range(len(case.read)))
    assert ended == ("done" if len(case.read) == len(case.slowness) and ended == "done" else "signal")
    assert case.is_closed or not case.read


@given(cases(allowed=st.integers(0, 12)))
def test_a_deadline_loses_nothing_that_was_read(case: Case) -> None:
    ended = asyncio.run(case.run())
    assert case.collected == case.read == list(range(len(case.read)))
    assert ended == ("done" if case.allowed is not None and case.allowed > len(case.slowness) else "deadline")


@given(
    cases(fails=st.dictionaries(st.sampled_from(["read", "work", "collect"]), st.integers(0, 11), min_size=1))
)
def test_the_first_failure_ends_it_behind_all_that_came_before(case: Case) -> None:
    first = min(case.fails.values())
    if first >= len(case.slowness):
        assert asyncio.run(case.run()) == "done"
        return
    with pytest.raises(BrokenError) as raised:
        asyncio.run(case.run())
    assert raised.value.args[1] == first
    assert case.collected == list(range(first))
    assert case.is_closed
    assert case.working == 0


async def test_a_second_signal_ends_it_at_once() -> None:
    case = Case([(0, 0, 0)] * 3, workers=1, ahead=1)
    begun = asyncio.Event()

    async def collect(number: int) -> None:
        begun.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(pipeline(case.reader(), case.work, collect))
    await begun.wait()
    task.cancel()
    await turns(3)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert case.is_closed


async def test_a_signal_gives_up_a_reading_that_hangs() -> None:
    """What the job saves at the end is saved all the same, and no other signal cuts that off."""
    collected: list[int] = []
    finished: list[str] = []

    async def reader() -> AsyncGenerator[int, None]:
        yield 1
        await asyncio.sleep(3600)

    async def same(number: int) -> int:
        return number

    async def collect(number: int) -> None:
        collected.append(number)
        task.cancel()

    async def finish(ended: str) -> None:
        await asyncio.sleep(0.01)
        finished.append(ended)

    task = asyncio.create_task(pipeline(reader(), same, collect, finish=finish))
    assert await task == "signal"
    assert (collected, finished) == ([1], ["signal"])


async def test_a_signal_while_the_end_is_saved_does_not_cut_it_off_and_after_a_failure_nothing_is() -> None:
    case = Case([(0, 0, 0)] * 2, workers=1, ahead=1)
    finished: list[str] = []

    async def finish(ended: str) -> None:
        task.cancel()
        await asyncio.sleep(0.01)
        finished.append(ended)

    task = asyncio.create_task(pipeline(case.reader(), case.work, case.collect, finish=finish))
    assert await task == "done"
    assert finished == ["done"]

    async def fail(number: int) -> None:
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        await pipeline(case.reader(), case.work, fail, finish=finish)
    assert finished == ["done"]


async def test_the_pace_is_told_what_each_item_costs() -> None:
    case = Case([(0, 0, 0)] * 4, workers=2, ahead=0)
    told: list[tuple[int, int]] = []

    class Told(Pace):
        def did(self, items: int, bytes_: int) -> None:
            told.append((items, bytes_))

    await pipeline(
        case.reader(),
        case.work,
        case.collect,
        pace=Told(),
        cost=lambda number: (number, 10 * number),
        workers=2,
    )
    assert told == [(0, 0), (1, 10), (2, 20), (3, 30)]


async def test_a_rate_holds_the_reader_back() -> None:
    case = Case([(0, 0, 0)] * 5, workers=1, ahead=1)
    began = time.monotonic()
    await pipeline(case.reader(), case.work, case.collect, pace=Pace(items=50.0))
    assert time.monotonic() - began >= 0.08  # five items at fifty a second: the first is free
    assert case.collected == [0, 1, 2, 3, 4]
