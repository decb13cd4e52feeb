"""Create a namespace, and forget what its retention no longer keeps."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from somactl.errors import NamespaceNotFound
from somactl.operations.compacting import batches
from somactl.operations.inspect import head_view
from somactl.operations.jobs.progress import Progress, Watch, unwatched
from somactl.operations.jobs.registry import Job
from somactl.report import CompactReport, InitReport
from somactl.store.contract import Compaction, Retention, Store
from somactl.suggestion import run


async def init(
    store: Store,
    *,
    versions: int | None,
    seconds: float | None,
    record_seconds: float | None,
    new_incarnation: bool = False,
) -> InitReport:
    """Create schema and namespace where missing; safe to repeat. What is given changes the retention.

    new_incarnation: what follows the restore of a backup, see `Store.init`.
    """
    try:
        head = await store.init(new_incarnation=new_incarnation)
    except NamespaceNotFound as exc:
        exc.hint = (
            "a new incarnation is for what a backup brought back, and nothing was created: check that the "
            "restore worked, and the store's address and the namespace"
        )
        exc.next = (run("namespaces"),)
        raise
    given = {"versions": versions, "seconds": seconds, "record_seconds": record_seconds}
    changes = {name: value for name, value in given.items() if value is not None}
    if changes:
        retention: Retention = replace(head.retention, **changes)
        head = await store.init(retention=retention)
    return InitReport(store=store.name, namespace=store.namespace, head=head_view(head))


def removed(report: CompactReport) -> int:
    """How many rows of any kind are gone."""
    return report.revisions + report.tombstones + report.records


async def compactable(store: Store) -> int:
    """How many rows a compaction would remove now."""
    report = CompactReport(store=store.name, namespace=store.namespace, dry_run=True)
    async for batch in batches(store, dry_run=True):
        report = _with(report, batch)
    return removed(report)


def _with(report: CompactReport, batch: Compaction) -> CompactReport:
    fields = ("revisions", "tombstones", "records", "events", "dropped", "bytes_freed")
    return replace(report, **{name: getattr(report, name) + getattr(batch, name) for name in fields})


async def compact(
    store: Store, jobs: Sequence[Job], *, dry_run: bool, watch: Watch = unwatched
) -> CompactReport:
    """Enforce the retention in short transactions, with a pause between them; notes of old jobs go too."""
    report = CompactReport(store=store.name, namespace=store.namespace, dry_run=dry_run)
    async for batch in batches(store, dry_run=dry_run):
        report = _with(report, batch)
        watch(Progress(removed(report), "records", read=report.bytes_freed))
    horizon = await store.clock() - (await store.head()).retention.record_seconds
    for job in jobs:
        report.orders += await job.forget(store, horizon, dry_run=dry_run)
    if report.dropped:
        told = "would be dropped" if dry_run else "were dropped"
        report.warnings.append(
            f"{report.dropped} events {told} unpublished: more than the namespace keeps are newer"
        )
    return report
