"""What every store promises. These docstrings are the semantics; `somactl.testing.StoreContract` holds
every store and every wrapper to them.

A store is opened for one namespace and sees bytes, never matrices. All times are seconds since 1970 by
the *store's* clock; the client's clock decides nothing.

The values here are msgspec structs: fifteen dataclasses would take as long to define as all the rest of a
store's start-up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import msgspec

from somactl.suggestion import Suggestion

if TYPE_CHECKING:
    from somactl.errors import CorruptValue

DAY = 86_400.0
MAX_NOTE_BYTES = 256 << 20
"""The most that one write of notes may carry."""


class Retention(msgspec.Struct, frozen=True):
    """How long a namespace remembers. Enforced by `compact` alone, never by a commit or a read.

    versions        a superseded version is kept while it is among the `versions` newest values of its
                    key (the live one counts) *and* was superseded less than `seconds` ago
    seconds         a tombstone, with the bytes it hides, is kept this long
    record_seconds  commit records, history entries without bytes, and events are kept this long. A
                    record outlives its commit id: one made by a generated id (UUIDv7) from the future
                    of the store's clock is kept until that id has expired too

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
              `valid`. Kept with the commit and returned by `read`, `history` and `log`; verdicts of
              digests that the commit does not write are dropped
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
    """

    user: Mapping[str, str] = {}
    verdicts: Mapping[str, Mapping[str, Any]] = {}
    command: str = ""
    idempotency_key: str | None = None
    grace: float | None = None
    guards: Mapping[str, int] = {}
    facts: Mapping[str, Any] = {}


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


class Stat(msgspec.Struct, frozen=True):
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


class Entry(msgspec.Struct, frozen=True):
    """One live value, its framing, digests and address verified.

    age  where a cache served it: seconds since the authority was asked for it, by the cache's clock
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

    def __repr__(self) -> str:
        """Without the payload, which would fill a log with megabytes."""
        return f"Entry({self.key!r}, version={self.version}, {len(self.data)} bytes)"


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
    events      entries of the outbox
    more        the batch limit was reached: call again. Never set in a dry run
    """

    revisions: int = 0
    tombstones: int = 0
    records: int = 0
    events: int = 0
    bytes_freed: int = 0
    more: bool = False


class Degradation(msgspec.Struct, frozen=True):
    """Something a store cannot do at the moment, while it goes on without.

    service  which part: `redis cache`, `postgres`
    breaker  the state of its circuit breaker; `closed` where a single call failed
    detail   one sentence: what is missing and what that means for the answers
    """

    service: str
    breaker: Literal["closed", "open", "half-open"]
    detail: str


class Finding(msgspec.Struct, frozen=True):
    """What `diagnose` found about one aspect of a service.

    `problem`: promises do not hold, or not for long; `warning`: they hold, and somebody should know;
    `unknown`: could not be looked at. `advice` says what to do, and is empty where nothing is; `next` are
    the commands that do it, or tell more. No field ever holds a secret.
    """

    service: str
    check: str
    status: Literal["ok", "warning", "problem", "unknown"]
    detail: str
    advice: str = ""
    next: tuple[Suggestion, ...] = ()


class Store(Protocol):
    """One namespace of one store. Safe for concurrent use by the tasks of one event loop.

    Every method may raise `StoreUnavailable` (nothing written), and every method that asks about the
    namespace (all but `init`, `namespaces`, `durability` and `diagnose`) raises
    `NamespaceNotFound` where it does not exist. SQLite alone creates it on the first commit or note. A
    method that takes a key, a pattern's `after`, a commit id or a note's name raises InvalidName where it
    is outside its grammar. Names differ where their bytes differ: nothing is normalised.

    A write that was cancelled happens whole or not at all, and never after `close` has returned.
    """

    name: str
    """What reports call this store, e.g. `sqlite`."""
    namespace: str

    @property
    def degradations(self) -> tuple[Degradation, ...]:
        """What went wrong since the store was opened without stopping it; () for a store of one part."""
        ...

    async def durability(self) -> str:
        """The durability that a commit's receipt will state; the worst of what may happen."""
        ...

    async def diagnose(self) -> list[Finding]:
        """Look at the service behind the store, and change nothing. Never raises StoreUnavailable: that
        the service cannot be reached is a finding."""
        ...

    async def init(self, *, retention: Retention | None = None, new_incarnation: bool = False) -> Head:
        """Create schema and namespace where missing; safe to repeat and to run twice at once.

        An existing namespace keeps its incarnation and values; `retention`, if given, replaces its own,
        or the default where the namespace is new. `new_incarnation` gives an existing namespace a new
        one, keeping its values and its version: what a restore from a backup needs, so that nothing that
        remembers versions from before it matches by accident. Commits recorded before keep the
        incarnation they were made in. It creates nothing: raises NamespaceNotFound where there is none.
        Raises SchemaMismatch where the schema is newer than this somactl knows, or not ours.
        """
        ...

    async def namespaces(self) -> list[NamespaceSummary]:
        """Every namespace of the database, ordered by name; none where there is no database yet."""
        ...

    async def head(self) -> Head: ...

    async def summary(self) -> NamespaceSummary:
        """What the namespace holds, counted at one moment."""
        ...

    async def clock(self) -> float:
        """The time by the store's clock, the one that decides about deadlines."""
        ...

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        """Write all of `updates` as the namespace's next version, or nothing.

        A value is an envelope written for this namespace and key; None deletes, leaving a tombstone that
        hides the bytes until retention removes both. Deleting an absent key is a recorded no-op: it
        makes a version and stands in the receipt, but not in the key's history. Checked in this order,
        before anything is written:

        1. the request itself: names, framing, digests, address, limits, a `valid` verdict for every
           `rho` (InvalidName, EnvelopeError, LimitExceeded, VerdictMissing, EmptyCommit, and
           InputRejected for metadata or expectations that are not what their types say);
        2. the commit id: the same id with the same request (content digests, expectations, user
           metadata) returns the first receipt with `replayed`; with another request CommitIdReused;
           claimed by `commit_status(resolve=True)` CommitAborted; a UUIDv7 older than the record
           retention, or than the records that `compact` has removed, CommitExpired;
        3. expectations: VersionConflict names every key that is not where it was expected, with what is
           there now, and since which version it is deleted where it is.

        Verdicts, `command`, and an envelope's timestamp, layout and compression are no part of the
        request's identity; `None` and the empty mapping are the same expectation, and so are one
        expectation for all and the same one spelt out key by key.

        If the caller is cancelled, or no reply comes, the outcome is unknown until `commit_status`
        tells; OutcomeUnknown says so where the store noticed it itself.
        """
        ...

    async def read(self, key: str, version: int | None = None) -> Entry:
        """The live value, or the value as of namespace version `version`.

        Raises KeyNotFound (never written, or deleted by then), VersionCompacted (retention removed what
        would answer, or may have: once entries of the history are gone, a store cannot always tell a key
        that did not exist yet from one it has forgotten, and then says so), CorruptValue (the bytes are
        not what was committed; they are never served). A version beyond the head is KeyNotFound too:
        nothing is there yet. At version 0 there is nothing.
        """
        ...

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        """All `keys` as of one and the same version, which the snapshot names.

        One corrupt value does not hide the others: it stands in `corrupt`. All values are in memory at
        once; `scan` gives the sizes to ask for in portions.
        """
        ...

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        """Where the live `keys` are, at one and the same version, which is named. No payload is read."""
        ...

    def scan(
        self,
        match: str | None = None,
        after: str | None = None,
        *,
        deleted: bool = False,
        page_bytes: int = 64 << 20,
        page_keys: int = 1000,
    ) -> AsyncIterator[list[Stat]]:
        """Pages of keys in byte order, strictly after the key `after`, that match the pattern `match`.

        A page ends before its values' sizes exceed `page_bytes` in sum (one key at least) or at
        `page_keys`; it may end sooner, and no page is empty. Keys present during the whole scan appear
        exactly once; each page is consistent in itself. `deleted=True` lists tombstones instead of live
        keys. NamespaceNotFound comes with the first page.
        """
        ...

    async def history(self, key: str) -> list[Revision]:
        """The key's revisions, newest first; KeyNotFound where the key was never written, or retention has
        forgotten it."""
        ...

    async def log(self, *, before: int | None = None, limit: int = 50) -> list[CommitRecord]:
        """Committed records, newest version first, with version < `before`."""
        ...

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> CommitStatus:
        """What became of a commit id. With `resolve`, an unseen id is claimed by an `aborted` record in
        the same transaction, so that a late arrival fails and the answer is final.

        A commit that this store object sent and whose caller was cancelled is settled first.
        """
        ...

    async def compact(
        self, *, limit: int = 500, dry_run: bool = False, past_grace: bool = False
    ) -> Compaction:
        """Remove what the retention no longer keeps: one short transaction of at most `limit` removals.

        Live values are never touched. A read of something removed says VersionCompacted, never
        KeyNotFound. A dry run counts everything that repeated calls would remove now, and writes nothing.

        A key deleted with a grace of its own (and not written again since) keeps the value it hides until
        that is over, however short the retention; its older values are the retention's. Then all of the
        key's values go, however long the retention, its history after them and its tombstone last. With
        `past_grace` keys whose grace is over are all that is looked at.

        Once a grace is over, a store may free the bytes by itself, without waiting for `compact`; a read of
        them is VersionCompacted from then on, and `revisions` need not count them.
        """
        ...

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        """The notes among `names` that exist, all as of one moment, with their data.

        A name has 1 to 256 characters of `A-Z a-z 0-9 . _ : / -`; any other raises InvalidName. Notes
        belong to the namespace, and neither commits nor retention touch them.
        """
        ...

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Write (or, where None, delete) all of `changes`, or nothing; the new versions, 0 for deleted ones.

        `expected` demands versions, 0 for a note that is not there, also of notes that are not written.
        Raises VersionConflict naming each note that is elsewhere, LimitExceeded for more than
        MAX_NOTE_BYTES in one note or in sum (a namespace's notes may well be more), EmptyCommit without
        changes, and OutcomeUnknown where no reply came; its `commit_id` is then empty, and reading the
        notes tells.
        """
        ...

    def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        """Pages of the notes whose names begin with `prefix`, in byte order, after `after`, without data.

        Notes present during the whole scan appear exactly once, and no page is empty. A prefix that no
        name can begin with raises InvalidName.
        """
        ...

    async def close(self) -> None:
        """Wait for writes under way, release connections. Calling it twice is harmless."""
        ...
