"""What `/metrics` says of the state: collected when it is asked for, by the catalogue's names.

What is not known is NaN or absent, never a value that would be good news.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from somactl.report.health import HealthReport, NamespaceHealth
from somactl.telemetry.catalogue import METRICS, PREFIX, REFUSALS, STORES

if TYPE_CHECKING:
    from somactl.serve.context import ServeContext

_Found = tuple[str, dict[str, str], float]
"""Name without its prefix, labels, value."""


def register(context: ServeContext) -> None:
    """Have the registry of the context collect what the state says, too."""
    assert context.registry is not None
    context.registry.register(StateCollector(context))


class StateCollector(Collector):
    """Asks the state for its report, as it is now."""

    def __init__(self, context: ServeContext) -> None:
        self._context = context

    def describe(self) -> Iterable[Family]:
        return []  # it would be collected, before anything is known

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for name, labels, value in self._found():
            metric = METRICS[PREFIX + name]
            family = families.get(name)
            if family is None:
                stem = metric.name.removesuffix("_total") if metric.type == "counter" else metric.name
                family = families[name] = Family(stem, metric.help, metric.type)
            family.add_sample(metric.name, labels, value)
        yield from families.values()

    def _found(self) -> Iterator[_Found]:
        report = self._context.state.health()
        for name, each in report.namespaces.items():
            yield from _of_namespace(name, each, dark=report.dark)
        yield from _of_stores(report)
        running = report.prover.state == "running"
        yield "prover_up", {}, float(running)
        yield "prover_restarts_total", {}, float(report.prover.restarts)
        for reason in REFUSALS:
            yield "serve_refused_total", {"reason": reason}, float(self._context.refusals.get(reason, 0))


def _of_namespace(name: str, health: NamespaceHealth, *, dark: bool) -> Iterator[_Found]:
    rho, labels = health.rho, {"namespace": name}
    yield "health_ok", labels, float(health.ok)
    yield "degraded_mode", labels, float(health.degraded)
    yield "dark_mode", labels, float(dark)
    yield "rho_psd_ok", labels, math.nan if rho.psd_ok is None else float(rho.psd_ok)
    if rho.psd_ok is not None and rho.age_seconds is not None:
        yield "rho_verdict_timestamp_seconds", labels, time.time() - rho.age_seconds
    if rho.trace_error is not None:
        yield "rho_trace_norm_error", labels, rho.trace_error
    if rho.lambda_min_bound is not None:
        yield "rho_lambda_min_bound", labels, rho.lambda_min_bound
    yield "rho_watched_keys", labels, float(rho.watched)
    yield "rho_watched_findings", labels, float(rho.findings_total)


def _of_stores(report: HealthReport) -> Iterator[_Found]:
    up: dict[str, bool] = {}
    for each in report.services:
        kind = each.service if each.service in STORES else "other"
        up[kind] = up.get(kind, True) and each.up
    for namespace in report.namespaces:
        for kind, is_up in up.items():
            yield "store_up", {"namespace": namespace, "store": kind}, float(is_up)
