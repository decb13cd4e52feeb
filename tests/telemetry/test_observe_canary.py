"""What the report of a canary check says as samples."""

from __future__ import annotations

import math

import pytest
from msgspec import structs

from somactl.core.canary_verdict import CODES, TroubleFacts
from somactl.report import CanaryReport
from somactl.telemetry.catalogue import CRITERIA, VERDICTS
from support.canary_reports import START, canary_report
from tests.telemetry.test_observe import seen, value, values


def test_a_canary_that_passes_says_so_of_each_criterion_with_its_evidence() -> None:
    found = seen(canary_report(), "canary-check")
    outcomes = {name: number for (name,), number in values(found, "canary_verdict").items()}
    assert outcomes == {"PASS": 1.0, "FAIL": 0.0, "INCONCLUSIVE": 0.0, "INSUFFICIENT": 0.0}
    said = {
        name: outcome for (name, outcome), is_so in values(found, "canary_criterion_verdict").items() if is_so
    }
    assert said == dict.fromkeys(CRITERIA, "PASS")
    evidence, bar = values(found, "canary_log_evidence"), values(found, "canary_evidence_bar")
    for name in ("latency.max", "latency.margin", "errors", "conflicts"):
        assert evidence[name, "passing"] >= bar[name, "passing"] == pytest.approx(math.log(20))
        assert evidence[name, "failing"] < bar[name, "failing"] == pytest.approx(math.log(80))
    for name in ("invariants", "degraded"):
        assert math.isnan(evidence[name, "passing"])
    assert values(found, "canary_samples")["latency.max", "candidate"] == 2000
    assert values(found, "canary_threshold")["latency.max",] == 0.06
    measured = values(found, "canary_value")
    assert 0.01 < measured["latency.max", "baseline"] < 0.02
    assert 0.01 < measured["latency.margin", "candidate"] < 0.02
    assert measured["invariants", "candidate"] == 0
    assert value(found, "canary_window_end_timestamp_seconds") == START + 100
    assert value(found, "canary_window_ended") == 1


def test_a_canary_that_fails_names_the_criterion() -> None:
    report = canary_report(slow=1.6)
    found = seen(report, "canary-check")
    assert report.code == 3
    assert values(found, "canary_verdict")["FAIL",] == 1
    said = values(found, "canary_criterion_verdict")
    assert said["latency.margin", "FAIL"] == 1
    evidence, bar = values(found, "canary_log_evidence"), values(found, "canary_evidence_bar")
    assert evidence["latency.margin", "failing"] >= bar["latency.margin", "failing"]
    assert value(found, "job_last_success_timestamp_seconds") is None


def test_a_canary_on_its_way_says_when_its_window_ends() -> None:
    found = seen(canary_report(seconds=30.0), "canary-check")
    assert values(found, "canary_verdict")["INSUFFICIENT",] == 1
    assert value(found, "canary_window_ended") == 0
    assert value(found, "canary_verdict_timestamp_seconds") == START + 30
    assert value(found, "canary_window_end_timestamp_seconds") == START + 100
    assert value(found, "canary_window_seconds") == 100


def test_what_a_canary_was_not_asked_is_not_known() -> None:
    found = seen(canary_report(asked="{errors: {max_share: 1%}}"), "canary-check")
    assert math.isnan(values(found, "canary_threshold")["latency.max",])
    assert math.isnan(values(found, "canary_value")["invariants", "candidate"])
    assert values(found, "canary_samples")["conflicts", "baseline"] == 0
    said = values(found, "canary_criterion_verdict")
    assert [said["conflicts", outcome] for outcome in VERDICTS] == [0, 0, 0, 0]
    assert said["errors", "PASS"] == 1


def test_a_recording_has_times_of_its_own_and_a_replay_says_nothing_of_now() -> None:
    recorded = seen(canary_report(recorded=True, seconds=60.0), "canary-check")
    assert value(recorded, "canary_window_end_timestamp_seconds") == START + 60
    replayed = seen(canary_report(replayed=True), "canary-check")
    assert not [sample.name for sample in replayed.samples if "canary" in sample.name]
    assert replayed.left_out
    assert value(replayed, "job_exit_code") == 0
    nothing = seen(CanaryReport(), "canary-check")
    assert not [sample.name for sample in nothing.samples if "canary" in sample.name]


def test_doubts_about_samples_are_counted_by_arm() -> None:
    report = canary_report()
    assert report.verdict is not None
    trouble = TroubleFacts(arm="baseline", what="unreachable", count=3, first=1.0, last=2.0)
    verdict = structs.replace(report.verdict, troubles=[trouble, structs.replace(trouble, what="clocks")])
    found = seen(structs.replace(report, verdict=verdict), "canary-check")
    assert values(found, "canary_troubles") == {("baseline",): 6, ("candidate",): 0}


def test_the_catalogue_knows_every_criterion_and_verdict() -> None:
    report = canary_report()
    assert report.verdict is not None
    assert tuple(each.name for each in report.verdict.criteria) == CRITERIA
    assert set(VERDICTS) == set(CODES)
