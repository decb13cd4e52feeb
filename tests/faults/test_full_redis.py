"""A Redis whose memory is full, in the midst of concurrent commits."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from faults.checker import judge
from faults.history import History
from faults.load import GROUPS, Load, more
from faults.marked import SMALL
from faults.places import RedisPlace
from servers.redis import RedisServer
from somactl.errors import StoreFull

ROOM = 3 << 20
"""Bytes until it is full: some ten commits of large values."""


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("full-redis")) as server:
        yield server


async def test_a_full_redis_refuses_whole_commits(server: RedisServer, seed: int) -> None:
    place = RedisPlace(server, "full")
    await place.init()
    history = History(place.namespace)
    with server.client() as raw:

        def full() -> int:
            return sum(isinstance(attempt.error, StoreFull) for attempt in history.attempts.values())

        async with Load(place, history, random.Random(seed)) as load:
            await load.progress(20)
            for _ in range(2):
                raw.config_set("maxmemory", raw.info("memory")["used_memory"] + ROOM)
                await load.until(more(full, by=20), "the server to be full")
                await load.until(more(lambda: len(history.looks), by=20), "reads to go on")
                raw.config_set("maxmemory", 0)
                await load.progress(20)
    assert await judge(place, history) == []


async def test_there_is_no_room_for_the_smallest_commit(server: RedisServer) -> None:
    """Every command that could write is refused, and says so; nothing is left behind."""
    place = RedisPlace(server, "no-room")
    await place.init()
    history = History(place.namespace)
    store = place.open()
    with server.client() as raw:
        try:
            await history.commit(store, "before", dict.fromkeys(GROUPS[0], 1))
            names = raw.dbsize()
            raw.config_set("maxmemory", 1)
            for number in range(10):
                attempt = await history.commit(
                    store, f"full-{number}", dict.fromkeys(GROUPS[number % 4], 2), side=SMALL * (1 + number)
                )
                assert isinstance(attempt.error, StoreFull), attempt
                assert (attempt.error.exit_code, attempt.error.retryable) == (13, False)
                look = await history.snapshot(store, "r", GROUPS[0])
                assert look is not None
                assert set(look.seen.values()) == {(1, 1)}
            assert raw.dbsize() == names
            raw.config_set("maxmemory", 0)
            assert (await history.commit(store, "after", dict.fromkeys(GROUPS[0], 3))).receipt is not None
        finally:
            await store.close()
    assert await judge(place, history) == []
