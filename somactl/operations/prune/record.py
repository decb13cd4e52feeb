"""What a namespace remembers of the orders it was given, and which orders that forbids.

`order/ORDER_ID` is the record of one order, from the moment it is accepted. `issuer/DIGEST` says which order
of an issuer was accepted last; the first writing of a record moves it in the same step, so that an order is
accepted whole or not at all, and of two that come at once one sees the other.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec

from somactl.core.order import Order
from somactl.core.portions import batched
from somactl.core.retention import batch_ids, classify_message
from somactl.errors import CommitAborted, CommitIdReused, LockHeld, OrderRefused, UsageError
from somactl.operations.bounded import each_of
from somactl.operations.jobs.checkpoint import Checkpoint, decode_note, forget_notes
from somactl.operations.jobs.registry import Undo
from somactl.operations.jobs.wire import from_wire, identity
from somactl.operations.prune.request import PruneWire
from somactl.report import OrderView, PruneBatch, PruneItem, PruneReport, RestoreReport
from somactl.store.contract import DAY, Retention, Store
from somactl.store.request import refuse_expired
from somactl.suggestion import again, run

ORDER_PREFIX = "order/"
ISSUER_PREFIX = "issuer/"
RESTORE_PREFIX = "restore/"
MAX_LISTED = 1000
"""How many items and batches a record and a report list; they count the rest."""

_AT_ONCE = 16
_IDS_AT_ONCE = 1000
_HINTS = {
    "wrong-namespace": "run it with --namespace as the order says, or find out why it came here",
    "issued-in-future": "compare the clocks of the issuer and of the store; have the order issued again",
    "expired": "have it issued again, from a ranking of now",
    "out-of-sequence": "nothing is to be done: a newer ranking was carried out",
}


class Settled(msgspec.Struct, frozen=True):
    """What came of the order's first `items` items: `deletes` of them, of `bytes` in sum, were deleted.

    freed_now: bytes of copies that a cache held of them. goal_met: nothing after them is to be looked at.
    """

    items: int = 0
    deletes: int = 0
    bytes: int = 0
    unknown: int = 0
    changed: int = 0
    freed_now: int = 0
    goal_met: bool = False


class Pending(msgspec.Struct, frozen=True):
    """The slice of items that a commit may be on its way for, and what is settled once it is there.

    Where `after` has no deletes more than before, the slice had none, and only the commit of an earlier run
    is to be kept from arriving late.
    """

    number: int
    after: Settled
    not_applied: list[PruneItem] = []


class OrderRecord(msgspec.Struct, kw_only=True):
    """One accepted order: the checkpoint of its runs.

    request   what was asked for, as `PruneWire` is written
    batch     items in one commit; None: all of them
    pending   None before the first commit, and once the order is done
    renamed   commit ids of slices (by number) whose own ids were claimed by an `aborted` record
    report    the first report, once the order is done
    caller    who had it accepted, and the door they came through; None: the command line
    """

    format: int = 1
    order_id: str
    digest: str
    request: dict[str, Any]
    issuer: str | None = None
    sequence: int | None = None
    items: int
    batch: int | None = None
    settled: Settled = Settled()
    pending: Pending | None = None
    renamed: dict[int, str] = {}
    not_applied: list[PruneItem] = []
    batches: list[PruneBatch] = []
    batches_total: int = 0
    report: PruneReport | None = None
    caller: str | None = None
    door: str | None = None

    @property
    def commit_ids(self) -> tuple[str, ...]:
        """The commit id of each slice: the order's own where there is but one."""
        if self.batch is None:
            return (self.order_id,)
        return batch_ids(self.order_id, self.items, self.batch)

    @property
    def commits_sent(self) -> list[str]:
        """The ids under which slices were committed, if they were."""
        return [self.renamed.get(number, own) for number, own in enumerate(self.commit_ids)]

    def idempotency_key(self, start: int, stop: int) -> str:
        """What the commit of the items `[start, stop)` stands for."""
        whole = identity("prune", self.request, self.digest)
        return hashlib.sha256(f"{whole} {start} {stop}".encode()).hexdigest()

    def counts(self) -> dict[str, int]:
        """Items by outcome; outcomes that no item has are left out."""
        settled = self.settled
        found = {
            "deleted": settled.deletes,
            "unknown": settled.unknown,
            "changed": settled.changed,
            "beyond-limit": self.items - settled.items,
        }
        return {name: count for name, count in found.items() if count}


class IssuerRecord(msgspec.Struct, frozen=True):
    """The last order accepted of one issuer."""

    issuer: str
    sequence: int
    order_id: str
    format: int = 1


class RestoreParts(msgspec.Struct, frozen=True):
    """Which commits one restore was to make, of what; some may never have come."""

    commits: list[str]
    undone: str = ""
    format: int = 1


class Remembered(msgspec.Struct, frozen=True):
    """What the notes say of an order, all as of one moment.

    issuer      with the version of its note, 0 for one that is not there
    is_restore  whether the order's id is that of a restore
    """

    order: Checkpoint[OrderRecord]
    issuer: IssuerRecord | None
    issuer_version: int
    is_restore: bool

    @property
    def superseded_by(self) -> str | None:
        """The newer order of the issuer that forbids to go on with an accepted one, in one sentence."""
        last, record = self.issuer, self.order.state
        if last is None or record is None or last.order_id == record.order_id:
            return None
        return f"a newer order of {last.issuer} was accepted: {last.order_id}, sequence {last.sequence}"

    def why_final(self, order: Order, now: float) -> str | None:
        """Why an order that was begun is not continued, whatever is left of it; None: it is, or is done."""
        if self.order.state is None or self.order.state.report is not None:
            return None
        if self.superseded_by is None and order.expires_at is not None and order.expires_at <= now:
            return "the order expired before it was done"
        return self.superseded_by


def order_note(order_id: str) -> str:
    return ORDER_PREFIX + order_id


def issuer_note(issuer: str) -> str:
    """Issuers may have any name, notes may not."""
    return ISSUER_PREFIX + hashlib.sha256(issuer.encode()).hexdigest()


def restore_note(restore: str) -> str:
    return RESTORE_PREFIX + restore


async def order_record(store: Store, order_id: str) -> OrderRecord | None:
    """Raises CorruptValue, SchemaMismatch."""
    note = (await store.read_notes([order_note(order_id)])).get(order_note(order_id))
    return None if note is None else decode_note(note, OrderRecord)


async def remembered(
    store: Store, order_id: str, issuer: str | None, *, is_fresh: bool = False
) -> Remembered:
    """What is known of an order and its issuer. Raises CorruptValue, SchemaMismatch.

    is_fresh: the id was made a moment ago, and nothing has it.
    """
    issuers = None if issuer is None else issuer_note(issuer)
    own = [] if is_fresh else [order_note(order_id), restore_note(order_id)]
    names = [*own, *filter(None, [issuers])]
    notes = await store.read_notes(names) if names else {}
    last = None if issuers is None else notes.get(issuers)

    def taken() -> LockHeld:
        return LockHeld(
            f"another run has taken up order {order_id}",
            hint="let it finish; the same command then gives its report",
            next=again(),
        )

    name = order_note(order_id)
    return Remembered(
        order=Checkpoint(store, name, OrderRecord, taken, notes.get(name)),
        issuer=None if last is None else decode_note(last, IssuerRecord),
        issuer_version=0 if last is None else last.version,
        is_restore=restore_note(order_id) in notes,
    )


def refuse_order(known: Remembered, record: OrderRecord, order: Order, namespace: str, now: float) -> None:
    """Raises OrderRefused or CommitIdReused where `order` may not be carried out now, nor be taken up again.

    record: as it would be accepted.
    """
    before, last = known.order.state, known.issuer
    judgement = classify_message(
        order,
        namespace=namespace,
        now=now,
        last_sequence=None if last is None else last.sequence,
        seen_digest=None if before is None else before.digest,
    )
    if judgement.ruling == "reused":
        raise _reused(record.order_id, "for another order")
    if before is not None and before.request != record.request:
        from_wire(before.request, PruneWire)  # refuses what a newer somactl was asked for
        raise _reused(record.order_id, "with other flags")
    if judgement.ruling not in ("accepted", "replayed"):
        raise OrderRefused(
            judgement.reason,
            hint=_HINTS[judgement.ruling],
            ruling=judgement.ruling,
            issuer=order.issuer,
            sequence=order.sequence,
        )


async def refuse_used(store: Store, known: Remembered, record: OrderRecord) -> None:
    """An id without a record must not be that of some commit, nor may those of its slices be.

    Raises CommitIdReused, CommitAborted.
    """
    ids = dict.fromkeys([record.order_id, *record.commit_ids])
    for some in batched(ids, _IDS_AT_ONCE):
        for status in await each_of(store.commit_status, some, at_once=_AT_ONCE):
            if status.state == "committed":
                raise _reused(record.order_id, f"for commit {status.commit_id}")
            if status.state == "aborted":
                raise CommitAborted(
                    f"order id {record.order_id} was given up by `status --resolve {status.commit_id}`",
                    hint="prune under a new id",
                    next=again(order_id=None),
                    commit_id=status.commit_id,
                )
    if known.is_restore:
        raise _reused(record.order_id, "for a restore")


def refuse_retention(record: OrderRecord, grace: float, retention: Retention, now: float) -> None:
    """To be told from another, and undone by its id, an order needs the records of its commits for long
    enough. Raises CommitExpired, UsageError."""
    refuse_expired(record.order_id, now, retention, 0.0)
    kept = retention.record_seconds
    if grace > kept:
        raise UsageError(
            f"--grace {grace:g} s is longer than commit records are kept here, {kept:g} s, and "
            "without them the order cannot be undone",
            hint="give a shorter --grace, or have commit records kept longer (--keep-records-days)",
            next=run("init", keep_records_days=math.ceil(grace / DAY)),
        )


def _reused(order_id: str, how: str) -> CommitIdReused:
    return CommitIdReused(
        f"order id {order_id} was used before, {how}",
        hint="an id stands for one order and its flags: use a new one for another",
        commit_id=order_id,
    )


class PruneJob:
    """What generic commands ask of orders, and of restores in several commits: see `jobs.registry.Job`."""

    async def status(self, store: Store, job_id: str, *, resolve: bool) -> OrderView | None:
        record = await order_record(store, job_id)
        if record is None:
            return None
        view = await order_view(store, record)
        if resolve and view.state == "running" and record.batch is not None:
            raise UsageError(
                f"{job_id} is a prune order in several commits, and there is none under its own id",
                hint="prune again under its id to go on with it, or settle the batch that was on its way",
                next=run("status", view.pending, resolve=True) if view.pending else run("status", job_id),
            )
        return view

    async def undo(self, store: Store, undo: Undo) -> RestoreReport | None:
        from somactl.operations.prune.restore import take_back  # which proves values again, and needs numpy

        return await take_back(store, undo)

    async def forget(self, store: Store, horizon: float, *, dry_run: bool) -> int:
        """Also an order that was never finished: without the records of its commits it cannot be continued.
        The last sequence of an issuer is kept for ever, so that no order comes back to life."""
        orders = await forget_notes(store, ORDER_PREFIX, horizon, dry_run=dry_run)
        return orders + await forget_notes(store, RESTORE_PREFIX, horizon, dry_run=dry_run)


async def order_view(store: Store, record: OrderRecord) -> OrderView:
    """How far an order is. A commit that came through and that the record does not know of yet, is counted
    by its own account."""
    pending = None if record.pending is None else record.commits_sent[record.pending.number]
    found = None if pending is None else await store.commit_status(pending)
    if found is not None and found.record is not None and found.record.metadata is not None:
        settled = msgspec.convert(found.record.metadata.facts["settled"], Settled)
        record = msgspec.structs.replace(record, settled=settled)
    return OrderView(
        order_id=record.order_id,
        state="running" if record.report is None else "done",
        items=record.items,
        counts=record.counts(),
        deleted_keys=record.settled.deletes,
        deleted_bytes=record.settled.bytes,
        batches=record.batches,
        batches_omitted=record.batches_total - len(record.batches),
        pending=pending,
        pending_state=None if found is None else found.state,
        stopped=None if record.report is None else record.report.stopped,
        caller=record.caller,
        door=record.door,
    )
