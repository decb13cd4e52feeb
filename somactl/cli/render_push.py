"""Reports of pushes as tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from somactl.cli.text import columns, size, utc
from somactl.report import PushedGroup, PushReport, SnapshotView


def push_lines(report: PushReport) -> list[str]:
    """What was found where the store was looked at; else what became of each group."""
    if report.snapshot is not None:
        return list(_snapshot(report.snapshot))
    what = {
        "pushed": report.pushed,
        "dropped": report.dropped,
        "kept": report.kept,
        "failed": report.failed,
        "deleted": report.deleted,
    }
    rows = [_row(outcome, each) for outcome, groups in what.items() for each in groups]
    return columns(["OUTCOME", "JOB", "NAMESPACE", "SHARD", "ENDED", "SOURCE"], rows)


def _row(outcome: str, each: PushedGroup) -> list[object]:
    ended = "-" if each.ended_at is None else utc(each.ended_at)
    return [outcome, each.job, each.namespace, each.shard or "-", ended, each.source or "-"]


def _snapshot(seen: SnapshotView) -> Iterator[str]:
    for service in seen.services:
        bad = {status: count for status, count in service.findings.items() if status != "ok"}
        told = ", ".join(f"{count} {status}" for status, count in bad.items())
        yield f"{service.store}: {'answers' if service.up else 'does not answer'}" + (
            f"; {told}" if told else ""
        )
    if seen.counts is not None:
        counts = seen.counts
        yield (
            f"version {counts.version}, {counts.keys} keys, {size(counts.stored_bytes)}, "
            f"{counts.tombstones} deleted"
        )
    if seen.events is not None and seen.events.publishing:
        yield f"{seen.events.backlog} events wait to be published, {seen.events.dropped} were dropped"
    if seen.ledger is not None:
        read = seen.ledger.oldest_read_at
        since = "some matrix was never read" if read is None else f"all matrices were read since {utc(read)}"
        yield f"audits: {since}; {seen.ledger.known_bad} are known to be wrong"
    if seen.copies is not None and (seen.copies.compared or not seen.copies.whole):
        differing = sum(seen.copies.differing.values())
        rest = "" if seen.copies.whole else ", the others not"
        yield f"cache: {seen.copies.compared} copies compared{rest}, {differing} are not what the store has"
    if seen.orders is not None and seen.orders.backlog:
        yield f"prune orders: {seen.orders.backlog} keys were not looked at yet"
    if seen.migrations:
        yield "migrations: " + ", ".join(f"{count} {state}" for state, count in seen.migrations.items())
