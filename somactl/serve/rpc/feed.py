"""Tells every watching call of a change of the state, with one task that waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import grpc

from somactl.serve.context import ServeContext, StateView
from somactl.serve.rpc.problem import Refused

MAX_WATCHERS = 1000
"""Calls that watch, of all clients together. Each holds a stream, a task and one answer."""


class Feed:
    """What watching calls wait for.

    A call takes `turn`, reads the state, tells it, and waits for that turn to end: so it misses nothing that
    changes in between, and a client that reads slowly is told the newest state and none twice.
    """

    def __init__(self, context: ServeContext, *, most: int = MAX_WATCHERS) -> None:
        self._state: StateView = context.state
        self._log = context.log
        self._most = most
        self._turn = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.watchers = 0
        self.ended = False

    @property
    def turn(self) -> asyncio.Event:
        """Set with the next change, or at the end."""
        return self._turn

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow(self._state.changes))

    def end(self) -> None:
        """No call watches any more: each is told the state once more and ends."""
        self.ended = True
        self._turn.set()

    async def close(self) -> None:
        self.end()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @contextlib.contextmanager
    def seat(self) -> Iterator[None]:
        """A place among the calls that watch. Raises Refused where there is none."""
        if self.ended:
            raise draining()
        if self.watchers >= self._most:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_WATCHERS",
                f"{self._most} calls watch already",
                "ask now and then instead, or watch from one place",
            )
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1

    async def _follow(self, seen: int) -> None:
        while True:
            try:
                seen = await self._state.changed(seen)
            except Exception as bug:
                self._log.limited("bug", "bug", error=type(bug).__name__, path="watch")
                await asyncio.sleep(1.0)  # and have them look anyway
            if self.ended:
                return
            turn, self._turn = self._turn, asyncio.Event()
            turn.set()


async def passes(turn: asyncio.Event, seconds: float | None = None) -> bool:
    """Wait until the turn ends, for so long at most; whether it did."""
    try:
        async with asyncio.timeout(seconds):
            await turn.wait()
    except TimeoutError:
        return False
    return True


def draining() -> Refused:
    """What a watching call ends with where the process is about to end: the client goes elsewhere."""
    return Refused(
        grpc.StatusCode.UNAVAILABLE, "DRAINING", "the server is about to end", "connect again elsewhere"
    )
