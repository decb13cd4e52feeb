"""kill -9 of a server at random moments, while several clients commit to it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable

from faults.checker import judge
from faults.history import History
from faults.load import Load
from faults.places import Place
from servers.postgres import PostgresServer
from servers.process import Server


def kill(server: Server, dice: random.Random) -> None:
    """SIGKILL to the server and all its children, and a start on what they left."""
    server.kill()
    server.start()


def quit_at_once(server: Server, dice: random.Random) -> None:
    """Postgres's "immediate" shutdown: no checkpoint, its children just stop."""
    assert server.process is not None
    server.process.send_signal(signal.SIGQUIT)
    server.process.wait(30)
    server.kill()  # nothing is left; this tells who watches over it
    server.start()


def kill_one_backend(server: Server, dice: random.Random) -> None:
    """Postgres then ends all others too, and recovers by itself as after a crash."""
    assert isinstance(server, PostgresServer)
    backends = server.run(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    os.kill(dice.choice(backends)[0], signal.SIGKILL)


async def test_a_killed_server_tears_nothing_and_loses_nothing_acknowledged(
    authority: Callable[..., Place], seed: int
) -> None:
    place = authority(f"killed-{seed}")
    await place.init()
    history = History(place.namespace)
    dice = random.Random(seed)
    ways = [kill, kill, kill]
    if isinstance(place.server, PostgresServer):
        ways = [kill, quit_at_once, kill_one_backend]
        dice.shuffle(ways)
    async with Load(place, history, dice) as load:
        for crash in ways:
            await load.progress(dice.randrange(5, 60))
            await asyncio.sleep(dice.random() * 0.01)
            await asyncio.to_thread(crash, place.server, dice)
        await load.progress(10)
    assert await judge(place, history) == []
    assert history.failed > 0
