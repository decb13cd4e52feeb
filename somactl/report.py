"""What each command returns: one typed object. A table, JSON and metrics are views of it.

`docs/` and `schemas/report.<command>.json` are generated from these types. A report never holds a clock
reading or a host name of its own, so that two runs over the same data compare equal; times in it are the
store's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import msgspec

from somactl.core.verdict import Verdict, Witness

SCHEMA_VERSION = 1

# The table of exit codes. Its order decides where several apply: the first one wins.
EXIT_CODES: dict[int, str] = {
    14: "outcome unknown: a write was sent and no reply came; `somactl status COMMIT_ID` tells",
    1: "a bug in somactl",
    130: "interrupted (SIGINT); from the first byte of a write to its reply it is 14 unless resolved at once",
    143: "terminated (SIGTERM); from the first byte of a write to its reply it is 14 unless resolved at once",
    10: "configuration",
    2: "wrong usage",
    3: "findings: an invariant is violated, a value is corrupt or cannot be migrated, a canary fails",
    13: "a store or service is unavailable; nothing written",
    11: "input rejected: corrupt, hostile or not a density matrix; nothing written",
    12: "version conflict; nothing written",
    16: "another run holds the lock",
    15: "not found",
    4: "incomplete or degraded: something was not checked, durable but cache stale, canary inconclusive",
    5: "canary: not enough evidence yet",
    0: "done; nothing found; a canary passes",
}
PRECEDENCE = tuple(EXIT_CODES)


def decide(codes: Iterable[int]) -> int:
    """The one exit code for all that happened; unknown codes count as a bug (1)."""
    seen = {code if code in PRECEDENCE else 1 for code in codes} or {0}
    return min(seen, key=PRECEDENCE.index)


class Degraded(msgspec.Struct, kw_only=True):
    """A part that failed while the command went on without it, and what that means for the answer."""

    service: str
    breaker: Literal["closed", "open", "half-open"]
    detail: str


class Report(msgspec.Struct, kw_only=True, tag_field="command"):
    """The part every report has.

    code is what the process exits with, codes all that applied; complete is false where something asked
    for was not done or not checked; degraded_services says what was missing where degraded is true; undo is
    the command that takes the change back; next is the command to run now.
    """

    schema_version: int = SCHEMA_VERSION
    store: str = ""
    namespace: str = ""
    code: int = 0
    codes: list[int] = []
    complete: bool = True
    degraded: bool = False
    degraded_services: list[Degraded] = []
    warnings: list[str] = []
    undo: str | None = None
    next: str | None = None

    def conclude(self, *codes: int) -> Report:
        """Set `code` and `codes` from everything that happened."""
        self.codes = sorted({*codes} or {0})
        self.code = decide(self.codes)
        return self

    def degrade(self, services: Iterable[Degraded]) -> None:
        """Note what failed on the way; a command that did all it was asked for then ends with 4."""
        self.degraded_services = [*self.degraded_services, *services]
        if self.degraded_services:
            self.degraded = True
            self.conclude(*(set(self.codes or [self.code]) - {0}), 4)


class RetentionView(msgspec.Struct, kw_only=True):
    versions: int
    seconds: float
    record_seconds: float


class NamespaceView(msgspec.Struct, kw_only=True):
    namespace: str
    incarnation: str
    version: int
    created_at: float
    retention: RetentionView
    keys: int | None = None
    tombstones: int | None = None
    stored_bytes: int | None = None


class InitReport(Report, tag="init"):
    head: NamespaceView


class FindingView(msgspec.Struct, kw_only=True):
    """One aspect of one service. advice says what to do; empty where there is nothing to do."""

    service: str
    check: str
    status: Literal["ok", "warning", "problem", "unknown"]
    detail: str
    advice: str = ""


class DoctorReport(Report, tag="doctor"):
    findings: list[FindingView] = []


class NamespacesReport(Report, tag="namespaces"):
    namespaces: list[NamespaceView]


class Move(msgspec.Struct, kw_only=True):
    """A change somactl made to a matrix before storing it; distance is in the Frobenius norm."""

    method: Literal["normalize", "clamp", "round"]
    distance: float


class CommitItem(msgspec.Struct, kw_only=True):
    """One key of a commit. For a delete only key, action and noop are set."""

    key: str
    action: Literal["put", "delete"]
    kind: str | None = None
    dtype: str | None = None
    shape: list[int] | None = None
    layout: str | None = None
    bytes: int | None = None
    content: str | None = None
    moves: list[Move] = []
    verdict: Verdict | None = None
    noop: bool = False


class StoreView(msgspec.Struct, kw_only=True):
    store: str
    durability: str


class CommitReport(Report, tag="commit"):
    """version and committed_at are None in a dry run, which proves everything and writes nothing."""

    commit_id: str
    incarnation: str | None = None
    version: int | None = None
    committed_at: float | None = None
    dry_run: bool = False
    replayed: bool = False
    stores: list[StoreView] = []
    items: list[CommitItem] = []


class LeftAlone(msgspec.Struct, kw_only=True):
    """A key that a restore left as it is; `version` is that of what was written since."""

    key: str
    why: Literal["written since", "past its grace"]
    version: int | None = None


class PartialCommit(msgspec.Struct, kw_only=True):
    """One of the commits that a restore needed."""

    commit_id: str
    version: int
    keys: int
    bytes: int


class RestoreReport(CommitReport, tag="restore"):
    """of_prune: a prune is undone, which may take several commits; `version` is that of the last one. already
    counts keys that were back before; left lists those that were not restored, and why.
    """

    of_prune: bool = False
    commits: list[PartialCommit] = []
    restored_keys: int = 0
    restored_bytes: int = 0
    already: int = 0
    items_omitted: int = 0
    left: list[LeftAlone] = []
    left_omitted: int = 0
    stopped: str | None = None


class RmReport(CommitReport, tag="rm"):
    pass


class KeyView(msgspec.Struct, kw_only=True):
    key: str
    version: int
    kind: str
    dtype: str
    shape: list[int]
    layout: str
    bytes: int
    content: str
    commit_id: str
    committed_at: float
    deleted: bool = False
    recoverable_until: float | None = None


class LsReport(Report, tag="ls"):
    """In ndjson mode the keys come a line each and `keys` here is empty."""

    total: int = 0
    stored_bytes: int = 0
    keys: list[KeyView] = []


class GetReport(Report, tag="get"):
    """value is the envelope as base64 text, as pipes carry it; None where it went to a file."""

    key: str
    version: int
    incarnation: str
    content: str
    bytes: int
    served_by: str
    format: str
    file: str | None = None
    value: str | None = None


class ShowReport(Report, tag="show"):
    """stored_verdict is what was proven at commit; verdict is what a check found now (with --check).

    metadata are the labels of the commit that wrote the value, as long as its record is kept.
    """

    key: KeyView
    incarnation: str
    envelope_digest: str
    compression: str
    timestamp: float
    metadata: dict[str, str] = {}
    stored_verdict: dict[str, Any] | None = None
    verdict: Verdict | None = None


class RevisionView(msgspec.Struct, kw_only=True):
    key: str
    version: int
    commit_id: str
    committed_at: float
    action: Literal["put", "delete"]
    content: str | None = None
    kind: str | None = None
    bytes: int = 0
    psd: str | None = None
    compacted: bool = False


class CommitView(msgspec.Struct, kw_only=True):
    commit_id: str
    state: Literal["committed", "aborted", "unseen"]
    version: int | None = None
    incarnation: str | None = None
    recorded_at: float | None = None
    made_by: str | None = None
    metadata: dict[str, str] = {}
    keys: dict[str, str | None] = {}
    verdicts: dict[str, str] = {}


class LogReport(Report, tag="log"):
    """Without a key: the namespace's commits. With one: the key's revisions. Newest first."""

    key: str | None = None
    commits: list[CommitView] = []
    revisions: list[RevisionView] = []


class StatusReport(Report, tag="status"):
    """`unseen` with final=false may still arrive; after `--resolve` the answer is final."""

    commit: CommitView
    final: bool


class CompactReport(Report, tag="compact"):
    """orders are records of prune orders, and of the commits that restores took."""

    dry_run: bool = False
    revisions: int = 0
    tombstones: int = 0
    records: int = 0
    orders: int = 0
    events: int = 0
    bytes_freed: int = 0


class PruneItem(msgspec.Struct, kw_only=True):
    """One item of an order, and what came of it.

    outcome   deleted, or in a dry run `delete`; unknown: there is no such key; changed: it is not at the
              version `ranked`, but at `found`; withheld: another item forbade all deletions
    """

    line: int
    place: str
    key: str
    outcome: Literal["deleted", "delete", "unknown", "changed", "withheld"]
    ranked: int | None = None
    found: int | None = None


class PruneBatch(msgspec.Struct, kw_only=True):
    """One commit of a prune; `recoverable_until` is None where nothing of it can be restored."""

    commit_id: str
    version: int
    keys: int
    bytes: int
    recoverable_until: float | None = None


class PruneReport(Report, tag="prune"):
    """What came of an order, or, where none came, whether the namespace keeps within its limit.

    directed is false where no order of the control plane chose the keys; digest, form, items and reached
    are those of the order. counts has the items by outcome: deleted (in a dry run: delete), unknown,
    changed, withheld, and beyond-limit for those that were not looked at. not_applied lists what is unknown,
    changed or was forbidden, would_delete what a dry run found, each up to a bound.

    freed_now were bytes in a cache, and with a grace of 0 in the store too; freed_after_grace go when their
    grace is over and `somactl compact` has run; until recoverable_until they can be restored. short_by says
    by how many keys or bytes the namespace is over its limit, over_since when that was first seen.
    stopped says why a run ended before the order did; running it again then goes on.
    """

    order_id: str | None = None
    digest: str | None = None
    form: Literal["text", "list", "ndjson", "message", "oldest"] | None = None
    directed: bool = True
    issuer: str | None = None
    sequence: int | None = None
    dry_run: bool = False
    replayed: bool = False
    resumed: bool = False
    goal: Literal["all", "limit", "keep", "max-bytes"] = "all"
    amount: int = 0
    grace: float = 0.0
    batch: int | None = None
    items: int = 0
    reached: str | None = None
    counts: dict[str, int] = {}
    not_applied: list[PruneItem] = []
    not_applied_omitted: int = 0
    would_delete: list[PruneItem] = []
    would_delete_omitted: int = 0
    deleted_keys: int = 0
    deleted_bytes: int = 0
    keys_left: int | None = None
    bytes_left: int | None = None
    short_by: int = 0
    over_since: float | None = None
    over_seconds: float | None = None
    freed_now: int = 0
    freed_after_grace: int = 0
    recoverable_until: float | None = None
    batches: list[PruneBatch] = []
    batches_omitted: int = 0
    stopped: str | None = None


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
    copy. adopted: the cache served another incarnation, and serves the authority's now.
    """

    dry_run: bool = False
    reconcile: bool = False
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


class Checked(msgspec.Struct, kw_only=True):
    """The outcome for one matrix of an audit.

    outcome: a verdict's status; `corrupt` where the stored bytes fail their digest or framing; `rejected`
    where a file is no matrix; `unreadable` where it could not be fetched. store names the cache where the
    copy there was checked.
    """

    source: str
    store: str | None = None
    outcome: Literal[
        "valid", "clampable", "violated", "undecided", "corrupt", "rejected", "unreadable", "skipped"
    ]
    version: int | None = None
    error: str | None = None
    verdict: Verdict | None = None


class VerifyReport(Report, tag="verify-psd"):
    """Counts over all matrices; `results` lists those that are not `valid`, up to a bound.

    checked counts matrices with a verdict of valid, clampable or violated; what could not be checked
    (undecided, unreadable, rejected) is never among them. skipped counts values that are no `rho`.
    """

    method: str
    rigour: str | None = None
    checked: int = 0
    valid: int = 0
    clampable: int = 0
    violated: int = 0
    corrupt: int = 0
    undecided: int = 0
    rejected: int = 0
    unreadable: int = 0
    skipped: int = 0
    worst_trace_error: float | None = None
    lowest_lambda_min: float | None = None
    blas: str | None = None
    results: list[Checked] = []
    results_omitted: int = 0


class MigrationRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of one matrix in a legacy value, or of a value that holds none.

    key, pointer  where it stands, "" for the whole value; bytes of a key that are no UTF-8 are shown escaped
    source        digest (XXH3-128, hex) of the whole value as it was read; "" where it could not be read
    form          numpy, lists, string, envelope, unreadable; "" where there is no matrix
    reason        why it is no matrix, was rejected (the name of the error) or is a conflict
    why           the sentence to that reason; for a matrix, why it was taken for its kind
    target        the key it goes to; kind, dtype, shape and content are those of its envelope there
    json_bytes    of the node in the value (of the value, where there is no matrix); bytes of the envelope
    moves         what was done to it by --normalize or clamping
    verdict       of a rho that was refused
    """

    key: str
    outcome: Literal["migrate", "identical", "conflict", "not-a-matrix", "rejected"]
    source: str = ""
    pointer: str = ""
    form: str = ""
    reason: str = ""
    why: str = ""
    target: str = ""
    kind: str = ""
    dtype: str = ""
    shape: list[int] = []
    content: str = ""
    json_bytes: int = 0
    bytes: int = 0
    moves: list[Move] = []
    verdict: Verdict | None = None


class Tally(msgspec.Struct, kw_only=True):
    """count of matrices (or of values without one), and what they took as JSON and take as envelopes."""

    count: int = 0
    json_bytes: int = 0
    bytes: int = 0


class MigrateReport(Report, tag="migrate-json"):
    """What a migration found and did. It names no host and no time, so that two runs compare equal.

    migration     its id: what --finalize, --revert and --forget speak of; None in a dry run
    phase         planned (a dry run), copied, finalized, reverted or forgotten; copying, finalizing or
                  reverting where it was stopped on the way
    source        what was read, without its host
    values        how many values were looked at; pages of the journal, when there is one
    outcomes, forms, reasons, kinds   tallies; reasons as `outcome: reason`
    pointers      where matrices stand, with their number (the first 1000)
    largest       the rows of the ten largest matrices
    rejected, conflicts, moved   every row of these; in ndjson mode they come a line each instead
    finalized     values that were removed or whose matrices were replaced by references; restored: values
                  that a revert put back; withdrawn: matrices that it deleted; forgotten: originals dropped
    left_alone    values that had changed since, each with the reason, and that were not touched
    """

    migration: str | None = None
    phase: str = "planned"
    source: str = ""
    dry_run: bool = False
    plan: str | None = None
    stopped: str | None = None
    values: int = 0
    outcomes: dict[str, Tally] = {}
    forms: dict[str, Tally] = {}
    reasons: dict[str, Tally] = {}
    kinds: dict[str, Tally] = {}
    pointers: dict[str, int] = {}
    pointers_omitted: int = 0
    largest: list[MigrationRow] = []
    rejected: list[MigrationRow] = []
    conflicts: list[MigrationRow] = []
    moved: list[MigrationRow] = []
    finalized: int = 0
    restored: int = 0
    withdrawn: int = 0
    forgotten: int = 0
    left_alone: dict[str, str] = {}


class DemoReport(Report, tag="demo"):
    steps: list[str] = []


class ErrorReport(msgspec.Struct, kw_only=True):
    """What a failed command prints on stderr in the JSON modes: one object, the last line."""

    schema_version: int = SCHEMA_VERSION
    error: str
    message: str
    code: int
    retryable: bool = False
    hint: str | None = None
    runbook: str | None = None
    facts: dict[str, Any] = {}


REPORTS: tuple[type[Report], ...] = (
    InitReport,
    DoctorReport,
    NamespacesReport,
    CommitReport,
    RestoreReport,
    RmReport,
    LsReport,
    GetReport,
    ShowReport,
    LogReport,
    StatusReport,
    CompactReport,
    PruneReport,
    CacheWarmReport,
    VerifyReport,
    MigrateReport,
    DemoReport,
)


def without_witness_vector(verdict: Verdict) -> Verdict:
    """The verdict without the n components of its witness, which a report of many would drown in."""
    if verdict.witness is None:
        return verdict
    return replace(verdict, witness=Witness(value=verdict.witness.value, vector=()))
