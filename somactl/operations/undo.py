"""Take back: restore an older state of a key, invert a whole commit, delete recoverably."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from somactl.core.names import validate_commit_id, validate_key
from somactl.core.verdict import Tolerances
from somactl.errors import (
    CommitNotFound,
    KeyNotFound,
    NotFound,
    UsageError,
    VersionCompacted,
    VersionConflict,
)
from somactl.operations.admission import Admitted, readmit
from somactl.operations.commit import Request, write
from somactl.operations.jobs.registry import Job, Undo
from somactl.report import RestoreReport, RmReport
from somactl.store.contract import CommitStatus, Entry, Receipt, Store, is_dark
from somactl.suggestion import run


async def remove(store: Store, keys: Sequence[str], request: Request) -> RmReport:
    """Delete keys, recoverably: each leaves a tombstone with its bytes. An absent key is KeyNotFound."""
    if not keys:
        raise UsageError("rm needs at least one key")
    for key in keys:
        validate_key(key)
    head = await store.read_many(list(keys))
    if head.absent:
        raise KeyNotFound(
            f"key {head.absent[0]!r} is not in namespace {store.namespace!r}; nothing was deleted",
            next=[run("ls"), run("ls", deleted=True)],
        )
    return await write(store, dict.fromkeys(keys), request, RmReport)


async def restore_key(
    store: Store, key: str, version: int | None, request: Request, tolerances: Tolerances
) -> RestoreReport:
    """Make the value of `key` as of namespace version `version` its newest one, checked again first.

    Without a version: the value before the last change of the key, and only if nothing changes it meanwhile.
    """
    validate_key(key)
    if version is None:
        last = (await store.history(key))[0]
        if request.expected is None:
            request = replace(request, expected={key: 0 if last.content is None else last.version})
        entry = await _state_before(store, key, last.version)
        if entry is None:
            raise KeyNotFound(
                f"key {key!r} was not there before its last change, in version {last.version}",
                hint="name the version to bring back (--version)",
                next=run("log", key),
            )
    else:
        entry = await store.read(key, version)
    admitted = {key: await asyncio.to_thread(readmit, entry, tolerances, dark=is_dark(store))}
    return await write(store, admitted, request, RestoreReport)


async def restore_commit(
    store: Store,
    undone: str,
    request: Request,
    tolerances: Tolerances,
    jobs: Sequence[Job],
    *,
    partial: bool = False,
) -> RestoreReport:
    """The inverse of a whole commit, or of a job, guarded against everything written since.

    Every key the commit wrote must still be where the commit left it; else VersionConflict, and nothing is
    written. Keys that did not exist before it are deleted again. A job of one of the kinds `jobs` undoes what
    is its own; `partial` is for these alone.
    """
    status = await store.commit_status(validate_commit_id(undone))
    asked = Undo(undone, status, request, tolerances, partial)
    for job in jobs:
        if report := await job.undo(store, asked):
            return report
    if partial:
        raise UsageError("--partial is for prunes: any other commit is undone whole or not at all")
    return await invert(store, receipt_of(store, undone, status), request, tolerances)


async def invert(store: Store, receipt: Receipt, request: Request, tolerances: Tolerances) -> RestoreReport:
    """One commit that gives every key of another one the value that it had before. Raises VersionConflict."""
    before: dict[str, Admitted | None] = {}
    readmitted = partial(readmit, tolerances=tolerances, dark=is_dark(store))
    for key in receipt.keys:
        entry = await _state_before(store, key, receipt.version)
        before[key] = None if entry is None else await asyncio.to_thread(readmitted, entry)
    expected = {key: 0 if content is None else receipt.version for key, content in receipt.keys.items()}
    # What stands there now is what the undone commit left, so its kind changes back without being asked for.
    undoing = replace(request, expected=expected, change_kind=True)
    try:
        return await write(store, before, undoing, RestoreReport)
    except VersionConflict:
        if not await _is_undone(store, receipt, before):
            raise
    return RestoreReport(
        store=store.name,
        namespace=store.namespace,
        commit_id=request.commit_id or "",
        dry_run=request.dry_run,
        already=len(before),
        warnings=[f"commit {receipt.commit_id} was undone before: every key has the value that it had then"],
    )


async def _is_undone(store: Store, receipt: Receipt, before: Mapping[str, Admitted | None]) -> bool:
    """Whether every key has the value that it had before the commit, and not because of the commit."""
    there = (await store.stat_many(list(before))).stats
    for key, admitted in before.items():
        now = there.get(key)
        if (now is None) != (admitted is None):
            return False
        if now is None or admitted is None:
            continue
        if now.version <= receipt.version or now.content != admitted.header.content:
            return False
    return True


def receipt_of(store: Store, commit_id: str, status: CommitStatus) -> Receipt:
    """Raises CommitNotFound for what was not committed, or is not recorded any more."""
    if status.record is None or status.record.receipt is None:
        raise CommitNotFound(
            f"commit {commit_id} is not recorded as committed in namespace {store.namespace!r}",
            next=run("log"),
        )
    return status.record.receipt


async def _state_before(store: Store, key: str, version: int) -> Entry | None:
    """The key's value just before the commit of that version; None where it did not exist then."""
    if version == 1:
        return None
    try:
        return await store.read(key, version - 1)
    except VersionCompacted:
        raise
    except NotFound:
        return None
