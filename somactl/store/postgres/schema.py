"""Which schema a database has, and bringing it to ours."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from somactl.errors import ConfigurationError, SchemaMismatch
from somactl.package_data import data_file
from somactl.store import sql
from somactl.suggestion import run

if TYPE_CHECKING:
    from somactl.store.postgres.session import Session

SCHEMA_VERSION = 1
"""The schema this somactl writes. It uses any database whose least reader and least writer admit it."""

_LEAST = re.compile(r"^-- least_(reader|writer): (\d+)$", re.MULTILINE)
STAGES = (
    *("ungraced_values", "prunable_values"),
    *("ungraced_entries", "removable_entries"),
    *("ungraced_tombstones", "expired_tombstones"),
    "expired_records",
)
"""The statements that find what `compact` removes, in its order; a `count_` of each counts the same rows."""
_EVENTS = {
    "expired_records": ", count(found.version) AS events, count(*) FILTER (WHERE found.dropped) AS dropped "
}
"""What is counted besides."""
UNGRACED = tuple(stage for stage in STAGES if stage.startswith("ungraced"))
"""Those that look at the keys alone whose own deadline is over."""
OLDEST_SERVER = 12
"""The first PostgreSQL that lets a function ask for plans of a kind."""
LOCK: Final = int.from_bytes(b"somactl", "big")
"""The advisory lock under which a database is migrated."""
_PATIENCE_SECONDS = 3600.0
"""A migration takes as long as it takes, and another machine's is waited for."""


class Migration(NamedTuple):
    """One file of `sql/postgres`, and the oldest schema a somactl may know to use the result of it."""

    number: int
    sql: str
    least_reader: int
    least_writer: int


class SchemaRow(NamedTuple):
    """The newest row of `somactl_schema`."""

    version: int
    least_reader: int
    least_writer: int


@cache
def queries() -> dict[str, str]:
    """Name -> statement."""
    statements = sql.load(data_file("sql", "postgres", "queries.sql"))
    for stage in STAGES:
        statements[f"count_{stage}"] = (
            "SELECT count(*) AS number, coalesce(sum(found.size), 0)::bigint AS size "
            f"{_EVENTS.get(stage, '')}FROM (\n{statements[stage]}\n) AS found"
        )
    return statements


def migrations() -> list[Migration]:
    """All files in their order; raises ValueError for one that does not say whom it admits."""
    found = []
    for file in sorted(data_file("sql", "postgres").glob("[0-9][0-9][0-9][0-9]_*.sql")):
        sql = file.read_text(encoding="utf-8")
        least = {who: int(number) for who, number in _LEAST.findall(sql)}
        if set(least) != {"reader", "writer"}:
            raise ValueError(f"{file.name} does not say which somactl may read and write its schema")
        found.append(Migration(int(file.name[:4]), sql, least["reader"], least["writer"]))
    return found


class Look(NamedTuple):
    """`schema` is None where there is none; `backend` is the process that answered, `now` its time."""

    schema: SchemaRow | None
    backend: int
    now: float


async def inspect(connection: asyncpg.Connection[asyncpg.Record], place: str, timeout: float) -> Look:
    """What the database has; raises SchemaMismatch where it is another program's."""
    there = await connection.fetchrow(queries()["has_schema"], timeout=timeout)
    assert there is not None
    is_named, is_ours, backend, now = there
    if not is_named:
        return Look(None, backend, now)
    row = await connection.fetchrow(queries()["newest_schema"], timeout=timeout) if is_ours else None
    if row is None:
        raise _foreign(place)
    return Look(SchemaRow(*row), backend, now)


def _foreign(place: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"{place} has a schema `somactl` that somactl did not make",
        hint="rename that schema, or give somactl a database of its own",
    )


def admit(found: SchemaRow, place: str, *, write: bool = False) -> None:
    """Raises SchemaMismatch where the schema takes a newer somactl to read (or to write)."""
    needed = found.least_writer if write else found.least_reader
    if needed > SCHEMA_VERSION:
        raise SchemaMismatch(
            f"{place} has schema {found.version}, which takes a somactl of schema {needed} or newer to "
            f"{'write' if write else 'read'}; this one knows schema {SCHEMA_VERSION}",
            hint="use the newer somactl that migrated it",
            schema=found.version,
        )


async def migrate(session: Session) -> None:
    """Apply the files that are missing, each in a transaction of its own; safe to run by many at once.

    Where nothing is missing, no right to change a schema is needed. Raises SchemaMismatch, and
    ConfigurationError for a server too old or a database of another encoding.
    """
    found = (await inspect(session.connection, session.place, session.timeout)).schema
    if found is not None:
        admit(found, session.place, write=True)
    have = 0 if found is None else found.version
    missing = [migration for migration in migrations() if migration.number > have]
    if missing:
        await _suits(session)
    for migration in missing:
        await _apply(session, migration)


async def _suits(session: Session) -> None:
    server = await session.row("server")
    assert server is not None
    if server["version"] < OLDEST_SERVER * 10_000:
        raise ConfigurationError(
            f"{session.place} is PostgreSQL {server['version'] // 10_000}; somactl needs {OLDEST_SERVER} "
            "or newer",
            hint="upgrade the server",
        )
    if server["encoding"] != "UTF8":
        raise ConfigurationError(
            f"{session.place} has the encoding {server['encoding']}, which cannot hold every key",
            hint="create the database with ENCODING 'UTF8' TEMPLATE template0",
        )


async def _apply(session: Session, migration: Migration) -> None:
    async with session.transaction(extra=_PATIENCE_SECONDS, lock=_PATIENCE_SECONDS):
        await session.row("lock_schema", LOCK, extra=_PATIENCE_SECONDS)
        # Only now: another machine may have been first, and may even be of a newer release.
        found = (await inspect(session.connection, session.place, session.timeout)).schema
        if found is not None:
            admit(found, session.place, write=True)
            if found.version >= migration.number:
                return
        await session.execute(migration.sql, extra=_PATIENCE_SECONDS)
        await session.row("record_schema", migration.number, migration.least_reader, migration.least_writer)
        if await session.execute("COMMIT") != "COMMIT":
            raise SchemaMismatch(
                f"{session.place} did not keep migration {migration.number}", next=run("init")
            )
