"""What `doctor` can tell of a PostgreSQL and a namespace in it, without changing either."""

from __future__ import annotations

import time
from typing import Literal, TypeAlias

from somactl.address import is_local
from somactl.errors import NamespaceNotFound, SchemaMismatch, SomactlError, StoreBusy
from somactl.store import findings, sql
from somactl.store.contract import CommitMetadata, Finding
from somactl.store.postgres import failures, schema
from somactl.store.postgres.connections import Connections, watched
from somactl.store.postgres.records import NAME, Row
from somactl.store.postgres.schema import OLDEST_SERVER, SchemaRow
from somactl.store.postgres.session import BROKEN, Session
from somactl.store.postgres.writing import rehearse
from somactl.store.request import prepare
from somactl.suggestion import Suggestion, run

Status: TypeAlias = 'Literal["ok", "warning", "problem", "unknown"]'


async def diagnose(connections: Connections, namespace: str) -> list[Finding]:
    """Findings about the server, the database and the namespace. Nothing is raised."""
    try:
        async with connections.lease(bare=True) as session:
            return await _inspect(session, connections, namespace)
    except SomactlError as exc:
        check = "reachable"
        if isinstance(exc, SchemaMismatch):
            check = "migrations"
        elif failures.sqlstate(exc) == failures.NO_RIGHT:
            check = "permissions"
        elif failures.STATEMENT_POOLING in exc.message:
            check = "pooling"
        return [_finding(check, "problem", exc.message, exc.hint or "")]


async def _inspect(session: Session, connections: Connections, namespace: str) -> list[Finding]:
    began = time.time()
    row = await session.row("diagnosis")
    ended = time.time()
    assert row is not None  # it has no FROM
    through = "" if session.named else ", through a connection pooler"
    found = [
        _finding("reachable", "ok", f"{session.place}{through}"),
        _version(row),
        _tls(connections),
        _encoding(row),
        *_durability(row),
        *_writable(row),
        findings.clock(NAME, row["now"], began, ended),
    ]
    here = session.schema
    if here is None:
        advice = "set it up with a role that may create a schema"
        never = "the database was never initialised"
        return [*found, _finding("migrations", "problem", never, advice, run("init"))]
    return [
        *found,
        _migrations(here, session.place),
        *await _indexes(session),
        *await _namespace(session, connections, namespace),
    ]


def _version(row: Row) -> Finding:
    number = row["version"]
    name = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number < OLDEST_SERVER * 10_000:
        return _finding("version", "problem", name, f"use PostgreSQL {OLDEST_SERVER} or newer")
    return _finding("version", "ok", name)


def _tls(connections: Connections) -> Finding:
    target = connections.target
    if all(map(is_local, target.hosts)):
        return _finding("tls", "ok", "none is needed on one machine")
    if target.sslmode == "verify-full":
        return _finding("tls", "ok", "encrypted, and the certificate is verified with the host's name")
    return _finding(
        "tls",
        "warning",
        f"sslmode={target.sslmode}: a machine between could read along, or pose as this server",
        "take sslmode out of the URL, or set it to verify-full and name the authority with sslrootcert=FILE",
    )


def _encoding(row: Row) -> Finding:
    if row["encoding"] == "UTF8":
        return _finding("encoding", "ok", "UTF8")
    return _finding(
        "encoding",
        "problem",
        f"the database is {row['encoding']}",
        "create one with ENCODING 'UTF8' for somactl",
    )


def _durability(row: Row) -> list[Finding]:
    lost = "a crash of the server may lose commits that were acknowledged"
    return [
        _finding("synchronous_commit", "ok", row["synchronous_commit"])
        if row["synchronous_commit"] != "off"
        else _finding(
            "synchronous_commit",
            "problem",
            f"off: {lost}, and receipts say `memory`",
            "set synchronous_commit to on, for the role (`ALTER ROLE ... SET`) or the server",
        ),
        _finding("fsync", "ok", "on")
        if row["fsync"] == "on"
        else _finding(
            "fsync",
            "problem",
            f"off: {lost}, or leave the database damaged; receipts say `memory`",
            "set fsync to on in postgresql.conf",
        ),
        _finding("full_page_writes", "ok", "on")
        if row["full_page_writes"] == "on"
        else _finding(
            "full_page_writes",
            "problem",
            "off: a crash of the machine may leave half-written pages",
            "set full_page_writes to on, unless the file system never tears a page",
        ),
    ]


def _writable(row: Row) -> list[Finding]:
    if row["in_recovery"]:
        return [
            _finding(
                "replicas",
                "problem",
                "this is a standby: it takes no writes, and may be behind",
                "name the primary in the URL, or add target_session_attrs=primary to it",
            )
        ]
    names = row["synchronous_standby_names"]
    waits = f"; commits wait for {names}" if names else ""
    found = [_finding("replicas", "ok", f"{row['standbys']} attached{waits}")]
    if row["read_only"] == "on":
        found.append(
            _finding(
                "read_only",
                "problem",
                "transactions are read-only by default: nothing can be committed",
                "reset default_transaction_read_only for the role, the database or the server",
            )
        )
    return found


def _migrations(here: SchemaRow, place: str) -> Finding:
    detail = f"schema {here.version}; this somactl writes {schema.SCHEMA_VERSION}"
    if here.version < schema.SCHEMA_VERSION:
        return _finding("migrations", "problem", detail, "take a backup first", run("init"))
    try:
        schema.admit(here, place, write=True)
    except SchemaMismatch as exc:
        return _finding("migrations", "problem", exc.message, exc.hint or "")
    return _finding("migrations", "ok", detail)


async def _indexes(session: Session) -> list[Finding]:
    rows = await session.rows("broken_indexes")
    if not rows:
        return []
    names = ", ".join(row["name"] for row in rows)
    advice = "run REINDEX SCHEMA somactl as the owner of the tables"
    return [_finding("indexes", "problem", f"cannot be used: {names}", advice)]


async def _namespace(session: Session, connections: Connections, namespace: str) -> list[Finding]:
    rights = await session.row("rights")
    assert rights is not None  # it has no FROM
    lacking = [what for what in ("read", "write", "compact") if not rights[what]]
    if "read" in lacking:
        return [_finding("permissions", "problem", "the role may not read somactl's tables", _GRANT)]
    found = [
        _finding(
            "permissions",
            "problem" if "write" in lacking else "warning",
            f"the role may not {' nor '.join(lacking)}",
            _GRANT,
        )
        if lacking
        else _finding("permissions", "ok", "the role may read, write and compact")
    ]
    if "write" not in lacking:
        found += await _commit(session, connections, namespace)
    if any(finding.check in ("lock", "commit") and finding.status != "ok" for finding in found):
        return found  # what is in the way may keep us from reading as well
    row = await session.row("namespace", namespace)
    if row is None:
        detail = f"namespace {namespace!r} does not exist yet"
        return [*found, _finding("namespace", "problem", detail, _INIT, run("init"))]
    return [*found, findings.retention(NAME, sql.retention(row))]


async def _commit(session: Session, connections: Connections, namespace: str) -> list[Finding]:
    """A commit as it would be made now, undone at its end."""
    request = prepare(namespace, {"somactl doctor": None}, CommitMetadata(), None, "somactl-doctor")
    holders: list[str] = []
    try:
        async with watched(session, connections, holders.append):
            await rehearse(session, request)
    except NamespaceNotFound:
        return []  # said below
    except (*BROKEN, SomactlError) as exc:
        error = exc if isinstance(exc, SomactlError) else failures.translate(exc, session.place)
        if error is None:
            raise
        check = "lock" if isinstance(error, StoreBusy) else "commit"
        by = f"; it is held by {holders[-1]}" if holders else ""
        return [_finding(check, "problem", error.message + by, error.hint or "look at the server's log")]
    return [_finding("commit", "ok", "a commit would be taken")]


_INIT = (
    "it is to be created; if a backup was restored, it is not in there: see Backup and restore in "
    "docs/STORE_POSTGRES.md"
)
_GRANT = "docs/STORE_POSTGRES.md lists the grants under Rights; not needed for what this job never does"


def _finding(check: str, status: Status, detail: str, advice: str = "", *next: Suggestion) -> Finding:
    return Finding(NAME, check, status, detail, advice, next)
