"""What became of a commit id, be it a commit's or a job's."""

from __future__ import annotations

from collections.abc import Sequence

from somactl.core.names import validate_commit_id
from somactl.operations.inspect import commit_view
from somactl.operations.jobs.registry import Job
from somactl.report import CommitView, OrderView, StatusReport
from somactl.store.contract import Store


async def status(store: Store, commit_id: str, jobs: Sequence[Job], *, resolve: bool) -> StatusReport:
    """What became of a commit id, or of a job of one of the kinds `jobs`.

    Exit 0: committed, or carried out; 4: a job that is not done; 15: not seen or aborted, and nothing of
    it was written. Raises UsageError for `resolve` of a job that takes several commits.
    """
    order = await _job_of(store, validate_commit_id(commit_id), jobs, resolve=resolve)
    done = order is not None and order.state == "done"
    found = await store.commit_status(commit_id, resolve=resolve and not done)
    view = CommitView(commit_id=commit_id, state=found.state)
    if found.record is not None:
        view = commit_view(found.record)
    report = StatusReport(
        store=store.name,
        namespace=store.namespace,
        commit=view,
        final=found.state != "unseen" or done,
        order=order,
    )
    report.finish(0 if found.state == "committed" or done else 4 if order is not None else 15)
    return report


async def _job_of(store: Store, job_id: str, jobs: Sequence[Job], *, resolve: bool) -> OrderView | None:
    for job in jobs:
        view = await job.status(store, job_id, resolve=resolve)
        if view is not None:
            return view
    return None
