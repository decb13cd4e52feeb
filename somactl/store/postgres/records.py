"""Rows of the tables as values of the contract."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from somactl.errors import NamespaceNotFound, StoreDamaged
from somactl.store.contract import (
    CommitMetadata,
    CommitRecord,
    CommitStatus,
    Durable,
    Head,
    NamespaceSummary,
    Note,
    Receipt,
    Retention,
    Revision,
    Stat,
)
from somactl.suggestion import run

Row: TypeAlias = Mapping[str, Any]

NAME = "postgres"


def no_namespace(namespace: str) -> NamespaceNotFound:
    return NamespaceNotFound(
        f"namespace {namespace!r} does not exist in this database",
        next=[run("namespaces"), run("init")],
    )


def retention(row: Row) -> Retention:
    return Retention(row["keep_versions"], row["keep_seconds"], row["keep_record_seconds"])


def head(row: Row) -> Head:
    return Head(row["name"], row["incarnation"], row["version"], row["created_at"], retention(row))


def summary(row: Row) -> NamespaceSummary:
    return NamespaceSummary(head(row), row["keys"], row["tombstones"], row["bytes"])


def note(row: Row, data: bytes | None = None) -> Note:
    return Note(row["name"], row["version"], row["size"], row["written_at"], data)


def stat(row: Row, *, deleted: bool) -> Stat:
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
        deleted=deleted,
        recoverable_until=_deadline(row) if deleted else None,
    )


def _deadline(row: Row) -> float:
    own: float | None = row["expires_at"]
    retained: float = row["committed_at"] + row["keep_seconds"]
    return retained if own is None else own


def revision(row: Row) -> Revision:
    return Revision(
        key=row["key"],
        version=row["version"],
        commit_id=row["commit_id"],
        committed_at=row["committed_at"],
        size=row["size"],
        content=row["content"],
        kind=row["kind"],
        verdict=loads(row["verdict"]),
        compacted=row["compacted"],
    )


def status(commit_id: str, row: Row) -> CommitStatus:
    """What a namespace's row, joined with that of the commit id, tells."""
    if row["commit_id"] is None:
        return CommitStatus(commit_id, "unseen")
    record = commit_record(row)
    return CommitStatus(commit_id, record.state, record)


def commit_record(row: Row) -> CommitRecord:
    if row["version"] is None:
        return CommitRecord(row["commit_id"], "aborted", row["recorded_at"], None, None)
    keys, metadata = loads(row["contents"]), _metadata(row)
    if keys is None or metadata is None:
        raise StoreDamaged(f"the record of commit {row['commit_id']} tells nothing")
    receipt = Receipt(
        commit_id=row["commit_id"],
        namespace=row["name"],
        incarnation=row["incarnation"],
        version=row["version"],
        keys=keys,
        stores=(Durable(NAME, row["durability"]),),
        committed_at=row["recorded_at"],
        noops=in_order(row["noops"], keys),
    )
    return CommitRecord(row["commit_id"], "committed", row["recorded_at"], receipt, metadata)


def in_order(some: Iterable[str], keys: Iterable[str]) -> tuple[str, ...]:
    """Those of `keys`, in their order, that are among `some`."""
    chosen = frozenset(some)
    return tuple(key for key in keys if key in chosen) if chosen else ()


def dump_metadata(metadata: CommitMetadata) -> str:
    """All that is kept with a commit, without what is empty. A grace of 0 is not."""
    fields = msgspec.structs.asdict(msgspec.structs.replace(metadata, guards={}))
    return dumps({name: value for name, value in fields.items() if value or value == 0})


dumps = json.JSONEncoder(separators=(",", ":")).encode


def _metadata(row: Row) -> CommitMetadata | None:
    """None where there is no record of any. What a newer release has added is not looked at."""
    known = loads(row["metadata"])
    if known is None:
        return None
    try:
        return msgspec.convert(known, CommitMetadata)
    except msgspec.ValidationError as exc:
        raise StoreDamaged(f"the metadata of commit {row['commit_id']} are not ours ({exc})") from exc


def loads(text: str | None) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] | None = None if text is None else json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise StoreDamaged(f"a verdict or commit record is not the JSON that was written ({exc})") from exc
    return value
