"""What audits return: of matrices, and of the copies in a cache."""

from __future__ import annotations

from typing import Literal

import msgspec

from somactl.core.verdict import Rigour, Verdict
from somactl.report.accepting import Acceptance
from somactl.report.base import Report

OUTCOME_CODES = {
    "violated": 3,
    "corrupt": 3,
    "contradicting": 3,
    "undecided": 4,
    "unreadable": 4,
    "stale": 4,
    "rejected": 11,
}
"""What an audit ends with that met such an outcome; those with 3 are findings."""

MAX_RESULTS = 1000
"""A report stays bounded however sick a namespace is; ndjson mode prints them all."""


class CacheFinding(msgspec.Struct, kw_only=True):
    """A copy that the authority cannot explain, or a value that is corrupt in the authority itself."""

    key: str
    what: str
    detail: str


class CacheWarmReport(Report, tag="cache-warm"):
    """Counts of keys. checked, not_cached (of a kind of which no copies are kept) and current are always
    there, and filled: what was copied, or in a dry run would be.

    With `--reconcile` each key that is not current stands in one of these: missing; outdated (the authority
    has a newer value); deleted (there); newer (than the authority has ever committed), unknown (never
    committed), contradicting (another content at the same version); foreign (of another incarnation, so
    never served); corrupt. newer, unknown, contradicting and corrupt are findings; all are mended unless it
    is a dry run. oldest_stale_seconds is the age, by the cache's clock, of the oldest outdated or deleted
    copy. adopted: the cache served another incarnation, and serves the authority's now. Where a pattern
    matched nothing, or there was nothing to compare, it is incomplete (4), unless that was allowed.
    """

    dry_run: bool = False
    reconcile: bool = False
    match: str | None = None
    allow_empty: bool = False
    adopted: bool = False
    checked: int = 0
    not_cached: int = 0
    current: int = 0
    filled: int = 0
    bytes_filled: int = 0
    missing: int = 0
    outdated: int = 0
    deleted: int = 0
    newer: int = 0
    unknown: int = 0
    contradicting: int = 0
    foreign: int = 0
    corrupt: int = 0
    evicted: int = 0
    oldest_stale_key: str | None = None
    oldest_stale_seconds: float | None = None
    stopped: str | None = None
    findings: list[CacheFinding] = []
    findings_total: int = 0


class AuditScope(msgspec.Struct, kw_only=True):
    """What an audit was asked to look at.

    all, match (a pattern), keys, files and known_bad (what earlier audits found) say how it was selected,
    origin which of two stores was read where a cache stands before the authority. incremental: only what
    changed since it was last proven, and a share of the rest. sample: so many were drawn instead of taking
    all. A shard (`2/8`) takes the keys behind `after` up to and with `upto`, in the order of their bytes;
    None is the first or the last end. plan names what its bounds come from, which all shards of one audit
    share.
    """

    all: bool = False
    match: str | None = None
    keys: list[str] = []
    files: list[str] = []
    known_bad: bool = False
    origin: Literal["authority", "cache", "both"] = "authority"
    incremental: bool = False
    sample: int | None = None
    shard: str | None = None
    plan: str | None = None
    after: str | None = None
    upto: str | None = None


class Checked(msgspec.Struct, kw_only=True):
    """The outcome for one matrix of an audit.

    outcome: a verdict's status; `corrupt` where the stored bytes fail their digest or framing; `rejected`
    where a file is no matrix; `unreadable` where it could not be fetched; `stale` where a cache holds what
    the authority has replaced or deleted since; `contradicting` where it holds what the authority never
    committed. store names the cache where the copy there was checked. kind stands where it is no `rho`.
    version and digest (of the content) say which value it was, as far as it could be read. dark: it was
    committed in dark mode, where an invariant would have refused it. acceptance is what the file of
    `--accept` says of a finding.
    """

    source: str
    store: str | None = None
    kind: str | None = None
    outcome: Literal[
        "valid",
        "clampable",
        "violated",
        "undecided",
        "corrupt",
        "rejected",
        "unreadable",
        "skipped",
        "stale",
        "contradicting",
    ]
    version: int | None = None
    digest: str | None = None
    error: str | None = None
    verdict: Verdict | None = None
    dark: bool = False
    acceptance: Acceptance | None = None


class Coverage(msgspec.Struct, kw_only=True):
    """What an audit of a whole namespace adds to the ledger, and how far that reaches.

    kept_in    where the ledger is: `store`, or a file; empty: it is not kept, and not_kept says why
    changed    matrices that were new since they were last proven, or known to be bad; in a full audit all
    unchanged  matrices that were proven before as they are now, whether they were read again or not
    rechecked  matrices that were read again although nothing changed, and their bytes
    recheck_ended_by  what ended that before its share was done; the next run goes on with it
    gone       known bad keys that are not there any more, which --only-known-bad found so
    known_bad  keys that the ledger leaves out, since they are not right
    share_read  of all matrices those, 0 to 1, that audits have read at least once
    oldest_unread_seconds  the age, by the store's clock, of the reading that lies longest ago; None: some
               matrix was never read
    cycle_seconds  in what time every matrix is read once, at the pace of the last runs; None: not known yet
    """

    kept_in: str = ""
    not_kept: str | None = None
    changed: int = 0
    unchanged: int = 0
    rechecked: int = 0
    rechecked_bytes: int = 0
    recheck_ended_by: str | None = None
    gone: int = 0
    known_bad: int = 0
    share_read: float | None = None
    oldest_unread_seconds: float | None = None
    cycle_seconds: float | None = None


class VerifyReport(Report, tag="verify-psd"):
    """Counts over all matrices; `results` lists those that are not `valid`, up to a bound.

    checked counts matrices with a verdict of valid, clampable or violated; what could not be checked
    (undecided, unreadable, rejected) is never among them. skipped counts values that are no `rho`, and
    skipped_kinds the same by their kind. stale and contradicting count copies in a cache that are not what
    the authority has, which `--from both` compares; they are checked like any other besides. Where nothing
    was checked the audit is incomplete (4), unless that was allowed.

    scope is what was asked for, tolerances those it was held to, by the invariant's name; version_started is
    the namespace's version when it began. reached is the last key done by an audit that ended early, empty
    where not one was; None where it came to the end of its range.

    accepted counts, by their outcome, findings that stand in `--accept`: they are among the violated and
    corrupt, and do not count for the exit code. psd_ok is False where there is any finding, accepted or not;
    None where nothing is wrong so far, but not everything was checked. coverage stands in an audit of a whole
    namespace. statement is what a sample shows of the rest. held_back_seconds is how long the pace made
    it wait for the store; resumed: it went on with what an earlier run had done.
    """

    method: str
    scope: AuditScope | None = None
    tolerances: dict[str, float] = {}
    version_started: int | None = None
    reached: str | None = None
    rigour: Rigour | None = None
    checked: int = 0
    valid: int = 0
    clampable: int = 0
    violated: int = 0
    corrupt: int = 0
    undecided: int = 0
    rejected: int = 0
    unreadable: int = 0
    skipped: int = 0
    skipped_kinds: dict[str, int] = {}
    stale: int = 0
    contradicting: int = 0
    accepted: dict[str, int] = {}
    psd_ok: bool | None = None
    allow_empty: bool = False
    worst_trace_error: float | None = None
    lowest_lambda_min: float | None = None
    blas: str | None = None
    jobs: int = 1
    coverage: Coverage | None = None
    statement: str | None = None
    held_back_seconds: float = 0.0
    resumed: bool = False
    results: list[Checked] = []
    results_omitted: int = 0


def psd_ok(report: VerifyReport) -> bool | None:
    """False where a matrix breaks an invariant or its bytes are damaged, accepted or not; None where nothing
    is wrong as far as it was checked, which was not everything."""
    if report.violated or report.corrupt or report.contradicting:
        return False
    unchanged = 0 if report.coverage is None else report.coverage.unchanged
    return True if report.complete and (report.checked or unchanged) else None
