"""What `doctor` can tell of a database file, without changing it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from somactl.errors import SomactlError
from somactl.store.contract import Finding
from somactl.store.sqlite import failures, reading, schema


def diagnose(path: str, namespace: str) -> list[Finding]:
    """Findings about the file at `path` and the namespace in it; opens it read-only."""
    if not os.path.exists(path):
        folder = os.path.dirname(path)
        if os.path.isdir(folder) and os.access(folder, os.W_OK):
            return [_finding("reachable", "ok", f"{path} does not exist yet; the first commit creates it")]
        return [
            _finding(
                "reachable",
                "problem",
                f"{path} does not exist, and {folder} cannot be written",
                "create the folder, or let the job's user write it",
            )
        ]
    try:
        with failures.translated(path), closing(_open(path)) as connection:
            return list(_look(connection, path, namespace))
    except SomactlError as exc:
        return [_finding("reachable", "problem", exc.message, exc.hint or "")]


def _open(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _look(connection: sqlite3.Connection, path: str, namespace: str) -> list[Finding]:
    found = [
        _finding("reachable", "ok", path),
        _finding("version", "ok", f"SQLite {sqlite3.sqlite_version}"),
    ]
    version = schema.found(connection, path, write=True)
    found.append(
        _finding("migrations", "ok", f"schema {version}; this somactl writes {schema.SCHEMA_VERSION}")
    )
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode == "wal":
        found.append(_finding("durability", "ok", "write-ahead log, one fsync per commit"))
    else:
        found.append(_finding("durability", "ok", f"journal mode {mode}; the next commit switches to WAL"))
    writable = os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK)
    found.append(
        _finding("permissions", "ok", "the file and its folder can be written")
        if writable
        else _finding(
            "permissions", "warning", "the file or its folder cannot be written", "only reads will work"
        )
    )
    found.append(_namespace(connection, namespace) if version else _missing(namespace))
    return found


def _namespace(connection: sqlite3.Connection, namespace: str) -> Finding:
    here = reading.place(connection, namespace)
    if here is None:
        return _missing(namespace)
    kept = here.head.retention
    days, record_days = (seconds / 86_400 for seconds in (kept.seconds, kept.record_seconds))
    return _finding(
        "retention", "ok", f"{kept.versions} versions, {days:g} days; records {record_days:g} days"
    )


def _missing(namespace: str) -> Finding:
    return _finding("namespace", "ok", f"{namespace!r} does not exist yet; the first commit creates it")


def _finding(check: str, status: str, detail: str, advice: str = "") -> Finding:
    return Finding(reading.NAME, check, status, detail, advice)  # type: ignore[arg-type]
