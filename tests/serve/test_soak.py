"""`somactl serve` over time: with one fault after another under load it tells nothing false, loses nothing,
leaks nothing; and another process takes its place while clients go on asking.

An hour with a fault each minute where SOMACTL_TEST_NIGHT is set; else each fault once, one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.soak import FAULTS, Soak, a_prover_that_hangs
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.store.postgres.connections import POOL_SIZE
from somactl.store.redis.pool import LANES
from support.soak_judge import leaks

_LOG = logging.getLogger(__name__)
NIGHT = bool(os.environ.get("SOMACTL_TEST_NIGHT"))
RATE = 200.0
SECONDS, EVERY = (3600.0, 60.0) if NIGHT else (0.0, 0.0)
INTERVAL = 1.0 if NIGHT else 0.3
WARM_UP = 300.0 if NIGHT else 8.0
LOOK_EVERY = 1.0 if NIGHT else 0.1
MOST_MEMORY = 6e6
"""Bytes that a process may grow by from the end of the warm-up on."""
MOST_DESCRIPTORS = float(LANES + POOL_SIZE)
"""So many connections to both stores may be kept, and come in one step; what each request leaves open, or
each fault of an hour, comes to more."""
LIFE = 120.0 if NIGHT else 10.0
"""Seconds that a prover must have lived for its growth to tell anything; its warm-up is half of that."""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[PostgresServer, RedisServer]]:
    with PostgresServer(tmp_path / "postgres") as postgres, RedisServer(tmp_path / "redis") as redis:
        yield postgres, redis


async def test_it_keeps_its_promises_over_time(
    servers: tuple[PostgresServer, RedisServer], tmp_path: Path
) -> None:
    soak = Soak(*servers, tmp_path, INTERVAL)
    with contextlib.closing(soak):
        await soak.prepare()
        await keeps_its_promises(soak)


async def keeps_its_promises(soak: Soak) -> None:
    with soak.serve() as soak.serving:
        await asyncio.to_thread(soak.serving.event, "health", ok=True)
        soak.load.start(RATE)
        looking = asyncio.create_task(soak.watch_costs(LOOK_EVERY))
        await soak.until_well()
        began = time.monotonic()
        await suffer(soak)
        looking.cancel()
        asked, seconds = soak.load.sent, time.monotonic() - began
        await replaced_under_load(soak)
    assert not soak.found, "\n".join(soak.found)
    assert leaked(soak) == []
    assert asked > RATE * seconds * (0.9 if NIGHT else 0.05)


async def suffer(soak: Soak) -> None:
    """One fault after the other; with EVERY, one each so many seconds, until the time is over."""
    began = time.monotonic()
    faults = itertools.cycle((*FAULTS, a_prover_that_hangs)) if NIGHT else iter(FAULTS)
    for number, fault in enumerate(faults):
        due = began + number * EVERY
        if SECONDS and due > began + SECONDS:
            break
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        took = await soak.undergo(fault)
        _LOG.info("%s: %.1f s, %d requests", fault.__name__, took, soak.load.sent)


async def replaced_under_load(soak: Soak) -> None:
    """A second process takes the sockets over, the first ends; then that one ends too, and is followed by
    none: only then a connection may be refused."""
    with soak.serve() as second:
        soak.close()
        await asyncio.to_thread(second.event, "health", ok=True)
        code, report = await asyncio.to_thread(soak.serving.end)
        assert (code, report["cut_off"]) == (0, 0)
        soak.serving, before = second, soak.load.sent
        await soak.until_well()
        while soak.load.sent < before + RATE:
            await asyncio.sleep(0.01)
        soak.judge("replaced")
        soak.load.ending = True
        code, report = await asyncio.to_thread(second.end)
        assert (code, report["cut_off"]) == (0, 0)
        await soak.load.stop()
        soak.judge("ended")


def leaked(soak: Soak) -> list[str]:
    found = []
    for what, costs, most in (
        ("memory", soak.costs.memory, MOST_MEMORY),
        ("descriptors", soak.costs.descriptors, MOST_DESCRIPTORS),
    ):
        parent, *provers = costs.values()  # the parent was looked at first
        _LOG.info("%s: %.0f at first, %.0f at last", what, parent[0][1], parent[-1][1])
        if (grown := leaks(parent, WARM_UP, most)) is not None:
            found.append(f"{what} of the parent grew by {grown:.0f}")
        long = [life for life in provers if life[-1][0] - life[0][0] >= LIFE]
        grown_by = [leaks(life, LIFE / 2, most) for life in long]
        found += [f"{what} of a prover grew by {grown:.0f}" for grown in grown_by if grown is not None]
    return found
