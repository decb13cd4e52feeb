"""A state of `somactl serve` that says what a test has it say, and a context around it."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from somactl.report.health import HealthReport, ProverHealth, RhoHealth, WatchedKey
from somactl.serve.context import ServeContext, ServeOptions
from somactl.serve.log import Log


def healthy(**changed: Any) -> HealthReport:
    """The answer where all is well."""
    rho = RhoHealth(
        psd_ok=True, trace_error=1.2e-9, sample_version=42, lambda_min_bound=0.01, age_seconds=1.0
    )
    usual: dict[str, Any] = {
        "ok": True,
        "rho": rho,
        "prover": ProverHealth(state="running"),
        "started_at": 1.0,
    }
    return HealthReport(**usual | changed)


class FakeState:
    """Set `report`, `found` and `ready`, and call `change`."""

    def __init__(self, report: HealthReport | None = None) -> None:
        self.report = healthy() if report is None else report
        self.found: dict[str, list[WatchedKey]] = {}
        self.told: dict[str, Any] = {}
        self.is_ready = True
        self.draining = False
        self.changes = 0
        self.asked = 0
        self._changed = asyncio.Condition()

    @property
    def ready(self) -> bool:
        return self.is_ready and not self.draining

    def health(self) -> HealthReport:
        self.asked += 1
        return self.report

    def keys(self, namespace: str) -> list[WatchedKey]:
        return self.found.get(namespace, [])

    def extras(self, namespace: str) -> Any:
        return self.told.get(namespace)

    async def changed(self, seen: int) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: self.changes > seen)
        return self.changes

    async def change(self, report: HealthReport | None = None) -> None:
        self.report = self.report if report is None else report
        async with self._changed:
            self.changes += 1
            self._changed.notify_all()

    def drain(self) -> None:
        self.draining = True


def context(
    state: FakeState | None = None, *, lines: list[bytes] | None = None, **given: Any
) -> ServeContext:
    """One for a face under test; what is logged comes into `lines`."""
    log = Log((lines if lines is not None else []).append)
    usual: dict[str, Any] = {
        "state": state or FakeState(),
        "options": ServeOptions(),
        "log": log,
        "registry": CollectorRegistry(),
    }
    return ServeContext(**usual | given)
