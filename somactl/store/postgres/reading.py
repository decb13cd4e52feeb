"""What the store reads and lists: one statement each, so that every answer is of one version."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import asyncpg

from somactl.core import framing
from somactl.core.portions import in_portions
from somactl.errors import CorruptValue, StoreDamaged
from somactl.store import reading as rules, sql
from somactl.store.base import offloaded
from somactl.store.calls import hear
from somactl.store.contract import (
    CommitRecord,
    CommitStatus,
    Entry,
    Head,
    NamespaceSummary,
    Revision,
    Snapshot,
    Stat,
    Stats,
)
from somactl.store.postgres import failures, records
from somactl.store.postgres.records import NAME, Row
from somactl.store.postgres.session import Session, seconds_for
from somactl.store.reading import Held, Listing, no_namespace

AT_ONCE_BYTES = 16 << 20
"""Values of no more than this in sum come with their rows, in one round trip; others come after, in portions,
each with time of its own."""
_SAVE, _DONE = "SAVEPOINT portion", "RELEASE SAVEPOINT portion"
_BACK = f"ROLLBACK TO SAVEPOINT portion; {_DONE}"
Data: TypeAlias = "dict[int, bytes | Damage]"
LOOKED_ROWS = 10_000
"""A page ends after this many rows, so that a pattern that matches little does not hold up the server."""
_STAT = slice(4, None)
"""The columns of a listing that describe a key, behind those that describe the namespace or the page."""
_SURROGATES = (0xD800, 0xDFFF)


async def durability(session: Session) -> str:
    rows = await session.rows("durability")
    return str(rows[0][0])


async def namespaces(session: Session) -> list[NamespaceSummary]:
    return [records.summary(row) for row in await session.rows("namespace_summaries", None)]


async def summary(session: Session, namespace: str) -> NamespaceSummary:
    row = await session.row("namespace_summaries", namespace)
    if row is None:
        raise no_namespace(namespace)
    return records.summary(row)


async def clock(session: Session, namespace: str) -> float:
    row = await session.row("retained", namespace)
    if row is None:
        raise no_namespace(namespace)
    return float(row["now"])


async def head(session: Session, namespace: str) -> Head:
    row = await session.row("namespace", namespace)
    if row is None:
        raise no_namespace(namespace)
    found = sql.head(row)
    hear(row["now"], incarnation=found.incarnation, version=found.version)
    return found


async def read(session: Session, namespace: str, key: str, version: int | None) -> Entry:
    rows, data = await _with_data(session, namespace, [key], version)
    row = rows[0]
    held = None if row["key"] is None else Held(row["version"], row["content"] is None)
    if version is None:
        rules.require_live(namespace, key, held)
    else:
        if held is not None:
            held = Held(held.version, held.deleted, row["superseded_version"], row["compacted"])
        rules.require_as_of(namespace, row["head_version"], row["floor"], key, version, held)
    return await offloaded(row["size"], partial(_entry, row, data, namespace))


async def read_many(session: Session, namespace: str, keys: Sequence[str]) -> Snapshot:
    rows, data = await _with_data(session, namespace, list(keys), None)
    size = sum(row["size"] for row in rows if row["content"] is not None)
    return await offloaded(size, partial(_snapshot, rows, data, namespace))


def _snapshot(rows: list[Row], data: Data, namespace: str) -> Snapshot:
    entries: dict[str, Entry] = {}
    absent: list[str] = []
    corrupt: dict[str, CorruptValue] = {}
    for row in rows:
        key = row["wanted"]
        if key is None:  # no key was asked for
            continue
        if row["content"] is None:
            absent.append(key)
            continue
        try:
            entries[key] = _entry(row, data, namespace)
        except CorruptValue as exc:
            corrupt[key] = exc
    return Snapshot(rows[0]["head_incarnation"], rows[0]["head_version"], entries, tuple(absent), corrupt)


async def stat_many(session: Session, namespace: str, keys: Sequence[str]) -> Stats:
    rows = await session.rows("live_stats", namespace, list(keys))
    if not rows:
        raise no_namespace(namespace)
    stats = {row["key"]: sql.stat(row[_STAT]) for row in rows if row["key"] is not None}
    absent = tuple(row["wanted"] for row in rows if row["key"] is None and row["wanted"] is not None)
    return Stats(rows[0]["head_incarnation"], rows[0]["head_version"], stats, absent)


async def history(session: Session, namespace: str, key: str) -> list[Revision]:
    rows = await session.rows("history", namespace, key)
    if not rows:
        raise no_namespace(namespace)
    if rows[0]["key"] is None:
        raise rules.no_history(key)
    return [sql.revision(row) for row in rows]


async def log(session: Session, namespace: str, before: int, limit: int) -> list[CommitRecord]:
    rows = await session.rows("commit_log", namespace, before, limit)
    if not rows:
        raise no_namespace(namespace)
    return [records.commit_record(row) for row in rows if row["commit_id"] is not None]


async def commit_status(session: Session, namespace: str, commit_id: str) -> CommitStatus:
    row = await session.row("commit_record", namespace, commit_id)
    if row is None:
        raise no_namespace(namespace)
    return records.status(commit_id, row)


class Damage(NamedTuple):
    """What the server says about bytes that it cannot read."""

    text: str


async def _with_data(
    session: Session, namespace: str, keys: list[str], version: int | None
) -> tuple[list[Row], Data]:
    """The rows of `keys` and, by row id, their bytes: all as of one version. Raises NamespaceNotFound."""
    try:
        rows = await _rows(session, namespace, keys, version, AT_ONCE_BYTES)
    except asyncpg.PostgresError as exc:
        if failures.sqlstate(exc) not in failures.DAMAGED:
            raise
    else:
        if not any(map(_left_out, rows)):
            return rows, {row["id"]: row["data"] for row in rows if row["id"] is not None}
    largest = seconds_for(framing.MAX_ENVELOPE_BYTES)
    async with session.transaction(snapshot=True, extra=largest):
        rows = await _rows(session, namespace, keys, version, 0)
        data: Data = {}
        for portion in in_portions(filter(_left_out, rows), itemgetter("size"), AT_ONCE_BYTES):
            data |= await _portion(session, portion)
    return rows, data


async def _rows(
    session: Session, namespace: str, keys: list[str], version: int | None, size: int
) -> list[Row]:
    rows = (
        await session.rows("newest_values", namespace, keys, size)
        if version is None
        else await session.rows("value_as_of", namespace, keys[0], version, size)
    )
    if not rows:
        raise no_namespace(namespace)
    return rows


def _left_out(row: Row) -> bool:
    """Whether bytes are there, of the right length, and did not come with the row."""
    return row["content"] is not None and row["data"] is None and row["length"] == row["size"]


async def _portion(session: Session, rows: list[Row]) -> Data:
    """The bytes of the rows. Where the server finds some damaged, the others are asked for one by one."""
    ids = [str(row["id"]) for row in rows]
    extra = seconds_for(sum(row["size"] for row in rows))
    await session.execute(_SAVE)
    try:
        found = await session.rows("payloads", ids, extra=extra)
    except asyncpg.PostgresError as exc:
        if failures.sqlstate(exc) not in failures.DAMAGED:
            raise
        await session.execute(_BACK)
        if len(rows) == 1:
            return {rows[0]["id"]: Damage(str(exc.args[0]))}
        data: Data = {}
        for row in rows:
            data |= await _portion(session, [row])
        return data
    await session.execute(_DONE)
    return {row["id"]: row["data"] for row in found}


def _entry(row: Row, data: Data, namespace: str) -> Entry:
    """The value of a row, if it is byte for byte what was committed; raises CorruptValue."""
    key, version, found = row["key"], row["version"], data.get(row["id"])
    if isinstance(found, Damage):
        raise rules.corrupt(key, version, f"its pages are damaged ({found.text})", "DamagedPages")
    rules.check_length(key, version, row["length"], row["size"])
    if found is None:
        raise StoreDamaged(f"the bytes of {key!r} (version {version}) vanished while they were read")
    header = rules.verify(namespace, key, version, found, row["content"], row["envelope"])
    commit_id, at, verdict = row["commit_id"], row["committed_at"], sql.loads(row["verdict"])
    return Entry(key, version, row["head_incarnation"], commit_id, at, found, verdict, NAME, header=header)


async def page(
    session: Session, namespace: str, listing: Listing, after: str | None
) -> tuple[list[Stat], str | None]:
    """One page of `scan` (perhaps empty), and the key to go on after; None where the scan is done."""
    most = min(listing.page_keys, LOOKED_ROWS)
    rows = await session.rows(
        "tombstone_page" if listing.deleted else "live_page",
        namespace,
        listing.prefix,
        end_of(listing.prefix),
        after or "",
        like(listing.pattern.text) if listing.pattern else "%",
        LOOKED_ROWS,
        most,
        listing.page_bytes,
    )
    if not rows:
        raise no_namespace(namespace)
    first = rows[0]
    kept_seconds = first["keep_seconds"] if listing.deleted else None
    stats = [sql.stat(row[_STAT], kept_seconds) for row in rows if row["key"] is not None]
    if len(stats) < first["matching"] or first["matching"] == most:
        return stats, stats[-1].key
    if first["looked"] < LOOKED_ROWS:
        return stats, None
    return stats, first["last"]


def end_of(prefix: str) -> str | None:
    """The first text behind all that start with `prefix`, in byte order; None where there is none."""
    for length in range(len(prefix), 0, -1):
        code = ord(prefix[length - 1]) + 1
        if code == _SURROGATES[0]:  # no characters, so no keys hold them
            code = _SURROGATES[1] + 1
        if code <= sys.maxunicode:
            return prefix[: length - 1] + chr(code)
    return None


def like(text: str) -> str:
    """A `--match` pattern as one of SQL's LIKE, whose wildcards are % and _."""
    parts: list[str] = []
    characters = iter(text)
    for c in characters:
        if c in "*?":
            parts.append("%" if c == "*" else "_")
            continue
        if c == "\\":
            c = next(characters, "\\")
        parts.append(f"\\{c}" if c in "%_\\" else c)
    return "".join(parts)
