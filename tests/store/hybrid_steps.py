"""A clock and an order of events that the test alone decides."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock


class Clock:
    """Seconds, moved by the test alone; the fake Redis lives by it too."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    @contextmanager
    def as_redis_time(self) -> Iterator[None]:
        """Within, fakeredis takes this clock for the time."""
        stand_in = SimpleNamespace(**{**vars(time), "time": self})
        places = ("_helpers", "_socket._base", "commands_mixins.server_mixin")
        patches = [mock.patch(f"fakeredis.{place}.time", stand_in) for place in places]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


OPERATION: contextvars.ContextVar[int] = contextvars.ContextVar("operation", default=0)
"""Whose step it is; what an operation starts beside itself, like the filling of a cache, inherits it."""


class Steps:
    """Points at which the calls of an operation are held up until they are told to go on."""

    def __init__(self) -> None:
        self.waiting: dict[int, list[tuple[str, asyncio.Future[None]]]] = {}
        self.free = True

    async def point(self, label: str) -> None:
        """`>name` is a call on its way, `<name` its answer on the way back."""
        if self.free:
            return
        held = self.waiting.setdefault(OPERATION.get(), [])
        one = (label, asyncio.get_running_loop().create_future())
        held.append(one)
        try:
            await one[1]
        finally:
            if one in held:
                held.remove(one)

    def next(self, operation: int) -> str | None:
        """Where the operation is held up; None where it is not."""
        held = self.waiting.get(operation)
        return held[0][0] if held else None

    def go_on(self, operation: int) -> bool:
        """Let the oldest call of the operation go on; whether there was one."""
        held = self.waiting.get(operation)
        if not held:
            return False
        held.pop(0)[1].set_result(None)
        return True

    def release(self) -> None:
        self.free = True
        for operation in list(self.waiting):
            while self.go_on(operation):
                pass
