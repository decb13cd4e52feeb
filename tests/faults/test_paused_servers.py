"""SIGSTOP: a server that holds its connections open and says nothing for longer than its clients wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from faults.checker import judge
from faults.history import History
from faults.load import Load, more
from faults.places import Place

PATIENCE = 0.25
PAUSES = 3


async def test_commits_under_way_during_a_pause_are_settled(
    authority: Callable[..., Place], seed: int
) -> None:
    place = authority(f"paused-{seed}", timeout=PATIENCE)
    await place.init()
    history = History(place.namespace)
    dice = random.Random(seed)
    async with Load(place, history, dice) as load:
        for _ in range(PAUSES):
            await load.progress(dice.randrange(5, 40))
            impatient = more(lambda: history.failed, by=4)
            await asyncio.to_thread(place.server.pause)
            await load.until(impatient, "clients to lose their patience")
            await asyncio.sleep(dice.random() * PATIENCE)
            place.server.resume()
        await load.progress(10)
    assert await judge(place, history) == []
    assert history.count("unknown") > 0


async def test_late_replies_reach_nobody_else(authority: Callable[..., Place]) -> None:
    """Every read is of a key of its own, so that the reply to another one would show."""
    place = authority("late", timeout=PATIENCE)
    await place.init()
    history = History(place.namespace)
    store = place.open()
    keys = [f"key-{number}" for number in range(60)]
    try:
        for number, key in enumerate(keys):
            await history.commit(store, f"put-{number}", {key: number + 1})
        for turn in range(3):
            place.server.pause()
            late = [asyncio.create_task(history.read(store, f"late-{turn}", key)) for key in keys]
            assert await asyncio.gather(*late) == [None] * len(keys)
            late = [asyncio.create_task(history.read(store, f"later-{turn}", key)) for key in keys]
            await asyncio.sleep(0.01)
            place.server.resume()
            # Replies to both come now; a caller that still waits may have only the one to its own question.
            await asyncio.gather(*late)
            for key in keys:
                look = await history.read(store, "after", key)
                assert look is not None
    finally:
        place.server.resume()
        await store.close()
    assert await judge(place, history) == []
