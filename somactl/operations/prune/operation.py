"""The one door: whatever an order came by, this is what carries it out."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from somactl.core.order import Order, parse_order, validate_order_id
from somactl.errors import LockHeld, OutcomeUnknown, SomactlError, UsageError, VersionConflict
from somactl.operations.commit import SETTLE_SECONDS
from somactl.operations.commit_ids import new_commit_id
from somactl.operations.prune import limit
from somactl.operations.prune.admission import admitted, refuse_used, superseded_by, why_final
from somactl.operations.prune.look import deletions, look, not_applied
from somactl.operations.prune.record import MAX_LISTED, OrderRecord, Settled, remembered
from somactl.operations.prune.request import PruneRequest
from somactl.operations.prune.run import Run, SupersededError, refuse_offending
from somactl.report import PruneReport
from somactl.store.contract import Store

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
        return replace(run.record.report, replayed=True)
    report.resumed = run.record is not record
    try:
        if final is None:
            await run.take_up()
            await run.go_on()
        else:
            await run.give_up()
        if request.grace == 0:
            report.freed_now = run.record.settled.freed_now + await run.free()
    except asyncio.CancelledError:
        await _interrupted(run, report)
    except SupersededError:
        final = superseded_by(await remembered(store, record.order_id, record.issuer))
        await run.give_up()
    except SomactlError as exc:
        if not run.record.settled.deletes:
            raise
        report.stopped = f"{type(exc).__name__}: {exc.message}"
        report.conclude(exc.exit_code)
    return await _finished(store, run, request, report, final)


async def _accepted(
    store: Store, order: Order, request: PruneRequest, record: OrderRecord
) -> tuple[Run, str | None]:
    """The order as accepted now or before; then also why it is not to be continued, if it is not."""
    for attempt in range(1, ACCEPT_TRIES + 1):
        known, now = await admitted(store, order, record.order_id, record.request)
        if known.record is not None:
            why = None if known.record.report is not None else why_final(known, order, now)
            return Run(store, order, request, known.record, known), why
        record.accepted_at = now
        run = Run(store, order, request, record, known)
        await refuse_used(store, record)
        if "fail" in (request.missing, request.changed):
            refuse_offending(order, await look(store, order, request, 0, len(order.items), 0))
        try:
            await run.accept()
        except VersionConflict:  # another run accepts this order, or another of the issuer: judge anew
            if attempt == ACCEPT_TRIES:
                raise
            continue
        return run, None
    raise AssertionError("the last attempt returns or raises")


async def _interrupted(run: Run, report: PruneReport) -> None:
    report.stopped = "interrupted"
    report.conclude(4)
    try:
        await asyncio.wait_for(run.settle_interrupted(), SETTLE_SECONDS)
    except (SomactlError, asyncio.CancelledError, TimeoutError):
        report.stopped = "interrupted while a commit was on its way; run it again, and it finds out"
        report.conclude(OutcomeUnknown.exit_code)


async def _finished(
    store: Store, run: Run, request: PruneRequest, report: PruneReport, final: str | None
) -> PruneReport:
    """The report of what was done; kept in the record if nothing more will be."""
    _fill(report, run.order, run.record)
    if report.stopped is not None:
        report.complete = False
        report.conclude(*report.codes)
        return report
    if final is not None:
        report.stopped, report.complete = final, False
        report.conclude(4)
    summary = await store.summary()
    report.keys_left, report.bytes_left = summary.keys, summary.stored_bytes
    exhausted = final is None and not run.record.settled.goal_met
    await limit.judge(store, request, report, over=exhausted, remember=True)
    if report.counts.get("unknown") == report.items:
        report.warnings.append("no key of the order exists: was it meant for another namespace?")
    run.record.report = report
    try:
        await run.close()
    except LockHeld as exc:
        report.stopped, report.complete = exc.message, False
        report.conclude(*report.codes, exc.exit_code)
    return report


async def _foresee(
    store: Store, order: Order, request: PruneRequest, record: OrderRecord, report: PruneReport
) -> PruneReport:
    """What a run would do now, on a store that is only read."""
    known, _ = await admitted(store, order, record.order_id, record.request)
    settled = Settled()
    if known.record is not None:
        if known.record.report is not None:
            return replace(known.record.report, replayed=True)
        settled, report.resumed = known.record.settled, True
    stop = settled.items if settled.goal_met else len(order.items)
    part = await look(store, order, request, settled.items, stop, settled.deletes)
    refuse_offending(order, part)
    skipped, deleted = not_applied(order, part), deletions(order, part, dry_run=True)
    for item in sorted([*skipped, *deleted], key=lambda item: item.line):
        request.each(item)
    counts = {name: count for name, count in part.plan.counts().items() if count}
    report.counts = {str(name): count for name, count in counts.items()}
    report.not_applied, report.would_delete = skipped[:MAX_LISTED], deleted[:MAX_LISTED]
    report.not_applied_omitted = max(0, len(skipped) - MAX_LISTED)
    report.would_delete_omitted = max(0, len(deleted) - MAX_LISTED)
    summary = await store.summary()
    freed = sum(one.size for one in part.plan.deletes)
    report.keys_left, report.bytes_left = summary.keys - len(deleted), summary.stored_bytes - freed
    report.freed_now, report.freed_after_grace = (freed, 0) if request.grace == 0 else (0, freed)
    report.deleted_keys, report.deleted_bytes = len(deleted), freed
    settled_items = settled.items + len(part.plan.outcomes) - counts.get("beyond-limit", 0)
    report.reached = order.place(settled_items - 1) if settled_items else None
    await limit.judge(store, request, report, over=not part.goal_met, remember=False)
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
    counts = {
        "deleted": settled.deletes,
        "unknown": settled.unknown,
        "changed": settled.changed,
        "beyond-limit": record.items - settled.items,
    }
    report.counts = {name: count for name, count in counts.items() if count}
    report.not_applied, report.batches = record.not_applied, record.batches
    report.not_applied_omitted = settled.unknown + settled.changed - len(record.not_applied)
    report.batches_omitted = record.batches_total - len(record.batches)
    report.deleted_keys, report.deleted_bytes = settled.deletes, settled.bytes
    report.reached = order.place(settled.items - 1) if settled.items else None
    if report.grace:
        report.freed_now, report.freed_after_grace = settled.freed_now, settled.bytes
        report.recoverable_until = record.batches[0].recoverable_until if record.batches else None
