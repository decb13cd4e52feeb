"""What `doctor` can tell of a database file, without changing what is in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from somactl.errors import SomactlError, StoreBusy, StoreDamaged, StoreFull
from somactl.store import findings
from somactl.store.contract import CommitMetadata, Finding
from somactl.store.request import prepare
from somactl.store.sqlite import database, failures, reading, schema, writing
from somactl.suggestion import Suggestion, run


def diagnose(path: str, namespace: str, busy_timeout: float) -> list[Finding]:
    """Findings about the file at `path` and the namespace in it."""
    if not os.path.exists(path):
        folder = os.path.dirname(path)
        if os.path.isdir(folder) and os.access(folder, os.W_OK):
            missing = f"{path} does not exist yet; the first commit creates it"
            return [_finding("reachable", "ok", missing), _space(path)]
        return [
            _finding(
                "reachable",
                "problem",
                f"{path} does not exist, and {folder} cannot be written",
                "create the folder, or let the job's user write it",
            )
        ]
    found: list[Finding] = []
    try:
        with failures.translated(path), closing(database.open_for_reading(path)[0]) as connection:
            found.extend(
                _inspect(connection, path, namespace, busy_timeout)
            )  # up to an error, if there is one
    except SomactlError as exc:
        kinds = {StoreDamaged: "integrity", StoreFull: "space", StoreBusy: "lock"}
        check = next((check for kind, check in kinds.items() if isinstance(exc, kind)), "reachable")
        found.append(_finding(check, "problem", exc.message, exc.hint or "see the runbook store-unavailable"))
    return found


def _open(path: str, mode: str, busy_timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{Path(path).as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=busy_timeout
    )
    connection.row_factory = sqlite3.Row
    return connection


def _inspect(
    connection: sqlite3.Connection, path: str, namespace: str, busy_timeout: float
) -> Iterator[Finding]:
    yield _finding("reachable", "ok", path)
    yield _finding("version", "ok", f"SQLite {sqlite3.sqlite_version}")
    version = schema.found(connection, path, write=True)
    yield _finding("migrations", "ok", f"schema {version}; this somactl writes {schema.SCHEMA_VERSION}")
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode == "wal":
        yield _finding("durability", "ok", "write-ahead log, one fsync per commit")
    else:
        yield _finding("durability", "ok", f"journal mode {mode}; the next commit switches to WAL")
    yield _integrity(connection)
    writable = _permissions(path)
    yield writable
    yield _space(path)
    yield _namespace(connection, namespace) if version else _missing(namespace)
    if writable.status == "ok" and version:
        yield _commit(path, namespace, busy_timeout)


def _permissions(path: str) -> Finding:
    if os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK):
        return _finding("permissions", "ok", "the file and its folder can be written")
    return _finding(
        "permissions",
        "problem",
        "the file or its folder cannot be written, so nothing can be committed; it can be read and audited",
        "let the job's user write both, or mount the disk for writing; for reading alone this is in order",
    )


def _space(path: str) -> Finding:
    folder = os.path.dirname(path)
    space = os.statvfs(folder)
    free = space.f_bavail * space.f_frsize
    if failures.is_full(path) or (space.f_files and not space.f_favail):
        return _finding(
            "space",
            "problem",
            f"{free >> 10} KiB and {space.f_favail} files are free on the disk of {folder}, or this process "
            "has reached its limit of size",
            "free disk space; then compacting makes room inside the file",
            run("compact", dry_run=True),
        )
    return _finding("space", "ok", f"{free >> 20} MiB are free on the disk")


def _integrity(connection: sqlite3.Connection) -> Finding:
    """Every table with its indexes but the payloads, which are large, and proven by `somactl verify-psd`."""
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name != 'payload'")
    wrong: list[str] = []
    for (table,) in tables.fetchall():
        rows = connection.execute(f"PRAGMA integrity_check('{table}')").fetchall()
        wrong += [row[0] for row in rows if row[0] != "ok"]
    if not wrong:
        return _finding("integrity", "ok", "tables and indexes agree")
    return _finding(
        "integrity",
        "problem",
        f"the file is damaged: {wrong[0]}" + (f", and {len(wrong) - 1} more" if wrong[1:] else ""),
        "stop writers, copy the file and its -wal aside, and see the runbook store-damaged",
    )


def _commit(path: str, namespace: str, busy_timeout: float) -> Finding:
    """A commit as it would be made now, and taken back before anything of it is written."""
    request = prepare(namespace, {"somactl doctor": None}, CommitMetadata(), None, "somactl-doctor")
    try:
        with failures.translated(path), closing(_open(path, "rw", busy_timeout)) as connection:
            writing.rehearse(connection, request)
    except SomactlError as exc:
        check = "lock" if isinstance(exc, StoreBusy) else "commit"
        return _finding(check, "problem", exc.message, exc.hint or "")
    return _finding("commit", "ok", "a commit would be taken")


def _namespace(connection: sqlite3.Connection, namespace: str) -> Finding:
    here = reading.place(connection, namespace)
    if here is None:
        return _missing(namespace)
    return findings.retention(reading.NAME, here.head.retention)


def _missing(namespace: str) -> Finding:
    return _finding("namespace", "ok", f"{namespace!r} does not exist yet; the first commit creates it")


def _finding(check: str, status: str, detail: str, advice: str = "", *next: Suggestion) -> Finding:
    return Finding(reading.NAME, check, status, detail, advice, next)  # type: ignore[arg-type]
