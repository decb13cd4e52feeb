"""kill -9 of client processes in the middle of their commits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest

from faults.checker import judge
from faults.history import History
from faults.load import Load
from faults.places import Place, RedisPlace
from faults.processes import Client, Clients

KILLS = 6
STAGED_MS = 10 * 60 * 1000


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with Clients(tmp_path_factory.mktemp("clients")) as clients:
        yield clients


async def test_a_killed_client_tears_nothing(
    store_place: Callable[..., Place], clients: Clients, seed: int
) -> None:
    place = store_place(f"clients-{seed}")
    await place.init()
    dice = random.Random(seed)
    history = History(place.namespace)
    started: list[Client] = []
    async with Load(place, history, dice, writers=1, readers=1) as load:
        for number in range(KILLS + 1):
            started.append(clients.start(place.spec))
            if number:  # so that there are always two, and the others see them die
                await asyncio.to_thread(started[number - 1].wait_for, dice.randrange(1, 8))
                await asyncio.sleep(dice.random() * 0.02)
                await asyncio.to_thread(started[number - 1].kill)
        await load.progress(5)
        await asyncio.to_thread(started[-1].kill)
    for client in started:
        client.add_to(history)
    assert await judge(place, history) == []
    if isinstance(place, RedisPlace):
        assert all(0 < life <= STAGED_MS for life in place.expiring().values())
