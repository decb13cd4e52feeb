"""What `canary-check --push` leaves at a Pushgateway, for each verdict and for a run that had none."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass

import pytest

from servers.process import free_port
from servers.prometheus import Prometheus, Pushgateway
from tests.cli.conftest import Result, Shell

GROUP = {"job": "canary-check", "namespace": "acme"}
SPEC = """\
version: 1
window: 100s
interval: 1s
arms:
  baseline: {source: samples, file: samples.ndjson}
  candidate: {source: samples, file: samples.ndjson}
criteria: {invariants: {}, errors: {max_share: 20%}}
"""


def recorded(*, violated: bool = False, seconds: int = 100, broken: str = "") -> str:
    """A recording of both arms, in which a matrix of the candidate may be violated in the middle."""
    lines = []
    for second in range(seconds):
        for arm in ("baseline", "candidate"):
            psd = "violated" if violated and arm == "candidate" and second == 50 else "valid"
            lines.append({"t": second, "arm": arm, "kind": "verdict", "psd": psd, "trace_error": 0.0})
            lines += [{"t": second, "arm": arm, "kind": "latency", "seconds": 0.01}] * 5
    return "".join(json.dumps(line) + "\n" for line in lines) + broken


@dataclass
class Check:
    """A shell whose canary pushes."""

    shell: Shell
    gateway: Pushgateway

    def __call__(self, samples: str, *words: str, code: int, url: str = "") -> Result:
        self.shell.write("samples.ndjson", samples)
        env = {"SOMACTL_PUSH_GATEWAY": url or self.gateway.url}
        spec = ("--spec", "canary.yaml") if "--spec" not in words else ()
        result = self.shell("canary-check", *spec, "-n", "acme", "--push", *words, env=env)
        assert result.code == code, (result.code, result.err, result.text)
        return result

    def verdict(self) -> str | None:
        """The one verdict that stands at the gateway."""
        found = self.gateway.values("somabrain_canary_verdict", **GROUP)
        said = [dict(labels)["verdict"] for labels, value in found.items() if value]
        assert len(said) == (1 if found else 0)
        return said[0] if said else None

    def value(self, name: str, **labels: str) -> float | None:
        return self.gateway.value(f"somabrain_{name}", **GROUP, **labels)


@pytest.fixture
def check(shell: Shell, pushgateway: Pushgateway) -> Check:
    shell.write("canary.yaml", SPEC)
    return Check(shell, pushgateway)


def test_a_pass_a_fail_and_a_hold_follow_each_other_at_the_gateway(check: Check) -> None:
    check(recorded(), code=0)
    assert check.verdict() == "PASS"
    assert check.value("canary_samples", criterion="errors", arm="candidate") == 500
    assert check.value("canary_threshold", criterion="errors") == 0.2
    evidence = check.value("canary_log_evidence", criterion="errors", test="passing")
    bar = check.value("canary_evidence_bar", criterion="errors", test="passing")
    assert evidence is not None
    assert bar == pytest.approx(math.log(20))
    assert evidence > bar
    told = check.value("canary_verdict_timestamp_seconds")
    assert told is not None
    assert abs(time.time() - told) < 300
    check(recorded(violated=True), code=3)
    assert check.verdict() == "FAIL"
    assert check.value("canary_criterion_verdict", criterion="invariants", verdict="FAIL") == 1
    assert check.value("canary_value", criterion="invariants", arm="candidate") == 1
    assert check.value("job_exit_code") == 3
    check(recorded(broken='{"t": 99, "arm": "candidate", "kind": "latency", "seconds": NaN}\n'), code=5)
    assert check.verdict() == "INSUFFICIENT"
    assert check.value("canary_troubles", arm="candidate") == 1
    assert check.value("canary_criterion_verdict", criterion="invariants", verdict="FAIL") == 0


def test_a_run_without_a_verdict_leaves_the_old_one_with_its_time(check: Check) -> None:
    check(recorded(violated=True), code=3)
    before = check.value("canary_verdict_timestamp_seconds")
    check(recorded(), "--spec", "none.yaml", code=11)
    assert check.value("job_exit_code") == 11
    assert check.verdict() == "FAIL"
    assert check.value("canary_verdict_timestamp_seconds") == before


def test_a_pass_that_no_gateway_learns_of_is_a_hold(check: Check) -> None:
    """And a FAIL stays one."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    result = check(recorded(), "--output", "json", code=4, url=nowhere)
    assert result.json["verdict"]["outcome"] == "PASS"
    assert "not pushed" in result.err
    check(recorded(violated=True), code=3, url=nowhere)


def test_a_saved_report_is_pushed_later_with_its_own_time(check: Check) -> None:
    env = {"SOMACTL_PUSH_GATEWAY": check.gateway.url}
    check.shell.write("samples.ndjson", recorded(violated=True))
    saved = check.shell("canary-check", "--spec", "canary.yaml", "-n", "acme", "--output", "json")
    ended = saved.json["ended_at"]
    check.shell.write("report.json", saved.out)
    pushed = check.shell("push-metrics", "-n", "acme", "--report", "report.json", env=env)
    assert pushed.code == 0, pushed.err
    assert check.verdict() == "FAIL"
    assert check.value("canary_verdict_timestamp_seconds") == pytest.approx(ended)


def test_the_alert_of_a_fail_has_what_it_asks_for(check: Check, prometheus: Prometheus) -> None:
    check(recorded(violated=True), code=3)
    prometheus.settle()
    found = prometheus.ask(
        'max by (namespace, job, criterion) (somabrain_canary_criterion_verdict{verdict="FAIL"}) == 1'
    )
    assert [dict(labels)["criterion"] for labels in found] == ["invariants"]
