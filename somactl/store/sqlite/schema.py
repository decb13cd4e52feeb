"""Which schema a database file has, and bringing it to ours."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from somactl.errors import SchemaMismatch, StoreUnavailable
from somactl.package_data import data_file
from somactl.store import sql
from somactl.store.sqlite import failures

SCHEMA_VERSION = 1
"""The schema this somactl writes. It uses any file whose least reader and least writer admit it."""
LEAST_READER = 1
LEAST_WRITER = 1
PAGE_BYTES = 16_384
"""Measured: large values write twice as fast as with SQLite's 4096, small ones as fast."""
_RETRY_SECONDS = 0.01


@cache
def queries() -> dict[str, str]:
    return sql.load(data_file("sql", "sqlite", "queries.sql"))


def found(connection: sqlite3.Connection, path: str, *, write: bool) -> int:
    """The schema's version, 0 for an empty file.

    Raises SchemaMismatch for a database that is not somactl's, or that needs a newer somactl.
    """
    # One statement tells all three cases apart: between two, another process could create the schema.
    tables = {name for (name,) in connection.execute(queries()["tables"])}
    if not tables:
        return 0
    row = connection.execute(queries()["newest_schema"]).fetchone() if "somactl_schema" in tables else None
    if row is None:
        raise SchemaMismatch(
            f"{path} is a database of something else: it has tables, but not somactl's",
            hint="check the store's path: somactl writes into no database that it did not make",
        )
    version, least_reader, least_writer = row
    needed = least_writer if write else least_reader
    if needed > SCHEMA_VERSION:
        raise SchemaMismatch(
            f"{path} has schema {version}, which takes a somactl of schema {needed} or newer to "
            f"{'write' if write else 'read'}; this one knows schema {SCHEMA_VERSION}",
            hint="use the newer somactl that made or migrated it",
            schema=version,
        )
    return int(version)


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Apply the schema files that are missing, in one transaction; safe to run by two processes at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = found(connection, path, write=True)  # again: another process may have been first
        for number, file in _files():
            if number > version:
                _apply(connection, number, file)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def enter_wal(connection: sqlite3.Connection, path: str, busy_timeout: float) -> None:
    """Switch to write-ahead logging, which a file new or made by `VACUUM INTO` does not have yet."""
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of no effect on a file that has pages
    deadline = time.monotonic() + busy_timeout
    while True:  # SQLite does not wait for a lock here, so we have to
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as exc:
            if failures.primary(exc) != failures.BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
    if mode != "wal":
        raise StoreUnavailable(
            f"the file system of {path} does not support SQLite's write-ahead log",
            hint="put the database on a local disk; for many machines use a server store",
        )


def _files() -> list[tuple[int, Path]]:
    folder = data_file("sql", "sqlite")
    return sorted((int(file.name[:4]), file) for file in folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))


def _apply(connection: sqlite3.Connection, number: int, file: Path) -> None:
    for statement in _statements(file):
        connection.execute(statement)
    parameters = {
        "version": number,
        "least_reader": LEAST_READER,
        "least_writer": LEAST_WRITER,
        "now": time.time(),
    }
    connection.execute(queries()["record_schema"], parameters)


def _statements(file: Path) -> Iterator[str]:
    """A file's statements one by one: `executescript` would commit the transaction we are in."""
    statement = ""
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
