"""What reports and evidence say, as samples of metrics. No operation knows about them.

    for sample in observe(Run("verify-psd", "default", code=report.code, report=report)).samples: ...

All values of a family's labels are given, zeros included: a POST to a Pushgateway replaces a family as a
whole. What is not known is left out, so that what was pushed before stands; but `push-metrics` says how
things are now, so there it is NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from somactl.core.canary_samples import ARMS
from somactl.core.canary_verdict import ArmFacts, Criterion
from somactl.report import (
    CacheWarmReport,
    CanaryReport,
    CompactReport,
    MigrateReport,
    PruneReport,
    PushReport,
    Report,
    SnapshotView,
    VerifyReport,
)
from somactl.telemetry.catalogue import (
    CRITERIA,
    FINDINGS,
    JUDGEMENTS,
    METRICS,
    OUTCOMES,
    PREFIX,
    PRUNE_OUTCOMES,
    REMOVED,
    STATUSES,
    STORES,
    VERDICTS,
)

CONFLICT, UNKNOWN = 12, 14
SNAPSHOT = "push-metrics"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value; the labels of the group are not among `labels`."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """How a run of a command ended, as far as is known.

    code       what the process exits with
    report     None where there was none: it failed before
    job        the label, where it is not the command's name: then a part of a namespace may be what the job
               is about, and what it found is told, but for times of an audit of the whole
    shard      which one was asked for; that of the report counts, if it has one
    seconds    how long it took, by this process; counts where the report has no times
    now        the time by this machine's clock; counts where the report has none, for the last run alone
    latencies  (operation, stat) -> seconds
    degraded   whether the run went on without a service; counts where there is no report
    dark       whether it ran in dark mode, None where that is not known; counts where there is no report
    """

    command: str
    namespace: str
    code: int
    report: Report | None = None
    job: str | None = None
    shard: str | None = None
    seconds: float | None = None
    now: float | None = None
    latencies: Mapping[tuple[str, str], float] = field(default_factory=dict)
    degraded: bool | None = None
    dark: bool | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Samples of one group; ended_at is when the run ended, None where that is not known.

    left_out says why what is known stands in no sample; empty where all does.
    """

    group: Mapping[str, str]
    samples: tuple[Sample, ...]
    ended_at: float | None
    left_out: str = ""


def observe(run: Run) -> Observation:
    """The samples that the run gives."""
    report = run.report
    ended = run.now if report is None or report.ended_at is None else report.ended_at
    samples = [*_job(run, ended), *(_of_report(run) if report is not None else ())]
    if run.command == SNAPSHOT:
        samples += _not_known({sample.name for sample in samples})
    return Observation(_group(run), tuple(samples), ended, _left_out(run))


def _group(run: Run) -> dict[str, str]:
    report = run.report
    scope = report.scope if isinstance(report, VerifyReport) else None
    namespace = (report.namespace if report is not None else "") or run.namespace
    group = {"job": run.command if run.job is None else run.job, "namespace": namespace}
    shard = run.shard if scope is None or scope.shard is None else scope.shard
    return group if shard is None else {**group, "shard": shard}


def _job(run: Run, ended: float | None) -> Iterator[Sample]:
    report = run.report
    began = None if report is None else report.started_at
    seconds = run.seconds if ended is None or began is None else ended - began
    codes = [run.code] if report is None else [run.code, *report.codes]
    yield from _one("job_last_run_timestamp_seconds", ended)
    if run.code == 0 and report is not None:
        yield from _one("job_last_success_timestamp_seconds", report.ended_at)
    yield from _one("job_duration_seconds", seconds)
    yield from _one("job_exit_code", run.code)
    yield from _one("job_complete", report is not None and report.complete)
    yield from _one("degraded_mode", run.degraded if report is None else report.degraded)
    yield from _one("dark_mode", run.dark if report is None else report.dark)
    if run.command != SNAPSHOT:
        yield from _one("unknown_outcomes", UNKNOWN in codes)
    if report is None and run.code == CONFLICT and run.command in METRICS[PREFIX + "conflicts"].sources:
        yield from _one("conflicts", 1)
    for (operation, stat), value in run.latencies.items():
        yield Sample(PREFIX + "job_latency_seconds", value, {"operation": operation, "stat": stat})


def _of_report(run: Run) -> Iterator[Sample]:
    for kind, samples in _BY_TYPE.items():
        if isinstance(run.report, kind):
            yield from samples(run, run.report)


# --- audits


def is_whole(report: VerifyReport) -> bool:
    """Whether it was about all matrices of the store, or of a shard of them, and nothing else."""
    scope = report.scope
    if scope is None or scope.files or scope.sample is not None or scope.origin == "cache":
        return False
    return scope.all or scope.shard is not None


def _stands_for_its_job(run: Run) -> bool:
    report = run.report
    return isinstance(report, VerifyReport) and (is_whole(report) or run.job not in (None, run.command))


def _left_out(run: Run) -> str:
    if isinstance(run.report, CanaryReport) and run.report.replayed:
        return "it repeated an old verdict, so what was pushed about a canary stands"
    if not isinstance(run.report, VerifyReport) or _stands_for_its_job(run):
        return ""
    return "it was about a part of the namespace, so what was pushed about all of it stands"


def _audit(run: Run, report: VerifyReport) -> Iterator[Sample]:
    if not report.store or (report.scope is not None and report.scope.files):
        return  # it tells nothing about a store
    stands = _stands_for_its_job(run)
    if report.psd_ok is False or (report.psd_ok and stands):
        yield from _one("rho_psd_ok", report.psd_ok)
        yield from _one("rho_verdict_timestamp_seconds", report.ended_at)
    if (stands and came_to_end(report)) or any(_open(report, kind) for kind in FINDINGS):
        yield from _findings(report)
    if not stands:
        return
    if is_whole(report):
        if report.complete or _left_open_by_rounding(report):
            yield from _one("rho_last_audit_timestamp_seconds", report.ended_at)
        if run.code == 0:
            yield from _one("rho_last_success_timestamp_seconds", report.ended_at)
    yield from _coverage(report)
    if came_to_end(report):
        yield from _one("rho_trace_norm_error", report.worst_trace_error)
        yield from _one("rho_lambda_min_bound", report.lowest_lambda_min)
        yield from _each("rho_matrices", "outcome", {each: getattr(report, each) for each in OUTCOMES})


def came_to_end(report: VerifyReport) -> bool:
    """Whether it looked at all that it was about, if it could check it or not: its counts are of the whole.

    One that was skipped, as another audit was at work, looked at nothing.
    """
    return report.complete or (report.reached is None and report.coverage is not None)


def _left_open_by_rounding(report: VerifyReport) -> bool:
    """Whether it read every matrix, and some lie so near the edge that it cannot judge them."""
    return bool(
        came_to_end(report) and report.undecided and not report.unreadable and {*report.codes} <= {3, 4}
    )


def _findings(report: VerifyReport) -> Iterator[Sample]:
    for kind in FINDINGS:
        open_ = _open(report, kind)
        for state, count in (("open", open_), ("accepted", getattr(report, kind) - open_)):
            yield Sample(PREFIX + "rho_findings", float(count), {"kind": kind, "state": state})


def _open(report: VerifyReport, kind: str) -> int:
    """How many findings of that kind are not accepted."""
    count: int = getattr(report, kind)
    return count - min(report.accepted.get(kind, 0), count)


def _coverage(report: VerifyReport) -> Iterator[Sample]:
    coverage, ended = report.coverage, report.ended_at
    if coverage is None or not coverage.kept_in or ended is None:
        return
    oldest = coverage.oldest_unread_seconds
    yield from _one("rho_known_bad_keys", coverage.known_bad)
    yield from _one("rho_oldest_read_timestamp_seconds", 0.0 if oldest is None else ended - oldest)
    yield from _one("rho_read_ratio", coverage.share_read)
    yield from _one(
        "rho_cycle_seconds", math.nan if coverage.cycle_seconds is None else coverage.cycle_seconds
    )


# --- other work


def _prune(run: Run, report: PruneReport) -> Iterator[Sample]:
    if report.dry_run:
        return
    waits = not report.complete and not report.final
    yield from _each("prune_items", "outcome", {each: report.counts.get(each, 0) for each in PRUNE_OUTCOMES})
    yield from _one("prune_backlog_keys", report.counts.get("beyond-limit", 0) if waits else 0)
    yield from _one("prune_over_limit", report.short_by)
    yield from _one("prune_freed_bytes", report.deleted_bytes)
    yield from _one("conflicts", report.counts.get("changed", 0))


def _compact(run: Run, report: CompactReport) -> Iterator[Sample]:
    if not report.dry_run:
        yield from _each("compact_removed", "kind", {each: getattr(report, each) for each in REMOVED})
        yield from _one("compact_freed_bytes", report.bytes_freed)


def _cache_warm(run: Run, report: CacheWarmReport) -> Iterator[Sample]:
    if not report.reconcile or not report.complete or report.match is not None:
        return  # there may be copies that it did not look at
    left = {each: getattr(report, each) if report.dry_run else 0 for each in JUDGEMENTS}
    yield from _each("cache_outdated_copies", "judgement", left)
    yield from _one("cache_compared_copies", report.checked)
    yield from _one("cache_compared_timestamp_seconds", report.ended_at)


def _migrate(run: Run, report: MigrateReport) -> Iterator[Sample]:
    found = {outcome: tally.count for outcome, tally in report.outcomes.items()}
    planned = found.get("migrate", 0)
    states = {
        "pending": planned if report.dry_run else 0,
        "copied": found.get("identical", 0) + (0 if report.dry_run else planned),
        "finalized": report.finalized,
    }
    others = {each: found.get(each, 0) for each in ("conflict", "rejected", "not-a-matrix")}
    yield from _each("migration_values", "state", {**states, **others})
    yield from _one("conflicts", others["conflict"])


# --- a canary


def _canary(run: Run, report: CanaryReport) -> Iterator[Sample]:
    verdict = report.verdict
    if verdict is None or report.replayed:
        return  # nothing was judged, or long ago
    yield from _each("canary_verdict", "verdict", {verdict.outcome: 1})
    ended = run.now if report.ended_at is None else report.ended_at
    yield from _one("canary_verdict_timestamp_seconds", ended)
    end = ended if report.recorded or verdict.start is None else verdict.start + verdict.window
    yield from _one("canary_window_end_timestamp_seconds", end)
    yield from _one("canary_window_seconds", verdict.window)
    yield from _one("canary_window_ended", verdict.ended)
    found = {criterion.name: criterion for criterion in verdict.criteria}
    for name in CRITERIA:
        yield from _criterion(name, found.get(name))
    troubles: dict[str, float] = {
        arm: sum(each.count for each in verdict.troubles if each.arm == arm) for arm in ARMS
    }
    yield from _each("canary_troubles", "arm", troubles)


def _criterion(name: str, found: Criterion | None) -> Iterator[Sample]:
    """What one criterion says; NaN for what it does not, or was not asked."""
    said = Criterion(name=name, outcome="PASS", why="shown", reason="") if found is None else found
    labels = {"criterion": name}
    for verdict in VERDICTS:
        is_so = found is not None and found.outcome == verdict
        yield Sample(PREFIX + "canary_criterion_verdict", float(is_so), {**labels, "verdict": verdict})
    yield Sample(PREFIX + "canary_threshold", _or_nan(said.threshold), labels)
    facts = {arm: said.arms.get(arm, ArmFacts()) for arm in ARMS}
    values = {"baseline": facts["baseline"].value, "candidate": said.value}
    for arm in ARMS:
        yield Sample(PREFIX + "canary_value", _or_nan(values[arm]), {**labels, "arm": arm})
        yield Sample(PREFIX + "canary_samples", float(facts[arm].samples), {**labels, "arm": arm})
    for test, evidence in {"failing": said.failing, "passing": said.passing}.items():
        of_test = {**labels, "test": test}
        log_e, bar = (None, None) if evidence is None else (evidence.log_e, evidence.bar)
        yield Sample(PREFIX + "canary_log_evidence", _or_nan(log_e), of_test)
        yield Sample(PREFIX + "canary_evidence_bar", _or_nan(bar), of_test)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


# --- a look at the store


def _push(run: Run, report: PushReport) -> Iterator[Sample]:
    if report.snapshot is not None:
        yield from _snapshot(report.snapshot)


def _snapshot(seen: SnapshotView) -> Iterator[Sample]:
    for service in seen.services:
        label = {"store": _store(service.store)}
        yield Sample(PREFIX + "store_up", float(service.up), label)
        for status in STATUSES:
            yield Sample(
                PREFIX + "store_findings", float(service.findings.get(status, 0)), {**label, "status": status}
            )
    yield from _contents(seen)
    if (ledger := seen.ledger) is not None:
        yield from _one("rho_known_bad_keys", ledger.known_bad)
        yield from _one("rho_oldest_read_timestamp_seconds", ledger.oldest_read_at or 0.0)
        yield from _one("rho_read_ratio", ledger.share_read)
        yield from _one("rho_cycle_seconds", ledger.cycle_seconds)
    if (copies := seen.copies) is not None:
        none = 0.0 if copies.whole else math.nan  # among those that were not compared there may be some
        found = {each: copies.differing.get(each) or none for each in JUDGEMENTS}
        yield from _each("cache_outdated_copies", "judgement", found)
        yield from _one("cache_compared_copies", copies.compared)
        yield from _one("cache_compared_timestamp_seconds", seen.at)
    if (orders := seen.orders) is not None:
        yield from _one("prune_backlog_keys", orders.backlog)
        yield from _one("unknown_outcomes", orders.unknown)
    if seen.migrations is not None:
        yield from _each("migration_values", "state", seen.migrations)


def _contents(seen: SnapshotView) -> Iterator[Sample]:
    if (counted := seen.counts) is not None:
        yield from _one("namespace_version", counted.version)
        yield from _one("namespace_keys", counted.keys)
        yield from _one("namespace_bytes", counted.stored_bytes)
        yield from _one("namespace_tombstones", counted.tombstones)
        yield from _one("namespace_seen_timestamp_seconds", seen.at)
    if (events := seen.events) is not None and seen.at is not None:
        yield from _one("events_publishing", events.publishing)
        yield from _one("events_unpublished", events.backlog)
        oldest = seen.at if events.oldest_at is None else events.oldest_at
        yield from _one("events_oldest_unpublished_timestamp_seconds", oldest)
        yield from _one("events_dropped", events.dropped)


def _store(name: str) -> str:
    kind = "cache" if name == "redis cache" else name
    return kind if kind in STORES else "other"


def _not_known(given: set[str]) -> Iterator[Sample]:
    """NaN for each value that a look at the store would give, and this one did not."""
    for metric in METRICS.values():
        if SNAPSHOT not in metric.sources or metric.name in given or metric.name in _ITS_OWN:
            continue
        for values in itertools.product(*metric.labels.values()):
            yield Sample(metric.name, math.nan, dict(zip(metric.labels, values, strict=True)))


_ITS_OWN = {
    PREFIX + name
    for name in (
        "job_last_run_timestamp_seconds",
        "job_last_success_timestamp_seconds",
        "job_duration_seconds",
        "job_exit_code",
        "job_complete",
        "job_latency_seconds",
        "degraded_mode",
        "dark_mode",
        "namespace_seen_timestamp_seconds",
        "cache_compared_timestamp_seconds",
    )
}
"""About the job itself, or with a time of their own; what stands of them stays true."""

_BY_TYPE: dict[type[Report], Callable[[Run, Any], Iterator[Sample]]] = {
    VerifyReport: _audit,
    PruneReport: _prune,
    CompactReport: _compact,
    CacheWarmReport: _cache_warm,
    MigrateReport: _migrate,
    CanaryReport: _canary,
    PushReport: _push,
}


def _one(name: str, value: float | None) -> Iterator[Sample]:
    if value is not None:
        yield Sample(PREFIX + name, float(value))


def _each(name: str, label: str, counts: Mapping[str, float]) -> Iterator[Sample]:
    """One sample for each value of the label; `counts` lacks the zeros, perhaps."""
    for value in METRICS[PREFIX + name].labels[label]:
        yield Sample(PREFIX + name, float(counts.get(value, 0)), {label: value})
