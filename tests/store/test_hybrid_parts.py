"""The parts of the hybrid that need no store: breaker, single flight, background, own writes, patience."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from somactl.errors import KeyNotFound, StoreTimeout
from somactl.store.hybrid.cache_writer import MOST_KEYS, RecentWrites
from somactl.store.hybrid.health import FIRST_PAUSE, LONGEST_PAUSE, Breaker
from somactl.store.hybrid.tasks import MOST_TASKS, Background, SingleFlight
from somactl.store.redis.cache import BusyAwareTimeout


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_a_breaker_opens_after_failures_in_a_row_alone() -> None:
    breaker = Breaker(Clock())
    for _ in range(2):
        breaker.failed()
        breaker.failed()
        assert (breaker.state, breaker.suspect) == ("closed", True)
        breaker.succeeded()
        assert (breaker.state, breaker.suspect) == ("closed", False)
    for _ in range(3):
        breaker.failed()
    assert (breaker.state, breaker.closed, breaker.suspect) == ("open", False, True)


def test_an_open_breaker_lets_one_caller_try_when_its_pause_is_over() -> None:
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.try_again()
    clock.now += FIRST_PAUSE
    assert breaker.try_again()
    assert breaker.state == "half-open"
    assert not breaker.try_again()
    breaker.succeeded()
    assert breaker.state == "closed"
    assert not breaker.try_again()


def test_pauses_double_up_to_a_bound_and_begin_anew_after_a_success() -> None:
    clock = Clock()
    breaker = opened(clock)
    pause = FIRST_PAUSE
    for _ in range(12):
        clock.now += pause - 0.001
        assert not breaker.try_again()
        clock.now += 0.001
        assert breaker.try_again()
        breaker.failed()
        pause = min(2 * pause, LONGEST_PAUSE)
    assert pause == LONGEST_PAUSE
    clock.now += pause
    assert breaker.try_again()
    breaker.succeeded()
    for _ in range(3):
        breaker.failed()
    clock.now += FIRST_PAUSE
    assert breaker.try_again()


def test_whoever_gives_up_trying_leaves_it_to_the_next() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_PAUSE
    assert breaker.try_again()
    breaker.gave_up()
    assert breaker.state == "open"
    assert breaker.try_again()
    breaker.succeeded()
    breaker.gave_up()
    assert breaker.state == "closed"


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, at most one caller tries, and a success always closes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(self.clock)
        self.row = 0
        self.trying = False

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def fail(self) -> None:
        self.breaker.failed()
        self.row += 1
        self.trying = False

    @rule()
    def succeed(self) -> None:
        self.breaker.succeeded()
        self.row = 0
        self.trying = False

    @rule()
    def ask(self) -> None:
        allowed = self.breaker.try_again()
        assert not (allowed and self.trying)
        assert not (allowed and self.row < 3)
        self.trying = self.trying or allowed

    @precondition(lambda self: self.trying)
    @rule()
    def give_up(self) -> None:
        self.breaker.gave_up()
        self.trying = False

    @invariant()
    def states_agree(self) -> None:
        assert self.breaker.suspect == (self.row > 0)
        assert self.breaker.closed == (self.row < 3)
        assert (self.breaker.state == "half-open") == self.trying


TestBreakerMachine = BreakerMachine.TestCase


class Slow:
    """A call that ends when it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        await self.gate.wait()
        return number


async def test_all_who_want_the_same_share_one_call() -> None:
    flights: SingleFlight[str, int] = SingleFlight(10.0, 60.0, Clock())
    slow = Slow()
    tasks = [asyncio.create_task(flights.share("a", slow)) for _ in range(5)]
    other = asyncio.create_task(flights.share("b", slow))
    await asyncio.sleep(0)
    slow.gate.set()
    assert await asyncio.gather(*tasks) == [1] * 5
    assert await other == 2
    assert await flights.share("a", slow) == 3  # nothing is remembered


async def test_a_cancelled_caller_leaves_alone() -> None:
    flights: SingleFlight[str, int] = SingleFlight(10.0, 60.0, Clock())
    slow = Slow()
    first = asyncio.create_task(flights.share("a", slow))
    second = asyncio.create_task(flights.share("a", slow))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    third = asyncio.create_task(flights.share("a", slow))
    await asyncio.sleep(0)
    slow.gate.set()
    assert (await second, await third, slow.calls) == (1, 1, 1)
    assert first.cancelled()


async def test_a_call_that_all_callers_left_is_finished_before_drain_returns() -> None:
    flights: SingleFlight[str, int] = SingleFlight(10.0, 60.0, Clock())
    slow = Slow()
    task = asyncio.create_task(flights.share("a", slow))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    drained = asyncio.create_task(flights.drain())
    await asyncio.sleep(0.01)
    assert not drained.done()
    slow.gate.set()
    await drained


async def test_an_error_reaches_all_who_wait() -> None:
    flights: SingleFlight[str, int] = SingleFlight(10.0, 60.0, Clock())
    gate = asyncio.Event()

    async def fail() -> int:
        await gate.wait()
        raise KeyNotFound("it is not there")

    tasks = [asyncio.create_task(flights.share("a", fail)) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert len({id(outcome) for outcome in outcomes}) == 1
    assert isinstance(outcomes[0], KeyNotFound)


async def test_a_call_has_a_deadline_of_its_own() -> None:
    flights: SingleFlight[str, int] = SingleFlight(0.01, 60.0, Clock())
    slow = Slow()
    tasks = [asyncio.create_task(flights.share("a", slow)) for _ in range(2)]
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, StoreTimeout)
        assert outcome.retryable


async def test_a_timeout_of_the_call_itself_is_passed_on_as_it_is() -> None:
    async def fail() -> int:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await SingleFlight[str, int](10.0, 60.0, Clock()).share("a", fail)


async def test_a_forsaken_call_is_joined_by_nobody_else() -> None:
    flights: SingleFlight[str, int] = SingleFlight(10.0, 60.0, Clock())
    slow = Slow()
    before = asyncio.create_task(flights.share("a", slow))
    await asyncio.sleep(0)
    flights.forsake(lambda name: name == "a")
    after = asyncio.create_task(flights.share("a", slow))
    await asyncio.sleep(0)
    slow.gate.set()
    assert (await before, await after) == (1, 2)


async def test_nobody_joins_a_call_that_began_too_long_ago() -> None:
    clock = Clock()
    flights: SingleFlight[str, int] = SingleFlight(10.0, 5.0, clock)
    slow = Slow()
    tasks = []
    for seconds in (0.0, 5.0, 1.0):
        clock.now += seconds
        tasks.append(asyncio.create_task(flights.share("a", slow)))
        await asyncio.sleep(0)
    slow.gate.set()
    assert await asyncio.gather(*tasks) == [1, 1, 2]


async def test_background_work_is_bounded_and_awaited() -> None:
    background = Background()
    gate = asyncio.Event()
    done = []

    async def work() -> None:
        await gate.wait()
        done.append(1)

    started = [background.start_if_room(work()) for _ in range(MOST_TASKS + 3)]
    assert started.count(True) == MOST_TASKS
    gate.set()
    await background.drain()
    assert len(done) == MOST_TASKS
    assert background.start_if_room(work())
    await background.drain()


async def test_background_work_is_bounded_in_bytes() -> None:
    background = Background()
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()

    assert background.start_if_room(work(), size=200 << 20)
    assert not background.start_if_room(work(), size=100 << 20)
    assert background.start_if_room(work(), size=10 << 20)
    gate.set()
    await background.drain()


def test_what_was_written_here_forbids_older_copies_until_they_have_expired() -> None:
    clock = Clock()
    written = RecentWrites(clock, 300.0)
    written.add(["a"], "inc", 5, owed=False)
    written.add(["b"], None, None, owed=True)
    assert written.forbids("a", "inc", 4)
    assert not written.forbids("a", "inc", 5)
    assert not written.forbids("a", "other", 4)  # in another incarnation the number means something else
    assert written.forbids("b", "inc", 10**9)
    assert not written.forbids("c", "inc", 1)
    assert list(written.owed) == [("b", None)]
    clock.now += 299.0
    assert (list(written.owed), written.forbids("a", "inc", 4)) == ([("b", None)], True)
    clock.now += 1.0
    assert (written.forbids("a", "inc", 4), written.forbids("b", "inc", 1), written.owed) == (
        False,
        False,
        {},
    )


def test_a_key_that_was_written_again_is_still_owed() -> None:
    written = RecentWrites(Clock(), 300.0)
    written.add(["a", "b"], "inc", 5, owed=True)
    told = written.owed
    written.add(["a"], "inc", 6, owed=True)
    written.told(told)
    assert list(written.owed) == [("a", "inc")]
    assert written.forbids("a", "inc", 5)
    assert written.forbids("b", "inc", 4)  # told, and still not to be read here


def test_commits_that_are_noted_out_of_order_count_by_their_version() -> None:
    """Two commits of one store may be acknowledged in another order than they were made in."""
    written = RecentWrites(Clock(), 300.0)
    written.add(["a"], "inc", 6, owed=False)
    written.add(["a"], "inc", 5, owed=True)
    written.add(["a"], "old", 9, owed=True)
    assert written.forbids("a", "inc", 5)
    assert not written.forbids("a", "inc", 6)
    assert written.forbids("a", "old", 8)
    assert list(written.owed) == [("a", "old")]


def test_the_oldest_writes_are_forgotten_first() -> None:
    written = RecentWrites(Clock(), 300.0)
    written.add(map(str, range(MOST_KEYS)), "inc", 5, owed=True)
    written.add(["0", "new"], "inc", 6, owed=False)
    assert len(written.owed) == MOST_KEYS - 2
    assert written.forbids("0", "inc", 5)
    assert written.forbids("new", "inc", 5)
    assert not written.forbids("1", "inc", 4)


async def test_patience_ends_with_a_server_that_does_not_answer() -> None:
    patience = BusyAwareTimeout()
    released = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            released.set()

    with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
        await patience.within(0.01, never())
    await patience.drain()
    assert released.is_set()


async def test_patience_does_not_blame_the_server_for_a_busy_event_loop() -> None:
    """The answer is there all the time; this process was just not looking."""

    async def answer() -> str:
        await asyncio.sleep(0.001)
        return "here"

    async def keep_busy() -> None:
        time.sleep(0.2)

    patience = BusyAwareTimeout()
    waiting = asyncio.create_task(patience.within(0.02, answer()))
    await asyncio.sleep(0)
    await keep_busy()
    assert await waiting == "here"


async def test_patience_lasts_while_the_server_answers_others_and_not_for_ever() -> None:
    patience = BusyAwareTimeout()

    async def answer(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    slow = asyncio.create_task(patience.within(0.04, answer(0.08)))
    for _ in range(20):
        await patience.within(10.0, answer(0.004))  # one in each slice of a hundredth of a second
    assert await slow == 0.08

    never = asyncio.create_task(patience.within(0.02, answer(3600.0)))
    while not never.done():
        await patience.within(10.0, answer(0.0))
    assert isinstance(never.exception(), TimeoutError)
    await patience.drain()


async def test_a_caller_that_is_cancelled_cancels_its_call() -> None:
    patience = BusyAwareTimeout()
    released = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            released.set()

    task = asyncio.create_task(patience.within(60.0, never()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await patience.drain()
    assert task.cancelled()
    assert released.is_set()
