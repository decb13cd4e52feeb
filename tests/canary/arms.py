"""Two arms on real servers, whose answers take a time that is drawn, so that no busy machine decides."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from support.slow import SlowLink
from tests.cli.conftest import Result, Shell


class DrawnLink(SlowLink):
    """Holds each answer for a time that is drawn anew: lognormal, of this median in seconds and sigma."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__(port)
        self.median, self.sigma = 0.0, 0.5
        self.pieces = 0
        self._random = random.Random(seed)

    def held(self) -> float:
        self.pieces += 1
        return self.median * self._random.lognormvariate(0.0, self.sigma)


@dataclass
class Links:
    """A link to each arm's server, and the time at which its answers come."""

    baseline: DrawnLink
    candidate: DrawnLink
    loop: asyncio.AbstractEventLoop = field(repr=False)


@contextmanager
def links(port: int, other: int) -> Iterator[Links]:
    """Links that run in a thread of their own, to the servers of the baseline and the candidate."""
    ready, done = threading.Event(), asyncio.Event()
    found: list[Links] = []

    async def serve() -> None:
        async with DrawnLink(port, 1) as baseline, DrawnLink(other, 2) as candidate:
            found.append(Links(baseline, candidate, asyncio.get_running_loop()))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    assert ready.wait(30)
    try:
        yield found[0]
    finally:
        found[0].loop.call_soon_threadsafe(done.set)
        thread.join(30)


@dataclass
class Arms:
    """Two stores behind links, and a spec that compares them. stores: their addresses without the links."""

    shell: Shell
    links: Links
    stores: dict[str, str]
    namespace: str

    def spec(self, criteria: str, *words: str, **fields: str) -> list[str]:
        """The words of a check with these criteria, whose spec is canary.yaml from now on."""
        given = {"window": "6s", "interval": "5ms", "gap": "1ms", **fields}
        lines = ["version: 1", *(f"{name}: {value}" for name, value in given.items()), "arms:"]
        for arm in ("baseline", "candidate"):
            port = getattr(self.links, arm).port
            lines.append(
                f'  {arm}: {{source: probe, store: "redis://127.0.0.1:{port}/0", '
                f'namespace: {self.namespace}, keys: "state:*"}}'
            )
        self.shell.write("canary.yaml", "\n".join([*lines, f"criteria: {criteria}", ""]))
        return ["canary-check", "--spec", "canary.yaml", "--output", "json", *words]


def verdict(result: Result) -> Any:
    assert result.out, result.err
    return result.json["verdict"]


def criterion(result: Result, name: str) -> Any:
    (found,) = [each for each in verdict(result)["criteria"] if each["name"] == name]
    return found
