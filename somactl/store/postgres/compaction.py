"""Enforcing the retention: candidates are looked for in a snapshot, removed in a short transaction.

Between the two another machine may commit or compact. Nothing that was removable becomes precious by that
(a superseded value stays superseded, a grace that is over stays over, a tombstone that has been overwritten
since is left alone), so the second transaction needs no second look; it counts what it really removed.

Values and entries go first, without the namespace's lock: commits touch none that is superseded. The lock is
taken for the tombstones and records, a few small rows; so no commit waits for large deletions, and
none of the two ever holds what the other wants in another order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from somactl.store.contract import Compaction
from somactl.store.postgres import schema
from somactl.store.postgres.records import Row
from somactl.store.postgres.session import Session, seconds_for
from somactl.store.postgres.writing import lock
from somactl.store.reading import no_namespace

_LOCK = int.from_bytes(b"cmpt", "big")
"""The first half of the advisory lock that compactions of one namespace take; the second is its id."""
_LOOK_SECONDS = 300.0
"""Looking for candidates may take longer than other calls; no caller waits for it."""


@dataclass(slots=True)
class Candidates:
    """What to remove from the namespace of that row id, by the stage that found it."""

    namespace_id: int
    records_until: float
    ids: dict[str, list[str]] = field(default_factory=dict)
    size: int = 0
    more: bool = False

    @property
    def empty(self) -> bool:
        return not any(self.ids.values())


async def candidates(
    session: Session, namespace: str, limit: int, stages: Sequence[str] = schema.STAGES
) -> Candidates:
    """What is no longer kept, at most `limit` removals.

    A stage begins only when the one before it is exhausted: an entry goes after its bytes, a tombstone
    after the entries that it hides.
    """
    async with session.transaction(snapshot=True, extra=_LOOK_SECONDS):
        here = await _existing(session, namespace)
        found = Candidates(here["id"], _records_until(here))
        for stage in stages:
            rows = await session.rows(stage, *_parameters(stage, here, limit), extra=_LOOK_SECONDS)
            found.ids[stage] = [str(row["id"]) for row in rows]
            found.size += sum(row["size"] for row in rows)
            limit -= len(rows)
            if limit <= 0:
                found.more = True
                break
    return found


async def count(session: Session, namespace: str, stages: Sequence[str] = schema.STAGES) -> Compaction:
    """What repeated calls would remove now."""
    number: Counter[str] = Counter()
    async with session.transaction(snapshot=True, extra=_LOOK_SECONDS):
        here = await _existing(session, namespace)
        for stage in stages:
            row = await session.row(f"count_{stage}", *_parameters(stage, here, None), extra=_LOOK_SECONDS)
            assert row is not None
            number[_kind(stage)] += row["number"]
            number.update({name: value for name, value in row.items() if name != "number"})
    return Compaction(
        revisions=number["values"],
        tombstones=number["tombstones"],
        records=number["entries"] + number["records"],
        events=number["events"],
        dropped=number["dropped"],
        bytes_freed=number["size"],
    )


async def remove(session: Session, namespace: str, found: Candidates) -> Compaction:
    """Remove the candidates, in one transaction."""
    ids: dict[str, list[str]] = {}
    for stage, some in found.ids.items():
        ids.setdefault(_kind(stage), []).extend(some)
    values, entries, tombstones, expired = (ids.get(kind, []) for kind in _KINDS)
    extra = seconds_for(found.size)
    async with session.transaction(extra=extra):
        await session.row("lock_compaction", _LOCK, found.namespace_id)
        pruned = await session.rows("prune_values", values)
        await session.rows("delete_payloads", [str(row["id"]) for row in pruned], extra=extra)
        gone = await session.rows("delete_entries", entries)
        await lock(session, namespace)
        forgotten = await session.rows("delete_tombstones", tombstones)
        removed = await session.rows("delete_records", found.namespace_id, expired)
        floor = max((row["gone_since"] for row in [*gone, *forgotten]), default=0)
        until = found.records_until if removed else 0.0
        dropped = sum(bool(row["dropped"]) for row in removed)
        await session.row("raise_floor", found.namespace_id, floor, until, dropped)
        await session.execute("COMMIT")
    return Compaction(
        revisions=len(pruned),
        tombstones=len(forgotten),
        records=len(gone) + len(removed),
        events=sum(row["version"] is not None for row in removed),
        dropped=dropped,
        bytes_freed=sum(row["size"] for row in pruned),
        more=found.more,
    )


async def _existing(session: Session, namespace: str) -> Row:
    """The namespace's row with the time; raises NamespaceNotFound."""
    row: Row | None = await session.row("retained", namespace)
    if row is None:
        raise no_namespace(namespace)
    return row


_KINDS = ("values", "entries", "tombstones", "records")


def _kind(stage: str) -> str:
    """What the stage finds: one of _KINDS."""
    return stage.partition("_")[2]


def _parameters(stage: str, here: Row, limit: int | None) -> list[object]:
    now, versions = here["now"], here["keep_versions"]
    values_until, records_until = now - here["keep_seconds"], _records_until(here)
    waiting_from = None if here["keep_events"] is None else here["published"]
    return [
        here["id"],
        limit,
        *{
            "ungraced_values": (now,),
            "prunable_values": (values_until, versions, now),
            "ungraced_entries": (now,),
            "removable_entries": (values_until, versions, now, records_until),
            "ungraced_tombstones": (now,),
            "expired_tombstones": (values_until,),
            "expired_records": (records_until, here["removable_until"], waiting_from),
        }[stage],
    ]


def _records_until(here: Row) -> float:
    until: float = here["now"] - here["keep_record_seconds"]
    return until
