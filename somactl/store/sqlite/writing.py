"""What the store writes, one transaction each. Every function runs on the writer's thread."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from somactl.core.names import commit_id_time
from somactl.errors import OutcomeUnknown
from somactl.store import events
from somactl.store.contract import CommitStatus, Durable, Head, Receipt, Retention
from somactl.store.request import (
    KeyState,
    Put,
    Request,
    fresh_incarnation,
    refuse_conflicts,
    refuse_expired,
    resolve_replay,
)
from somactl.store.sqlite import failures, reading
from somactl.store.sqlite.database import transaction
from somactl.store.sqlite.reading import NamespaceHead
from somactl.store.sqlite.schema import queries

_CHUNK_BYTES = 1 << 20


def init(
    connection: sqlite3.Connection, namespace: str, retention: Retention | None, new_incarnation: bool
) -> Head:
    with transaction(connection, write=True):
        if reading.place(connection, namespace) is None and not new_incarnation:
            return create(connection, namespace, retention or Retention()).head
        if new_incarnation:
            reading.existing(connection, namespace)
            row = {"namespace": namespace, "incarnation": fresh_incarnation()}
            connection.execute(queries()["set_incarnation"], row)
        if retention is not None:
            connection.execute(queries()["set_retention"], {"namespace": namespace, **_columns(retention)})
        return reading.existing(connection, namespace).head


def commit(connection: sqlite3.Connection, request: Request) -> Receipt:
    """See `Store.commit_matrix_update`; the request has passed `prepare`."""
    try:
        with transaction(connection, write=True):
            return _commit(connection, request)
    except sqlite3.Error as exc:
        if failures.is_lost_sync(exc):
            raise OutcomeUnknown(
                f"the disk did not confirm commit {request.commit_id} ({exc}): it may not survive a crash",
                commit_id=request.commit_id,
            ) from exc
        raise


def rehearse(connection: sqlite3.Connection, request: Request) -> None:
    """All that a commit does up to its end, where it is undone. Raises what the commit would."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(queries()["rehearse_payload"])
        _commit(connection, request)
    finally:
        connection.execute("ROLLBACK")


def resolve(connection: sqlite3.Connection, namespace: str, commit_id: str) -> CommitStatus:
    with transaction(connection, write=True):
        here = reading.existing(connection, namespace)
        status = reading.status_of(connection, here, commit_id)
        if status.state != "unseen":
            return status
        _record(connection, here, commit_id, version=None, request=None, now=time.time(), detail=None)
        return reading.status_of(connection, here, commit_id)


def _commit(connection: sqlite3.Connection, request: Request) -> Receipt:
    here = reading.place(connection, request.namespace)
    if here is not None:
        replay = _replay(connection, here, request)
        if replay is not None:
            return replay
    now = time.time()
    retention = here.head.retention if here else Retention()
    refuse_expired(request.commit_id, now, retention, here.records_removed_until if here else 0.0)
    rows = _newest_rows(connection, here, [*request.updates, *request.expectations])
    found = {key: _found(row) for key, row in rows.items()}
    incarnation, newest = (here.head.incarnation, here.head.version) if here else (None, None)
    refuse_conflicts(request.expectations, incarnation, found, newest)
    here = here or create(connection, request.namespace, retention)
    return _write(connection, here, request, rows, now)


def _replay(connection: sqlite3.Connection, here: NamespaceHead, request: Request) -> Receipt | None:
    row = reading.recorded(connection, here, request.commit_id)
    if row is None:
        return None
    resolve_replay(request, row["request"])
    receipt = reading.commit_record(here.head, row).receipt
    assert receipt is not None  # `resolve_replay` has refused the aborted ones
    return replace(receipt, replayed=True)


def _newest_rows(
    connection: sqlite3.Connection, here: NamespaceHead | None, keys: Iterable[str]
) -> dict[str, sqlite3.Row]:
    """Key -> its newest revision, tombstone or value, for the keys that have one."""
    if here is None:
        return {}
    rows: dict[str, sqlite3.Row] = {}
    for key in dict.fromkeys(keys):
        row = reading.newest_revision(connection, here, key)
        if row is not None:
            rows[key] = row
    return rows


def _found(row: sqlite3.Row) -> KeyState:
    if row["content"] is None:
        return KeyState(deleted_since=row["version"])
    return KeyState(row["version"], row["content"])


def _write(
    connection: sqlite3.Connection,
    here: NamespaceHead,
    request: Request,
    rows: dict[str, sqlite3.Row],
    now: float,
) -> Receipt:
    version = here.head.version + 1
    grace = request.metadata.grace
    expires_at = None if grace is None else now + grace
    noops = []
    for key, put in request.updates.items():
        old = rows.get(key)
        if put is None and (old is None or old["content"] is None):
            noops.append(key)
            continue
        if old is not None:
            _supersede(connection, old, version, now)
        revision = _revise(connection, here, request.commit_id, version, now, key, put)
        if put is None and expires_at is not None:
            row = {"revision": revision, "id": here.id, "expires_at": expires_at}
            connection.execute(queries()["insert_grace"], row)
    connection.execute(queries()["advance_namespace"], {"id": here.id, "version": version})
    own = {"keys": request.contents, "incarnation": here.head.incarnation, "noops": tuple(noops)}
    _record(
        connection,
        here,
        request.commit_id,
        version=version,
        request=request.identity,
        now=now,
        detail=events.encode(request.metadata, request.summary, **own),
    )
    return Receipt(
        commit_id=request.commit_id,
        namespace=here.head.namespace,
        incarnation=here.head.incarnation,
        version=version,
        keys=request.contents,
        stores=(Durable(reading.NAME, reading.DURABILITY),),
        committed_at=now,
        noops=tuple(noops),
    )


def _supersede(connection: sqlite3.Connection, old: sqlite3.Row, version: int, now: float) -> None:
    connection.execute(queries()["supersede"], {"version": version, "now": now, "revision": old["id"]})
    if old["content"] is None:  # the key comes back, and its older values are under the retention again
        connection.execute(queries()["delete_grace"], {"revision": old["id"]})


def _revise(
    connection: sqlite3.Connection,
    here: NamespaceHead,
    commit_id: str,
    version: int,
    now: float,
    key: str,
    put: Put | None,
) -> int:
    """One row of the history, and the payload where it is a value; returns the row's id."""
    row: dict[str, Any] = {
        "id": here.id,
        "key": key,
        "version": version,
        "commit_id": commit_id,
        "now": now,
        "size": 0,
        **dict.fromkeys(("content", "envelope", "kind", "dtype", "shape", "layout", "verdict")),
    }
    if put is not None:
        header = put.header
        row |= {
            "size": header.total_length,
            "content": header.content,
            "envelope": header.envelope,
            "kind": header.kind,
            "dtype": header.dtype,
            "shape": ",".join(map(str, header.shape)),
            "layout": header.layout,
            "verdict": put.verdict,
        }
    revision = connection.execute(queries()["insert_revision"], row).lastrowid
    assert revision is not None
    if put is not None:
        _fill_payload(connection, revision, memoryview(put.data))
    return revision


def _fill_payload(connection: sqlite3.Connection, revision: int, data: memoryview) -> None:
    connection.execute(queries()["reserve_payload"], {"revision": revision, "size": len(data)})
    with connection.blobopen("payload", "data", revision) as blob:
        for start in range(0, len(data), _CHUNK_BYTES):
            blob.write(data[start : start + _CHUNK_BYTES])


def _record(
    connection: sqlite3.Connection,
    here: NamespaceHead,
    commit_id: str,
    *,
    version: int | None,
    request: str | None,
    now: float,
    detail: str | None,
) -> None:
    row = {
        "id": here.id,
        "commit_id": commit_id,
        "version": version,
        "request": request,
        "now": now,
        "id_time": commit_id_time(commit_id),
        "detail": detail,
    }
    connection.execute(queries()["insert_commit_record"], row)


def create(connection: sqlite3.Connection, namespace: str, retention: Retention) -> NamespaceHead:
    row = {
        "namespace": namespace,
        "incarnation": fresh_incarnation(),
        "now": time.time(),
        **_columns(retention),
    }
    connection.execute(queries()["create_namespace"], row)
    return reading.existing(connection, namespace)


def _columns(retention: Retention) -> dict[str, Any]:
    return {
        "versions": retention.versions,
        "seconds": retention.seconds,
        "record_seconds": retention.record_seconds,
    }
