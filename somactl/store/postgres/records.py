"""Rows of the tables as values of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from somactl.errors import StoreDamaged
from somactl.store import events, sql
from somactl.store.contract import (
    CommitRecord,
    CommitStatus,
    Durable,
    NamespaceSummary,
    Note,
    Receipt,
)

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
    detail, keys = events.decode(row["commit_id"], row["metadata"]), sql.loads(row["contents"])
    if keys is None:
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
    return events.committed(receipt, detail)


def in_order(some: Iterable[str], keys: Iterable[str]) -> tuple[str, ...]:
    """Those of `keys`, in their order, that are among `some`."""
    chosen = frozenset(some)
    return tuple(key for key in keys if key in chosen) if chosen else ()
