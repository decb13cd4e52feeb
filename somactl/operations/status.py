"""What became of a commit id, be it a commit's or a prune order's."""

from __future__ import annotations

import msgspec

from somactl.core.names import validate_commit_id
from somactl.errors import UsageError
from somactl.operations.inspect import commit_view
from somactl.operations.prune.record import OrderRecord, Settled, commits_sent, counts, order_record
from somactl.report import CommitView, OrderView, StatusReport
from somactl.store.contract import Store
from somactl.suggestion import run


async def status(store: Store, commit_id: str, *, resolve: bool) -> StatusReport:
    """What became of a commit id, or of a prune order.

    Exit 0: committed, or carried out; 4: an order that is not done; 15: not seen or aborted, and nothing of
    it was written. Raises UsageError for `resolve` of an order that takes several commits.
    """
    record = await order_record(store, validate_commit_id(commit_id))
    order = None if record is None else await _order_view(store, record)
    if resolve and order is not None and order.state == "running" and record and record.batch is not None:
        raise UsageError(
            f"{commit_id} is a prune order in several commits, and there is none under its own id",
            hint="prune again under its id to go on with it, or settle the batch that was on its way",
            next=run("status", order.pending, resolve=True) if order.pending else run("status", commit_id),
        )
    found = await store.commit_status(commit_id, resolve=resolve and not (order and order.state == "done"))
    view = CommitView(commit_id=commit_id, state=found.state)
    if found.record is not None:
        view = commit_view(found.record)
    done = order is not None and order.state == "done"
    report = StatusReport(
        store=store.name,
        namespace=store.namespace,
        commit=view,
        final=found.state != "unseen" or done,
        order=order,
    )
    report.finish(0 if found.state == "committed" or done else 4 if order is not None else 15)
    return report


async def _order_view(store: Store, record: OrderRecord) -> OrderView:
    """A commit that came through and that the record does not know of yet, is counted by its own account."""
    pending = None if record.pending is None else commits_sent(record)[record.pending.number]
    found = None if pending is None else await store.commit_status(pending)
    if found is not None and found.record is not None and found.record.metadata is not None:
        settled = msgspec.convert(found.record.metadata.facts["settled"], Settled)
        record = msgspec.structs.replace(record, settled=settled)
    return OrderView(
        order_id=record.order_id,
        state="running" if record.report is None else "done",
        items=record.items,
        counts=counts(record),
        deleted_keys=record.settled.deletes,
        deleted_bytes=record.settled.bytes,
        batches=record.batches,
        batches_omitted=record.batches_total - len(record.batches),
        pending=pending,
        pending_state=None if found is None else found.state,
        stopped=None if record.report is None else record.report.stopped,
    )
