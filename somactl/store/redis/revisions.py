"""Entries of a key's history, and the envelopes that they tell of, as the contract's values."""

from __future__ import annotations

from typing import Any

import msgspec

from somactl.core import framing
from somactl.core.framing import Header
from somactl.errors import CorruptValue, EnvelopeError, StoreDamaged
from somactl.store.contract import Entry, Retention, Revision, Stat
from somactl.store.redis.layout import NAME
from somactl.suggestion import run


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
        compacted=entry.is_value and (entry.location == "gone" or lapsed),
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
        recoverable_until=_recoverable_until(entry, retention) if deleted else None,
    )


def _recoverable_until(tombstone: HistoryEntry, retention: Retention) -> float:
    own = tombstone.about.until
    return tombstone.at + retention.seconds if own is None else own


def entry(namespace: str, incarnation: str, key: str, told: HistoryEntry, data: bytes | memoryview) -> Entry:
    """The value that `told` tells of, if `data` is byte for byte what was committed; raises CorruptValue."""
    about = told.about
    if len(data) == 0:
        raise corrupt(key, told.version, "its bytes are missing", "MissingBytes")
    if len(data) != about.size:
        defect = f"it has {len(data)} bytes where {about.size} were committed"
        raise corrupt(key, told.version, defect, "WrongLength")
    try:
        header = framing.verify(data, namespace=namespace, key=key)
    except EnvelopeError as exc:
        raise corrupt(key, told.version, str(exc), type(exc).__name__) from exc
    if (header.content, header.envelope) != (about.content, about.envelope):
        raise corrupt(key, told.version, "the envelope is intact, but not the one committed", "OtherEnvelope")
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


def corrupt(key: str, version: int, defect: str, name: str) -> CorruptValue:
    return CorruptValue(
        f"the stored value of {key!r} (version {version}) is not what was committed: {defect}",
        hint="an older version, if there is one, can be restored",
        next=run("log", key),
        key=key,
        version=version,
        defect=name,
    )
