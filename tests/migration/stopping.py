"""Stop a run where a test wants it stopped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from somactl.operations.jobs.pace import Pace


@dataclass(slots=True)
class Counted(Pace):
    """Lets `turns` batches begin, and then says that the time is up."""

    turns: int = 0

    async def turn(self, stop: asyncio.Event | None = None) -> bool:
        self.turns -= 1
        return self.turns >= 0 and not (stop and stop.is_set())


def after_batches(count: int) -> Pace:
    return Counted(turns=count)
