"""Bringing a database to the schema that this somactl writes."""

from __future__ import annotations

from typing import Final

from somactl.errors import ConfigurationError, SchemaMismatch
from somactl.store.postgres import schema
from somactl.store.postgres.schema import Migration
from somactl.store.postgres.session import Session
from somactl.suggestion import run

OLDEST_SERVER = 12
"""The first PostgreSQL that lets a function ask for plans of a kind."""
LOCK: Final = int.from_bytes(b"somactl", "big")
"""The advisory lock under which a database is migrated."""
_PATIENCE_SECONDS = 3600.0
"""A migration takes as long as it takes, and another machine's is waited for."""


async def migrate(session: Session) -> None:
    """Apply the files that are missing, each in a transaction of its own; safe to run by many at once.

    Where nothing is missing, no right to change a schema is needed. Raises SchemaMismatch, and
    ConfigurationError for a server too old or a database of another encoding.
    """
    found, _ = await schema.inspect(session.connection, session.place, session.timeout)
    if found is not None:
        schema.admit(found, session.place, write=True)
    have = 0 if found is None else found.version
    missing = [migration for migration in schema.migrations() if migration.number > have]
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
        found, _ = await schema.inspect(session.connection, session.place, session.timeout)
        if found is not None:
            schema.admit(found, session.place, write=True)
            if found.version >= migration.number:
                return
        await session.execute(migration.sql, extra=_PATIENCE_SECONDS)
        await session.row("record_schema", migration.number, migration.least_reader, migration.least_writer)
        if await session.execute("COMMIT") != "COMMIT":
            raise SchemaMismatch(
                f"{session.place} did not keep migration {migration.number}", next=run("init")
            )
