"""What the store writes, one transaction each.

A commit is a single statement where there is nothing to decide, a transaction of several otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from somactl.core.names import commit_id_time
from somactl.core.portions import in_portions
from somactl.errors import OutcomeUnknown, StoreUnavailable
from somactl.store import events, sql
from somactl.store.contract import CommitStatus, Durable, Head, Receipt, Retention
from somactl.store.postgres import failures, reading, records, schema
from somactl.store.postgres.records import NAME, Row
from somactl.store.postgres.session import Session, milliseconds, seconds_for
from somactl.store.reading import no_namespace
from somactl.store.request import (
    KeyState,
    Put,
    Request,
    fresh_incarnation,
    refuse_conflicts,
    refuse_expired,
    resolve_replay,
)

_DIRECT_BYTES = 1 << 20
_DIRECT_KEYS = 4096
_DIRECT_DELETES = 16_384
"""Larger commits take the long way: what they cost more is little beside their payloads, and while an upload
lasts its outcome should not be unknown. A delete uploads no more than its key."""
_BATCH_BYTES = 8 << 20
"""Payloads of a large commit travel in batches of this size, each with time of its own."""


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


async def commit(session: Session, request: Request) -> Receipt:
    """See `Store.commit_matrix_update`; the request has passed `prepare`."""
    if _is_plain(request):
        receipt = await _write_directly(session, request)
        if receipt is not None:
            return receipt
    # A look before anything is sent: a commit that is refused, or is there already, uploads nothing.
    return decide(request, await standing(session, request)) or await _write(session, request)


def _is_plain(request: Request) -> bool:
    """Whether a single statement can carry it and see for itself that it meets what it expects."""
    puts = [put for put in request.updates.values() if put]
    size = sum(len(put.data) for put in puts)
    deletes = len(request.updates) - len(puts)
    plain = all(expect.incarnation is expect.content is None for expect in request.expectations.values())
    guards = request.expectations.keys() - request.updates.keys()
    few = len(puts) <= _DIRECT_KEYS and deletes <= _DIRECT_DELETES
    return size <= _DIRECT_BYTES and few and plain and not guards


async def _write_directly(session: Session, request: Request) -> Receipt | None:
    """None where the server found something to decide, and so wrote nothing.

    The lock of the namespace is never held while a message is on its way, so no client that stops or is cut
    off can hold up others.
    """
    puts = [put for put in request.updates.values() if put]
    data = puts[0].data if len(puts) == 1 else b"".join(put.data for put in puts)
    statement, arguments = _statement(session, request, None)
    await session.learn(statement)
    session.require_open()
    try:
        row = await session.row(statement, *arguments, data, extra=seconds_for(len(data)))
    except Exception as exc:
        if failures.is_answer(exc):
            raise
        raise _unknown(session, request, exc) from exc
    assert row is not None  # the function returns one row
    return None if row["version"] is None else _receipt(request, row)


async def _write(session: Session, request: Request) -> Receipt:
    """Payloads, then the lock, then a look at what it protects, then all the rest.

    Only what happens between the lock and the end keeps other writers of the namespace waiting. Whatever
    fails before COMMIT is sent has left nothing.
    """
    puts = {key: put for key, put in request.updates.items() if put}
    batches = [*map(dict, in_portions(puts.items(), lambda put: len(put[1].data), _BATCH_BYTES))]
    longest = max((_size(batch) for batch in batches), default=0)
    async with session.transaction(extra=seconds_for(longest)):
        payloads: dict[str, str] = {}
        for batch in batches:
            payloads |= await _upload(session, batch)
        await lock(session, request.namespace)
        replay = decide(request, await standing(session, request))
        if replay is not None:
            return replay
        statement, arguments = _statement(session, request, payloads)
        row = await session.row(statement, *arguments, None)
        assert row is not None
        session.require_open()
        try:
            answer = await session.execute("COMMIT")
        except Exception as exc:
            if failures.is_answer(exc):
                raise
            raise _unknown(session, request, exc) from exc
    if answer != "COMMIT":
        raise StoreUnavailable(f"{session.place} undid commit {request.commit_id}", hint="try again")
    return _receipt(request, row)


async def rehearse(session: Session, request: Request) -> None:
    """All that a commit does up to its end, where it is undone. Raises what the commit would."""
    async with session.transaction():
        await session.rows("insert_payload", b"a rehearsal")
        await lock(session, request.namespace)
        decide(request, await standing(session, request))
        statement, arguments = _statement(session, request, {})
        await session.row(statement, *arguments, None)


def _unknown(session: Session, request: Request, exc: Exception) -> OutcomeUnknown:
    """The error for a commit that was sent and never answered."""
    session.connection.terminate()
    return OutcomeUnknown(
        f"commit {request.commit_id} was sent to {session.place}, and no answer came "
        f"({exc or type(exc).__name__}): it may be there or not",
        commit_id=request.commit_id,
    )


def _size(batch: Mapping[str, Put]) -> int:
    return sum(len(put.data) for put in batch.values())


async def _upload(session: Session, batch: Mapping[str, Put]) -> dict[str, str]:
    """Write the payloads; returns key -> row id."""
    extra = seconds_for(_size(batch))
    if len(batch) == 1:  # its bytes are copied once less than those of many
        ((key, put),) = batch.items()
        rows = await session.rows("insert_payload", put.data, extra=extra)
        return {key: str(rows[0]["id"])}
    rows = await session.each("insert_payload", ((put.data,) for put in batch.values()), extra=extra)
    return {key: str(row["id"]) for key, row in zip(batch, rows, strict=True)}


def _statement(
    session: Session, request: Request, payloads: Mapping[str, str] | None
) -> tuple[str, list[object]]:
    """The statement that writes the commit, and what it takes but for the bytes.

    `payloads` are the rows that hold them already; where there are none yet, the function decides too.
    """
    metadata = request.metadata
    head: list[object] = [
        request.namespace,
        request.commit_id,
        commit_id_time(request.commit_id),
        request.identity,
        json.dumps(request.contents, separators=(",", ":")),
        events.encode(metadata, request.summary),
    ]
    way: list[object] = [payloads is not None, str(milliseconds(session.lock_patience))]
    gone = sorted(key for key, put in request.updates.items() if put is None)
    puts = [key for key, put in request.updates.items() if put is not None]
    deletes = [gone, _versions(request, gone)]
    return "commit", [*head, metadata.grace, *way, *deletes, *_arrays(request, puts, payloads)]


def _versions(request: Request, keys: Sequence[str]) -> list[str | None] | None:
    """The versions at which `keys` are expected, as far as they are."""
    if not request.expectations:
        return None
    expected = (request.expectations.get(key) for key in keys)
    return [None if expect is None or expect.version is None else str(expect.version) for expect in expected]


def _arrays(request: Request, keys: list[str], payloads: Mapping[str, str] | None) -> list[object]:
    """The arrays that run alongside `keys`, these first. None of the keys is deleted."""
    puts = [put for key in keys if (put := request.updates[key])]
    headers = [put.header for put in puts]
    return [
        keys,
        _versions(request, keys),
        None if payloads is None else [payloads[key] for key in keys],
        [str(len(put.data)) for put in puts],
        [header.content for header in headers],
        [header.envelope for header in headers],
        [header.kind for header in headers],
        [header.dtype for header in headers],
        [",".join(map(str, header.shape)) for header in headers],
        [header.layout for header in headers],
        [put.verdict for put in puts],
    ]


def _receipt(request: Request, row: Row) -> Receipt:
    keys = request.contents
    return Receipt(
        commit_id=request.commit_id,
        namespace=request.namespace,
        incarnation=row["incarnation"],
        version=row["version"],
        keys=keys,
        stores=(Durable(NAME, row["durability"]),),
        committed_at=row["committed_at"],
        noops=records.in_order(row["noops"], keys),
    )
