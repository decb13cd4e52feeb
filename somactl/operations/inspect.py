"""Read-only operations: list namespaces and keys; read values, their history, and commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from somactl.core.names import validate_key
from somactl.core.verdict import Tolerances
from somactl.errors import StoreUnavailable
from somactl.report import (
    CommitView,
    GetReport,
    KeyView,
    LogReport,
    NamespacesReport,
    NamespaceView,
    RetentionView,
    RevisionView,
    ShowReport,
    dark_warning,
)
from somactl.store.cached import cached, naming_allow_stale
from somactl.store.contract import CommitRecord, Entry, Head, Stat, Store, admitted_dark


async def namespaces(store: Store) -> NamespacesReport:
    views = []
    for summary in await store.namespaces():
        view = head_view(summary.head)
        view.keys, view.tombstones, view.stored_bytes = summary.keys, summary.tombstones, summary.stored_bytes
        views.append(view)
    return NamespacesReport(store=store.name, namespaces=views)


async def list_keys(store: Store, match: str | None, *, deleted: bool) -> AsyncIterator[list[KeyView]]:
    """Pages of keys in byte order."""
    async for page in store.scan(match, deleted=deleted):
        yield [key_view(stat) for stat in page]


async def count_keys(store: Store, match: str | None) -> int:
    """How many keys there are to look at."""
    return sum([len(page) async for page in store.scan(match)])


@dataclass(frozen=True, slots=True)
class Reading:
    """Which value of a key is wanted.

    version      as of this version of the namespace; None: the newest
    authority    where a cache is before the store: ask the store itself
    allow_stale  where that does not answer, take the cache's copy
    """

    version: int | None = None
    authority: bool = False
    allow_stale: bool = False


async def _read(store: Store, key: str, reading: Reading) -> Entry:
    """The entry. A copy that was served because the store behind the cache did not answer is degraded.

    A process that has just begun has not seen the store fail, so it looks before it trusts a copy.
    """
    pair = cached(store)
    validate_key(key)
    if pair is None or reading.version is not None:
        return await store.read(key, reading.version)
    if reading.authority or reading.allow_stale:
        try:
            await store.head()
        except StoreUnavailable:
            entry = await store.read(key)
            if entry.degraded or not reading.authority:
                return entry
            raise
    return await (pair.authority if reading.authority else store).read(key)


async def get(store: Store, key: str, reading: Reading) -> tuple[GetReport, Entry]:
    """One value; its framing, digests and address verified by the store."""
    entry = await _read(store, key, reading)
    header = entry.framed
    report = GetReport(
        store=store.name,
        namespace=store.namespace,
        key=key,
        version=entry.version,
        incarnation=entry.incarnation,
        content=header.content,
        bytes=len(entry.data),
        served_by=entry.served_by,
        degraded=entry.degraded,
        age=entry.age,
        format="envelope",
        admitted_dark=admitted_dark(entry.verdict),
    )
    return report, entry


async def show(
    store: Store, key: str, reading: Reading, tolerances: Tolerances, *, check: bool, spectrum: bool
) -> ShowReport:
    """What is known of one value; with `check` (or `spectrum`) also what a check finds now."""
    entry = await _read(store, key, reading)
    header = entry.framed
    written_by = None if entry.degraded else await _record(store, entry)
    report = ShowReport(
        store=store.name,
        namespace=store.namespace,
        degraded=entry.degraded,
        incarnation=entry.incarnation,
        key=KeyView(
            key=key,
            version=entry.version,
            kind=header.kind,
            dtype=header.dtype,
            shape=list(header.shape),
            layout=header.layout,
            bytes=len(entry.data),
            content=header.content,
            commit_id=entry.commit_id,
            committed_at=entry.committed_at,
        ),
        envelope_digest=header.envelope,
        compression=header.compression,
        timestamp=header.timestamp,
        metadata=dict(written_by.metadata.user) if written_by and written_by.metadata else {},
        stored_verdict=None if entry.verdict is None else dict(entry.verdict),
        admitted_dark=admitted_dark(entry.verdict),
        served_by=entry.served_by,
        age=entry.age,
    )
    if report.admitted_dark:
        report.warnings.append(dark_warning(1))
    if entry.degraded:
        report.warnings.append(
            "the store behind the cache does not answer: neither labels nor newer versions"
        )
    elif entry.age is not None:
        await _compare(store, entry, report)
    square = len(header.shape) == 2 and (header.layout == "factor" or header.shape[0] == header.shape[1])
    if (check or spectrum) and not square:
        report.warnings.append(f"a {header.kind} that is not square has no verdict and no spectrum")
    elif check or spectrum:
        from somactl.core.verification import check_envelope

        report.verdict = await asyncio.to_thread(
            check_envelope, entry.data, header, tolerances, spectrum=spectrum
        )
        codes = {"violated": 3, "undecided": 4} if header.kind == "rho" else {}
        report.finish(codes.get(report.verdict.status, 0))
    return report


async def _record(store: Store, entry: Entry) -> CommitRecord | None:
    """The record of the commit that wrote it, which no cache keeps."""
    try:
        return (await store.commit_status(entry.commit_id)).record
    except StoreUnavailable as exc:
        raise exc if entry.age is None else naming_allow_stale(exc, entry) from exc


async def _compare(store: Store, entry: Entry, report: ShowReport) -> None:
    """Say so where the copy that was served is not what the store has by now."""
    there = (await store.stat_many([entry.key])).stats.get(entry.key)
    report.newest = there.version if there is not None else 0
    if report.newest != entry.version:
        now = f"has version {report.newest}" if report.newest else "has deleted the key"
        report.warnings.append(
            f"this is the cache's copy of version {entry.version}, and the store {now} since; "
            "--from authority shows that"
        )


async def log(store: Store, key: str | None, *, before: int | None, limit: int) -> LogReport:
    report = LogReport(store=store.name, namespace=store.namespace, key=key)
    if key is None:
        report.commits = [commit_view(r) for r in await store.log(before=before, limit=limit)]
        return report
    revisions = await store.history(validate_key(key))
    wanted = [r for r in revisions if before is None or r.version < before][:limit]
    report.revisions = [
        RevisionView(
            key=r.key,
            version=r.version,
            commit_id=r.commit_id,
            committed_at=r.committed_at,
            action="delete" if r.content is None else "put",
            content=r.content,
            kind=r.kind,
            bytes=r.size,
            psd=_status(r.verdict),
            admitted_dark=admitted_dark(r.verdict),
            compacted=r.compacted,
        )
        for r in wanted
    ]
    return report


def head_view(head: Head) -> NamespaceView:
    return NamespaceView(
        namespace=head.namespace,
        incarnation=head.incarnation,
        version=head.version,
        created_at=head.created_at,
        retention=RetentionView(
            versions=head.retention.versions,
            seconds=head.retention.seconds,
            record_seconds=head.retention.record_seconds,
        ),
    )


def key_view(stat: Stat) -> KeyView:
    return KeyView(
        key=stat.key,
        version=stat.version,
        kind=stat.kind,
        dtype=stat.dtype,
        shape=list(stat.shape),
        layout=stat.layout,
        bytes=stat.size,
        content=stat.content,
        commit_id=stat.commit_id,
        committed_at=stat.committed_at,
        deleted=stat.deleted,
        recoverable_until=stat.recoverable_until,
    )


def commit_view(record: CommitRecord) -> CommitView:
    view = CommitView(commit_id=record.commit_id, state=record.state, recorded_at=record.recorded_at)
    if record.receipt is not None:
        view.version, view.incarnation = record.receipt.version, record.receipt.incarnation
        view.keys = dict(record.receipt.keys)
    if record.metadata is not None:
        view.metadata, view.made_by = dict(record.metadata.user), record.metadata.command
        facts = record.metadata.facts
        view.caller, view.door = _text(facts.get("caller")), _text(facts.get("door"))
        verdicts = record.metadata.verdicts
        view.verdicts = {content: str(_status(v)) for content, v in verdicts.items()}
        view.dark = record.metadata.dark
        view.admitted_dark = [key for key, c in view.keys.items() if c and admitted_dark(verdicts.get(c))]
    return view


def _text(fact: Any) -> str | None:
    return fact if isinstance(fact, str) else None


def _status(verdict: Any) -> str | None:
    return None if verdict is None else verdict.get("status")
