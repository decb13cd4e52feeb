"""Rows of the tables as values of the contract."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from somactl.errors import StoreDamaged
from somactl.store import sql
from somactl.store.contract import (
    CommitMetadata,
    CommitRecord,
    CommitStatus,
    Durable,
    NamespaceSummary,
    Note,
    Receipt,
)
from somactl.store.request import Request

Row: TypeAlias = Mapping[str, Any]

NAME = "postgres"


def summary(row: Row) -> NamespaceSummary:
    return NamespaceSummary(sql.head(row), row["keys"], row["tombstones"], row["bytes"])


def note(row: Row, data: bytes | None = None) -> Note:
    return Note(row["name"], row["version"], row["size"], row["written_at"], data)


def status(commit_id: str, row: Row) -> CommitStatus:
    """What a namespace's row, joined with that of the commit id, tells."""
    if row["commit_id"] is None:
        return CommitStatus(commit_id, "unseen")
    record = commit_record(row)
    return CommitStatus(commit_id, record.state, record)


def commit_record(row: Row) -> CommitRecord:
    if row["version"] is None:
        return CommitRecord(row["commit_id"], "aborted", row["recorded_at"], None, None)
    keys, metadata = sql.loads(row["contents"]), _metadata(row)
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


def dump_metadata(request: Request) -> str:
    """All that is kept with a commit, without what is empty. A grace of 0 is not."""
    fields = msgspec.structs.asdict(msgspec.structs.replace(request.metadata, guards={}))
    fields["summary"] = request.summary
    return dumps({name: value for name, value in fields.items() if value or value == 0})


dumps = json.JSONEncoder(separators=(",", ":")).encode


def _metadata(row: Row) -> CommitMetadata | None:
    """None where there is no record of any. What a newer release has added is not looked at."""
    known = sql.loads(row["metadata"])
    if known is None:
        return None
    try:
        return msgspec.convert(known, CommitMetadata)
    except msgspec.ValidationError as exc:
        raise StoreDamaged(f"the metadata of commit {row['commit_id']} are not ours ({exc})") from exc
