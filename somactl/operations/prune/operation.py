"""An order from its text to its report, whatever it came by; and a namespace over its limit without one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from somactl.core.order import Item, Order, content_digest, parse_order, validate_order_id
from somactl.core.retention import Goal
from somactl.errors import (
    CommitAborted,
    CommitIdReused,
    LockHeld,
    OutcomeUnknown,
    SomactlError,
    UsageError,
    VersionConflict,
)
from somactl.operations.commit import RESOLVE_SECONDS
from somactl.operations.jobs.checkpoint import Checkpoint
from somactl.operations.prune.executor import (
    PruneExecutor,
    SupersededError,
    inspect,
    not_applied,
    refuse_offending,
    told,
)
from somactl.operations.prune.record import (
    MAX_LISTED,
    OrderRecord,
    Remembered,
    Settled,
    refuse_order,
    refuse_retention,
    refuse_used,
    remembered,
)
from somactl.operations.prune.request import PruneRequest
from somactl.report import PruneReport
from somactl.store.contract import NamespaceSummary, Stat, Store
from somactl.store.request import new_commit_id

ACCEPT_TRIES = 5
_STOPPED = {"complete": False, "final": False}


async def prune(store: Store, order: Order | bytes | None, request: PruneRequest) -> PruneReport:
    """Delete what `order` names, in its sequence, until the goal is met. None: no order came.

    The same order with the same flags under the same id is carried out once: done, it gives its first
    report again; half done, it is continued. A report that is not `complete` says why it ended; what
    stands in it stands. Raises OrderRefused, CommitIdReused, CommitExpired, InputRejected and UsageError
    before anything is written, and what the store raises if nothing of the order was done.
    """
    request.check()
    directed = order is not None
    if order is None:
        order = await oldest_first(store, request) if request.fallback else None
        if order is None:
            return await report_without_order(store, request)
    elif request.fallback:
        raise UsageError("--fallback stands in for an order that did not come, and one did")
    if isinstance(order, bytes):
        order = await asyncio.to_thread(parse_order, order)
    given = given_id(order, request)
    request.refuse_too_many(len(order.items))
    record = OrderRecord(
        order_id=given or new_commit_id(),
        digest=order.digest,
        request=request.written(directed=directed),
        issuer=order.issuer,
        sequence=order.sequence,
        items=len(order.items),
        batch=request.batch,
        caller=request.caller,
        door=request.door,
    )
    context = PruneContext(store, order, request, record, directed=directed, is_fresh=given is None)
    if request.dry_run:
        return await _foresee(context)
    request.announce(record.order_id)
    return await _carry_out(context)


def given_id(order: Order, request: PruneRequest) -> str | None:
    """The id that the order or the request gives, None where neither does.

    Raises InvalidName, and UsageError where they give two.
    """
    given = None if request.order_id is None else validate_order_id(request.order_id)
    if order.order_id is not None and given not in (None, order.order_id):
        raise UsageError(
            f"the order is {order.order_id}, and --order-id says {given}", hint="leave --order-id out"
        )
    return order.order_id or given


@dataclass(frozen=True, slots=True)
class PruneContext:
    """One prune of one order.

    record    as it is written where the order is accepted now
    directed  whether the control plane chose the keys
    is_fresh  whether the order's id was made for this run
    """

    store: Store
    order: Order
    request: PruneRequest
    record: OrderRecord
    directed: bool
    is_fresh: bool

    async def known(self) -> tuple[Remembered, float]:
        """What is remembered of an order that may be carried out or taken up, and the time.

        Raises OrderRefused, CommitIdReused, CommitAborted.
        """
        known, now = await self._judged()
        if known.order.state is None and not self.is_fresh:
            try:
                await refuse_used(self.store, known, self.record)
            except (CommitIdReused, CommitAborted):
                known, now = await self._judged()
                if known.order.state is None:  # else another run has accepted this order meanwhile
                    raise
        return known, now

    async def _judged(self) -> tuple[Remembered, float]:
        known, now = await self.remembered(), await self.store.clock()
        refuse_order(known, self.record, self.order, self.store.namespace, now)
        return known, now

    async def remembered(self) -> Remembered:
        record = self.record
        return await remembered(self.store, record.order_id, record.issuer, is_fresh=self.is_fresh)

    def report(self, *codes: int, warnings: list[str] | None = None, **fields: Any) -> PruneReport:
        """A report on the order, with those exit codes and whatever else there is to say."""
        order, request, record = self.order, self.request, self.record
        undirected = "no order directed this: the keys that were written longest ago were chosen"
        report = PruneReport(
            store=self.store.name,
            namespace=self.store.namespace,
            order_id=record.order_id,
            digest=order.digest,
            form=order.form if self.directed else "oldest",
            directed=self.directed,
            issuer=order.issuer,
            sequence=order.sequence,
            dry_run=request.dry_run,
            goal=request.goal.kind,
            amount=request.goal.amount,
            grace=request.grace,
            batch=request.batch,
            items=record.items,
            warnings=[*([] if self.directed else [undirected]), *(warnings or [])],
            **fields,
        )
        report.finish(*codes)
        return report

    def report_of(self, executor: PruneExecutor, *codes: int, **fields: Any) -> PruneReport:
        """The report on what an executor has done of the order so far."""
        record, settled, grace = executor.record, executor.record.settled, self.request.grace
        return self.report(
            *codes,
            resumed=executor.is_resumed,
            counts=record.counts(),
            not_applied=record.not_applied,
            not_applied_omitted=settled.unknown + settled.changed - len(record.not_applied),
            batches=record.batches,
            batches_omitted=record.batches_total - len(record.batches),
            deleted_keys=settled.deletes,
            deleted_bytes=settled.bytes,
            reached=self.order.place(settled.items - 1) if settled.items else None,
            freed_now=settled.freed_now + executor.freed,
            freed_after_grace=settled.bytes if grace else 0,
            recoverable_until=record.batches[0].recoverable_until if record.batches else None,
            **fields,
        )


async def _carry_out(context: PruneContext) -> PruneReport:
    executor, final = await _accepted(context)
    record = executor.record
    if record.report is not None:
        return _again(record.report, context.request)
    try:
        final = await _work(context, executor, final)
        return await _finished(context, executor, final)
    except asyncio.CancelledError:
        return await _interrupted(context, executor)
    except SomactlError as exc:
        if not record.settled.deletes:
            exc.facts.setdefault("order_id", record.order_id)  # it was accepted, and can be gone on with
            raise
        why = f"{type(exc).__name__}: {exc.message}"
        return context.report_of(executor, exc.exit_code, stopped=why, **_STOPPED)


def _again(first: PruneReport, request: PruneRequest) -> PruneReport:
    """The report of an order that was carried out before, with what it has of the items."""
    for item in first.not_applied:
        request.each(item)
    return replace(first, replayed=True)


async def _accepted(context: PruneContext) -> tuple[PruneExecutor, str | None]:
    """The order as accepted now or before; then also why it is not to be continued, if it is not."""
    for attempt in range(1, ACCEPT_TRIES + 1):
        known, now = await context.known()
        executor = PruneExecutor(context.store, context.order, context.request, known, context.record)
        if executor.is_resumed:
            return executor, known.why_final(context.order, now)
        try:
            await executor.accept(now)
        except (LockHeld, VersionConflict):  # another run accepts it, or another of the issuer: judge anew
            if attempt == ACCEPT_TRIES:
                raise
            continue
        return executor, None
    raise AssertionError("the last attempt returns or raises")


async def _work(context: PruneContext, executor: PruneExecutor, final: str | None) -> str | None:
    """Follow the order as far as it may be followed; why it is not to be continued later, if it is not."""
    if final is not None:
        await executor.give_up()
    elif executor.is_resumed:
        await executor.take_up()
    for item in executor.record.not_applied:  # an earlier run's; what that one deleted, only its commits say
        context.request.each(item)
    if final is not None:
        return final
    try:
        await executor.go_on()
    except SupersededError:
        await executor.give_up()
        return (await context.remembered()).superseded_by
    return None


async def _interrupted(context: PruneContext, executor: PruneExecutor) -> PruneReport:
    why, code = "interrupted", 4
    try:
        await asyncio.wait_for(executor.give_up(), RESOLVE_SECONDS)
    except (SomactlError, asyncio.CancelledError, TimeoutError):
        why = "interrupted while a commit was on its way; run it again, and it finds out"
        code = OutcomeUnknown.exit_code
    return context.report_of(executor, code, stopped=why, **_STOPPED)


async def _finished(context: PruneContext, executor: PruneExecutor, final: str | None) -> PruneReport:
    """Free what has no grace, see where that leaves the namespace, and keep the report in the record."""
    store, request, record = context.store, context.request, executor.record
    if request.grace == 0:
        await executor.free()
    if executor.totals is None:
        summary = await store.summary()
        executor.totals = summary.keys, summary.stored_bytes
    keys, size = executor.totals
    over = 0 if record.settled.goal_met else over_by(request.goal, keys, size)
    report = context.report_of(
        executor,
        *([4] if final or over else []),
        stopped=final,
        complete=final is None,
        final=final is not None,
        keys_left=keys,
        bytes_left=size,
        warnings=_strangers(record.counts(), record.items),
        **(await excess(store, request.goal, over, remember=True) if over else {}),
    )
    within = request.bounds_namespace and not over
    await executor.close(report, [over_note(request.goal)] if within else [])
    return report


def _strangers(counts: dict[str, int], items: int) -> list[str]:
    if counts.get("unknown") != items:
        return []
    return ["no key of the order exists: was it meant for another namespace?"]


async def _foresee(context: PruneContext) -> PruneReport:
    """What a run would do now, on a store that is only read."""
    store, order, request = context.store, context.order, context.request
    known, now = await context.known()
    before, final = known.order.state, known.why_final(order, now)
    if before is not None and before.report is not None:
        return _again(before.report, request)
    settled = Settled() if before is None else before.settled
    stop = settled.items if settled.goal_met or final else len(order.items)
    part = await inspect(store, order, request, settled.items, stop, settled.deletes)
    refuse_offending(order, part)
    items = told(order, part, dry_run=True)
    for item in items:
        request.each(item)
    skipped, deleted = not_applied(items), [item for item in items if item.outcome == "delete"]
    after = part.after(settled)
    freed = after.bytes - settled.bytes
    summary = part.summary or await store.summary()
    if before is None:
        refuse_retention(context.record, request.grace, summary.head.retention, now)
    keys, size = summary.keys - len(deleted), summary.stored_bytes - freed
    over = 0 if settled.goal_met or part.goal_met else over_by(request.goal, keys, size)
    counts = {str(name): count for name, count in part.plan.counts().items()}
    return context.report(
        *([4] if final or over else []),
        resumed=before is not None,
        stopped=final,
        complete=final is None,
        final=final is not None,
        counts=counts,
        not_applied=skipped[:MAX_LISTED],
        not_applied_omitted=max(0, len(skipped) - MAX_LISTED),
        would_delete=deleted[:MAX_LISTED],
        would_delete_omitted=max(0, len(deleted) - MAX_LISTED),
        deleted_keys=len(deleted),
        deleted_bytes=freed,
        freed_now=0 if request.grace else freed,
        freed_after_grace=freed if request.grace else 0,
        keys_left=keys,
        bytes_left=size,
        reached=order.place(after.items - 1) if after.items else None,
        warnings=_strangers(counts, len(order.items)),
        **await excess(store, request.goal, over, remember=False),
    )


class Over(msgspec.Struct, frozen=True):
    """What the note of a limit says: since when the namespace is over it, by the store's clock."""

    since: float


def over_note(goal: Goal) -> str:
    return f"retention/over/{goal.kind}/{goal.amount}"


def over_by(goal: Goal, keys: int, stored_bytes: int) -> int:
    """By how many keys or bytes a namespace exceeds the goal; 0 where the goal does not bound it."""
    held = {"keep": keys, "max-bytes": stored_bytes}.get(goal.kind, 0)
    return max(0, held - goal.amount)


async def report_without_order(store: Store, request: PruneRequest) -> PruneReport:
    """No order came: nothing is deleted, and the report says whether that is a problem."""
    if not request.bounds_namespace:
        raise UsageError(
            "there is no order, and no limit to compare the namespace with",
            hint="name an order with --order-file FILE (- is standard input), or a limit with --keep N",
        )
    summary = await store.summary()
    short_by = over_by(request.goal, summary.keys, summary.stored_bytes)
    report = PruneReport(
        store=store.name,
        namespace=store.namespace,
        directed=False,
        dry_run=request.dry_run,
        goal=request.goal.kind,
        amount=request.goal.amount,
        grace=request.grace,
        keys_left=summary.keys,
        bytes_left=summary.stored_bytes,
        warnings=["no order came, so nothing was deleted"] if short_by else [],
        **await excess(store, request.goal, short_by, remember=not request.dry_run),
    )
    report.finish(4 if short_by else 0)
    return report


async def excess(store: Store, goal: Goal, short_by: int, *, remember: bool) -> dict[str, Any]:
    """The fields of a report on a namespace that is over `goal` by `short_by`; none where it is not.

    remember: whether the note of that limit is written where it is new, and deleted where it is over.
    """
    noted = await Checkpoint.open(store, over_note(goal), Over, _taken)
    since = noted.state.since if noted.state else None
    if not short_by and since is None:
        return {}
    now = await store.clock()
    if remember and (not short_by or since is None):
        with suppress(LockHeld):  # another run has just noted the same
            await noted.save(Over(now) if short_by else None)
    if not short_by:
        return {}
    since = now if since is None else since
    over_seconds = max(0.0, now - since)
    return {"short_by": short_by, "over_since": since, "over_seconds": over_seconds, "degraded": True}


def _taken() -> LockHeld:
    return LockHeld("another run notes the same limit")


async def oldest_first(store: Store, request: PruneRequest) -> Order | None:
    """The order that stands in for one that did not come: the keys that were written longest ago, as many as
    meet the goal.

    None where the goal is met already. Each item has its version, so that what is written from now on stays.
    """
    if not request.bounds_namespace:
        raise UsageError("--fallback wants a limit", hint="add --keep N or --max-bytes SIZE")
    summary = await store.summary()
    if not over_by(request.goal, summary.keys, summary.stored_bytes):
        return None
    stats = [stat async for page in store.scan() for stat in page]
    stats.sort(key=lambda stat: (stat.version, stat.key.encode()))
    chosen = _as_many_as_needed(stats, request.goal, summary)
    items = tuple(Item(stat.key, stat.version, 0) for stat in chosen)
    return Order("list", items, content_digest(items)) if items else None


def _as_many_as_needed(stats: list[Stat], goal: Goal, summary: NamespaceSummary) -> list[Stat]:
    keys, size = summary.keys, summary.stored_bytes
    for count, stat in enumerate(stats):
        if not over_by(goal, keys, size):
            return stats[:count]
        keys, size = keys - 1, size - stat.size
    return stats
