"""Ten thousand reads, cancelled at random points."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from faults.history import History
from faults.marked import LARGE, SMALL
from faults.places import Place
from somactl.store.contract import Store

READS = {"redis": 4_000, "postgres": 3_000, "postgres+redis": 3_000}
"""By the store's name; ten thousand in sum."""
AT_ONCE = 40
LONGEST = 0.03
"""Seconds in which most of so many reads come to their end, where they are not cancelled."""
KEYS = [f"key-{number}" for number in range(100)]
MOST_CONNECTIONS = 64


async def fill(history: History, store: Store) -> None:
    """Every key holds a marker of its own, and every fifth a value of several packets."""
    for number, key in enumerate(KEYS):
        side = LARGE if number % 5 == 0 else SMALL
        attempt = await history.commit(store, f"put-{number}", {key: 1000 + number}, side=side)
        assert attempt.outcome == "acknowledged"


def right(key: str) -> tuple[int, int]:
    """The version and the marker of the key's only value."""
    number = KEYS.index(key)
    return number + 1, 1000 + number


async def read(history: History, store: Store, key: str, dice: random.Random) -> None:
    if dice.random() < 0.7:
        look = await history.read(store, "r", key)
        wanted = [key]
    else:
        wanted = [key, *dice.sample(KEYS, 2)]
        look = await history.snapshot(store, "s", wanted)
    assert look is not None
    assert look.seen == {each: right(each) for each in wanted}


async def some_reads(history: History, store: Store, dice: random.Random, within: float) -> int:
    """Start reads, and cancel each at a random moment within so many seconds.

    Returns how many were still under way then.
    """
    tasks = [asyncio.create_task(read(history, store, dice.choice(KEYS), dice)) for _ in range(AT_ONCE)]
    await asyncio.sleep(0)  # all of them have begun
    clock = asyncio.get_running_loop().time
    begin = clock()
    due = sorted(((begin + dice.random() * within, number) for number in range(AT_ONCE)), reverse=True)
    while due:
        while due and due[-1][0] <= clock():
            tasks[due.pop()[1]].cancel()
        await asyncio.sleep(0)  # one turn of the loop: each read may take a step
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result
    return sum(isinstance(result, asyncio.CancelledError) for result in results)


async def test_ten_thousand_cancelled_reads(store_place: Callable[..., Place]) -> None:
    place = store_place("cancelled", timeout=10.0)
    await place.init()
    history = History(place.namespace)
    dice = random.Random(1)
    before = place.connections()
    store = place.open()
    try:
        await fill(history, store)
        cancelled = 0
        while cancelled < READS[store.name]:
            cancelled += await some_reads(history, store, dice, within=LONGEST * dice.random() ** 2)
            # Between the storms, and in the midst of what they left, every read is right.
            await read(history, store, dice.choice(KEYS), dice)
        assert history.failed_reads == 0
        assert history.torn == []
        await asyncio.gather(*(read(history, store, key, dice) for key in KEYS))
        assert place.connections() - before <= MOST_CONNECTIONS
    finally:
        await store.close()
    await gone(place, before)


async def gone(place: Place, before: int) -> None:
    """Return when the server has no more connections than before; it notices their end a little later."""
    deadline = asyncio.get_running_loop().time() + 10
    while (now := place.connections()) > before:
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"{now - before} connections are still open after close")
        await asyncio.sleep(0.02)
