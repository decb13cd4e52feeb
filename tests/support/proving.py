"""A prover at work, and the state that it feeds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from somactl.config import Settings
from somactl.report.health import HealthReport, Reason
from somactl.serve.model import WatchOptions
from somactl.serve.state import State
from somactl.serve.supervisor import COMMAND, Pace, Supervisor

INTERVAL = 0.3
PATIENCE = 60.0
"""Seconds that a test waits at most: the machine may be busy."""


@dataclass
class Proving:
    """A state, the supervisor that feeds it, and what the supervisor has said."""

    state: State
    supervisor: Supervisor
    said: list[str]

    @property
    def health(self) -> HealthReport:
        return self.state.health()

    async def until(self, holds: Callable[[HealthReport], Any]) -> HealthReport:
        """Health, once that holds of it."""
        health = self.health
        try:
            async with asyncio.timeout(PATIENCE):
                while not holds(health := self.health):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"it never held; at last: {health}; {self.said}") from None
        return health

    async def until_reason(self, cause: str, service: str | None = None) -> Reason:
        """The reason, once there is one of that cause and service."""
        health = await self.until(lambda health: named(health, cause, service))
        return named(health, cause, service)[0]

    async def until_reason_of(self, cause: str) -> Reason:
        """The same, of any service."""
        health = await self.until(lambda health: [each for each in health.reasons if each.cause == cause])
        return next(each for each in health.reasons if each.cause == cause)

    async def until_well(self) -> HealthReport:
        """Health, once there is nothing to be said against it."""
        return await self.until(lambda health: health.ok and not health.degraded)

    async def rounds(self, count: int = 2) -> None:
        """Return when so many more rounds have ended: all that holds now was seen by the last of them."""
        ended = 0

        def hear(message: object) -> None:
            nonlocal ended
            ended += type(message).__name__ == "Round"

        self.state.listeners.append(hear)
        try:
            await self.until(lambda _: ended >= count)
        finally:
            self.state.listeners.remove(hear)


def named(health: HealthReport, cause: str, service: str | None = None) -> list[Reason]:
    return [each for each in health.reasons if each.cause == cause and each.service == service]


@asynccontextmanager
async def proving(
    settings: Settings, *, pace: Pace | None = None, command: Sequence[str] = COMMAND, **options: Any
) -> AsyncIterator[Proving]:
    """A prover that watches `settings.namespace`, unless `options` say otherwise."""
    watch = WatchOptions(**{"namespaces": (settings.namespace,), "interval": INTERVAL, **options})
    state, said = State(watch), list[str]()
    supervisor = Supervisor(
        settings,
        watch,
        state,
        pace=pace or Pace(nice=0),
        command=command,
        log=lambda text, facts: said.append(f"{text} {facts}"),
    )
    supervisor.start()
    try:
        yield Proving(state, supervisor, said)
    finally:
        await supervisor.stop()
