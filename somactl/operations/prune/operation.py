"""The one door: whatever an order came by, this is what carries it out."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from somactl.core.order import Order, parse_order, validate_order_id
from somactl.errors import OutcomeUnknown, SomactlError, UsageError, VersionConflict
from somactl.operations.commit import RESOLVE_SECONDS
from somactl.operations.prune import limit
from somactl.operations.prune.admission import (
    admitted,
    refuse_grace,
    refuse_used,
    superseded_by,
    why_final,
)
from somactl.operations.prune.executor import PruneExecutor, SupersededError, refuse_offending
from somactl.operations.prune.look import inspect, not_applied, told
from somactl.operations.prune.record import MAX_LISTED, OrderRecord, Remembered, Settled, counts, remembered
from somactl.operations.prune.request import PruneRequest
from somactl.report import PruneReport
from somactl.store.contract import Store
from somactl.store.request import new_commit_id

ACCEPT_TRIES = 5


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
        order = await limit.oldest_first(store, request) if request.fallback else None
        if order is None:
            return await limit.report_without_order(store, request)
    elif request.fallback:
        raise UsageError("--fallback stands in for an order that did not come, and one did")
    if isinstance(order, bytes):
        order = await asyncio.to_thread(parse_order, order)
    order_id = _order_id(order, request)
    size = request.batch_for(len(order.items))
    record = OrderRecord(
        order_id=order_id,
        digest=order.digest,
        request=request.identity(order, directed=directed),
        issuer=order.issuer,
        sequence=order.sequence,
        items=len(order.items),
        batch=None if request.batch is None else size,
        accepted_at=0.0,
    )
    report = _report(store, order, request, order_id, directed=directed)
    if request.dry_run:
        return await _foresee(store, order, request, record, report)
    request.announce(order_id)
    return await _carry_out(store, order, request, record, report)


def _order_id(order: Order, request: PruneRequest) -> str:
    given = None if request.order_id is None else validate_order_id(request.order_id)
    if order.order_id is not None and given not in (None, order.order_id):
        raise UsageError(
            f"the order is {order.order_id}, and --order-id says {given}", hint="leave --order-id out"
        )
    return order.order_id or given or new_commit_id()


async def _carry_out(
    store: Store, order: Order, request: PruneRequest, record: OrderRecord, report: PruneReport
) -> PruneReport:
    run, final = await _accepted(store, order, request, record)
    if run.record.report is not None:
        return _again(run.record.report, request)
    report.resumed = run.record is not record
    try:
        final = await _work(store, run, request, final)
        await _finish(store, run, request, report, final)
    except asyncio.CancelledError:
        await _interrupted(run, report)
    except SomactlError as exc:
        if not run.record.settled.deletes:
            exc.facts.setdefault("order_id", record.order_id)  # it was accepted, and can be gone on with
            raise
        _stop(run, report, f"{type(exc).__name__}: {exc.message}", exc.exit_code)
    return report


def _again(first: PruneReport, request: PruneRequest) -> PruneReport:
    """The report of an order that was carried out before, with what it has of the items."""
    for item in first.not_applied:
        request.each(item)
    return replace(first, replayed=True)


async def _work(store: Store, run: PruneExecutor, request: PruneRequest, final: str | None) -> str | None:
    """Follow the order as far as it may be followed; why it is not to be continued later, if it is not."""
    if final is not None:
        await run.give_up()
    else:
        await run.take_up()
    for item in run.record.not_applied:  # an earlier run's; what that one deleted, only its commits say
        request.each(item)
    if final is not None:
        return final
    try:
        await run.go_on()
    except SupersededError:
        await run.give_up()
        return superseded_by(await remembered(store, run.record.order_id, run.record.issuer))
    return None


async def _accepted(
    store: Store, order: Order, request: PruneRequest, record: OrderRecord
) -> tuple[PruneExecutor, str | None]:
    """The order as accepted now or before; then also why it is not to be continued, if it is not."""
    for attempt in range(1, ACCEPT_TRIES + 1):
        known, now, why = await _judged(store, order, request, record)
        if known.record is not None:
            return PruneExecutor(store, order, request, known.record, known), why
        record.accepted_at = now
        run = PruneExecutor(store, order, request, record, known)
        if "fail" in (request.missing, request.changed):
            refuse_offending(order, await inspect(store, order, request, 0, len(order.items), 0))
        try:
            await run.accept()
        except VersionConflict:  # another run accepts this order, or another of the issuer: judge anew
            if attempt == ACCEPT_TRIES:
                raise
            continue
        return run, None
    raise AssertionError("the last attempt returns or raises")


async def _judged(
    store: Store, order: Order, request: PruneRequest, record: OrderRecord
) -> tuple[Remembered, float, str | None]:
    """What is remembered of an order that may be carried out, the time, and why it is not to be continued."""
    known, now = await admitted(store, order, record.order_id, record.request)
    if known.record is None:
        await refuse_used(store, record)
        await refuse_grace(store, request)
        return known, now, None
    return known, now, None if known.record.report is not None else why_final(known, order, now)


async def _interrupted(run: PruneExecutor, report: PruneReport) -> None:
    why, code = "interrupted", 4
    try:
        await asyncio.wait_for(run.give_up(), RESOLVE_SECONDS)
    except (SomactlError, asyncio.CancelledError, TimeoutError):
        why = "interrupted while a commit was on its way; run it again, and it finds out"
        code = OutcomeUnknown.exit_code
    _stop(run, report, why, code)


def _stop(run: PruneExecutor, report: PruneReport, why: str, code: int) -> None:
    """What was deleted stands, and the record knows how to go on."""
    _fill(report, run.order, run.record)
    report.stopped, report.complete, report.final = why, False, False
    report.finish(*(set(report.codes) - {0}), code)


async def _finish(
    store: Store, run: PruneExecutor, request: PruneRequest, report: PruneReport, final: str | None
) -> None:
    """Free what has no grace, see where that leaves the namespace, and keep the report in the record."""
    if request.grace == 0:
        report.freed_now = run.record.settled.freed_now + await run.free()
    _fill(report, run.order, run.record)
    if final is not None:
        report.stopped, report.complete, report.final = final, False, True
        report.finish(4)
    summary = await store.summary()
    report.keys_left, report.bytes_left = summary.keys, summary.stored_bytes
    await limit.classify(store, request, report, over=not run.record.settled.goal_met, remember=True)
    _warn_of_strangers(report)
    run.record.report = report
    await run.close()


def _warn_of_strangers(report: PruneReport) -> None:
    if report.counts.get("unknown") == report.items:
        report.warnings.append("no key of the order exists: was it meant for another namespace?")


async def _foresee(
    store: Store, order: Order, request: PruneRequest, record: OrderRecord, report: PruneReport
) -> PruneReport:
    """What a run would do now, on a store that is only read."""
    known, _, final = await _judged(store, order, request, record)
    settled = Settled()
    if known.record is not None:
        if known.record.report is not None:
            return _again(known.record.report, request)
        settled, report.resumed = known.record.settled, True
    if final is not None:
        report.stopped, report.complete, report.final = final, False, True
        report.finish(4)
    stop = settled.items if settled.goal_met or final else len(order.items)
    part = await inspect(store, order, request, settled.items, stop, settled.deletes)
    refuse_offending(order, part)
    items = told(order, part, dry_run=True)
    for item in items:
        request.each(item)
    skipped, deleted = not_applied(items), [item for item in items if item.outcome == "delete"]
    found = part.plan.counts()
    report.counts = {str(name): count for name, count in found.items()}
    report.not_applied, report.would_delete = skipped[:MAX_LISTED], deleted[:MAX_LISTED]
    report.not_applied_omitted = max(0, len(skipped) - MAX_LISTED)
    report.would_delete_omitted = max(0, len(deleted) - MAX_LISTED)
    summary = await store.summary()
    freed = sum(one.size for one in part.plan.deletes)
    report.keys_left, report.bytes_left = summary.keys - len(deleted), summary.stored_bytes - freed
    report.freed_now, report.freed_after_grace = (freed, 0) if request.grace == 0 else (0, freed)
    report.deleted_keys, report.deleted_bytes = len(deleted), freed
    settled_items = settled.items + len(part.plan.outcomes) - found.get("beyond-limit", 0)
    report.reached = order.place(settled_items - 1) if settled_items else None
    over = not (settled.goal_met or part.goal_met)
    await limit.classify(store, request, report, over=over, remember=False)
    _warn_of_strangers(report)
    return report


def _report(
    store: Store, order: Order, request: PruneRequest, order_id: str, *, directed: bool
) -> PruneReport:
    report = PruneReport(
        store=store.name,
        namespace=store.namespace,
        order_id=order_id,
        digest=order.digest,
        form=order.form if directed else "oldest",
        directed=directed,
        issuer=order.issuer,
        sequence=order.sequence,
        dry_run=request.dry_run,
        goal=request.goal.kind,
        amount=request.goal.amount,
        grace=request.grace,
        batch=request.batch,
        items=len(order.items),
    )
    if not directed:
        report.warnings.append("no order directed this: the keys that were written longest ago were chosen")
    return report


def _fill(report: PruneReport, order: Order, record: OrderRecord) -> None:
    """What the record knows of the work done so far."""
    settled = record.settled
    report.counts = counts(record)
    report.not_applied, report.batches = record.not_applied, record.batches
    report.not_applied_omitted = settled.unknown + settled.changed - len(record.not_applied)
    report.batches_omitted = record.batches_total - len(record.batches)
    report.deleted_keys, report.deleted_bytes = settled.deletes, settled.bytes
    report.reached = order.place(settled.items - 1) if settled.items else None
    if report.grace:
        report.freed_now, report.freed_after_grace = settled.freed_now, settled.bytes
        report.recoverable_until = record.batches[0].recoverable_until if record.batches else None
