"""The values that stores take and give: commits, heads, entries, notes, findings.

They are msgspec structs: fifteen dataclasses would take as long to define as all the rest of a store's
start-up. All times are seconds since 1970 by the store's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from somactl.core.framing import Header, peek
from somactl.suggestion import Suggestion

if TYPE_CHECKING:
    from somactl.errors import CorruptValue

DAY = 86_400.0
KEEP_EVENTS = 100_000
"""Unpublished events that a namespace keeps beyond their time, where nothing else was said."""
MAX_NOTE_BYTES = 256 << 20
"""The most that one write of notes may carry."""


class Retention(msgspec.Struct, frozen=True):
    """How long a namespace remembers. Enforced by `compact` alone, never by a commit or a read.

    versions        a superseded version is kept while it is among the `versions` newest values of its
                    key (the live one counts) *and* was superseded less than `seconds` ago
    seconds         a tombstone, with the bytes it hides, is kept this long
    record_seconds  commit records, which are the events too, and history entries without bytes are kept
                    this long. A record outlives its commit id: one made by a generated id (UUIDv7) from
                    the future of the store's clock is kept until that id has expired too; and where
                    publishing is on, its event waits to be published

    At least one version is kept and no time is negative; `init` refuses anything else as InputRejected.
    """

    versions: int = 10
    seconds: float = 7 * DAY
    record_seconds: float = 30 * DAY


class Expect(msgspec.Struct, frozen=True):
    """One precondition on one key; every part that is not None must hold (none: no precondition).

    version      the key's live version; 0: never written, or deleted
    incarnation  the namespace's incarnation
    content      the content digest (hex) of the live value
    """

    version: int | None = None
    incarnation: str | None = None
    content: str | None = None


Expected: TypeAlias = "int | Expect | Mapping[str, int | Expect] | None"
"""None: last writer wins. int or Expect: holds for every key in `updates`. Mapping: key by key; it may
also name keys that the commit does not write (guards)."""


class CommitMetadata(msgspec.Struct, frozen=True):
    """What travels with a commit.

    user      the operator's own `k=v` labels; part of the request, so of a replay's identity
    verdicts  content digest (hex) -> the verdict as JSON values; a `rho` needs one whose `status` is
              `valid`, or in dark mode one that is marked `dark: true`. Kept with the commit and returned by
              `read`, `history` and `log`; verdicts of digests that the commit does not write are dropped
    command   a label: what made the commit ("commit", "restore", ...); not part of the request
    idempotency_key  what the commit id stands for, where that is not the contents and expectations of the
              commit: the digest of an order, say, from which the deletes were computed. It then takes
              their place in a replay's identity, beside the user's labels. 1 to 256 characters of ASCII
    grace     for how many seconds, by the store's clock, what this commit deletes can be restored; it
              takes the place of the retention's time for these tombstones and the bytes that they hide.
              None: the retention's. Not part of the request
    guards    key -> the version it must be at (0: absent), compared like an expectation where the caller has
              none for it; not part of the request, so that a replay may come with others
    facts     JSON values, 64 KiB at most, kept with the commit and returned by `log` and
              `commit_status`; not part of the request
    dark      the commit is made in dark mode, in which no invariant refuses; not part of the request
    """

    user: Mapping[str, str] = {}
    verdicts: Mapping[str, Mapping[str, Any]] = {}
    command: str = ""
    idempotency_key: str | None = None
    grace: float | None = None
    guards: Mapping[str, int] = {}
    facts: Mapping[str, Any] = {}
    dark: bool = False


class Head(msgspec.Struct, frozen=True):
    """Where a namespace is. `version` 0: nothing was committed in this incarnation."""

    namespace: str
    incarnation: str
    version: int
    created_at: float
    retention: Retention


class NamespaceSummary(msgspec.Struct, frozen=True):
    """A namespace as `somactl namespaces` lists it; `stored_bytes` counts live values alone."""

    head: Head
    keys: int
    tombstones: int
    stored_bytes: int


class Note(msgspec.Struct, frozen=True):
    """A small thing that an operation remembers beside the matrices: a checkpoint, an order, a journal.

    `version` counts the writes of this name, from 1, and begins anew once it was deleted. `data` is None
    in listings.
    """

    name: str
    version: int
    size: int
    written_at: float
    data: bytes | None = None


class Stat(msgspec.Struct, frozen=True, gc=False):
    """One key without its payload. `version` is that of the commit that last wrote (or deleted) it.

    For a deleted key the fields of the matrix describe the value that the tombstone hides, and
    `recoverable_until` is when `compact` may remove it.
    """

    key: str
    version: int
    commit_id: str
    committed_at: float
    size: int
    content: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    deleted: bool = False
    recoverable_until: float | None = None


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One live value, its framing, digests and address verified.

    age     where a cache served it: seconds since the authority was asked for it, by the cache's clock
    header  what the framing of `data` says, where it was read anyway: `framed` reads it otherwise
    """

    key: str
    version: int
    incarnation: str
    commit_id: str
    committed_at: float
    data: bytes | memoryview
    verdict: Mapping[str, Any] | None
    served_by: str
    degraded: bool = False
    age: float | None = None
    header: Header | None = None

    @property
    def framed(self) -> Header:
        """What the framing of `data` says."""
        return self.header or peek(self.data)

    @property
    def admitted_dark(self) -> bool:
        """Whether an invariant would refuse it, and it was committed in dark mode."""
        return admitted_dark(self.verdict)

    def __repr__(self) -> str:
        """Without the payload, which would fill a log with megabytes."""
        return f"Entry({self.key!r}, version={self.version}, {len(self.data)} bytes)"


def admitted_dark(verdict: Any) -> bool:
    """Whether a stored verdict has the mark of dark mode: an invariant would refuse what it is about."""
    return isinstance(verdict, Mapping) and verdict.get("dark") is True


class Snapshot(msgspec.Struct, frozen=True):
    """Many keys as of one version of the namespace.

    Every key asked for stands in exactly one of `entries`, `absent` and `corrupt`, however often it was
    asked for.
    """

    incarnation: str
    version: int
    entries: Mapping[str, Entry]
    absent: tuple[str, ...] = ()
    corrupt: Mapping[str, CorruptValue] = {}


class Stats(msgspec.Struct, frozen=True):
    """Where many live keys are, as of one version of the namespace, without their payloads.

    Every key asked for stands in exactly one of `stats` and `absent`.
    """

    incarnation: str
    version: int
    stats: Mapping[str, Stat]
    absent: tuple[str, ...] = ()


class Revision(msgspec.Struct, frozen=True):
    """One entry of a key's history. `content` is None for a delete.

    `compacted`: retention has removed the bytes; the entry itself still tells that they were there,
    until it is older than `record_seconds` too.
    """

    key: str
    version: int
    commit_id: str
    committed_at: float
    size: int
    content: str | None
    kind: str | None
    verdict: Mapping[str, Any] | None
    compacted: bool = False


class Durable(msgspec.Struct, frozen=True):
    """Which store holds a commit and how durably: `fsync`, `replicated:K` or `memory`."""

    store: str
    durability: str


class Receipt(msgspec.Struct, frozen=True):
    """What a commit returns. `keys`: key -> content digest (hex), None for a delete.

    `noops` names the deleted keys that were absent already; they stand in `keys` too. `replayed`: the id
    was known with this very request, so nothing was written now and this is the first receipt.
    `admitted_dark` names the keys whose rho an invariant would refuse; the operation fills it in, no store.
    """

    commit_id: str
    namespace: str
    incarnation: str
    version: int
    keys: Mapping[str, str | None]
    stores: tuple[Durable, ...]
    committed_at: float
    noops: tuple[str, ...] = ()
    replayed: bool = False
    admitted_dark: tuple[str, ...] = ()


CommitState = Literal["committed", "aborted", "unseen"]


class CommitRecord(msgspec.Struct, frozen=True):
    """What the store remembers of a commit id. `receipt` and `metadata` are None where it was aborted."""

    commit_id: str
    state: Literal["committed", "aborted"]
    recorded_at: float
    receipt: Receipt | None
    metadata: CommitMetadata | None


class CommitStatus(msgspec.Struct, frozen=True):
    """`unseen` means: not here, and it may still arrive, unless the caller resolves it."""

    commit_id: str
    state: CommitState
    record: CommitRecord | None = None


class Compaction(msgspec.Struct, frozen=True):
    """What one batch of `compact` removed (or, in a dry run, all that it would remove).

    revisions   superseded values whose bytes were removed, `bytes_freed` of them in sum
    tombstones  deleted keys that were forgotten
    records     commit records, and history entries without bytes
    events      those of `records` that were commits', which takes their events away
    dropped     those of `events` that were not published although publishing was on
    more        the batch limit was reached: call again. Never set in a dry run
    """

    revisions: int = 0
    tombstones: int = 0
    records: int = 0
    events: int = 0
    bytes_freed: int = 0
    more: bool = False
    dropped: int = 0


class VerdictSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """The verdicts of a commit's density matrices in one: of each number the worst, None where no verdict
    tells it.

    psd               the status; other than `valid` only of what was admitted in the dark
    trace_error       the largest |tr rho - 1|
    lambda_min_lower  the smallest proven lower bound of an eigenvalue
    psd_ok            whether all of them are positive semi-definite; None: not known
    admitted_dark     whether one of them was admitted in the dark
    """

    psd: str
    trace_error: float | None = None
    lambda_min_lower: float | None = None
    psd_ok: bool | None = True
    admitted_dark: bool = False


class Event(msgspec.Struct, frozen=True):
    """What became of one version. `keys` as in the receipt; `verdict` is None where it wrote no rho; `dark`:
    it was made in dark mode."""

    version: int
    incarnation: str
    commit_id: str
    recorded_at: float
    keys: Mapping[str, str | None]
    verdict: VerdictSummary | None
    dark: bool = False


class EventPage(msgspec.Struct, frozen=True):
    """Events in the order of versions, none left out between the first and the last.

    gone   versions behind `after`, from the first to the last, whose events retention has removed
    after  where the next page goes on
    head   the namespace's version at that moment: the reader has all events where `after` is as high
    """

    incarnation: str
    head: int
    after: int
    events: Sequence[Event] = ()
    gone: tuple[int, int] | None = None


class Publishing(msgspec.Struct, frozen=True):
    """How far a namespace's events have been published.

    version    the namespace's, in `incarnation`
    published  the highest version that was marked; 0 for none
    keep       how many unpublished events are kept beyond their time; None: publishing is off
    backlog    unpublished events that are there; 0 where publishing is off
    dropped    unpublished events that were removed since it was turned on, because `keep` were newer
    """

    incarnation: str
    version: int
    published: int = 0
    keep: int | None = None
    backlog: int = 0
    dropped: int = 0


class Degradation(msgspec.Struct, frozen=True):
    """Something a store cannot do at the moment, while it goes on without.

    service  which part: `redis cache`, `postgres`
    breaker  the state of its circuit breaker; `closed` where a single call failed
    detail   one sentence: what is missing and what that means for the answers
    """

    service: str
    breaker: Literal["closed", "open", "half-open"]
    detail: str


class PastDegradation(msgspec.Struct, frozen=True):
    """Something a store could not do at some time since it was opened, whether it can by now or not.

    detail             one sentence: what was missing, the last time
    first_at, last_at  when it was met, by this process's clock: the service's own may have been missing
    count              how often; calls that were not made, as a circuit breaker was open, do not count
    """

    service: str
    detail: str
    first_at: float
    last_at: float
    count: int


class Finding(msgspec.Struct, frozen=True):
    """What `diagnose` found about one aspect of a service.

    `problem`: promises do not hold, or not for long; `warning`: they hold, and an operator should know;
    `unknown`: could not be looked at. `advice` says what to do, and is empty where nothing is; `next` are
    the commands that do it, or tell more. No field ever holds a secret.
    """

    service: str
    check: str
    status: Literal["ok", "warning", "problem", "unknown"]
    detail: str
    advice: str = ""
    next: tuple[Suggestion, ...] = ()
