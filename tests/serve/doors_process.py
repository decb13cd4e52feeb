"""A process that serves a store's doors over HTTP: `doors_process.py STORE CACHE TOKENS [before|after N]`.

Prints its port. It is killed before or after the N-th commit that it makes; SIGHUP reads the tokens again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import uvloop

from somactl.config import Settings
from somactl.runtime import open_server
from somactl.serve import http, rest
from somactl.serve.access import Access
from somactl.serve.context import Address, Limits
from somactl.serve.doors import Doors
from somactl.serve.listener import Listener, bind
from somactl.store.contract import Store
from support.serving import FakeState, context


def dying(store: Store, when: str, number: int) -> None:
    """Have `store` kill this process at its `number`-th commit."""
    commit, count = store.commit_matrix_update, 0

    async def commit_or_die(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if (when, count) == ("before", number):
            os.kill(os.getpid(), signal.SIGKILL)
        made = await commit(*arguments, **options)
        if (when, count) == ("after", number):
            os.kill(os.getpid(), signal.SIGKILL)
        return made

    store.commit_matrix_update = commit_or_die  # type: ignore[method-assign]


async def main(url: str, cache: str, tokens: str, when: str = "", number: str = "0") -> None:
    given = context(FakeState())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with open_server(Settings(store=url, cache=cache, read_timeout=5.0)) as server:
        access = Access.open(tokens, given.log)
        loop.add_signal_handler(signal.SIGHUP, access.reload)
        doors = given.doors = Doors(server, ["default"], access, given.log)
        dying(doors._stores["default"], when, int(number))
        app = http.app(given, rest.routes(given))
        listener = Listener(app, Limits(), given.log)
        await listener.start([bind(Address("127.0.0.1", 0))])
        sys.stdout.write(f"{listener.addresses[0].port}\n")
        sys.stdout.flush()
        await stop.wait()
        await doors.stop(60)
        await listener.stop(60)
    given.log.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
