"""What `/metrics` says of the state: by the catalogue's names, and never better than what is known."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from somactl.report.health import HealthReport, NamespaceHealth, ProverHealth, RhoHealth, ServiceHealth
from somactl.serve.context import ServeContext
from somactl.serve.metrics import register
from somactl.telemetry.catalogue import METRICS, OF_PROCESS, PREFIX, REFUSALS
from support.serving import FakeState, context, healthy

GOOD = RhoHealth(
    psd_ok=True,
    trace_error=1e-9,
    lambda_min_bound=0.01,
    age_seconds=3.0,
    watched=7,
    proven=7,
)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def namespace(rho: RhoHealth = GOOD, *, ok: bool = True, degraded: bool = False) -> NamespaceHealth:
    return NamespaceHealth(ok=ok, degraded=degraded, rho=rho)


def scraped(report: HealthReport, refusals: Mapping[str, int] | None = None) -> Samples:
    """What a scraper reads: (name without its prefix, labels) -> value."""
    given = asked(report, refusals)
    assert given.registry is not None
    families = text_string_to_metric_families(generate_latest(given.registry).decode())
    return {
        (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def asked(report: HealthReport, refusals: Mapping[str, int] | None = None) -> ServeContext:
    given = context(FakeState(report))
    given.refusals.update(refusals or {})
    register(given)
    return given


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """None: it is absent."""
    return samples.get((name, frozenset(labels.items())))


def test_what_is_known_is_told() -> None:
    began = time.time()
    samples = scraped(healthy(namespaces={"a": namespace()}))
    told = {
        name: value(samples, name, namespace="a")
        for name in (
            "health_ok",
            "degraded_mode",
            "dark_mode",
            "rho_psd_ok",
            "rho_trace_norm_error",
            "rho_lambda_min_bound",
            "rho_watched_keys",
            "rho_watched_findings",
        )
    }
    assert told == {
        "health_ok": 1.0,
        "degraded_mode": 0.0,
        "dark_mode": 0.0,
        "rho_psd_ok": 1.0,
        "rho_trace_norm_error": 1e-9,
        "rho_lambda_min_bound": 0.01,
        "rho_watched_keys": 7.0,
        "rho_watched_findings": 0.0,
    }
    known_at = value(samples, "rho_verdict_timestamp_seconds", namespace="a")
    assert known_at is not None
    assert began - 3.0 <= known_at <= time.time() - 3.0


def test_what_is_not_known_is_no_good_news() -> None:
    samples = scraped(healthy(ok=False, namespaces={"a": namespace(RhoHealth(), ok=False)}))
    psd_ok = value(samples, "rho_psd_ok", namespace="a")
    assert psd_ok is not None
    assert math.isnan(psd_ok)
    assert value(samples, "health_ok", namespace="a") == 0.0
    for name in ("rho_verdict_timestamp_seconds", "rho_trace_norm_error", "rho_lambda_min_bound"):
        assert value(samples, name, namespace="a") is None


def test_a_verdict_that_was_lost_has_no_time() -> None:
    """An age without a verdict is of what was read last, not of what is known."""
    lost = RhoHealth(psd_ok=None, age_seconds=1.0)
    samples = scraped(healthy(namespaces={"a": namespace(lost)}))
    assert value(samples, "rho_verdict_timestamp_seconds", namespace="a") is None


def test_a_violation_is_0_and_counted() -> None:
    bad = RhoHealth(psd_ok=False, lambda_min_bound=-0.1, age_seconds=0.0, findings_total=3)
    samples = scraped(healthy(ok=False, namespaces={"a": namespace(bad, ok=False)}))
    assert value(samples, "rho_psd_ok", namespace="a") == 0.0
    assert value(samples, "rho_lambda_min_bound", namespace="a") == -0.1
    assert value(samples, "rho_watched_findings", namespace="a") == 3.0


def test_in_the_dark_a_violation_is_still_0_and_the_mode_is_told() -> None:
    bad = RhoHealth(psd_ok=False, age_seconds=0.0, findings_total=1)
    samples = scraped(healthy(dark=True, namespaces={"a": namespace(bad)}))
    assert value(samples, "dark_mode", namespace="a") == 1.0
    assert value(samples, "health_ok", namespace="a") == 1.0
    assert value(samples, "rho_psd_ok", namespace="a") == 0.0


def test_each_namespace_speaks_for_itself() -> None:
    bad = namespace(RhoHealth(psd_ok=False, age_seconds=1.0), ok=False, degraded=True)
    samples = scraped(healthy(ok=False, namespaces={"a": namespace(), "b": bad}))
    for name, expected in (("health_ok", (1, 0)), ("degraded_mode", (0, 1)), ("rho_psd_ok", (1, 0))):
        assert (value(samples, name, namespace="a"), value(samples, name, namespace="b")) == expected


def service(name: str, *, up: bool) -> ServiceHealth:
    return ServiceHealth(service=name, up=up, since_at=0.0)


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        ([], {}),
        ([service("postgres", up=True)], {"postgres": 1.0}),
        (
            [service("postgres", up=False), service("cache", up=True)],
            {"postgres": 0.0, "cache": 1.0},
        ),
        ([service("mongo", up=True)], {"other": 1.0}),
        ([service("mongo", up=False), service("mysql", up=True)], {"other": 0.0}),
    ],
)
def test_a_store_is_up_if_it_answered_and_absent_if_it_was_not_asked(
    services: list[ServiceHealth], expected: dict[str, float]
) -> None:
    samples = scraped(healthy(namespaces={"a": namespace()}, services=services))
    told = {dict(labels)["store"]: found for (name, labels), found in samples.items() if name == "store_up"}
    assert told == expected


@pytest.mark.parametrize("state", ["starting", "running", "restarting", "given-up"])
def test_a_prover_is_up_only_while_it_runs(state: str) -> None:
    prover = ProverHealth(state=state, restarts=5)  # type: ignore[arg-type]
    samples = scraped(healthy(prover=prover))
    assert value(samples, "prover_up") == float(state == "running")
    assert value(samples, "prover_restarts_total") == 5.0


def test_every_reason_to_refuse_is_counted_from_0_on_and_no_other() -> None:
    samples = scraped(healthy(), {"slow header": 3, "something else": 9})
    told = {dict(labels)["reason"]: found for (name, labels), found in samples.items() if "refused" in name}
    assert told == dict.fromkeys(REFUSALS, 0.0) | {"slow header": 3.0}


def test_all_names_types_and_labels_are_the_catalogues() -> None:
    services = [service("postgres", up=True), service("cache", up=False)]
    given = asked(healthy(namespaces={"a": namespace(), "b": namespace()}, services=services))
    assert given.registry is not None
    found = set()
    for family in text_string_to_metric_families(generate_latest(given.registry).decode()):
        for sample in family.samples:
            metric = METRICS[sample.name]
            assert "server" in metric.sources
            assert (metric.type, metric.help) == (family.type, family.documentation)
            own = {} if sample.name in OF_PROCESS else {"namespace": ("a", "b")}
            known = metric.labels | own
            assert sample.labels.keys() == known.keys()
            assert all(each in known[label] for label, each in sample.labels.items())
            found.add(sample.name)
    histograms = {name for name, metric in METRICS.items() if metric.type == "histogram"}
    assert found == {name for name, metric in METRICS.items() if "server" in metric.sources} - histograms


def test_it_says_how_things_are_now() -> None:
    state = FakeState(healthy(namespaces={"a": namespace()}))
    given = context(state)
    register(given)
    assert given.registry is not None
    assert state.asked == 0  # nothing was known when it was registered
    assert b'rho_psd_ok{namespace="a"} 1.0' in generate_latest(given.registry)
    state.report = healthy(namespaces={"a": namespace(RhoHealth(psd_ok=False))})
    assert b'rho_psd_ok{namespace="a"} 0.0' in generate_latest(given.registry)
