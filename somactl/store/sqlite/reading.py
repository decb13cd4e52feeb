"""What the store reads, inside one read transaction each. Every function runs on a worker's thread."""

from __future__ import annotations

import mmap
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import msgspec

from somactl.errors import CorruptValue
from somactl.store import events, reading as rules, sql
from somactl.store.contract import (
    CommitRecord,
    CommitStatus,
    Durable,
    Entry,
    Head,
    NamespaceSummary,
    Receipt,
    Revision,
    Snapshot,
    Stat,
    Stats,
)
from somactl.store.reading import Held, Listing
from somactl.store.sqlite import failures
from somactl.store.sqlite.database import transaction
from somactl.store.sqlite.schema import queries

NAME = "sqlite"
DURABILITY = "fsync"
_CHUNK_BYTES = 1 << 20
_MAPPED_BYTES = 64 << 10
"""From this size on a value gets pages of its own: aligned, and given back as soon as it is dropped. Smaller
ones come with their rows, where many are read."""
_SCANNED_ROWS = 10_000
"""A page ends after this many rows, so that a pattern that matches little does not hold up other reads."""


@dataclass(frozen=True, slots=True)
class NamespaceHead:
    """A namespace's row. `floor`: below this version entries of the history may be gone. What the rest means
    stands in `sql/sqlite/0001_init.sql`."""

    id: int
    head: Head
    floor: int
    records_removed_until: float
    removable_until: int
    published: int | None
    keep_events: int | None
    dropped_events: int


def place(connection: sqlite3.Connection, namespace: str) -> NamespaceHead | None:
    row = connection.execute(queries()["namespace"], {"namespace": namespace}).fetchone()
    if row is None:
        return None
    rest = [row[each.name] for each in fields(NamespaceHead)[2:]]
    return NamespaceHead(row["id"], sql.head(row), *rest)


def existing(connection: sqlite3.Connection, namespace: str) -> NamespaceHead:
    """The namespace's row; raises NamespaceNotFound."""
    found = place(connection, namespace)
    if found is None:
        raise rules.no_namespace(namespace, hint="its first commit creates it")
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
    return [NamespaceSummary(sql.head(r), r["live_keys"], r["tombstones"], r["stored_bytes"]) for r in rows]


def head(connection: sqlite3.Connection, namespace: str) -> Head:
    with transaction(connection):
        return existing(connection, namespace).head


def read(connection: sqlite3.Connection, namespace: str, key: str, version: int | None) -> Entry:
    with transaction(connection):
        here = existing(connection, namespace)
        if version is None:
            row = newest_revision(connection, here, key)
            rules.require_live(namespace, key, _held(row))
        else:
            parameters = {"id": here.id, "key": key, "version": version}
            row = connection.execute(queries()["revision_as_of"], parameters).fetchone()
            rules.require_as_of(namespace, here.head.version, here.floor, key, version, _held(row))
        assert row is not None  # or it would have been refused
        return _entry(connection, here, Value(*(row[name] for name in Value._fields[:-1])))


class Value(NamedTuple):
    """A row of `newest_values`; all but the key are None where the key was never written."""

    key: str
    version: int
    commit_id: str
    committed_at: float
    size: int
    content: str | None
    envelope: str
    verdict: str | None
    id: int
    data: bytes | None = None


def read_many(connection: sqlite3.Connection, namespace: str, keys: Sequence[str]) -> Snapshot:
    try:
        with transaction(connection):
            here = existing(connection, namespace)
            return _snapshot(connection, here, _newest(connection, here, keys, _MAPPED_BYTES))
    except sqlite3.DatabaseError as exc:
        if failures.primary(exc) != failures.CORRUPT:
            raise
    # One damaged page must not hide the other keys: now none has its bytes read by a statement. A transaction
    # in which a statement met such a page can only be rolled back, so this is another one.
    with transaction(connection):
        here = existing(connection, namespace)
        return _snapshot(connection, here, _newest(connection, here, keys, 0))


def _newest(
    connection: sqlite3.Connection, here: NamespaceHead, keys: Sequence[str], inline: int
) -> Iterator[Value]:
    """The newest row of each key, in order, with the bytes of values smaller than `inline`."""
    rows = _tuples(connection, "newest_values", id=here.id, keys=_json(keys), inline=inline)
    yield from map(Value._make, rows)


def _snapshot(connection: sqlite3.Connection, here: NamespaceHead, values: Iterable[Value]) -> Snapshot:
    entries: dict[str, Entry] = {}
    absent: list[str] = []
    corrupt: dict[str, CorruptValue] = {}
    for value in values:
        if value.content is None:
            absent.append(value.key)
            continue
        try:
            entries[value.key] = _entry(connection, here, value)
        except CorruptValue as exc:
            corrupt[value.key] = exc
    return Snapshot(here.head.incarnation, here.head.version, entries, tuple(absent), corrupt)


def stat_many(connection: sqlite3.Connection, namespace: str, keys: Sequence[str]) -> Stats:
    stats: dict[str, Stat] = {}
    absent: list[str] = []
    with transaction(connection):
        here = existing(connection, namespace)
        for row in _tuples(connection, "live_stats", id=here.id, keys=_json(keys)):
            if row[1] is None:
                absent.append(row[0])
            else:
                stats[row[0]] = sql.stat(row)
    return Stats(here.head.incarnation, here.head.version, stats, tuple(absent))


def _tuples(
    connection: sqlite3.Connection, statement: str, **parameters: str | int
) -> Generator[tuple[Any, ...], None, None]:
    """The rows of a statement that returns many, as plain tuples: a look into a sqlite3.Row is a search
    among its names, and making one takes as long as the look."""
    cursor = connection.cursor()
    cursor.row_factory = None
    with closing(cursor.execute(queries()[statement], parameters)) as rows:
        yield from rows


def _json(keys: Sequence[str]) -> str:
    return msgspec.json.encode(keys).decode()


def history(connection: sqlite3.Connection, namespace: str, key: str) -> list[Revision]:
    with transaction(connection):
        here = existing(connection, namespace)
        rows = connection.execute(queries()["history"], {"id": here.id, "key": key}).fetchall()
    if not rows:
        raise rules.no_history(key)
    return [sql.revision(row) for row in rows]


def log(connection: sqlite3.Connection, namespace: str, before: int, limit: int) -> list[CommitRecord]:
    with transaction(connection):
        here = existing(connection, namespace)
        parameters = {"id": here.id, "before": before, "limit": limit}
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
    detail = events.decode(row["commit_id"], row["detail"])
    receipt = Receipt(
        commit_id=row["commit_id"],
        namespace=head.namespace,
        incarnation=detail.incarnation,
        version=row["version"],
        keys=detail.keys,
        stores=(Durable(NAME, DURABILITY),),
        committed_at=row["recorded_at"],
        noops=detail.noops,
    )
    return events.committed(receipt, detail)


def page(
    connection: sqlite3.Connection, namespace: str, listing: Listing, after: str | None
) -> tuple[list[Stat], str | None]:
    """One page of `scan` (perhaps empty), and the key to go on after; None where the scan is done."""
    stats: list[Stat] = []
    size = 0
    last = after
    statement = "tombstones_from" if listing.deleted else "live_keys_from"
    with transaction(connection):
        here = existing(connection, namespace)
        kept_seconds = here.head.retention.seconds if listing.deleted else None
        start = max(after or "", listing.prefix)
        with closing(_tuples(connection, statement, id=here.id, start=start)) as rows:
            for number, row in enumerate(rows):
                key: str = row[0]
                if not key.startswith(listing.prefix):
                    break  # keys of one prefix stand together, and the rest lies behind them
                if number >= _SCANNED_ROWS:
                    return stats, last
                if key != after and listing.matches(key):
                    stat = sql.stat(row, kept_seconds)
                    if stats and (size + stat.size > listing.page_bytes or len(stats) >= listing.page_keys):
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


def _held(row: sqlite3.Row | None) -> Held | None:
    if row is None:
        return None
    return Held(row["version"], row["content"] is None, row["superseded_version"], bool(row["compacted"]))


def _entry(connection: sqlite3.Connection, here: NamespaceHead, value: Value) -> Entry:
    """The value, if it is byte for byte what was committed; raises CorruptValue."""
    key, version, head = value.key, value.version, here.head
    data = _payload(connection, value) if value.data is None else value.data
    header = rules.verify(head.namespace, key, version, data, value.content or "", value.envelope)
    return Entry(
        key,
        version,
        head.incarnation,
        value.commit_id,
        value.committed_at,
        data,
        sql.loads(value.verdict),
        NAME,
        header=header,
    )


def _payload(connection: sqlite3.Connection, value: Value) -> bytes | memoryview:
    """The bytes of a value that did not come with its row; raises CorruptValue."""
    try:
        return _pieces(connection, value)
    except sqlite3.DatabaseError as exc:
        if failures.primary(exc) != failures.CORRUPT:
            raise
        defect = f"its pages are damaged ({exc})"
        raise rules.corrupt(value.key, value.version, defect, "DamagedPages") from exc


def _pieces(connection: sqlite3.Connection, value: Value) -> bytes | memoryview:
    """The bytes of one payload, read piece by piece into one buffer: the peak is the value and a piece."""
    key, version, size = value.key, value.version, value.size
    try:
        blob = connection.blobopen("payload", "data", value.id, readonly=True)
    except sqlite3.OperationalError as exc:
        if failures.primary(exc) != 1:  # SQLITE_ERROR: no such row, or no blob in it
            raise
        raise rules.corrupt(key, version, "its bytes are missing", "MissingBytes") from exc
    with blob:
        rules.check_length(key, version, len(blob), size)
        if size < _MAPPED_BYTES:
            return blob.read(size)
        buffer = memoryview(mmap.mmap(-1, size))
        for start in range(0, size, _CHUNK_BYTES):
            piece = blob.read(_CHUNK_BYTES)
            buffer[start : start + len(piece)] = piece
        return buffer.toreadonly()
