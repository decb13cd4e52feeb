"""What the store reads: one statement each, so that every answer is of one version."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from somactl.core import framing
from somactl.errors import (
    CorruptValue,
    EnvelopeError,
    KeyNotFound,
    StoreDamaged,
    VersionCompacted,
)
from somactl.store.contract import (
    CommitRecord,
    CommitStatus,
    Entry,
    Head,
    NamespaceSummary,
    Revision,
    Snapshot,
    Stats,
)
from somactl.store.postgres import failures, records
from somactl.store.postgres.records import NAME, Row
from somactl.store.postgres.session import Session, seconds_for
from somactl.suggestion import run

AT_ONCE_BYTES = 16 << 20
"""Values of no more than this in sum come with their rows, in one round trip; others come after, in portions,
each with time of its own."""
_OFFLOADED_BYTES = 4 << 20
"""A value from this size on is verified on another thread: the event loop has others to serve."""
_SAVE, _DONE = "SAVEPOINT portion", "RELEASE SAVEPOINT portion"
_BACK = f"ROLLBACK TO SAVEPOINT portion; {_DONE}"


async def durability(session: Session) -> str:
    rows = await session.rows("durability")
    return str(rows[0][0])


async def namespaces(session: Session) -> list[NamespaceSummary]:
    return [records.summary(row) for row in await session.rows("namespace_summaries", None)]


async def summary(session: Session, namespace: str) -> NamespaceSummary:
    row = await session.row("namespace_summaries", namespace)
    if row is None:
        raise records.no_namespace(namespace)
    return records.summary(row)


async def clock(session: Session, namespace: str) -> float:
    row = await session.row("retained", namespace)
    if row is None:
        raise records.no_namespace(namespace)
    return float(row["now"])


async def head(session: Session, namespace: str) -> Head:
    row = await session.row("namespace", namespace)
    if row is None:
        raise records.no_namespace(namespace)
    return records.head(row)


async def read(session: Session, namespace: str, key: str, version: int | None) -> Entry:
    rows, data = await _with_data(session, namespace, [key], version)
    row = _live(rows[0], namespace, key) if version is None else _as_of(rows[0], namespace, key, version)
    return await _entry(row, data, namespace)


async def read_many(session: Session, namespace: str, keys: Sequence[str]) -> Snapshot:
    rows, data = await _with_data(session, namespace, list(dict.fromkeys(keys)), None)
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
            entries[key] = await _entry(row, data, namespace)
        except CorruptValue as exc:
            corrupt[key] = exc
    return Snapshot(rows[0]["head_incarnation"], rows[0]["head_version"], entries, tuple(absent), corrupt)


async def stat_many(session: Session, namespace: str, keys: Sequence[str]) -> Stats:
    rows = await session.rows("live_stats", namespace, list(dict.fromkeys(keys)))
    if not rows:
        raise records.no_namespace(namespace)
    stats = {row["key"]: records.stat(row, deleted=False) for row in rows if row["key"] is not None}
    absent = tuple(row["wanted"] for row in rows if row["key"] is None and row["wanted"] is not None)
    return Stats(rows[0]["head_incarnation"], rows[0]["head_version"], stats, absent)


async def history(session: Session, namespace: str, key: str) -> list[Revision]:
    rows = await session.rows("history", namespace, key)
    if not rows:
        raise records.no_namespace(namespace)
    if rows[0]["key"] is None:
        raise KeyNotFound(f"key {key!r} has no history: it was never written, or retention has forgotten it")
    return [records.revision(row) for row in rows]


async def log(session: Session, namespace: str, before: int, limit: int) -> list[CommitRecord]:
    rows = await session.rows("commit_log", namespace, before, limit)
    if not rows:
        raise records.no_namespace(namespace)
    return [records.commit_record(row) for row in rows if row["commit_id"] is not None]


async def commit_status(session: Session, namespace: str, commit_id: str) -> CommitStatus:
    row = await session.row("commit_record", namespace, commit_id)
    if row is None:
        raise records.no_namespace(namespace)
    return records.status(commit_id, row)


class Damage(NamedTuple):
    """What the server says about bytes that it cannot read."""

    text: str


Data: TypeAlias = "dict[int, bytes | Damage]"


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
        for portion in portions([row for row in rows if _left_out(row)]):
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
        raise records.no_namespace(namespace)
    return rows


def _left_out(row: Row) -> bool:
    """Whether bytes are there, of the right length, and did not come with the row."""
    return row["content"] is not None and row["data"] is None and row["length"] == row["size"]


def portions(rows: list[Row]) -> Iterator[list[Row]]:
    """The rows in runs of at most `AT_ONCE_BYTES`, or of one."""
    run: list[Row] = []
    size = 0
    for row in rows:
        if run and size + row["size"] > AT_ONCE_BYTES:
            yield run
            run, size = [], 0
        run.append(row)
        size += row["size"]
    if run:
        yield run


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


def _live(row: Row, namespace: str, key: str) -> Row:
    """The row, if it is a live value's; raises KeyNotFound."""
    if row["key"] is None:
        raise KeyNotFound(f"key {key!r} is not in namespace {namespace!r}", next=run("ls"))
    if row["content"] is None:
        raise KeyNotFound(
            f"key {key!r} was deleted in version {row['version']}",
            next=[run("log", key), run("restore", key)],
            deleted_since=row["version"],
        )
    return row


def _as_of(row: Row, namespace: str, key: str, version: int) -> Row:
    """The row, if it was live at `version`; raises KeyNotFound, VersionCompacted."""
    if version > row["head_version"]:
        raise KeyNotFound(
            f"namespace {namespace!r} is at version {row['head_version']}; "
            f"key {key!r} has nothing at version {version} yet"
        )
    known = row["key"] is not None
    if not known and not 0 < version < row["floor"]:
        raise KeyNotFound(f"key {key!r} did not exist at version {version}")
    end = row["superseded_version"]
    if not known or row["compacted"] or (end is not None and end <= version):
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


async def _entry(row: Row, data: Data, namespace: str) -> Entry:
    """The value of a row, if it is byte for byte what was committed; raises CorruptValue."""
    found: Any = data.get(row["id"])
    if row["size"] >= _OFFLOADED_BYTES and found is not None:
        await asyncio.to_thread(_verify, row, found, namespace)
    else:
        _verify(row, found, namespace)
    return Entry(
        key=row["key"],
        version=row["version"],
        incarnation=row["head_incarnation"],
        commit_id=row["commit_id"],
        committed_at=row["committed_at"],
        data=found,
        verdict=records.loads(row["verdict"]),
        served_by=NAME,
    )


def _verify(row: Row, data: bytes | Damage | None, namespace: str) -> None:
    """Raises CorruptValue."""
    key, version, size, length = row["key"], row["version"], row["size"], row["length"]
    if isinstance(data, Damage):
        raise _corrupt(key, version, f"its pages are damaged ({data.text})", "DamagedPages")
    if length is None:
        raise _corrupt(key, version, "its bytes are missing", "MissingBytes")
    if length != size:
        raise _corrupt(key, version, f"it has {length} bytes where {size} were committed", "WrongLength")
    if data is None:
        raise StoreDamaged(f"the bytes of {key!r} (version {version}) vanished while they were read")
    try:
        header = framing.verify(data, namespace=namespace, key=key)
    except EnvelopeError as exc:
        raise _corrupt(key, version, str(exc), type(exc).__name__) from exc
    if (header.content, header.envelope) != (row["content"], row["envelope"]):
        raise _corrupt(key, version, "the envelope is intact, but not the one committed", "OtherEnvelope")


def _corrupt(key: str, version: int, defect: str, name: str) -> CorruptValue:
    return CorruptValue(
        f"the stored value of {key!r} (version {version}) is not what was committed: {defect}",
        hint="an older version, if there is one, can be restored",
        next=run("log", key),
        key=key,
        version=version,
        defect=name,
    )
