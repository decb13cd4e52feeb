"""Every metric of somactl, as data: docs/METRICS.md is generated from this, and nothing else is ever pushed.

    METRICS["somabrain_rho_psd_ok"].help

A time is a value in seconds since 1970, by the store's clock, since a Pushgateway takes no time of a sample:
`time() - x` is an age, which grows by itself when nothing is pushed any more. What a job has not found out it
leaves out, so that what was pushed before stands, with its time. `push-metrics` says how things are now: of
what it cannot find out it pushes NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from somactl.core.canary_samples import ARMS
from somactl.report import OUTCOME_CODES

PREFIX = "somabrain_"
SLOW_SECONDS = 0.06
"""The promise for reads and commits; an edge of the histograms, so that it can be asked about exactly."""
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, SLOW_SECONDS, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper edges of the histograms, in seconds."""

GROUPING = {
    "job": "the command, or what `--job` says; of a server what the scraper calls it",
    "namespace": "the namespace",
    "shard": "the shard of an audit, `2/8`; only where the run has one",
}
"""The grouping key: labels that every metric of a push has, and no metric names."""

OUTCOMES = ("valid", "clampable", *OUTCOME_CODES, "skipped")
FINDINGS = tuple(outcome for outcome, code in OUTCOME_CODES.items() if code == 3)
STATES = ("open", "accepted")
JUDGEMENTS = ("outdated", "deleted", "newer", "unknown", "contradicting", "foreign", "corrupt")
MIGRATION_STATES = ("pending", "copied", "conflict", "rejected", "not-a-matrix", "finalized")
PRUNE_OUTCOMES = ("deleted", "unknown", "changed", "withheld", "beyond-limit")
REMOVED = ("revisions", "tombstones", "records", "orders", "events")
STATUSES = ("ok", "warning", "problem", "unknown")
STORES = ("sqlite", "postgres", "redis", "cache", "other")
OPERATIONS = ("read", "page", "commit")
STATS = ("p50", "p95", "max")
VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE", "INSUFFICIENT")
CRITERIA = ("invariants", "latency.max", "latency.margin", "errors", "degraded", "conflicts")
TESTS = ("failing", "passing")

REFUSALS = (
    "header",
    "body",
    "malformed",
    "slow header",
    "slow body",
    "slow reader",
    "idle",
    "pipelined",
    "evicted",
    "connections",
    "tls",
    "grpc-silent",
    "grpc-protocol",
    "grpc-frames",
    "grpc-connections",
)
"""Why `somactl serve` refuses a request, or closes a connection."""

Type = Literal["gauge", "counter", "histogram"]
Source = Literal[
    "verify-psd", "prune", "compact", "cache-warm", "migrate-json", "canary-check", "push-metrics", "server"
]
JOBS: tuple[Source, ...] = (
    "verify-psd",
    "prune",
    "compact",
    "cache-warm",
    "migrate-json",
    "canary-check",
    "push-metrics",
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One family.

    unit     as Prometheus names base units; empty for a number without one
    labels   name -> every value it can have
    sources  the commands whose reports give it; `server` is `somactl serve`, which is scraped
    """

    name: str
    help: str
    sources: tuple[Source, ...]
    unit: str = ""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    type: Type = "gauge"


def _metric(
    name: str,
    sources: tuple[Source, ...],
    help: str,
    unit: str = "",
    *,
    type: Type = "gauge",
    **labels: tuple[str, ...],
) -> Metric:
    return Metric(PREFIX + name, help, sources, unit, labels, type)


_AUDIT: tuple[Source, ...] = ("verify-psd",)
_LOOK: tuple[Source, ...] = ("push-metrics",)
_SERVER: tuple[Source, ...] = ("server",)
_CHECK: tuple[Source, ...] = ("canary-check",)
_PROOFS: tuple[Source, ...] = ("verify-psd", "server")

_RHO = (
    _metric(
        "rho_psd_ok",
        _PROOFS,
        "1: every density matrix is right; 0: one is not, accepted or not; of a server NaN: not known.",
    ),
    _metric(
        "rho_verdict_timestamp_seconds",
        _PROOFS,
        "When it was last known whether every density matrix is right.",
        "seconds",
    ),
    _metric(
        "rho_last_audit_timestamp_seconds",
        _AUDIT,
        "When an audit of the whole namespace, or of its shard, last came to its end, whatever it found.",
        "seconds",
    ),
    _metric(
        "rho_last_success_timestamp_seconds",
        _AUDIT,
        "When an audit of the whole namespace, or of its shard, last ended with 0.",
        "seconds",
    ),
    _metric("rho_trace_norm_error", _PROOFS, "The largest |tr rho - 1| of what was last proven."),
    _metric(
        "rho_lambda_min_bound",
        _PROOFS,
        "The lowest bound for an eigenvalue, proven or by a witness, of what was last proven.",
    ),
    _metric(
        "rho_matrices",
        _AUDIT,
        "Matrices of the last audit that came to its end, by outcome.",
        outcome=OUTCOMES,
    ),
    _metric(
        "rho_findings",
        _AUDIT,
        "Findings of the last audit that came to its end, or met open ones; accepted: those of --accept.",
        kind=FINDINGS,
        state=STATES,
    ),
    _metric(
        "rho_known_bad_keys",
        (*_AUDIT, *_LOOK),
        "Keys that audits have found wrong, and that none has proven since.",
    ),
    _metric(
        "rho_oldest_read_timestamp_seconds",
        (*_AUDIT, *_LOOK),
        "Every matrix was read by an audit at this time or later; 0: one never was.",
        "seconds",
    ),
    _metric(
        "rho_read_ratio",
        (*_AUDIT, *_LOOK),
        "Of all matrices the share that audits have read at least once.",
        "ratio",
    ),
    _metric(
        "rho_cycle_seconds",
        (*_AUDIT, *_LOOK),
        "In what time every matrix is read once, at the pace of the last audits; NaN: not known.",
        "seconds",
    ),
    _metric(
        "rho_commit_latency_seconds",
        _SERVER,
        "How long commits took.",
        "seconds",
        type="histogram",
    ),
    _metric("rho_read_latency_seconds", _SERVER, "How long reads took.", "seconds", type="histogram"),
)
_JOB = (
    _metric("job_last_run_timestamp_seconds", JOBS, "When the job last ended, in whatever way.", "seconds"),
    _metric("job_last_success_timestamp_seconds", JOBS, "When the job last ended with 0.", "seconds"),
    _metric("job_duration_seconds", JOBS, "How long the last run took.", "seconds"),
    _metric("job_exit_code", JOBS, "The exit code of the last run: docs/EXIT_CODES.md."),
    _metric("job_complete", JOBS, "1: the last run did all that it was asked for; 0: it did not."),
    _metric(
        "job_latency_seconds",
        JOBS,
        "How long calls of the store took in the last run that made any itself; page: a read of many keys.",
        "seconds",
        operation=OPERATIONS,
        stat=STATS,
    ),
    _metric(
        "degraded_mode",
        (*JOBS, *_SERVER),
        "1: it goes on without a service, or with results that grow old; 0: nothing is missing.",
    ),
    _metric(
        "dark_mode",
        (*JOBS, *_SERVER),
        "1: the last run was in dark mode, in which no invariant refuses; 0: not.",
    ),
    _metric("unknown_outcomes", JOBS, "Writes of which it is not known whether they happened."),
    _metric(
        "conflicts",
        ("prune", "migrate-json"),
        "Keys that were not at the expected version; 1 for a run that was refused for them.",
    ),
)
_WORK = (
    _metric("prune_items", ("prune",), "Items of the last order, by outcome.", outcome=PRUNE_OUTCOMES),
    _metric(
        "prune_backlog_keys",
        ("prune", "push-metrics"),
        "Keys that prune orders have chosen, and that were not looked at yet.",
    ),
    _metric("prune_over_limit", ("prune",), "Keys or bytes by which the namespace is over its limit."),
    _metric("prune_freed_bytes", ("prune",), "Bytes of what the last run deleted.", "bytes"),
    _metric("compact_removed", ("compact",), "What the last run removed.", kind=REMOVED),
    _metric("compact_freed_bytes", ("compact",), "Bytes that the last run freed.", "bytes"),
    _metric(
        "migration_values",
        ("migrate-json", "push-metrics"),
        "Matrices (or values without one) of migrations; finalized: values that were taken out.",
        state=MIGRATION_STATES,
    ),
    _metric(
        "cache_outdated_copies",
        ("cache-warm", "push-metrics"),
        "Copies in the cache that are not what the store has, and were not mended.",
        judgement=JUDGEMENTS,
    ),
    _metric(
        "cache_compared_copies",
        ("cache-warm", "push-metrics"),
        "Copies in the cache that were compared with the store; push-metrics compares 10,000 at most.",
    ),
    _metric(
        "cache_compared_timestamp_seconds",
        ("cache-warm", "push-metrics"),
        "When copies in the cache were last compared with the store.",
        "seconds",
    ),
)
_STORE = (
    _metric("store_up", (*_LOOK, *_SERVER), "1: the store answers; 0: it does not.", store=STORES),
    _metric("store_findings", _LOOK, "What `doctor` finds of it.", store=STORES, status=STATUSES),
    _metric("namespace_version", _LOOK, "The version of the namespace."),
    _metric("namespace_keys", _LOOK, "Live keys of the namespace."),
    _metric("namespace_bytes", _LOOK, "Bytes of the live values of the namespace.", "bytes"),
    _metric("namespace_tombstones", _LOOK, "Deleted keys that can still be restored."),
    _metric(
        "namespace_seen_timestamp_seconds",
        _LOOK,
        "When version, keys, bytes and tombstones were last counted.",
        "seconds",
    ),
    _metric("events_publishing", _LOOK, "1: events wait until they are published; 0: they do not."),
    _metric("events_unpublished", _LOOK, "Events that wait to be published."),
    _metric(
        "events_oldest_unpublished_timestamp_seconds",
        _LOOK,
        "When the oldest event that waits was recorded; where none waits, when that was seen.",
        "seconds",
    ),
    _metric("events_dropped", _LOOK, "Events that were removed before they were published."),
)

_CANARY = (
    _metric("canary_verdict", _CHECK, "1: this is the verdict; the other three are 0.", verdict=VERDICTS),
    _metric(
        "canary_criterion_verdict",
        _CHECK,
        "1: this is what the criterion says; all four are 0 for one that was not asked.",
        criterion=CRITERIA,
        verdict=VERDICTS,
    ),
    _metric("canary_verdict_timestamp_seconds", _CHECK, "When the verdict was given.", "seconds"),
    _metric(
        "canary_window_end_timestamp_seconds",
        _CHECK,
        "When the window ends, or ended: later, nothing more is seen.",
        "seconds",
    ),
    _metric("canary_window_seconds", _CHECK, "How long the window is.", "seconds"),
    _metric(
        "canary_window_ended", _CHECK, "1: the window was watched to its end; 0: it was not, or not yet."
    ),
    _metric(
        "canary_value",
        _CHECK,
        "What was measured, in seconds, as a share or as a number; NaN: not known.",
        criterion=CRITERIA,
        arm=ARMS,
    ),
    _metric(
        "canary_threshold",
        _CHECK,
        "What the candidate must not exceed, in the unit of its value; NaN: not asked, or not known.",
        criterion=CRITERIA,
    ),
    _metric(
        "canary_log_evidence",
        _CHECK,
        "log E, for and against; what reaches canary_evidence_bar is shown. NaN: there is no test.",
        criterion=CRITERIA,
        test=TESTS,
    ),
    _metric(
        "canary_evidence_bar",
        _CHECK,
        "log 1/alpha, what log E must reach; NaN: there is no test.",
        criterion=CRITERIA,
        test=TESTS,
    ),
    _metric(
        "canary_samples",
        _CHECK,
        "Samples that came in the window, before any thinning.",
        criterion=CRITERIA,
        arm=ARMS,
    ),
    _metric(
        "canary_troubles",
        _CHECK,
        "What the sources could not find out, and samples that were none.",
        arm=ARMS,
    ),
)
_SERVE = (
    _metric("health_ok", _SERVER, "1: health is ok; 0: it is not."),
    _metric("rho_watched_keys", _SERVER, "Keys that are proven again and again."),
    _metric("rho_watched_findings", _SERVER, "Of these and their copies, those that are not right."),
    _metric("prover_up", _SERVER, "1: the process that proves runs; 0: it does not."),
    _metric(
        "prover_restarts_total",
        _SERVER,
        "How often the process that proves was started again.",
        type="counter",
    ),
    _metric(
        "serve_refused_total",
        _SERVER,
        "Requests that were refused, and connections that were closed, before anything was answered.",
        type="counter",
        reason=REFUSALS,
    ),
)

METRICS: dict[str, Metric] = {each.name: each for each in (*_RHO, *_JOB, *_WORK, *_CANARY, *_STORE, *_SERVE)}
"""name -> metric."""

OF_PROCESS = tuple(PREFIX + name for name in ("prover_up", "prover_restarts_total", "serve_refused_total"))
"""Metrics of a server that are of no one namespace."""

QUESTIONS: dict[str, str] = {
    "Is every density matrix right?": 'min by (namespace) (somabrain_rho_psd_ok{job="verify-psd"})',
    "Since when, in seconds, is that not known?": (
        'time() - min by (namespace) (somabrain_rho_verdict_timestamp_seconds{job="verify-psd"})'
    ),
    "Which namespaces are wrong?": 'min by (namespace) (somabrain_rho_psd_ok{job="verify-psd"}) == 0',
    "How many seconds ago was the matrix read that was not read for longest?": (
        'time() - min by (namespace) (somabrain_rho_oldest_read_timestamp_seconds{job="push-metrics"})'
    ),
    "Did last night's audit come to its end?": (
        "time() - min by (namespace) "
        '(somabrain_rho_last_audit_timestamp_seconds{job="verify-psd"}) < bool 86400'
    ),
    "Is the cache what the store has? (0: no, or not known)": (
        'sum by (namespace) (somabrain_cache_outdated_copies{job="push-metrics", judgement!="foreign"})'
        " == bool 0"
    ),
    "How many events wait to be published?": (
        'sum by (namespace) (somabrain_events_unpublished{job="push-metrics"})'
    ),
    "How far is the migration?": (
        'sum by (namespace, state) (somabrain_migration_values{job="push-metrics"})'
    ),
}
"""What an operator asks, and the query that answers it."""
