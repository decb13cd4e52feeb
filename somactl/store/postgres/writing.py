"""What the store writes, one transaction each."""

from __future__ import annotations

from msgspec.structs import replace

from somactl.core.names import commit_id_time
from somactl.store import sql
from somactl.store.contract import CommitStatus, Head, Receipt, Retention
from somactl.store.postgres import reading, records, schema
from somactl.store.postgres.records import Row
from somactl.store.postgres.session import Session, milliseconds
from somactl.store.reading import no_namespace
from somactl.store.request import (
    KeyState,
    Request,
    fresh_incarnation,
    refuse_conflicts,
    refuse_expired,
    resolve_replay,
)


async def lock(session: Session, namespace: str) -> None:
    """Lock the namespace until the transaction ends; raises NamespaceNotFound.

    From now on a client that stops, a suspended laptop say, loses its transaction before others lose their
    patience with it.
    """
    silence = str(milliseconds(session.lock_patience / 2))
    if await session.row("lock_namespace", namespace, silence) is None:
        raise no_namespace(namespace)


async def init(session: Session, namespace: str, retention: Retention | None, new_incarnation: bool) -> Head:
    if new_incarnation and session.schema is None:
        raise no_namespace(namespace)
    await schema.migrate(session)
    row = await session.row("namespace", namespace)
    if row is None and new_incarnation:
        raise no_namespace(namespace)
    if row is not None and retention is None and not new_incarnation:
        return sql.head(row)
    async with session.transaction():
        columns = _columns(retention or Retention())
        created = await session.row("create_namespace", namespace, fresh_incarnation(), *columns)
        if created is None and new_incarnation:
            await session.row("set_incarnation", namespace, fresh_incarnation())
        if created is None and retention is not None:
            await session.row("set_retention", namespace, *columns)
        head = await reading.head(session, namespace)
        await session.execute("COMMIT")
    return head


async def resolve(session: Session, namespace: str, commit_id: str) -> CommitStatus:
    async with session.transaction():
        await lock(session, namespace)
        status = await reading.commit_status(session, namespace, commit_id)
        if status.state == "unseen":
            await session.row("insert_aborted", namespace, commit_id, commit_id_time(commit_id))
            status = await reading.commit_status(session, namespace, commit_id)
            await session.execute("COMMIT")
    return status


async def standing(session: Session, request: Request) -> Row:
    """All that the request is decided by; raises NamespaceNotFound."""
    here: Row | None = await session.row(
        "standing", request.namespace, request.commit_id, list(request.expectations)
    )
    if here is None:
        raise no_namespace(request.namespace)
    return here


def decide(request: Request, here: Row) -> Receipt | None:
    """The first receipt where the request is a replay; None where it may be written.

    Raises CommitAborted, CommitIdReused, CommitExpired, VersionConflict.
    """
    if here["commit_id"] is not None:
        resolve_replay(request, here["request"])
        receipt = records.commit_record(here).receipt
        assert receipt is not None  # `resolve_replay` has refused the aborted ones
        return replace(receipt, replayed=True)
    retention = sql.retention(here)
    refuse_expired(request.commit_id, here["now"], retention, here["records_removed_until"])
    refuse_conflicts(request.expectations, here["head_incarnation"], _found(here))
    return None


def _found(here: Row) -> dict[str, KeyState]:
    columns = (here[column] or () for column in ("found_keys", "found_versions", "found_contents"))
    return {
        key: KeyState(deleted_since=int(version)) if content is None else KeyState(int(version), content)
        for key, version, content in zip(*columns, strict=True)
    }


def _columns(retention: Retention) -> tuple[int, float, float]:
    return retention.versions, retention.seconds, retention.record_seconds
