"""Which table a URL names, whether it is one of the old service's, and what the server says about it."""

from __future__ import annotations

from typing import NamedTuple

import asyncpg

from somactl.errors import AccessDenied, ConfigurationError, NotFound, SomactlError, StoreDamaged
from somactl.legacy.source import postgres_sql as sql
from somactl.store.postgres import failures
from somactl.store.postgres.session import Session

DEFAULT_TABLE = "kv_store"
TYPES = ("jsonb", "json", "text", "character varying")
_KEY_TYPES = ("text", "character varying")
_MISSING = ("42P01", "3F000")
"""SQLSTATEs of a table and of a schema that are not there."""

_OF_A_VALUE = ("22", "54")
"""Classes of SQLSTATEs of what no value can be; the stores know only sound ones."""


class Table(NamedTuple):
    """`name` is quoted, and goes into statements as it is; `type` is that of the values; `byte_order`: the
    index of the keys orders them by their bytes."""

    name: str
    type: str
    byte_order: bool


def quoted(name: str) -> str:
    """`schema.table` as SQL writes it, every character taken as it is."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split(".", 1))


async def find_table(session: Session, name: str, place: str, *, timeout: float) -> Table:
    """Look at the table. Raises NotFound where there is none, AccessDenied where rows are hidden from us, and
    ConfigurationError where it is no table of text keys and JSON values."""
    if "\x00" in name:
        raise ConfigurationError("the name of the table holds a NUL character")
    row = await session.connection.fetchrow(sql.FIND, quoted(name), timeout=timeout)
    if row is None:
        raise _no_table(name, place)
    shown = f"table {name} of {place}"
    if not row["is_table"]:
        raise ConfigurationError(f"{name} of {place} is no table", hint="name the table itself, not a view")
    for column, found, wanted in (("key", row["key_type"], _KEY_TYPES), ("value", row["value_type"], TYPES)):
        if found is None:
            raise ConfigurationError(
                f"{shown} has no column {column}",
                hint="the old service's table is kv_store(key text primary key, value jsonb); see ?table=",
            )
        if found not in wanted:
            raise ConfigurationError(
                f"the column {column} of {shown} is of type {found}", hint=f"it can be {' or '.join(wanted)}"
            )
    if not row["is_unique"]:
        raise ConfigurationError(
            f"nothing in {shown} keeps a key from standing twice",
            hint=f"ALTER TABLE {quoted(name)} ADD PRIMARY KEY (key)",
        )
    if row["filtered"]:
        raise AccessDenied(
            f"row security hides rows of {shown} from this role, so that values would be missed",
            hint="use the role that owns the table, or one with BYPASSRLS",
        )
    return Table(row["name"], row["value_type"], bool(row["byte_order"]))


def translate(exc: Exception, place: str, name: str) -> SomactlError | None:
    """The error for what went wrong on an open connection; None where it can only be a bug of ours."""
    state = failures.sqlstate(exc)
    if state in _MISSING:
        return _no_table(name, place)
    if state == failures.NO_RIGHT:
        return AccessDenied(
            f"{place} refuses a right on the table {name} ({exc.args[0]})",
            hint=f"GRANT SELECT ON {quoted(name)}; INSERT, UPDATE and DELETE too for finalizing",
            sqlstate=state,
        )
    if state.startswith("42") and isinstance(exc, asyncpg.PostgresError):
        return ConfigurationError(f"the table {name} of {place} is not what it was ({exc.args[0]})")
    if state.startswith(_OF_A_VALUE):
        return StoreDamaged(
            f"the table {name} of {place} holds what cannot be read ({exc.args[0]})",
            hint="look for the row with psql, and mend it or take it out",
            sqlstate=state,
        )
    return failures.translate(exc, place)


def _no_table(name: str, place: str) -> NotFound:
    return NotFound(
        f"{place} has no table {name}", hint="name the table of the old service with ?table= in the URL"
    )
