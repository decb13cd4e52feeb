"""What reports say as samples: of every family all values or none, and nothing that is not known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from msgspec import structs

from somactl.report import (
    AuditScope,
    BacklogView,
    CacheWarmReport,
    CompactReport,
    CopiesView,
    CountsView,
    Coverage,
    LedgerView,
    MigrateReport,
    OrdersView,
    PruneReport,
    PushReport,
    Report,
    ServiceView,
    SnapshotView,
    Tally,
    VerifyReport,
)
from somactl.telemetry.catalogue import GROUPING, JOBS, METRICS, OPERATIONS, PREFIX, STATS
from somactl.telemetry.latency import Latencies
from somactl.telemetry.observe import Observation, Run, observe
from support.canary_reports import canary_report

WHOLE = AuditScope(all=True)
Values = dict[tuple[str, ...], float]


def audit(**members: Any) -> VerifyReport:
    known = {"method": "certify", "store": "sqlite", "namespace": "acme", "scope": WHOLE}
    report = VerifyReport(**{**known, "started_at": 100.0, "ended_at": 160.0, **members})
    report.finish(*members.get("codes", [0]))
    return report


def seen(report: Report | None, command: str = "verify-psd", **options: Any) -> Observation:
    code = 0 if report is None else report.code
    return observe(Run(command, "given", **{"code": code, "report": report, **options}))


def values(observation: Observation, name: str) -> Values:
    return {
        tuple(sample.labels.values()): sample.value
        for sample in observation.samples
        if sample.name == PREFIX + name
    }


def value(observation: Observation, name: str) -> float | None:
    return values(observation, name).get(())


SNAPSHOT = SnapshotView(
    at=150.0,
    services=[ServiceView(store="postgres", up=True), ServiceView(store="redis cache", up=False)],
    counts=CountsView(version=7, keys=3, tombstones=1, stored_bytes=99),
    events=BacklogView(publishing=True, backlog=4, oldest_at=120.0),
    ledger=LedgerView(known_bad=2, oldest_read_at=110.0, share_read=0.5, cycle_seconds=9.0),
    copies=CopiesView(compared=5, differing={"outdated": 2}),
    orders=OrdersView(backlog=6, unknown=1),
    migrations={"copied": 8},
)
REPORTS: dict[str, Report] = {
    "verify-psd": audit(
        psd_ok=True,
        worst_trace_error=1e-9,
        lowest_lambda_min=-1e-12,
        coverage=Coverage(kept_in="store", share_read=1.0, oldest_unread_seconds=5.0, cycle_seconds=60.0),
    ),
    "prune": PruneReport(counts={"changed": 1}, started_at=1.0, ended_at=2.0),
    "compact": CompactReport(started_at=1.0, ended_at=2.0),
    "cache-warm": CacheWarmReport(reconcile=True, started_at=1.0, ended_at=2.0),
    "migrate-json": MigrateReport(outcomes={"migrate": Tally(count=3)}, started_at=1.0, ended_at=2.0),
    "canary-check": canary_report(),
    "push-metrics": PushReport(snapshot=SNAPSHOT, started_at=149.0, ended_at=151.0),
}


@pytest.mark.parametrize("command", JOBS)
def test_what_the_catalogue_promises_of_a_command_is_given_with_every_value(command: str) -> None:
    latencies = Latencies()
    for operation in OPERATIONS:
        latencies(operation, 0.01)
    found = seen(REPORTS[command], command, latencies=latencies.stats())
    given = {sample.name for sample in found.samples}
    promised = {metric.name for metric in METRICS.values() if command in metric.sources}
    assert given == promised
    for name in given - {f"{PREFIX}store_up", f"{PREFIX}store_findings"}:
        labels = METRICS[name].labels
        assert set(values(found, name.removeprefix(PREFIX))) == set(itertools.product(*labels.values()))
    assert len(found.samples) == len({(s.name, tuple(s.labels.items())) for s in found.samples})


def test_labels_are_those_of_the_catalogue_and_bounded() -> None:
    for metric in METRICS.values():
        assert not metric.labels.keys() & GROUPING.keys()
        assert metric.name.startswith(PREFIX)
        combinations = 1
        for each in metric.labels.values():
            combinations *= len(each)
        assert combinations <= 30
    for command, report in REPORTS.items():
        for sample in seen(report, command).samples:
            labels = METRICS[sample.name].labels
            assert sample.labels.keys() == labels.keys()
            assert all(sample.labels[name] in labels[name] for name in labels)


def test_times_are_those_of_the_report() -> None:
    found = seen(REPORTS["verify-psd"], now=9e9, seconds=5.0)
    assert found.ended_at == 160.0
    for name in (
        "job_last_run",
        "job_last_success",
        "rho_last_success",
        "rho_last_audit",
        "rho_verdict",
    ):
        assert value(found, f"{name}_timestamp_seconds") == 160.0
    assert value(found, "job_duration_seconds") == 60.0
    assert value(found, "rho_oldest_read_timestamp_seconds") == 155.0


@pytest.mark.parametrize("code", [1, 2, 10, 13, 16, 130, 143])
@pytest.mark.parametrize("command", JOBS)
def test_without_a_report_there_is_no_success_and_this_clock_is_that_of_the_run(
    command: str, code: int
) -> None:
    found = seen(None, command, code=code, now=77.0, seconds=5.0)
    assert found.group == {"job": command, "namespace": "given"}
    assert value(found, "job_last_run_timestamp_seconds") == found.ended_at == 77.0
    assert value(found, "job_exit_code") == code
    assert value(found, "job_complete") == 0
    assert value(found, "job_duration_seconds") == 5.0
    assert not [sample.name for sample in found.samples if "success" in sample.name]
    known = [sample for sample in found.samples if not math.isnan(sample.value)]
    assert {sample.name.removeprefix(PREFIX) for sample in known} <= {
        *("job_last_run_timestamp_seconds", "job_duration_seconds", "job_exit_code", "job_complete"),
        *("unknown_outcomes", "dark_mode"),
    }
    others = {sample.name for sample in found.samples} - {sample.name for sample in known}
    assert bool(others) == (command == "push-metrics")


def test_whether_a_run_was_in_dark_mode_is_said_with_and_without_a_report() -> None:
    for dark, number in ((True, 1.0), (False, 0.0)):
        assert value(seen(None, "prune", code=13, dark=dark), "dark_mode") == number
        assert value(seen(audit(dark=dark)), "dark_mode") == number
    assert value(seen(None, "prune", code=10, dark=None), "dark_mode") is None


def test_an_outcome_that_is_not_known_is_told_though_there_is_no_report() -> None:
    assert value(seen(None, "prune", code=14), "unknown_outcomes") == 1
    assert value(seen(None, "prune", code=13), "unknown_outcomes") == 0


def test_a_run_that_was_refused_for_conflicts_has_one() -> None:
    assert value(seen(None, "prune", code=12), "conflicts") == 1
    assert value(seen(None, "prune", code=13), "conflicts") is None
    assert value(seen(None, "verify-psd", code=12), "conflicts") is None


@pytest.mark.parametrize("code", [3, 4, 13, 14, 17, 130])
def test_no_code_but_0_is_a_success(code: int) -> None:
    found = seen(audit(psd_ok=True, codes=[code]), code=code)
    assert not [sample.name for sample in found.samples if "success" in sample.name]


def test_a_result_that_was_not_printed_is_no_success() -> None:
    """The report itself says 0."""
    found = seen(audit(psd_ok=True), code=17)
    assert value(found, "job_exit_code") == 17
    assert value(found, "job_last_success_timestamp_seconds") is None


@pytest.mark.parametrize(
    ("psd_ok", "complete", "pushed", "ended"),
    [
        (True, True, 1.0, 160.0),
        (False, False, 0.0, 160.0),
        (None, False, None, None),
        (None, True, None, None),
    ],
)
def test_validity_that_is_not_known_is_not_pushed(
    psd_ok: bool | None, complete: bool, pushed: float | None, ended: float | None
) -> None:
    found = seen(audit(psd_ok=psd_ok, complete=complete, codes=[0 if complete else 4]))
    assert value(found, "rho_psd_ok") == pushed
    assert value(found, "rho_verdict_timestamp_seconds") == ended
    assert value(found, "rho_last_audit_timestamp_seconds") == (160.0 if complete else None)


PARTS = {
    "keys": AuditScope(keys=["a"]),
    "match": AuditScope(match="a*"),
    "sample": AuditScope(all=True, sample=10),
    "cache": AuditScope(all=True, origin="cache"),
    "known bad": AuditScope(known_bad=True),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_says_nothing_about_the_whole_but_that_it_is_wrong(part: str) -> None:
    found = seen(audit(psd_ok=True, scope=PARTS[part], valid=1))
    assert not [sample.name for sample in found.samples if "rho" in sample.name]
    assert found.left_out
    assert value(found, "job_exit_code") == 0
    wrong = seen(audit(psd_ok=False, scope=PARTS[part], violated=1, codes=[3]))
    assert value(wrong, "rho_psd_ok") == 0
    assert values(wrong, "rho_findings")["violated", "open"] == 1
    same = seen(audit(psd_ok=True, scope=PARTS[part], valid=1), job="verify-psd")
    assert value(same, "rho_psd_ok") is None
    named = seen(audit(psd_ok=True, scope=PARTS[part], valid=1), job="spot")
    assert value(named, "rho_psd_ok") == 1
    assert value(named, "rho_last_audit_timestamp_seconds") is None
    assert value(named, "rho_last_success_timestamp_seconds") is None
    assert not named.left_out


def test_one_that_looked_at_less_takes_no_finding_back() -> None:
    """Else an accepted finding of a short run would silence the alert about an open one behind it."""
    accepted = {"psd_ok": False, "violated": 1, "accepted": {"violated": 1}, "codes": [4]}
    for one in (
        audit(complete=False, codes=[4]),
        audit(**accepted, complete=False, reached="m"),
        audit(**accepted, scope=PARTS["keys"]),
    ):
        assert values(seen(one), "rho_findings") == {}
    assert values(seen(audit(complete=False, codes=[4])), "rho_matrices") == {}
    assert values(seen(audit(**accepted)), "rho_findings")["violated", "accepted"] == 1


@pytest.mark.parametrize(
    ("members", "ended"),
    [
        ({"undecided": 1}, True),
        ({"undecided": 1, "reached": "m"}, False),
        ({"undecided": 1, "unreadable": 1}, False),
        ({"undecided": 1, "codes": [4, 13]}, False),
        ({}, False),
    ],
)
def test_what_rounding_leaves_open_keeps_no_audit_from_its_end(members: dict[str, Any], ended: bool) -> None:
    found = seen(audit(complete=False, **{"coverage": Coverage(), "codes": [4], **members}))
    assert value(found, "rho_last_audit_timestamp_seconds") == (160.0 if ended else None)
    assert value(found, "rho_verdict_timestamp_seconds") is None


def test_files_say_nothing_about_a_store() -> None:
    for job in (None, "spot"):
        found = seen(audit(psd_ok=False, scope=AuditScope(files=["x"]), codes=[3]), job=job)
        assert not [sample.name for sample in found.samples if "rho" in sample.name]


def test_a_shard_has_a_group_of_its_own_also_where_it_fails() -> None:
    scope = AuditScope(all=True, shard="2/8", after="a", upto="b")
    assert seen(audit(psd_ok=True, scope=scope)).group["shard"] == "2/8"
    assert seen(None, code=13, shard="2/8").group["shard"] == "2/8"
    assert value(seen(audit(psd_ok=True, scope=scope)), "rho_psd_ok") == 1


def test_findings_are_open_or_accepted() -> None:
    found = seen(audit(psd_ok=False, violated=5, corrupt=1, accepted={"violated": 3}, codes=[3]))
    assert values(found, "rho_findings") == {
        ("violated", "open"): 2,
        ("violated", "accepted"): 3,
        ("corrupt", "open"): 1,
        ("corrupt", "accepted"): 0,
        ("contradicting", "open"): 0,
        ("contradicting", "accepted"): 0,
    }


KEPT = Coverage(kept_in="store", share_read=1.0)


@pytest.mark.parametrize(
    ("members", "counts", "findings"),
    [
        ({"coverage": KEPT, "undecided": 1}, True, True),  # all was looked at
        ({"coverage": KEPT, "reached": "k"}, False, False),
        ({"coverage": KEPT, "reached": ""}, False, False),
        ({"coverage": None}, False, False),  # skipped, since another one was at work
        ({"coverage": KEPT, "reached": "k", "violated": 2, "accepted": {"violated": 2}}, False, False),
        ({"coverage": KEPT, "reached": "k", "violated": 2}, False, True),
    ],
)
def test_an_audit_that_ended_early_hides_no_finding_of_another(
    members: dict[str, Any], counts: bool, findings: bool
) -> None:
    found = seen(audit(complete=False, codes=[4], worst_trace_error=0.0, **members))
    assert bool(values(found, "rho_matrices")) == counts
    assert (value(found, "rho_trace_norm_error") is not None) == counts
    assert bool(values(found, "rho_findings")) == findings


def test_a_ledger_that_is_not_kept_is_not_told() -> None:
    found = seen(audit(psd_ok=True, coverage=Coverage(not_kept="no right", oldest_unread_seconds=1.0)))
    assert value(found, "rho_oldest_read_timestamp_seconds") is None
    unread = seen(audit(psd_ok=True, coverage=Coverage(kept_in="store", share_read=0.5)))
    assert value(unread, "rho_oldest_read_timestamp_seconds") == 0
    assert math.isnan(value(unread, "rho_cycle_seconds") or 0.0)


def test_a_reconciliation_tells_what_is_left() -> None:
    counts: dict[str, Any] = {"outdated": 3, "foreign": 1, "reconcile": True, "ended_at": 9.0, "checked": 7}
    dry = seen(CacheWarmReport(dry_run=True, **counts), "cache-warm")
    assert values(dry, "cache_outdated_copies")["outdated",] == 3
    mended = seen(CacheWarmReport(**counts), "cache-warm")
    assert set(values(mended, "cache_outdated_copies").values()) == {0}
    assert value(mended, "cache_compared_timestamp_seconds") == 9.0
    for other in ({"complete": False}, {"match": "a*"}, {"reconcile": False}):
        found = seen(CacheWarmReport(**{**counts, **other}), "cache-warm")
        assert values(found, "cache_outdated_copies") == {}


def test_a_dry_run_has_done_nothing() -> None:
    for command, report in (
        ("prune", PruneReport(dry_run=True, counts={"delete": 5})),
        ("compact", CompactReport(dry_run=True, revisions=5)),
    ):
        assert not [s.name for s in seen(report, command).samples if command in s.name]
    planned = seen(MigrateReport(dry_run=True, outcomes={"migrate": Tally(count=5)}), "migrate-json")
    assert values(planned, "migration_values")["pending",] == 5
    assert values(planned, "migration_values")["copied",] == 0


def test_an_order_that_goes_on_has_a_backlog_and_one_that_ended_has_none() -> None:
    counts = {"deleted": 5, "beyond-limit": 7}
    for members, backlog in (
        ({"complete": False}, 7),
        ({"complete": False, "final": True}, 0),
        ({"complete": True}, 0),
    ):
        found = seen(PruneReport(counts=counts, **members), "prune")
        assert value(found, "prune_backlog_keys") == backlog


def test_a_look_that_fails_says_that_it_does_not_know() -> None:
    report = PushReport(snapshot=SnapshotView(services=[ServiceView(store="postgres", up=False)]))
    report.finish(13)
    found = seen(report, "push-metrics", now=5.0)
    assert values(found, "store_up") == {("postgres",): 0.0}
    for name in ("events_unpublished", "namespace_keys", "rho_read_ratio", "unknown_outcomes"):
        assert math.isnan(value(found, name) or 0.0), name
    assert all(math.isnan(each) for each in values(found, "cache_outdated_copies").values())
    assert value(found, "namespace_seen_timestamp_seconds") is None
    none = values(seen(None, "push-metrics", code=10, now=5.0), "store_up")
    assert len(none) == 5
    assert all(math.isnan(each) for each in none.values())


def test_where_no_event_waits_nothing_older_than_the_look_does() -> None:
    snapshot = SnapshotView(at=150.0, events=BacklogView(publishing=True, backlog=0))
    found = seen(PushReport(snapshot=snapshot), "push-metrics")
    assert value(found, "events_oldest_unpublished_timestamp_seconds") == 150.0
    assert (
        value(seen(REPORTS["push-metrics"], "push-metrics"), "events_oldest_unpublished_timestamp_seconds")
        == 120.0
    )


def test_latencies_are_right_within_2_percent() -> None:
    latencies = Latencies()
    assert latencies.stats() == {}
    for k in range(1, 1001):
        latencies("read", k / 1000)
    stats = latencies.stats()
    assert {stat for _, stat in stats} == set(STATS)
    assert 0.5 <= stats["read", "p50"] <= 0.51
    assert 0.95 <= stats["read", "p95"] <= 0.97
    assert stats["read", "max"] == 1.0
    latencies("commit", 0.0)
    assert latencies.stats()["commit", "max"] == 0.0


def test_no_copy_differs_only_where_all_were_compared() -> None:
    copies = CopiesView(compared=10_000, differing={"outdated": 2}, whole=False)
    report = PushReport(snapshot=structs.replace(SNAPSHOT, copies=copies), started_at=1.0, ended_at=2.0)
    found = values(seen(report, "push-metrics"), "cache_outdated_copies")
    assert found.pop(("outdated",)) == 2
    assert found
    assert all(math.isnan(each) for each in found.values())
