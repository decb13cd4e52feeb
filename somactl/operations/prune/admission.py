"""Whether an order may be carried out here and now, as the namespace's notes and the store's clock say."""

from __future__ import annotations

import math

from somactl.core.order import Order
from somactl.core.retention import classify_message
from somactl.errors import CommitAborted, CommitIdReused, OrderRefused, UsageError
from somactl.operations.bounded import batched, each_of
from somactl.operations.prune.record import OrderRecord, Remembered, commit_ids, remembered
from somactl.operations.prune.request import PruneRequest
from somactl.operations.prune.restore_parts import parts_of
from somactl.store.contract import DAY, Store
from somactl.store.request import refuse_expired
from somactl.suggestion import again, run

AT_ONCE = 16
IDS_AT_ONCE = 1000
HINTS = {
    "wrong-namespace": "run it with --namespace as the order says, or find out why it came here",
    "issued-in-future": "compare the clocks of the issuer and of the store; have the order issued again",
    "expired": "have it issued again, from a ranking of now",
    "out-of-sequence": "nothing is to be done: a newer ranking was carried out",
}


async def admitted(store: Store, order: Order, order_id: str, identity: str) -> tuple[Remembered, float]:
    """What is remembered of the order, and the time by the store's clock.

    There is a record if and only if this very order was accepted before, with the same flags. Raises
    OrderRefused, CommitIdReused, CommitExpired; nothing was written then.
    """
    known, now = await remembered(store, order_id, order.issuer), await store.clock()
    record = known.record
    judgement = classify_message(
        order,
        namespace=store.namespace,
        now=now,
        last_sequence=None if known.issuer is None else known.issuer.sequence,
        seen_digest=None if record is None else record.digest,
    )
    if judgement.ruling == "reused" or (record is not None and record.request != identity):
        raise _reused(order_id, "for another order" if judgement.ruling == "reused" else "with other flags")
    if judgement.ruling not in ("accepted", "replayed"):
        raise OrderRefused(
            judgement.reason,
            hint=HINTS[judgement.ruling],
            ruling=judgement.ruling,
            issuer=order.issuer,
            sequence=order.sequence,
        )
    if record is None:
        refuse_expired(order_id, now, (await store.head()).retention, 0.0)
    return known, now


async def refuse_used(store: Store, record: OrderRecord) -> None:
    """An id without a record must not be that of some commit, nor may those of its slices be.

    Raises CommitIdReused, CommitAborted.
    """
    ids = dict.fromkeys([record.order_id, *commit_ids(record)])
    for some in batched(ids, IDS_AT_ONCE):
        for status in await each_of(store.commit_status, some, at_once=AT_ONCE):
            if status.state == "committed":
                raise _reused(record.order_id, f"for commit {status.commit_id}")
            if status.state == "aborted":
                raise CommitAborted(
                    f"order id {record.order_id} was given up by `status --resolve {status.commit_id}`",
                    hint="prune under a new id",
                    next=again(order_id=None),
                    commit_id=status.commit_id,
                )
    if await parts_of(store, record.order_id):
        raise _reused(record.order_id, "for a restore")


async def refuse_grace(store: Store, request: PruneRequest) -> None:
    """To be undone by its id, an order needs the records of its commits for as long as its grace."""
    kept = (await store.head()).retention.record_seconds
    if request.grace > kept:
        raise UsageError(
            f"--grace {request.grace:g} s is longer than commit records are kept here, {kept:g} s, and "
            "without them the order cannot be undone",
            hint="give a shorter --grace, or have commit records kept longer (--keep-records-days)",
            next=run("init", keep_records_days=math.ceil(request.grace / DAY)),
        )


def why_final(known: Remembered, order: Order, now: float) -> str | None:
    """Why an order that was begun is not continued, however much of it is left; None: it is."""
    assert known.record is not None
    if known.issuer is not None and known.issuer.order_id != known.record.order_id:
        return superseded_by(known)
    if order.expires_at is not None and order.expires_at <= now:
        return "the order expired before it was done"
    return None


def superseded_by(known: Remembered) -> str:
    last = known.issuer
    assert last is not None
    return f"a newer order of {last.issuer} was accepted: {last.order_id}, sequence {last.sequence}"


def _reused(order_id: str, how: str) -> CommitIdReused:
    return CommitIdReused(
        f"order id {order_id} was used before, {how}",
        hint="an id stands for one order and its flags: use a new one for another",
        commit_id=order_id,
    )
