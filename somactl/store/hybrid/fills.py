"""Cache fills: what is written to a cache of a key, from what the authority answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from somactl.store.cached import Fill
from somactl.store.contract import CommitMetadata, Entry, Receipt, Snapshot

NEVER = 0.0
"""The time of a state whose value is not kept: a tombstone has no age."""


def of_entry(entry: Entry, read_at: float, kinds: frozenset[str]) -> Fill:
    """The value, if copies of its kind are kept; else a tombstone, so that no older copy is served."""
    header = entry.framed
    if header.kind not in kinds:
        return absence(entry.key, entry.version, entry.incarnation)
    return Fill(entry.key, entry.version, entry.incarnation, read_at, entry, header.content)


def absence(key: str, version: int, incarnation: str) -> Fill:
    return Fill(key, version, incarnation, NEVER)


def of_commit(
    receipt: Receipt,
    updates: Mapping[str, bytes | memoryview | None],
    metadata: CommitMetadata,
    read_at: float,
    kinds: frozenset[str],
) -> list[Fill]:
    """Every key of a commit as it is since then, without asking for it again."""
    fills = []
    for key, content in receipt.keys.items():
        data = updates[key]
        if data is None or content is None:
            fills.append(absence(key, receipt.version, receipt.incarnation))
            continue
        entry = Entry(
            key=key,
            version=receipt.version,
            incarnation=receipt.incarnation,
            commit_id=receipt.commit_id,
            committed_at=receipt.committed_at,
            data=data,
            verdict=metadata.verdicts.get(content),
            served_by="",
        )
        fills.append(of_entry(entry, read_at, kinds))
    return fills


def of_snapshot(snapshot: Snapshot, read_at: float, kinds: frozenset[str]) -> list[Fill]:
    """Every key of a snapshot, the absent ones as of its version; of the corrupt ones nothing is known."""
    present = [of_entry(entry, read_at, kinds) for entry in snapshot.entries.values()]
    return present + [absence(key, snapshot.version, snapshot.incarnation) for key in snapshot.absent]


def unwritten(receipt: Receipt) -> Sequence[Fill]:
    """The least that must be known of a commit: nothing older than it may be served."""
    return [absence(key, receipt.version, receipt.incarnation) for key in receipt.keys]
