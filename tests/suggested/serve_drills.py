"""What keeps `somactl serve` from saying ok, with a prover at work, and that the runbook ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from somactl.config import Settings
from somactl.report.health import HealthReport
from somactl.serve.supervisor import Pace
from support.proving import proving
from tests.suggested.drills import Drill, drill, fails
from tests.suggested.server_cases import Servers
from tests.suggested.stage import KEY, NAMESPACE, Stage

PATTERN = "*acme:*"
FOUND = {"verify-psd": {0, 4}, "ls --match": {0, 15}}


def reason(settings: Settings, cause: str, *, given_up: bool = False, **options: Any) -> str:
    """The message of a reason, once a prover has found it, or was given up; it names this runbook."""

    async def wait() -> str:
        async with proving(settings, **options) as watched:
            if given_up:
                await watched.until(lambda health: health.prover.state == "given-up")
            found = await watched.until_reason_of(cause)
        assert found.runbook == "RUNBOOKS/SERVE.md"
        return found.message

    return asyncio.run(wait())


def well(settings: Settings, **options: Any) -> HealthReport:
    """Health, once there is nothing to be said against it."""

    async def wait() -> HealthReport:
        async with proving(settings, **options) as watched:
            return await watched.until_well()

    return asyncio.run(wait())


def local(stage: Stage) -> Settings:
    return Settings(store=f"sqlite:///{stage.folder / 'my store.db'}", namespace=NAMESPACE)


@drill("SERVE")
def a_pattern_that_was_mistyped(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put()
    assert reason(local(stage), "nothing-watched", patterns=("acne:*",)) == "no rho matches acne:*"
    yield Drill({"PATTERN": PATTERN})
    assert well(local(stage), patterns=(PATTERN,)).rho.watched == 1


@drill("SERVE")
def a_namespace_that_was_never_made(stage: Stage, servers: Servers) -> Iterator[Drill]:
    url = servers.postgres.create_database()
    try:
        stage.on(url).ok("init", f"--namespace={NAMESPACE}2")
        settings = Settings(store=url, namespace=NAMESPACE)
        assert NAMESPACE in reason(settings, "namespace-gone")
        fails(stage, 15, "ls")
        yield Drill({"PATTERN": PATTERN}, codes={**FOUND, "verify-psd": {0, 4, 15}})
        stage.put(KEY)
        assert well(settings).rho.watched == 1
    finally:
        servers.postgres.drop_database(url)


@drill("SERVE")
def a_prover_that_dies(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put()
    hasty = Pace(nice=0, first_pause=0.01, longest_pause=0.01, attempts=2)
    killed = ("/bin/sh", "-c", "kill -9 $$")
    assert "killed" in reason(local(stage), "prover", given_up=True, pace=hasty, command=killed)
    yield Drill({"PATTERN": PATTERN})
    health = well(local(stage))
    assert (health.prover.state, health.prover.restarts) == ("running", 0)


@drill("SERVE")
def proofs_that_come_too_late(stage: Stage, servers: Servers) -> Iterator[Drill]:
    stage.put()
    late = {"interval": 600.0, "stale_after": 0.3}
    assert "in the last" in reason(local(stage), "stale", **late, dead_after=600.0)
    assert "in the last" in reason(local(stage), "dead", **late, dead_after=0.4)
    yield Drill({"PATTERN": PATTERN})
    assert well(local(stage)).ok
