"""What the store reads, inside one read transaction each. Every function runs on a worker's thread."""

from __future__ import annotations

import json
import mmap
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from somactl.core import framing
from somactl.core.names import Pattern
from somactl.errors import (
    CorruptValue,
    EnvelopeError,
    KeyNotFound,
    NamespaceNotFound,
    StoreDamaged,
    VersionCompacted,
)
from somactl.store.contract import (
    CommitMetadata,
    CommitRecord,
    CommitStatus,
    Durable,
    Entry,
    Head,
    NamespaceSummary,
    Receipt,
    Retention,
    Revision,
    Snapshot,
    Stat,
    Stats,
)
from somactl.store.sqlite import failures
from somactl.store.sqlite.database import transaction
from somactl.store.sqlite.schema import queries
from somactl.suggestion import run

NAME = "sqlite"
DURABILITY = "fsync"
_CHUNK_BYTES = 1 << 20
_MAPPED_BYTES = 64 << 10
"""From this size on a value gets pages of its own: aligned, and given back as soon as it is dropped."""
_SCANNED_ROWS = 10_000
"""A page ends after this many rows, so that a pattern that matches little does not hold up other reads."""


@dataclass(frozen=True, slots=True)
class NamespaceHead:
    """A namespace's row. `floor`: below this version entries of the history may be gone."""

    id: int
    head: Head
    floor: int
    records_removed_until: float


def place(connection: sqlite3.Connection, namespace: str) -> NamespaceHead | None:
    row = connection.execute(queries()["namespace"], {"namespace": namespace}).fetchone()
    if row is None:
        return None
    return NamespaceHead(row["id"], _head(row), row["floor"], row["records_removed_until"])


def existing(connection: sqlite3.Connection, namespace: str) -> NamespaceHead:
    """The namespace's row; raises NamespaceNotFound."""
    found = place(connection, namespace)
    if found is None:
        raise NamespaceNotFound(
            f"namespace {namespace!r} does not exist in this database",
            hint="its first commit creates it",
            next=[run("namespaces"), run("init")],
        )
    return found


def namespaces(connection: sqlite3.Connection) -> list[NamespaceSummary]:
    with transaction(connection):
        return _summaries(connection, None)


def summary(connection: sqlite3.Connection, namespace: str) -> NamespaceSummary:
    with transaction(connection):
        existing(connection, namespace)
        (found,) = _summaries(connection, namespace)
    return found


def _summaries(connection: sqlite3.Connection, namespace: str | None) -> list[NamespaceSummary]:
    rows = connection.execute(queries()["namespace_summaries"], {"namespace": namespace})
    return [NamespaceSummary(_head(r), r["live_keys"], r["tombstones"], r["stored_bytes"]) for r in rows]


def head(connection: sqlite3.Connection, namespace: str) -> Head:
    with transaction(connection):
        return existing(connection, namespace).head


def read(connection: sqlite3.Connection, namespace: str, key: str, version: int | None) -> Entry:
    with transaction(connection):
        here = existing(connection, namespace)
        row = _newest(connection, here, key) if version is None else _as_of(connection, here, key, version)
        return _entry(connection, here, row)


def read_many(connection: sqlite3.Connection, namespace: str, keys: Sequence[str]) -> Snapshot:
    entries: dict[str, Entry] = {}
    absent: list[str] = []
    corrupt: dict[str, CorruptValue] = {}
    with transaction(connection):
        here = existing(connection, namespace)
        for key in dict.fromkeys(keys):
            try:
                entries[key] = _entry(connection, here, _newest(connection, here, key))
            except KeyNotFound:
                absent.append(key)
            except CorruptValue as exc:
                corrupt[key] = exc
    return Snapshot(here.head.incarnation, here.head.version, entries, tuple(absent), corrupt)


def stat_many(connection: sqlite3.Connection, namespace: str, keys: Sequence[str]) -> Stats:
    stats: dict[str, Stat] = {}
    absent: list[str] = []
    with transaction(connection):
        here = existing(connection, namespace)
        for key in dict.fromkeys(keys):
            row = newest_revision(connection, here, key)
            if row is None or row["content"] is None:
                absent.append(key)
            else:
                stats[key] = _stat(row)
    return Stats(here.head.incarnation, here.head.version, stats, tuple(absent))


def history(connection: sqlite3.Connection, namespace: str, key: str) -> list[Revision]:
    with transaction(connection):
        here = existing(connection, namespace)
        rows = connection.execute(queries()["history"], {"id": here.id, "key": key}).fetchall()
    if not rows:
        raise KeyNotFound(f"key {key!r} has no history: it was never written, or retention has forgotten it")
    return [_revision(row) for row in rows]


def log(connection: sqlite3.Connection, namespace: str, before: int | None, limit: int) -> list[CommitRecord]:
    with transaction(connection):
        here = existing(connection, namespace)
        end = here.head.version + 1
        parameters = {"id": here.id, "before": end if before is None else min(before, end), "limit": limit}
        rows = connection.execute(queries()["commit_log"], parameters).fetchall()
    return [commit_record(here.head, row) for row in rows]


def commit_status(connection: sqlite3.Connection, namespace: str, commit_id: str) -> CommitStatus:
    with transaction(connection):
        here = existing(connection, namespace)
        return status_of(connection, here, commit_id)


def status_of(connection: sqlite3.Connection, here: NamespaceHead, commit_id: str) -> CommitStatus:
    """What is recorded of a commit id, within the caller's transaction."""
    row = recorded(connection, here, commit_id)
    if row is None:
        return CommitStatus(commit_id, "unseen")
    record = commit_record(here.head, row)
    return CommitStatus(commit_id, record.state, record)


def recorded(connection: sqlite3.Connection, here: NamespaceHead, commit_id: str) -> sqlite3.Row | None:
    parameters = {"id": here.id, "commit_id": commit_id}
    row: sqlite3.Row | None = connection.execute(queries()["commit_record"], parameters).fetchone()
    return row


def commit_record(head: Head, row: sqlite3.Row) -> CommitRecord:
    if row["version"] is None:
        return CommitRecord(row["commit_id"], "aborted", row["recorded_at"], None, None)
    detail = _json(row["detail"])
    if detail is None:
        raise StoreDamaged(f"the record of commit {row['commit_id']} tells nothing")
    receipt = Receipt(
        commit_id=row["commit_id"],
        namespace=head.namespace,
        incarnation=detail["incarnation"],
        version=row["version"],
        keys=detail["keys"],
        stores=(Durable(NAME, DURABILITY),),
        committed_at=row["recorded_at"],
        noops=tuple(detail["noops"]),
    )
    metadata = CommitMetadata(
        user=detail["user"],
        verdicts=detail["verdicts"],
        command=detail["command"],
        idempotency_key=detail.get("idempotency_key"),  # a record of schema 1 has none of these
        grace=detail.get("grace"),
        facts=detail.get("facts", {}),
    )
    return CommitRecord(row["commit_id"], "committed", row["recorded_at"], receipt, metadata)


def page(
    connection: sqlite3.Connection,
    namespace: str,
    pattern: Pattern | None,
    after: str | None,
    *,
    deleted: bool,
    page_bytes: int,
    page_keys: int,
) -> tuple[list[Stat], str | None]:
    """One page of `scan` (perhaps empty), and the key to go on after; None where the scan is done."""
    prefix = pattern.prefix if pattern else ""
    stats: list[Stat] = []
    size = 0
    last = after
    statement = queries()["tombstones_from" if deleted else "live_keys_from"]
    with transaction(connection):
        here = existing(connection, namespace)
        parameters = {"id": here.id, "start": max(after or "", prefix)}
        with closing(connection.execute(statement, parameters)) as rows:
            for number, row in enumerate(rows):
                key = row["key"]
                if not key.startswith(prefix):
                    break  # keys of one prefix stand together, and the rest lies behind them
                if number >= _SCANNED_ROWS:
                    return stats, last
                if key != after and (pattern is None or pattern.matches(key)):
                    stat = _tombstone(row, here.head.retention) if deleted else _stat(row)
                    if stats and (size + stat.size > page_bytes or len(stats) >= page_keys):
                        return stats, last
                    stats.append(stat)
                    size += stat.size
                last = key
    return stats, None


def newest_revision(connection: sqlite3.Connection, here: NamespaceHead, key: str) -> sqlite3.Row | None:
    """The key's newest row, value or tombstone."""
    parameters = {"id": here.id, "key": key}
    row: sqlite3.Row | None = connection.execute(queries()["newest_revision"], parameters).fetchone()
    return row


def _newest(connection: sqlite3.Connection, here: NamespaceHead, key: str) -> sqlite3.Row:
    """The row of the live value; raises KeyNotFound."""
    row = newest_revision(connection, here, key)
    if row is None:
        raise KeyNotFound(f"key {key!r} is not in namespace {here.head.namespace!r}", next=run("ls"))
    if row["content"] is None:
        raise KeyNotFound(
            f"key {key!r} was deleted in version {row['version']}",
            next=[run("log", key), run("restore", key)],
            deleted_since=row["version"],
        )
    return row


def _as_of(connection: sqlite3.Connection, here: NamespaceHead, key: str, version: int) -> sqlite3.Row:
    """The row that was live at `version`; raises KeyNotFound, VersionCompacted."""
    if version > here.head.version:
        raise KeyNotFound(
            f"namespace {here.head.namespace!r} is at version {here.head.version}; "
            f"key {key!r} has nothing at version {version} yet"
        )
    parameters = {"id": here.id, "key": key, "version": version}
    row: sqlite3.Row | None = connection.execute(queries()["revision_as_of"], parameters).fetchone()
    if row is None and not 0 < version < here.floor:
        raise KeyNotFound(f"key {key!r} did not exist at version {version}")
    end = None if row is None else row["superseded_version"]
    if row is None or row["compacted"] or (end is not None and end <= version):
        raise VersionCompacted(
            f"what key {key!r} was at version {version} is no longer kept: retention has removed it",
            next=run("log", key),
            key=key,
        )
    if row["content"] is None:
        raise KeyNotFound(
            f"key {key!r} was deleted at version {version}, since version {row['version']}",
            deleted_since=row["version"],
        )
    return row


def _entry(connection: sqlite3.Connection, here: NamespaceHead, row: sqlite3.Row) -> Entry:
    return Entry(
        key=row["key"],
        version=row["version"],
        incarnation=here.head.incarnation,
        commit_id=row["commit_id"],
        committed_at=row["committed_at"],
        data=_verified_payload(connection, here.head.namespace, row),
        verdict=_json(row["verdict"]),
        served_by=NAME,
    )


def _verified_payload(connection: sqlite3.Connection, namespace: str, row: sqlite3.Row) -> bytes | memoryview:
    """The envelope of a revision, if it is byte for byte what was committed; raises CorruptValue."""
    key, version = row["key"], row["version"]
    try:
        data = _payload(connection, row["id"], row["size"])
        header = framing.verify(data, namespace=namespace, key=key)
    except (EnvelopeError, _MissingBytes, _WrongLength) as exc:
        raise _corrupt(key, version, str(exc), type(exc).__name__.lstrip("_")) from exc
    except sqlite3.DatabaseError as exc:
        if failures.primary(exc) != failures.CORRUPT:
            raise
        raise _corrupt(key, version, f"its pages are damaged ({exc})", "DamagedPages") from exc
    if (header.content, header.envelope) != (row["content"], row["envelope"]):
        raise _corrupt(key, version, "the envelope is intact, but not the one committed", "OtherEnvelope")
    return data


class _MissingBytes(Exception):
    """There is no payload where the revision says there is one."""


class _WrongLength(Exception):
    """The payload's length is not the revision's: nothing of it need be read."""


def _corrupt(key: str, version: int, defect: str, name: str) -> CorruptValue:
    return CorruptValue(
        f"the stored value of {key!r} (version {version}) is not what was committed: {defect}",
        hint="an older version, if there is one, can be restored",
        next=run("log", key),
        key=key,
        version=version,
        defect=name,
    )


def _payload(connection: sqlite3.Connection, row_id: int, size: int) -> bytes | memoryview:
    """The bytes of one payload, read piece by piece into one buffer: the peak is the value and a piece."""
    try:
        blob = connection.blobopen("payload", "data", row_id, readonly=True)
    except sqlite3.OperationalError as exc:
        if failures.primary(exc) != 1:  # SQLITE_ERROR: no such row, or no blob in it
            raise
        raise _MissingBytes("its bytes are missing") from exc
    with blob:
        if len(blob) != size:
            raise _WrongLength(f"it has {len(blob)} bytes where {size} were committed")
        if size < _MAPPED_BYTES:
            return blob.read(size)
        buffer = memoryview(mmap.mmap(-1, size))
        for start in range(0, size, _CHUNK_BYTES):
            piece = blob.read(_CHUNK_BYTES)
            buffer[start : start + len(piece)] = piece
        return buffer.toreadonly()


def _head(row: sqlite3.Row) -> Head:
    retention = Retention(row["keep_versions"], row["keep_seconds"], row["keep_record_seconds"])
    return Head(row["name"], row["incarnation"], row["version"], row["created_at"], retention)


def _revision(row: sqlite3.Row) -> Revision:
    return Revision(
        key=row["key"],
        version=row["version"],
        commit_id=row["commit_id"],
        committed_at=row["committed_at"],
        size=row["size"],
        content=row["content"],
        kind=row["kind"],
        verdict=_json(row["verdict"]),
        compacted=bool(row["compacted"]),
    )


def _stat(row: sqlite3.Row) -> Stat:
    return Stat(
        key=row["key"],
        version=row["version"],
        commit_id=row["commit_id"],
        committed_at=row["committed_at"],
        size=row["size"] or 0,
        content=row["content"] or "",
        kind=row["kind"] or "",
        dtype=row["dtype"] or "",
        shape=tuple(map(int, row["shape"].split(","))) if row["shape"] else (),
        layout=row["layout"] or "",
    )


def _tombstone(row: sqlite3.Row, retention: Retention) -> Stat:
    own = row["expires_at"]
    until = row["committed_at"] + retention.seconds if own is None else own
    return replace(_stat(row), deleted=True, recoverable_until=until)


def _json(text: str | None) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] | None = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise StoreDamaged(f"a verdict or commit record is not the JSON that was written ({exc})") from exc
    return value
