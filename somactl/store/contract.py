"""What every store promises. These docstrings are the semantics; `somactl.testing.StoreContract` holds
every store and every wrapper to them.

A store is opened for one namespace and sees bytes, never matrices. All times are seconds since 1970 by
the *store's* clock; the client's clock decides nothing.

The values that it takes and gives stand in `model.py`; they are imported from here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from somactl.store.model import (
    DAY as DAY,
    KEEP_EVENTS as KEEP_EVENTS,
    MAX_NOTE_BYTES as MAX_NOTE_BYTES,
    CommitMetadata as CommitMetadata,
    CommitRecord as CommitRecord,
    CommitState as CommitState,
    CommitStatus as CommitStatus,
    Compaction as Compaction,
    Degradation as Degradation,
    Durable as Durable,
    Entry as Entry,
    Event as Event,
    EventPage as EventPage,
    Expect as Expect,
    Expected as Expected,
    Finding as Finding,
    Head as Head,
    NamespaceSummary as NamespaceSummary,
    Note as Note,
    PastDegradation as PastDegradation,
    Publishing as Publishing,
    Receipt as Receipt,
    Retention as Retention,
    Revision as Revision,
    Snapshot as Snapshot,
    Stat as Stat,
    Stats as Stats,
    VerdictSummary as VerdictSummary,
    admitted_dark as admitted_dark,
)


class StoreServer(Protocol):
    """One database, whose connections the stores of all its namespaces share. Making one touches nothing.

    A package that brings stores names such a class, called with a URL, as an entry point of `somactl.stores`.
    """

    def namespace(self, name: str) -> Store:
        """The store of one namespace. Its `close` finishes its writes and leaves the connections open; what
        fails in it leaves the others alone. Raises InvalidName."""
        ...

    async def close(self) -> None:
        """Close all connections; harmless when repeated. The stores have been closed before."""
        ...


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
        """What the store does without at this moment: the last call found it so, and none since has found it
        otherwise. () for a store of one part."""
        ...

    @property
    def degraded_since_opened(self) -> tuple[PastDegradation, ...]:
        """What the store did without at any time since it was opened, each kind of trouble once."""
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
           `rho`, or in a commit of dark mode one with its mark (InvalidName, EnvelopeError, LimitExceeded,
           VerdictMissing, EmptyCommit, and InputRejected for metadata or expectations that are not what
           their types say);
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

    async def events(self, after: int = 0, limit: int = 1000) -> EventPage:
        """The events of the versions behind `after`, at most `limit` of them, and perhaps fewer.

        There is one for each version, from its commit to when `compact` removes the commit's record. Where
        the first ones are gone, the page says which. To have read all is to have come to the page's `head`.
        VersionConflict where `after` was never reached: a backup was restored, or a server lost commits.
        """
        ...

    async def publishing(self) -> Publishing:
        """How far events were published, and how many wait for it."""
        ...

    async def mark_published(self, version: int, *, incarnation: str | None = None) -> Publishing:
        """Keep in mind that all events up to `version` were published; the first mark turns publishing on.

        The mark never goes back: a lower version changes nothing. VersionConflict, and nothing changed, for a
        version that was never reached, or where the namespace is in another `incarnation` than the given.
        """
        ...

    async def set_publishing(self, keep: int | None) -> Publishing:
        """Turn publishing on, where `compact` spares the newest `keep` events for as long as they were not
        published; or off (None), where it removes them when their time is over. The mark stays as it is.
        """
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

        Where publishing is on, the records of commits stay with their events: an event goes when its time is
        over and it was published, or more than the namespace keeps are newer.

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


def is_dark(store: Store) -> bool:
    """Whether the store was opened in dark mode (`wrapper.Dark`), in which no invariant refuses a commit."""
    return getattr(store, "dark", False) is True
