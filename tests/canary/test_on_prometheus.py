"""`canary-check` on a real Prometheus, which scrapes what two arms of a service count."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, push_to_gateway

from servers.prometheus import Prometheus, Pushgateway
from somactl.telemetry.registry import LatencyHistograms
from tests.canary.arms import criterion, verdict
from tests.cli.conftest import Shell

SECONDS = 120.0
ARMS = ("baseline", "candidate")
TIRED = {"few", "dependent", "gap", "no-samples"}
"""Why a window on a busy machine may end undecided."""
WINDOWS = ("6s", "15s", "40s")
"""So a longer one is watched then. None fails."""


@dataclass
class Service:
    """Both arms of a service: each counts some requests, and pushes, ten times a second."""

    gateway: Pushgateway
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Told by a label: the counters of another test's service would be one that began anew."""
    slow: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ARMS, 0.0))
    """The share of requests that take longer than 60 ms."""
    psd_ok: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ARMS, 1.0))
    counted: int = 0

    def run(self, ended: threading.Event) -> None:
        draw = random.Random(1)
        registries = {arm: CollectorRegistry() for arm in ARMS}
        histograms = {arm: LatencyHistograms(registry).of(arm) for arm, registry in registries.items()}
        gauges = {
            arm: {
                name: Gauge(f"somabrain_{name}", name, registry=registry)
                for name in ("rho_psd_ok", "rho_trace_norm_error", "degraded_mode")
            }
            for arm, registry in registries.items()
        }
        while not ended.wait(0.1):
            for arm in ARMS:
                for _ in range(20):
                    is_slow = draw.random() < self.slow[arm]
                    histograms[arm]("read", 0.2 if is_slow else 0.05 * draw.random())
                gauges[arm]["rho_psd_ok"].set(self.psd_ok[arm])
                push_to_gateway(self.gateway.url, "soma", registries[arm], {"shard": f"{self.name}/{arm}"})
            self.counted += 1


@pytest.fixture
def service(pushgateway: Pushgateway, prometheus: Prometheus) -> Iterator[Service]:
    made, ended = Service(pushgateway), threading.Event()
    thread = threading.Thread(target=made.run, args=[ended])
    thread.start()
    try:
        deadline = time.monotonic() + SECONDS
        while len(prometheus.ask(f'somabrain_rho_psd_ok{{shard=~"{made.name}/.+"}}')) < len(ARMS):
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield made
    finally:
        ended.set()
        thread.join()


def spec(shell: Shell, service: Service, url: str, criteria: str, *words: str, **fields: str) -> list[str]:
    """The words of a check of both arms."""
    given = {"window": "6s", "interval": "300ms", **fields}
    lines = ["version: 1", *(f"{name}: {value}" for name, value in given.items()), "arms:"]
    for arm in ARMS:
        lines += [
            f"  {arm}:",
            "    source: prometheus",
            f"    url: {url}",
            f"    match: 'shard=\"{service.name}/{arm}\"'",
            "    latency: somabrain_rho_read_latency_seconds",
            "    psd: somabrain_rho_psd_ok",
            "    trace_error: somabrain_rho_trace_norm_error",
            "    degraded: somabrain_degraded_mode",
        ]
    shell.write("canary.yaml", "\n".join([*lines, f"criteria: {criteria}", ""]))
    return ["canary-check", "--spec", "canary.yaml", "--output", "json", *words]


ALL = "{invariants: {}, latency: {max: 60ms}, degraded: {max_share: 20%}}"


def test_arms_that_are_alike_pass_by_a_limit_that_is_an_edge(
    shell: Shell, service: Service, prometheus: Prometheus
) -> None:
    for window in WINDOWS:
        result = shell(*spec(shell, service, prometheus.url, ALL, window=window))
        if result.code not in (4, 5):
            break
        assert verdict(result)["why"] in TIRED, verdict(result)["reason"]
    assert result.code == 0, (verdict(result)["reason"], result.err)
    assert criterion(result, "latency.max")["value"] <= 0.06
    assert criterion(result, "latency.max")["arms"]["candidate"]["samples"] > 500


def test_a_candidate_with_slow_requests_fails_early(
    shell: Shell, service: Service, prometheus: Prometheus
) -> None:
    service.slow["candidate"] = 0.3
    result = shell(*spec(shell, service, prometheus.url, ALL, window="10m"))
    assert (result.code, verdict(result)["why"]) == (3, "above"), (verdict(result)["reason"], result.err)
    assert verdict(result)["criterion"] == "latency.max"
    assert not verdict(result)["ended"]


def test_a_violation_that_was_scraped_fails_at_once(
    shell: Shell, service: Service, prometheus: Prometheus
) -> None:
    process = shell.begin(*spec(shell, service, prometheus.url, ALL, window="10m"))
    before, deadline = service.counted, time.monotonic() + SECONDS
    while service.counted < before + 10:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service.psd_ok["candidate"] = 0.0
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 3, err
    assert json.loads(out)["verdict"]["why"] == "violated"


def test_three_looks_of_a_cron_see_all_that_was_scraped_between_them(
    shell: Shell, service: Service, prometheus: Prometheus
) -> None:
    """The last one passes, with samples of the whole window."""
    for window in WINDOWS:
        words = spec(shell, service, prometheus.url, ALL, "--once", "--state", "kept", window=window)
        result = shell(*words, "--restart")
        assert (result.code, verdict(result)["ended"]) == (5, False), result.err
        result = shell(*words)
        assert result.json["resumed"]
        deadline = time.monotonic() + SECONDS
        while time.time() < verdict(result)["start"] + verdict(result)["window"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        result = shell(*words)
        if result.code not in (4, 5):
            break
        assert verdict(result)["why"] in TIRED, verdict(result)["reason"]
    assert (result.code, verdict(result)["ended"]) == (0, True), (verdict(result)["reason"], result.err)
    assert shell(*words).json["verdict"] == verdict(result), "it stands"


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"match": 'shard="none"'}, "no-series"),
        ({"latency": "no_such_metric"}, "no-series"),
        ({"match": 'shard=~"("'}, "refused"),
    ],
)
def test_a_question_that_finds_nothing_is_named_and_is_no_pass(
    shell: Shell, service: Service, prometheus: Prometheus, wrong: dict[str, str], what: str
) -> None:
    flags = [f"--baseline-{name}={value}" for name, value in wrong.items()]
    result = shell(*spec(shell, service, prometheus.url, ALL, *flags, window="3s", interval="300ms"))
    found: Any = verdict(result)
    assert (result.code, found["why"]) == (5, "trouble"), (found["reason"], result.err)
    assert [(each["arm"], each["what"]) for each in found["troubles"]] == [("baseline", what)]
