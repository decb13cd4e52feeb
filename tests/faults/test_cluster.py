"""kill -9 of the node of a cluster that holds the namespace, while clients commit to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from faults.checker import judge
from faults.history import History
from faults.load import Load
from faults.places import RedisPlace
from servers.redis import RedisCluster
from somactl.errors import OutcomeUnknown, StoreUnavailable, VersionConflict
from somactl.store.redis.layout import Names

KILLS = 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    config = {"appendonly": "yes", "appendfsync": "always"}
    with RedisCluster(tmp_path_factory.mktemp("cluster"), config=config) as cluster:
        yield cluster


async def test_the_node_of_the_namespace_is_killed(cluster: RedisCluster, seed: int) -> None:
    place = RedisPlace(cluster, f"killed-{seed}")
    await place.init()
    history = History(place.namespace)
    dice = random.Random(seed)
    node = cluster.node_of(Names(place.namespace).head)
    async with Load(place, history, dice, writers=3, readers=2) as load:
        for _ in range(KILLS):
            await load.progress(dice.randrange(5, 40))
            await asyncio.sleep(dice.random() * 0.01)
            await asyncio.to_thread(node.kill)
            await asyncio.sleep(dice.random() * 0.1)
            await asyncio.to_thread(node.start)
        await load.progress(10)
        await asyncio.to_thread(cluster.wait_until_ok)
    assert await judge(place, history) == []
    lost = [
        a.error for a in history.attempts.values() if a.error and not isinstance(a.error, VersionConflict)
    ]
    assert lost
    assert all(isinstance(error, StoreUnavailable | OutcomeUnknown) for error in lost)
    assert all(error.retryable for error in lost if isinstance(error, StoreUnavailable))
