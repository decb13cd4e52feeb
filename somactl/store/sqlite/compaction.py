"""Enforcing the retention: candidates are looked for in a read transaction, removed in a short write.

Between the two another process may commit or compact. Nothing that was removable becomes precious by that
(a superseded value stays superseded, and a tombstone that has been overwritten since is left alone by the
statement that removes tombstones), so the write needs no second look.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field
from typing import Any

from somactl.store.contract import Compaction
from somactl.store.sqlite import reading
from somactl.store.sqlite.database import transaction
from somactl.store.sqlite.schema import queries

_NO_LIMIT = -1


@dataclass(slots=True)
class Candidates:
    """Row ids to remove, in the order in which they must go: values, entries, tombstones."""

    namespace_id: int
    floor: int
    records_until: float
    values: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    tombstones: list[int] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    events: list[int] = field(default_factory=list)
    bytes_freed: int = 0
    more: bool = False

    @property
    def empty(self) -> bool:
        return not (self.values or self.entries or self.tombstones or self.records or self.events)

    def summary(self) -> Compaction:
        return Compaction(
            revisions=len(self.values),
            tombstones=len(self.tombstones),
            records=len(self.entries) + len(self.records),
            events=len(self.events),
            bytes_freed=self.bytes_freed,
            more=self.more,
        )


def candidates(connection: sqlite3.Connection, namespace: str, limit: int | None) -> Candidates:
    """What the retention no longer keeps, at most `limit` removals; all of it where `limit` is None.

    A stage begins only when the one before it is exhausted: an entry goes after its bytes, a tombstone
    after the entries that it hides.
    """
    with transaction(connection):
        here = reading.existing(connection, namespace)
        retention = here.head.retention
        now = time.time()
        parameters: dict[str, Any] = {
            "id": here.id,
            "namespace": namespace,
            "versions": retention.versions,
            "values_until": now - retention.seconds,
            "records_until": now - retention.record_seconds,
        }
        found = Candidates(here.id, here.floor, parameters["records_until"])
        left = _NO_LIMIT if limit is None else limit
        stages = {
            "prunable_values": found.values,
            "removable_entries": found.entries,
            "expired_tombstones": found.tombstones,
            "expired_records": found.records,
            "expired_events": found.events,
        }
        for statement, ids in stages.items():
            rows = connection.execute(queries()[statement], {**parameters, "limit": left}).fetchall()
            ids += [row["id"] for row in rows]
            if statement == "prunable_values":
                found.bytes_freed = sum(row["size"] for row in rows)
            if statement in ("removable_entries", "expired_tombstones"):
                found.floor = max([found.floor, *(row["gone_since"] for row in rows)])
            if limit is not None:
                left -= len(rows)
                if left <= 0:
                    found.more = True
                    break
    return found


def remove(connection: sqlite3.Connection, found: Candidates) -> Compaction:
    """Remove the candidates, in one transaction."""
    stages = (
        ("prune_value", found.values),
        ("delete_payload", found.values),
        ("delete_entry", found.entries),
        ("delete_tombstone", found.tombstones),
        ("delete_record", found.records),
        ("delete_event", found.events),
    )
    with transaction(connection, write=True):
        for statement, ids in stages:
            connection.executemany(queries()[statement], [{"row": row} for row in ids])
        raised = {
            "id": found.namespace_id,
            "floor": found.floor,
            "records": found.records_until if found.records else 0.0,
        }
        connection.execute(queries()["raise_floor"], raised)
    return found.summary()
