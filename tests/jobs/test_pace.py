"""A job is held back while its store answers slowly, and goes on all the same."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle, pairwise

import pytest
from hypothesis import given, strategies as st

from somactl.errors import NamespaceNotFound, StoreUnavailable
from somactl.operations.jobs.pace import CALM_SECONDS, Pace
from somactl.operations.jobs.throttle import FIRST_SECONDS, LONGEST_SECONDS, Throttle

LIMIT = 0.020
FAST, SLOW = 0.003, 0.048


@dataclass
class Clock:
    """Time that passes only where something takes some of it."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


class TimelessPace(Pace):
    """Sleeps in no time at all; the clock of the test goes forward."""

    async def _sleep(self, seconds: float, stop: asyncio.Event) -> None:
        assert isinstance(self.now, Clock)
        self.now.seconds += max(0.0, min(seconds, self._left()))
        await asyncio.sleep(0)


@dataclass
class Job:
    """Steps of `step` seconds against a store that takes `latency(now)` for a small question."""

    latency: Callable[[float], float] = lambda now: FAST
    step: float = 0.5
    clock: Clock = field(default_factory=Clock)
    remarks: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def pace(self, **more: float) -> TimelessPace:
        pace = TimelessPace(
            max_latency=LIMIT,
            probe=self.probe,
            now=self.clock,
            remark=self.remarks.append,
            waiting=lambda: self.reasons.append(pace.reason),
            **more,  # type: ignore[arg-type]
        )
        return pace

    async def probe(self) -> None:
        self.asked.append(self.clock.seconds)
        self.clock.seconds += self.latency(self.clock.seconds - 1000.0)

    async def run(self, pace: Pace, count: int) -> None:
        for _ in range(count):
            if not await pace.turn():
                return
            self.steps.append(self.clock.seconds - 1000.0)
            self.clock.seconds += self.step
            pace.did(1, 100)

    @property
    def gaps(self) -> list[float]:
        """What lay between the end of a step and the next one's begin."""
        return [after - before - self.step for before, after in pairwise(self.steps)]


async def test_a_store_that_answers_in_time_holds_nothing_back() -> None:
    job = Job()
    pace = job.pace()
    await job.run(pace, 50)
    assert (pace.held_back, pace.reason, job.remarks) == (0.0, "", [])
    assert max(job.gaps) <= FAST * 1.01


@pytest.mark.parametrize(
    "answers",
    [
        [SLOW, SLOW, SLOW, FAST, FAST],  # the store makes a checkpoint now and then
        [SLOW, SLOW, FAST],  # this process is mostly late to look
    ],
)
async def test_some_slow_answers_do_not_make_a_slow_store(answers: list[float]) -> None:
    each = cycle(answers)
    job = Job(lambda now: next(each))
    pace = job.pace()
    await job.run(pace, 30)
    assert (pace.held_back, job.remarks) == (0.0, [])


async def test_pauses_grow_while_the_store_is_slow_up_to_a_bound_and_the_job_goes_on() -> None:
    job = Job(lambda now: SLOW)
    pace = job.pace()
    await job.run(pace, 20)
    assert len(job.steps) == 20
    assert job.gaps[0] >= FIRST_SECONDS
    assert sorted(job.gaps[:7]) == job.gaps[:7]
    # No longer than that: the answers that are waited for in a pause come on top.
    assert all(LONGEST_SECONDS <= gap < LONGEST_SECONDS + 7 * SLOW + 0.1 for gap in job.gaps[8:])
    assert pace.held_back == pytest.approx(sum(job.gaps), abs=20 * (4 * SLOW + 0.04))


async def test_they_shrink_when_it_has_recovered_also_in_the_midst_of_a_pause() -> None:
    """At 100 s the pause is its longest; a job that waited for its end would begin its next step at 120 s."""
    job = Job(lambda now: SLOW if now < 100 else FAST)
    pace = job.pace()
    await job.run(pace, 60)
    after = [begun for begun in job.steps if begun > 100]
    assert after[0] < 105
    assert after[-1] - after[-20] < 20 * (job.step + 2 * FAST)
    assert pace.reason == ""


async def test_it_is_told_once_when_it_begins_and_once_when_it_is_over() -> None:
    job = Job(lambda now: SLOW if 10 < now < 60 else FAST)
    pace = job.pace()
    await job.run(pace, 100)
    assert job.remarks == [
        "holding back: the store answers in 48 ms, more than 20 ms (--max-latency)",
        "not held back any more: the store answers in 3 ms",
    ]
    assert set(job.reasons) == {
        "held back: the store answers in 48 ms",
        "held back: the store answers in 3 ms",
    }
    assert 30 < pace.held_back < 60


async def test_a_store_at_the_limit_is_no_news_every_second() -> None:
    """Slow for three seconds in five, for minutes: one sentence, not one for each time."""
    job = Job(lambda now: SLOW if now % 5 < 3 else FAST)
    pace = job.pace()
    await job.run(pace, 300)
    assert len(job.remarks) == 1
    assert CALM_SECONDS > 5
    assert pace.held_back > 60


async def test_where_the_job_itself_is_the_load_it_works_at_intervals() -> None:
    """The store is slow until 0.3 s after each step: the job goes on, far above the floor's rate."""
    job = Job(lambda now: SLOW if not job.steps or now - job.steps[-1] - job.step < 0.3 else FAST)
    pace = job.pace()
    await job.run(pace, 200)
    assert pace.held_back > 0
    assert max(job.gaps) < 3


async def test_the_store_is_asked_now_and_then() -> None:
    job = Job(step=0.001)
    await job.run(job.pace(), 3000)
    assert min(b - a for a, b in pairwise(job.asked)) >= 0.25
    assert 10 <= len(job.asked) <= 13


async def test_without_an_answer_it_holds_back_and_leaves_it_to_the_job_to_fail() -> None:
    async def gone() -> None:
        raise StoreUnavailable("gone")

    job = Job()
    pace = job.pace()
    pace.probe = gone
    await job.run(pace, 4)
    assert job.remarks == ["holding back: the store does not answer (--max-latency)"]
    assert len(job.steps) == 4


async def test_a_namespace_that_is_not_there_is_an_answer_and_a_bug_is_none() -> None:
    async def empty() -> None:
        raise NamespaceNotFound("none")

    async def broken() -> None:
        raise ZeroDivisionError

    job = Job()
    pace = job.pace()
    pace.probe = empty
    await job.run(pace, 10)
    assert (len(job.steps), pace.held_back) == (10, 0.0)
    pace = job.pace()
    pace.probe = broken
    with pytest.raises(ZeroDivisionError):
        await pace.turn()


async def test_holding_back_counts_for_the_deadline() -> None:
    job = Job(lambda now: SLOW)
    pace = job.pace(max_seconds=20.0)
    await job.run(pace, 100)
    assert job.clock.seconds - 1000.0 == pytest.approx(20.0, abs=2 * SLOW)
    assert pace.time_is_up


async def test_holding_back_is_not_made_up_for_by_the_rate() -> None:
    """One a second: 60 s of a slow store leave no credit for 60 steps at once."""
    job = Job(lambda now: SLOW if 10 < now < 70 else FAST, step=0.01)
    pace = job.pace(items=1.0)
    await job.run(pace, 120)
    after = [begun for begun in job.steps if begun > 75]
    assert len(after) > 50
    assert min(b - a for a, b in pairwise(after)) == pytest.approx(1.0, abs=0.1)


async def test_a_question_that_is_never_answered_ends_with_the_run() -> None:
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    stop = asyncio.Event()
    turn = asyncio.create_task(Pace(max_latency=LIMIT, probe=hang).turn(stop))
    await asked.wait()
    stop.set()
    async with asyncio.timeout(5):
        assert not await turn
        assert given_up.is_set()
        assert not await Pace(max_latency=LIMIT, probe=hang, max_seconds=0.05).turn()


async def test_a_signal_ends_a_pause() -> None:
    stop, holding = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        await asyncio.sleep(0.001)

    pace = Pace(max_latency=1e-9, probe=slow, waiting=holding.set)
    pace._throttle.pause = LONGEST_SECONDS
    turn = asyncio.create_task(pace.turn(stop))
    await holding.wait()
    stop.set()
    async with asyncio.timeout(5):
        assert not await turn


async def test_without_a_limit_nothing_is_asked() -> None:
    job = Job()
    pace = job.pace()
    pace.max_latency = None
    await job.run(pace, 5)
    assert job.asked == []


@given(st.lists(st.tuples(st.sampled_from([FAST, SLOW, math.inf]), st.booleans())))
def test_a_pause_is_none_or_within_its_bounds(answers: list[tuple[float, bool]]) -> None:
    throttle = Throttle(LIMIT)
    for seconds, in_pause in answers:
        before = throttle.pause
        throttle.heard(seconds, in_pause=in_pause)
        assert throttle.pause == 0 or FIRST_SECONDS <= throttle.pause <= LONGEST_SECONDS
        if throttle.latency > LIMIT:
            assert throttle.pause == before if in_pause else throttle.pause > 0
        else:
            assert throttle.pause < before or before == 0
