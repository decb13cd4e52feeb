"""What `doctor` can tell of a PostgreSQL and a namespace in it, without changing either."""

from __future__ import annotations

import time
from typing import Literal, TypeAlias

from somactl.errors import SomactlError
from somactl.store.address import is_local
from somactl.store.contract import Finding
from somactl.store.postgres import schema
from somactl.store.postgres.connections import Connections
from somactl.store.postgres.records import NAME, Row
from somactl.store.postgres.session import Session

Status: TypeAlias = 'Literal["ok", "warning", "problem", "unknown"]'

_OLDEST = 130_000
_SKEW_SECONDS = 2.0


async def diagnose(connections: Connections, namespace: str) -> list[Finding]:
    """Findings about the server, the database and the namespace. Nothing is raised."""
    try:
        async with connections.lease(bare=True) as session:
            return await _look(session, connections, namespace)
    except SomactlError as exc:
        return [_finding("reachable", "problem", exc.message, exc.hint or "")]


async def _look(session: Session, connections: Connections, namespace: str) -> list[Finding]:
    began = time.time()
    row = await session.row("diagnosis")
    ended = time.time()
    assert row is not None  # it has no FROM
    found = [
        _finding("reachable", "ok", session.place),
        _version(row),
        _tls(connections),
        _encoding(row),
        *_durability(row),
        _replicas(row),
        _clock(row["now"], began, ended),
    ]
    here = session.schema
    if here is None:
        advice = "run `somactl init` with a role that may create a schema"
        return [*found, _finding("migrations", "warning", "the database was never initialised", advice)]
    try:
        schema.admit(here, session.place, write=True)
    except SomactlError as exc:
        return [*found, _finding("migrations", "problem", exc.message, exc.hint or "")]
    return [*found, _migrations(here.version), *await _namespace(session, namespace)]


def _version(row: Row) -> Finding:
    number = row["version"]
    name = f"PostgreSQL {number // 10_000}.{number % 10_000}"
    if number < _OLDEST:
        return _finding("version", "problem", name, "use PostgreSQL 13 or newer")
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
        f"sslmode={target.sslmode}: somebody between could read along, or pose as this server",
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


def _replicas(row: Row) -> Finding:
    if row["in_recovery"]:
        return _finding(
            "replicas",
            "problem",
            "this is a standby: it takes no writes, and may be behind",
            "name the primary in the URL, or add target_session_attrs=primary to it",
        )
    names = row["synchronous_standby_names"]
    waits = f"; commits wait for {names}" if names else ""
    return _finding("replicas", "ok", f"{row['standbys']} attached{waits}")


def _clock(there: float, began: float, ended: float) -> Finding:
    skew = max(began - there, there - ended, 0.0)
    if skew <= _SKEW_SECONDS:
        return _finding("clock", "ok", "the server's clock agrees with this machine's")
    return _finding(
        "clock",
        "warning",
        f"the server's clock is {skew:.1f} s {'behind' if there < began else 'ahead of'} this machine's",
        "synchronise both clocks: generated commit ids, and their expiry, rest on them",
    )


def _migrations(version: int) -> Finding:
    ours = schema.SCHEMA_VERSION
    if version < ours:
        return _finding(
            "migrations",
            "problem",
            f"schema {version}; this somactl writes {ours}",
            "take a backup, then run `somactl init`",
        )
    return _finding("migrations", "ok", f"schema {version}; this somactl writes {ours}")


async def _namespace(session: Session, namespace: str) -> list[Finding]:
    rights = await session.row("rights")
    assert rights is not None  # it has no FROM
    if not (rights["uses"] and rights["reads"]):
        advice = "grant what docs/STORES.md lists"
        return [_finding("permissions", "problem", "the role may not read somactl's tables", advice)]
    found = [
        _finding("permissions", "ok", "the role may read and write somactl's tables")
        if rights["writes"]
        else _finding(
            "permissions",
            "warning",
            "the role may read somactl's tables, and not write them",
            "only reads will work; docs/STORES.md lists the grants",
        )
    ]
    row = await session.row("namespace", namespace)
    if row is None:
        detail = f"namespace {namespace!r} does not exist yet"
        return [*found, _finding("namespace", "warning", detail, "`somactl init` creates it")]
    days, record_days = row["keep_seconds"] / 86_400, row["keep_record_seconds"] / 86_400
    detail = f"{row['keep_versions']} versions, {days:g} days; records {record_days:g} days"
    return [*found, _finding("retention", "ok", detail)]


def _finding(check: str, status: Status, detail: str, advice: str = "") -> Finding:
    return Finding(NAME, check, status, detail, advice)
