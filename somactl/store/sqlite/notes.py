"""Notes: what operations remember beside the matrices. Every function runs on a worker's thread."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence

from somactl.errors import OutcomeUnknown
from somactl.store.contract import Note, Retention
from somactl.store.notes import refuse_note_conflicts
from somactl.store.sqlite import failures, reading, writing
from somactl.store.sqlite.database import transaction
from somactl.store.sqlite.schema import queries

_PAGE_NOTES = 1000


def read(connection: sqlite3.Connection, namespace: str, names: Sequence[str]) -> dict[str, Note]:
    found: dict[str, Note] = {}
    with transaction(connection):
        here = reading.existing(connection, namespace)
        for name in names:
            row = connection.execute(queries()["note"], {"id": here.id, "name": name}).fetchone()
            if row is not None:
                found[name] = Note(**row)
    return found


def page(
    connection: sqlite3.Connection, namespace: str, prefix: str, after: str | None
) -> tuple[list[Note], str | None]:
    """One page of `scan_notes` (perhaps empty), and the name to go on after; None at the end."""
    with transaction(connection):
        here = reading.existing(connection, namespace)
        parameters = {"id": here.id, "prefix": prefix, "after": after or "", "limit": _PAGE_NOTES}
        rows = connection.execute(queries()["notes_from"], parameters).fetchall()
    listed = [Note(**row) for row in rows if row["name"].startswith(prefix)]
    return listed, listed[-1].name if len(listed) == _PAGE_NOTES else None


def write(
    connection: sqlite3.Connection,
    namespace: str,
    changes: Mapping[str, bytes | None],
    expected: Mapping[str, int],
) -> dict[str, int]:
    """See `Store.write_notes`; the request has passed `check_notes`."""
    try:
        with transaction(connection, write=True):
            return _write(connection, namespace, changes, expected)
    except sqlite3.Error as exc:
        if failures.is_lost_sync(exc):
            raise OutcomeUnknown(
                f"the disk did not confirm the notes ({exc}): they may not survive a crash",
                commit_id="",
                hint="check the disk, then run the command again: it reads the notes first",
            ) from exc
        raise


def _write(
    connection: sqlite3.Connection,
    namespace: str,
    changes: Mapping[str, bytes | None],
    expected: Mapping[str, int],
) -> dict[str, int]:
    here = reading.place(connection, namespace) or writing.create(connection, namespace, Retention())
    found: dict[str, int] = {}
    for name in {**expected, **changes}:
        row = connection.execute(queries()["note_version"], {"id": here.id, "name": name}).fetchone()
        if row is not None:
            found[name] = row["version"]
    refuse_note_conflicts(expected, found)
    now = time.time()
    versions: dict[str, int] = {}
    for name, data in changes.items():
        row = {"id": here.id, "name": name}
        if data is None:
            versions[name] = 0
            connection.execute(queries()["delete_note"], row)
            continue
        versions[name] = found.get(name, 0) + 1
        row |= {"version": versions[name], "size": len(data), "now": now, "data": data}
        connection.execute(queries()["write_note"], row)
    return versions
