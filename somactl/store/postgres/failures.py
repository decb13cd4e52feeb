"""PostgreSQL's and asyncpg's errors as somactl's, translated once, here."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import NamedTuple

import asyncpg
from asyncpg.pgproto.pgproto import BufferError

from somactl.errors import (
    AccessDenied,
    ConfigurationError,
    NotPrimary,
    SchemaMismatch,
    SomactlError,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreLoading,
    StoreTimeout,
    StoreUnavailable,
    TlsFailure,
)

CONTENDED = ("40001", "40P01")
"""Another transaction was in the way, and this one has been undone: it may be tried again at once."""
FORGOTTEN = ("26000", "42P05")
"""The server does not know a statement that we have named, or knows it already: a connection pooler stands
between, though it did not look so. Named statements are given up, and what was asked is asked again."""
NO_RIGHT = "42501"
STATEMENT_POOLING = "statement pooling"
"""In what PgBouncer says where its pool_mode is `statement`; the code is that of many other things."""
_OF_A_STATEMENT = ("0A", "20", "21", "22", "24", "2F", "34", "39", "44")
"""Classes of errors that only a wrong statement of ours brings about."""
_CHARACTERS = 500
"""Of the text of an error; the rest is dropped, however much a server sends."""
DAMAGED = ("XX000", "XX001", "XX002")


class Meaning(NamedTuple):
    """What an SQLSTATE means: the error, what its message says before the server's own words, the hint."""

    error: type[SomactlError]
    says: str
    hint: str


_DENIED = "check user, password (PGPASSWORD, ~/.pgpass) and the server's pg_hba.conf"
_GONE = "try again; if it stays so, look at the server's log"
_RESTORE = "stop writers, look at the server's log, run pg_amcheck, and restore a backup if it finds damage"
_FOREIGN = "set it up (`init`) with a role that owns the tables, or use the somactl that migrated them"

MEANINGS: Mapping[str, Meaning] = {
    "08": Meaning(StoreUnavailable, "broke the connection", _GONE),
    "22021": Meaning(SchemaMismatch, "cannot store this text", "somactl needs a database of encoding UTF8"),
    "22P05": Meaning(SchemaMismatch, "cannot store this text", "somactl needs a database of encoding UTF8"),
    # We ask for nothing that a sound database would refuse.
    "23": Meaning(StoreDamaged, "contradicts itself", _RESTORE),
    "25006": Meaning(
        NotPrimary, "takes no writes", "name the primary, or several hosts and ?target_session_attrs=primary"
    ),
    "25P03": Meaning(StoreUnavailable, "gave up waiting for this client", _GONE),
    "26000": Meaning(StoreUnavailable, "forgot a statement", _GONE),
    "28": Meaning(AccessDenied, "lets us not in", _DENIED),
    "3D000": Meaning(AccessDenied, "has no such database", "check the URL, or create it with createdb"),
    "3F000": Meaning(SchemaMismatch, "lacks what somactl made", _FOREIGN),
    "40": Meaning(StoreBusy, "undid the transaction for another's", "try again"),
    "42P05": Meaning(StoreUnavailable, "has a statement of that name", _GONE),
    NO_RIGHT: Meaning(
        AccessDenied, "refuses a right", "grant what docs/STORE_POSTGRES.md lists under Rights to this role"
    ),
    "42": Meaning(SchemaMismatch, "does not have the tables that somactl knows", _FOREIGN),
    "53100": Meaning(StoreFull, "has no disk space left", "free disk space; compacting removes history"),
    "53200": Meaning(StoreFull, "is out of memory", "give the server more memory, or commit less at once"),
    "53": Meaning(
        StoreUnavailable, "takes no more connections", "raise max_connections, or put PgBouncer before it"
    ),
    "55P03": Meaning(StoreBusy, "made us wait too long for a lock", "another writer holds it; try again"),
    "57014": Meaning(StoreTimeout, "cancelled the statement", "raise statement_timeout, or ask for less"),
    "57P03": Meaning(StoreLoading, "is starting or stopping", "wait until it has started"),
    "57P": Meaning(StoreUnavailable, "closed the connection", _GONE),
    "58030": Meaning(StoreUnavailable, "cannot use its files", "look at the server's log and its disk"),
    "58": Meaning(StoreDamaged, "misses a file", _RESTORE),
    # No statement or function of ours raises it.
    "P0": Meaning(
        SchemaMismatch,
        "refuses it by code that is not somactl's",
        "find the trigger on somactl's tables and remove it",
    ),
    "XX": Meaning(StoreDamaged, "is damaged", _RESTORE),
}
"""SQLSTATE, or its first two or three characters -> what it means; the longest that fits counts."""


def sqlstate(exc: BaseException) -> str:
    """The SQLSTATE behind an error, ours or the driver's; empty where the server gave none."""
    if isinstance(exc, SomactlError):
        return str(exc.facts.get("sqlstate", ""))
    return str(getattr(exc, "sqlstate", None) or "") if isinstance(exc, asyncpg.PostgresError) else ""


def is_answer(exc: BaseException) -> bool:
    """Whether the server itself said that a statement failed and goes on serving us: what the statement was
    to write is not there. After anything else the outcome is unknown."""
    fatal = getattr(exc, "severity_en", None) in ("FATAL", "PANIC")
    return isinstance(exc, asyncpg.PostgresError) and not fatal and not sqlstate(exc).startswith("08")


def translate(exc: Exception, place: str) -> SomactlError | None:
    """The error for what went wrong on an open connection; None where it can only be a bug of ours."""
    if isinstance(exc, asyncpg.PostgresError):
        return _by_state(exc, place)
    if isinstance(exc, TimeoutError):
        return StoreTimeout(f"{place} did not answer in time", hint="try again; look at the server's load")
    if isinstance(exc, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError | BufferError):
        return StoreUnavailable(f"the connection to {place} is lost: {str(exc)[:_CHARACTERS]}", hint=_GONE)
    return None


def translate_connect(exc: Exception, place: str) -> SomactlError | None:
    """The error for what went wrong on the way to the server."""
    if isinstance(exc, asyncpg.TargetServerAttributeNotMatched):
        return NotPrimary(
            f"no server of {place} is what target_session_attrs asks for",
            hint="wait for the failover, or check the hosts in the URL",
        )
    if isinstance(exc, ssl.SSLError) or (isinstance(exc, ConnectionError) and "SSL" in str(exc)):
        return TlsFailure(f"no encrypted connection to {place} that can be trusted: {exc}", hint=_TLS)
    if isinstance(exc, asyncpg.ClientConfigurationError) and "certificate" in str(exc):
        return TlsFailure(f"the certificate of {place} cannot be verified: {exc}", hint=_TLS)
    if isinstance(
        exc, asyncpg.ClientConfigurationError | ValueError | KeyError
    ):  # its text may quote a value
        return ConfigurationError(
            f"what the environment adds to {place} cannot be used",
            hint="check the variables that begin with PG, such as PGUSER and PGSSLROOTCERT",
        )
    if isinstance(exc, asyncpg.InterfaceError):
        return ConfigurationError(f"the URL {place} cannot be used: {exc}", hint="check its parameters")
    if isinstance(exc, TimeoutError):
        return StoreUnavailable(f"{place} did not let us in in time", hint=_UNREACHED)
    if isinstance(exc, asyncpg.ProtocolViolationError) and _POOLER_DENIES.search(str(exc)):
        return AccessDenied(f"{place} lets us not in ({exc.args[0]})", hint=_DENIED)
    if isinstance(exc, asyncpg.PostgresError):
        return _by_state(exc, place)
    if isinstance(exc, OSError):
        return StoreUnavailable(f"{place} cannot be reached: {exc.strerror or exc}", hint=_UNREACHED)
    # Only asyncpg was at work, on what a server sent.
    why = f"{type(exc).__name__}: {exc}"[:_CHARACTERS]
    return StoreUnavailable(f"{place} does not answer as PostgreSQL does ({why})", hint=_UNREACHED)


_TLS = (
    "name the authority that signed the server's certificate: ?sslrootcert=FILE (or `system`). On a network "
    "that you trust, ?sslmode=require encrypts without asking who answers, and ?sslmode=disable does neither"
)
_POOLER_DENIES = re.compile("authentication failed|does not exist|no such (user|database)|not allowed")
"""PgBouncer has one code for all that it refuses, so its words must tell."""
_UNREACHED = "check host and port, and that the server runs and listens there"


def unreadable(parameter: str, exc: OSError, place: str) -> ConfigurationError:
    """A file of passwords, certificates or keys that the URL names cannot be read."""
    kind = AccessDenied if parameter == "passfile" else TlsFailure
    return kind(
        f"{parameter} of {place} cannot be read: {exc.strerror}: {exc.filename}",
        hint="check the path and its permissions",
    )


def _by_state(exc: asyncpg.PostgresError, place: str) -> SomactlError | None:
    state = sqlstate(exc)
    if STATEMENT_POOLING in str(exc):
        return ConfigurationError(
            f"{place} is a PgBouncer in statement mode, which knows no transactions ({exc.args[0]})",
            hint="set pool_mode = transaction for this database in pgbouncer.ini",
            sqlstate=state,
        )
    for length in (5, 3, 2):
        meaning = MEANINGS.get(state[:length])
        if meaning is not None:
            said = str(exc.args[0] if exc.args else "")[:_CHARACTERS]  # without the lines of DETAIL and HINT
            return meaning.error(f"{place} {meaning.says} ({said})", hint=meaning.hint, sqlstate=state)
    if state[:2] in _OF_A_STATEMENT:
        return None
    return StoreUnavailable(
        f"{place} answered an error of the unknown SQLSTATE {state[:5]!r} ({str(exc)[:_CHARACTERS]})",
        hint="look at the server's log, and at what stands between",
    )
