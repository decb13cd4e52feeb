"""Take back: restore an older state of a key, invert a whole commit, delete recoverably."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from somactl.core.framing import peek
from somactl.core.names import validate_key
from somactl.core.verdict import Tolerances
from somactl.errors import (
    CommitNotFound,
    InvariantViolated,
    KeyNotFound,
    NotFound,
    UsageError,
    VersionCompacted,
)
from somactl.operations.admission import Admitted
from somactl.operations.commit import Request, write
from somactl.report import RestoreReport, RmReport
from somactl.store.contract import Entry, Receipt, Store


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
            hint="somactl ls shows what is there, somactl ls --deleted what can come back",
        )
    return await write(store, dict.fromkeys(keys), request, RmReport)


async def restore_key(
    store: Store, key: str, version: int, request: Request, tolerances: Tolerances
) -> RestoreReport:
    """Make the value of `key` as of namespace version `version` its newest one, proven again first."""
    entry = await store.read(validate_key(key), version)
    admitted = {key: await asyncio.to_thread(_readmit, entry, tolerances)}
    return await write(store, admitted, request, RestoreReport)


async def restore_commit(
    store: Store, undone: str, request: Request, tolerances: Tolerances
) -> RestoreReport:
    """The inverse of a whole commit, as a new commit that is guarded against everything written since.

    Every key the commit wrote must still be where the commit left it; else VersionConflict, and nothing is
    written. Keys that did not exist before it are deleted again.
    """
    receipt = await _receipt_of(store, undone)
    before: dict[str, Admitted | None] = {}
    for key in receipt.keys:
        entry = await _state_before(store, key, receipt)
        before[key] = None if entry is None else await asyncio.to_thread(_readmit, entry, tolerances)
    expected = {key: 0 if content is None else receipt.version for key, content in receipt.keys.items()}
    return await write(store, before, replace(request, expected=expected), RestoreReport)


async def _receipt_of(store: Store, commit_id: str) -> Receipt:
    status = await store.commit_status(commit_id)
    if status.record is None or status.record.receipt is None:
        raise CommitNotFound(
            f"commit {commit_id} is not recorded as committed in namespace {store.namespace!r}",
            hint="somactl log lists the commits that can be undone",
        )
    return status.record.receipt


async def _state_before(store: Store, key: str, receipt: Receipt) -> Entry | None:
    """The key's value just before the commit; None where it did not exist then."""
    if receipt.version == 1:
        return None
    try:
        return await store.read(key, receipt.version - 1)
    except VersionCompacted:
        raise
    except NotFound:
        return None


def _readmit(entry: Entry, tolerances: Tolerances) -> Admitted:
    """Stored bytes as a new put: bit for bit the same, and proven again."""
    header = peek(entry.data)
    verdict = None
    if header.kind == "rho":
        from somactl.core.verification import check_envelope

        verdict = check_envelope(entry.data, header, tolerances)
        if not verdict.valid:
            raise InvariantViolated(
                f"key {entry.key!r}: version {entry.version} is {verdict.status}: "
                f"{'; '.join(verdict.reasons)}",
                verdict=verdict,
                hint="get it, mend it, and commit it with --clamp",
            )
    return Admitted(data=bytes(entry.data), header=header, verdict=verdict, moves=[])
