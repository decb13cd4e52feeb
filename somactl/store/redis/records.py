"""What is remembered of a commit id, and of each revision of a key, as the contract's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from somactl.core.framing import Header
from somactl.errors import StoreDamaged
from somactl.store import events, reading as rules
from somactl.store.contract import (
    CommitRecord,
    Durable,
    Entry,
    Receipt,
    Retention,
    Revision,
    Stat,
)
from somactl.store.reading import Held
from somactl.store.redis.layout import NAME
from somactl.store.request import Request

FIELDS = ("identity", "version", "at", "incarnation", "detail", "noops", "durability")
PAGE = 500
"""Records fetched at once."""


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


class EntryMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
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


class HistoryEntry(msgspec.Struct, frozen=True):
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
    rules.verify(namespace, key, told.version, data, about.content or "", about.envelope)
    return Entry(
        key=key,
        version=told.version,
        incarnation=incarnation,
        commit_id=about.commit,
        committed_at=told.at,
        data=data,
        verdict=verdict(told.verdict),
        served_by=NAME,
    )


def verdict(text: bytes | None) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] | None = msgspec.json.decode(text) if text else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise StoreDamaged(f"a verdict is not the JSON that was written ({exc})") from exc
    return value
