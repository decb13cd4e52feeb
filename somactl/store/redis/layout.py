"""The layout of a namespace in Redis, names and formats: see `docs/STORE_REDIS.md`; the scripts write it.

All names of a namespace share one hash tag, so that a cluster keeps them on one node:

    head        hash: incarnation, version, created_at, retention, counts, and the layout's version; how far
                events were published; also which server made the last commit, and whether one took over
                (`diagnosis.py`)
    keys        sorted set of the live keys, all of score 0, hence in byte order
    deleted     the same for the keys that have a tombstone
    live:K      string: the envelope that is live, or that the tombstone of K hides (then with an expiry, if
                the delete had a grace)
    old:N:K     string: a superseded envelope; N is random, and recorded in `history:K`
    history:K   sorted set by version: an entry for each revision of K, all that is known but its bytes
    superseded  `VERSION K` of the superseded values that have bytes, by the time they were superseded; those
                that a tombstone hides are not among them
    bodiless    `VERSION K` of the superseded entries that have none (any more), by the same time
    version_counts
                K by the number of its values in `superseded`
    delete_batch:N
                list of what one commit has deleted: keys, some hundred in an element, a newline between two
    delete_batches
                `VERSION N` of the commits that have deleted something without a grace, by their time
    expiring_batches
                those that did so with a grace, by the time it ends
    commit:ID   hash: what became of a commit id
    log         commit ids by version
    records     commit ids by the time after which they may be forgotten
    note:N      string: the data of note N
    noted       hash: of each note its version, when it was written, its size and its digest
    notes       sorted set of the notes' names, all of score 0
    stage:N:I   string: an envelope on its way in, with an expiry
    trash:N:I   string: an envelope on its way out, with an expiry

Envelopes are strings, not fields of hashes: Redis keeps the buffer that a string came in, and copies a
field, which costs a value of 8 MB as much again as sending it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from somactl.core.framing import Header
from somactl.errors import SchemaMismatch, StoreDamaged
from somactl.store import events, reading as rules
from somactl.store.contract import (
    CommitRecord,
    Durable,
    Entry,
    Head,
    Receipt,
    Retention,
    Revision,
    Stat,
)
from somactl.store.reading import Held
from somactl.store.request import Request
from somactl.suggestion import run

NAME = "redis"
LAYOUT = 1
"""The layout this somactl writes. It uses any namespace whose least reader and least writer admit it."""
LEAST_READER = 1
LEAST_WRITER = 1
"""Those of a namespace that this somactl makes."""
REGISTRY = "somactl:namespaces"
"""The set of all namespaces' names. It lies in another slot than they do, so no script touches it."""
RETENTION = Retention(versions=2)
"""What a new namespace keeps if `init` does not say: memory is dearer than disk."""

HEAD_FIELDS = (
    "incarnation", "version", "created_at", "versions", "seconds", "record_seconds",
    "floor", "records_removed_until", "layout", "least_reader", "least_writer",
)  # fmt: skip
PARTS = (
    "head", "keys", "deleted", "superseded", "bodiless", "version_counts", "log", "records",
)  # fmt: skip
"""The parts that a namespace has once each; all but the head are missing while they would be empty."""
FURTHER_PARTS = ("delete_batches", "expiring_batches", "noted", "notes")
"""The rest of them: the scripts know a key by its place among `PARTS`, so these come behind."""
TYPES = {"head": "hash", "noted": "hash"}
"""What these parts are; all others are sorted sets."""
FIELDS = ("identity", "version", "at", "incarnation", "detail", "noops", "durability")
PAGE = 500
"""Records fetched at once."""


class Names:
    """The names of one namespace's parts."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.tag = f"somactl:{{{namespace}}}:"
        for part in (*PARTS, *FURTHER_PARTS):
            setattr(self, part, self.tag + part)

    head: str
    keys: str
    deleted: str
    superseded: str
    bodiless: str
    version_counts: str
    log: str
    records: str
    delete_batches: str
    expiring_batches: str
    noted: str
    notes: str

    def live(self, key: str) -> str:
        return f"{self.tag}live:{key}"

    def old(self, token: str, key: str) -> str:
        return f"{self.tag}old:{token}:{key}"

    def history(self, key: str) -> str:
        return f"{self.tag}history:{key}"

    def commit(self, commit_id: str) -> str:
        return f"{self.tag}commit:{commit_id}"

    def note(self, name: str) -> str:
        return f"{self.tag}note:{name}"

    def delete_batch(self, token: str) -> str:
        return f"{self.tag}delete_batch:{token}"

    def stage(self, token: str, number: int) -> str:
        return f"{self.tag}stage:{token}:{number}"

    def trash(self, token: str, number: int) -> str:
        return f"{self.tag}trash:{token}:{number}"


class NamespaceHead(msgspec.Struct, frozen=True):
    """A namespace's head. `floor`: below this version entries of the history may be gone."""

    head: Head
    floor: int
    records_removed_until: float
    layout: int
    least_writer: int


def token() -> str:
    """64 random bits as hex: names that no two attempts share."""
    return os.urandom(8).hex()


def place(namespace: str, fields: Sequence[bytes | None]) -> NamespaceHead | None:
    """The head from its `HEAD_FIELDS`, whatever stands behind them; None where there is none.

    Raises StoreDamaged where it is not a head, and SchemaMismatch where this somactl may not read it.
    """
    told = [field.decode() for field in fields[: len(HEAD_FIELDS)] if field is not None]
    if not told:
        return None
    try:
        named = dict(zip(HEAD_FIELDS, told, strict=True))
        retention = Retention(int(named["versions"]), float(named["seconds"]), float(named["record_seconds"]))
        version, created_at = int(named["version"]), float(named["created_at"])
        found = NamespaceHead(
            Head(namespace, named["incarnation"], version, created_at, retention),
            int(named["floor"]),
            float(named["records_removed_until"]),
            int(named["layout"]),
            int(named["least_writer"]),
        )
        least_reader = int(named["least_reader"])
    except ValueError as exc:
        raise damaged(namespace, f"its head is not what was written ({exc})") from exc
    if least_reader > LAYOUT:
        raise newer(namespace, found.layout, least_reader, "read")
    return found


def newer(namespace: str, layout: int, needed: int, verb: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"namespace {namespace!r} has layout {layout}, which takes a somactl of layout {needed} or newer to "
        f"{verb}; this one knows layout {LAYOUT}",
        hint="use the newer somactl that made or migrated it",
        schema=layout,
    )


def refuse_newer(here: NamespaceHead) -> None:
    """Raises SchemaMismatch for a namespace that this somactl may only read."""
    if here.least_writer > LAYOUT:
        raise newer(here.head.namespace, here.layout, here.least_writer, "write")


def newer_to_write(namespace: str, fields: Sequence[bytes | None]) -> SchemaMismatch:
    """For a head (its `HEAD_FIELDS`) whose least writer is beyond this somactl."""
    named = dict(zip(HEAD_FIELDS, fields, strict=False))
    return newer(namespace, int(named["layout"] or 0), int(named["least_writer"] or 0), "write")


def damaged(namespace: str, what: str) -> StoreDamaged:
    return StoreDamaged(
        f"namespace {namespace!r} is damaged: {what}",
        hint="stop writers; check maxmemory-policy, and what else writes to this Redis; restore a backup, or "
        "go on with what is left under a new incarnation",
        next=[run("doctor"), run("init", new_incarnation=True)],
        namespace=namespace,
    )


def text(value: Any) -> str | None:
    """A field as text, None where it is missing."""
    return None if value is None else bytes(value).decode()


def detail(request: Request) -> str:
    """The part of a record that the client knows before the commit; the deletes in the script's order."""
    return events.encode(request.metadata, request.summary, keys=request.contents)


def record(namespace: str, commit_id: str, fields: Sequence[Any]) -> CommitRecord | None:
    """The record whose `FIELDS` these are; None where there is none. Raises StoreDamaged."""
    identity, version, at, incarnation, told, noops, durability = fields
    if at is None:
        return None
    if identity is None:
        return CommitRecord(commit_id, "aborted", float(at), None, None)
    known = events.decode(commit_id, told)
    try:
        receipt = Receipt(
            commit_id=commit_id,
            namespace=namespace,
            incarnation=bytes(incarnation).decode(),
            version=int(version),
            keys=known.keys,
            stores=(Durable(NAME, bytes(durability).decode()),),
            committed_at=float(at),
            noops=absent(known.keys, bytes(noops).decode()),
        )
    except (TypeError, ValueError, IndexError) as exc:
        raise StoreDamaged(f"the record of commit {commit_id} is not what was written ({exc})") from exc
    return events.committed(receipt, known)


def absent(keys: Mapping[str, str | None], numbers: str) -> tuple[str, ...]:
    """The deletes that found nothing; the script tells them by their number among the deletes, from 1."""
    if not numbers:
        return ()
    deletes = [key for key, content in keys.items() if content is None]
    return tuple(deletes[int(number) - 1] for number in numbers.split(" "))


class EntryMetadata(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What is told of a value without its bytes: the second line of its entry.

    The order counts: the scripts look for the first `"content"` and `"size"`, and find no other's.
    A tombstone has a commit id, and if it was made with a grace, when that is over.
    """

    content: str | None = None
    size: int = 0
    envelope: str = ""
    kind: str | None = None
    dtype: str = ""
    shape: tuple[int, ...] = ()
    layout: str = ""
    commit: str = ""
    until: float | None = None


class HistoryEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry of a history. `location` is `live`, `tomb`, `gone` (no bytes), or the token of `old:N:K`.

    The bytes of a value that a tombstone hides are still where they were live, and its entry is not closed:
    it ended with the next one.
    """

    version: int
    at: float
    ended: int | None
    ended_at: float | None
    location: str
    about: EntryMetadata
    verdict: bytes

    @property
    def is_value(self) -> bool:
        return self.about.content is not None

    @property
    def token(self) -> str | None:
        """N in the name `old:N:K` of its bytes, for a superseded value that has them."""
        return None if self.location in ("live", "tomb", "gone") else self.location

    def held(self, *, lapsed: bool = False) -> Held:
        """`lapsed`: the tombstone over it has seen the end of its grace."""
        removed = self.is_value and (self.location == "gone" or lapsed)
        return Held(self.version, not self.is_value, self.ended, removed)

    def is_over(self, now: float) -> bool:
        """Whether this is a tombstone whose own grace is over: what it hides cannot come back."""
        return self.about.until is not None and self.about.until <= now


_decode_about = msgspec.json.Decoder(EntryMetadata).decode


def about(header: Header, commit_id: str) -> bytes:
    return msgspec.json.encode(
        EntryMetadata(
            header.content,
            header.total_length,
            header.envelope,
            header.kind,
            header.dtype,
            header.shape,
            header.layout,
            commit_id,
        )
    )


def line(text: bytes) -> HistoryEntry:
    """Parse an entry; raises StoreDamaged."""
    try:
        state, rest, *verdict = text.split(b"\n", 2)
        version, at, ended, ended_at, location = state.decode().split(" ")
        return HistoryEntry(
            int(version),
            float(at),
            None if ended == "-" else int(ended),
            None if ended_at == "-" else float(ended_at),
            location,
            _decode_about(rest),
            verdict[0] if verdict else b"",
        )
    except (ValueError, msgspec.DecodeError, RecursionError) as exc:
        raise StoreDamaged(f"an entry of a history is not what was written ({exc})") from exc


def revision(key: str, entry: HistoryEntry, *, lapsed: bool) -> Revision:
    """`lapsed`: the tombstone over it has seen the end of its grace."""
    return Revision(
        key=key,
        version=entry.version,
        commit_id=entry.about.commit,
        committed_at=entry.at,
        size=entry.about.size,
        content=entry.about.content,
        kind=entry.about.kind,
        verdict=verdict(entry.verdict),
        compacted=entry.held(lapsed=lapsed).removed,
    )


def stat(key: str, entry: HistoryEntry, hidden: HistoryEntry | None, retention: Retention) -> Stat:
    """The listing's row of a live value, or of a tombstone with the value that it hides."""
    deleted = not entry.is_value
    described = (hidden.about if hidden else EntryMetadata()) if deleted else entry.about
    return Stat(
        key=key,
        version=entry.version,
        commit_id=entry.about.commit,
        committed_at=entry.at,
        size=described.size,
        content=described.content or "",
        kind=described.kind or "",
        dtype=described.dtype,
        shape=described.shape,
        layout=described.layout,
        deleted=deleted,
        recoverable_until=(
            rules.recoverable_until(entry.at, entry.about.until, retention.seconds) if deleted else None
        ),
    )


def entry(namespace: str, incarnation: str, key: str, told: HistoryEntry, data: bytes | memoryview) -> Entry:
    """The value that `told` tells of, if `data` is byte for byte what was committed; raises CorruptValue."""
    about = told.about
    rules.check_length(key, told.version, len(data) or None, about.size)
    header = rules.verify(namespace, key, told.version, data, about.content or "", about.envelope)
    return Entry(
        key=key,
        version=told.version,
        incarnation=incarnation,
        commit_id=about.commit,
        committed_at=told.at,
        data=data,
        verdict=verdict(told.verdict),
        served_by=NAME,
        header=header,
    )


def verdict(text: bytes | None) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] | None = msgspec.json.decode(text) if text else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise StoreDamaged(f"a verdict is not the JSON that was written ({exc})") from exc
    return value


def seconds(now: Sequence[bytes]) -> float:
    """What TIME replies, as seconds since 1970."""
    return int(now[0]) + int(now[1]) / 1e6
