"""Enforcing the retention: candidates are looked for in a read transaction, removed in a short write.

Between the two another process may commit or compact. Nothing that was removable becomes precious by that
(a superseded value stays superseded, and a tombstone that has been overwritten since is left alone by the
statement that removes tombstones), so the write needs no second look. But a row's id may be another row's by
then, so each is removed by its version as well.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from somactl.store.contract import Compaction
from somactl.store.sqlite import reading
from somactl.store.sqlite.database import transaction
from somactl.store.sqlite.reading import NamespaceHead
from somactl.store.sqlite.schema import queries

_NO_LIMIT = -1
_Rows: TypeAlias = "list[tuple[int, int | None]]"
"""Row ids, each with the version that the row was written in, if it was."""


@dataclass(slots=True)
class Candidates:
    """Rows to remove, in the order in which they must go: values, entries, tombstones, records."""

    namespace: str
    namespace_id: int
    floor: int
    records_until: float
    values: _Rows = field(default_factory=list)
    entries: _Rows = field(default_factory=list)
    tombstones: _Rows = field(default_factory=list)
    records: _Rows = field(default_factory=list)
    dropped: int = 0
    bytes_freed: int = 0
    more: bool = False

    @property
    def empty(self) -> bool:
        return not (self.values or self.entries or self.tombstones or self.records)

    def spare_events(self, here: NamespaceHead) -> None:
        """Leave out what waits to be published, and count what is dropped unpublished."""
        until = here.removable_until
        self.records = [each for each in self.records if each[1] is None or each[1] <= until]
        if here.keep_events is not None:
            self.dropped = sum((version or 0) > (here.published or 0) for _, version in self.records)

    def summary(self) -> Compaction:
        return Compaction(
            revisions=len(self.values),
            tombstones=len(self.tombstones),
            records=len(self.entries) + len(self.records),
            events=sum(version is not None for _, version in self.records),
            dropped=self.dropped,
            bytes_freed=self.bytes_freed,
            more=self.more,
        )


def candidates(
    connection: sqlite3.Connection, namespace: str, limit: int | None, past_grace: bool = False
) -> Candidates:
    """What is no longer kept, at most `limit` removals; all of it where `limit` is None.

    A stage begins only when the one before it is exhausted: an entry goes after its bytes, a tombstone
    after the entries that it hides. Of the keys past their grace no more are looked at than may be removed,
    those that are due longest: they are finished with before others are begun, for else each call would
    walk over all that earlier ones had left half done. As each has a tombstone at least, a call that comes
    to the end of `keys` of them has come to its limit.
    """
    with transaction(connection):
        here = reading.existing(connection, namespace)
        retention = here.head.retention
        now = time.time()
        parameters: dict[str, Any] = {
            "id": here.id,
            "now": now,
            "versions": retention.versions,
            "values_until": now - retention.seconds,
            "records_until": now - retention.record_seconds,
            "removable_until": here.removable_until,
            "keys": _NO_LIMIT if limit is None else limit,
        }
        found = Candidates(namespace, here.id, here.floor, parameters["records_until"])
        left = _NO_LIMIT if limit is None else limit
        for statement, rows in _stages(found, past_grace):
            new = connection.execute(queries()[statement], {**parameters, "limit": left}).fetchall()
            rows += [(row["id"], row["version"]) for row in new]
            if rows is found.values:
                found.bytes_freed += sum(row["size"] for row in new)
            if rows is found.entries or rows is found.tombstones:
                found.floor = max([found.floor, *(row["gone_since"] for row in new)])
            if limit is not None:
                left -= len(new)
                if left <= 0:
                    found.more = True
                    break
        found.spare_events(here)
    return found


def _stages(found: Candidates, past_grace: bool) -> list[tuple[str, _Rows]]:
    """Which statement finds what, in the order of removal."""
    stages = [
        ("values_past_grace", found.values),
        ("entries_past_grace", found.entries),
        ("tombstones_past_grace", found.tombstones),
    ]
    if not past_grace:
        stages += [
            ("prunable_values", found.values),
            ("removable_entries", found.entries),
            ("expired_tombstones", found.tombstones),
            ("expired_records", found.records),
        ]
    return stages


def remove(connection: sqlite3.Connection, found: Candidates) -> Compaction:
    """Remove the candidates, in one transaction."""
    shared = {"id": found.namespace_id, "records_until": found.records_until}
    with transaction(connection, write=True):
        found.spare_events(reading.existing(connection, found.namespace))
        stages = (
            ("prune_value", found.values),
            ("delete_payload", found.values),
            ("delete_entry", found.entries),
            ("delete_tombstone", found.tombstones),
            ("delete_record", found.records),
        )
        for statement, rows in stages:
            parameters = ({**shared, "row": row, "version": version} for row, version in rows)
            connection.executemany(queries()[statement], parameters)
        raised = {
            "id": found.namespace_id,
            "floor": found.floor,
            "records": found.records_until if found.records else 0.0,
            "dropped": found.dropped,
        }
        connection.execute(queries()["raise_floor"], raised)
    return found.summary()
