"""Prove the matrices of a task, as a store has them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from somactl.core.portions import in_portions
from somactl.core.verdict import Verdict
from somactl.operations.audit.model import Check, Proven, Task
from somactl.report import Checked
from somactl.store.contract import Entry, Snapshot, Store

PORTION_BYTES = 16 << 20
"""What is read at once, unless a single value is larger: a worker's memory is twice this and one value."""


async def prove_keys(store: Store, task: Task, check: Check) -> Proven:
    """Read and prove the matrices of a task. A key that is not there is told apart.

    Raises StoreUnavailable, NamespaceNotFound.
    """
    found = Proven(results=[], absent=[])
    listed = list(zip(task.keys, task.sizes, strict=True))
    for portion in in_portions(listed, lambda pair: pair[1], PORTION_BYTES):
        keys = [key for key, _ in portion]
        snapshot = await store.read_many(keys)
        if not found.version or snapshot.version < found.version:
            found.incarnation, found.version = snapshot.incarnation, snapshot.version
        await asyncio.to_thread(_judge, snapshot, keys, check, found)
    return found


def _judge(snapshot: Snapshot, keys: Sequence[str], check: Check, found: Proven) -> None:
    """Add what is found of `keys`, in their order."""
    from somactl.core.batch import check_envelopes

    there = [snapshot.entries[key] for key in keys if key in snapshot.entries]
    headers = [entry.framed for entry in there]
    rhos = [(entry, header) for entry, header in zip(there, headers, strict=True) if header.kind == "rho"]
    batch = check_envelopes(
        [(entry.data, header) for entry, header in rhos],
        check.tolerances,
        method=check.method,
        spectrum=check.spectrum,
    )
    found.valid += batch.valid
    found.bytes_ += sum(len(entry.data) for entry in there)
    found.worsen(batch.rigour, batch.blas, batch.worst_trace_error, batch.lowest_lambda_min)
    told: dict[str, Checked] = {
        entry.key: Checked(source=entry.key, outcome="skipped", version=entry.version, kind=header.kind)
        for entry, header in zip(there, headers, strict=True)
        if header.kind != "rho"
    }
    for index in range(batch.count) if check.every else batch.others:
        entry, header = rhos[index]
        outcome = batch.others.get(index) or batch.verdict(index)
        told[entry.key] = judged(entry.key, outcome, check, entry, header.content)
    for key, error in snapshot.corrupt.items():
        told[key] = Checked(source=key, outcome="corrupt", error=error.message)
    for key in keys if told or len(there) < len(keys) else ():
        if key in told:
            found.results.append(told[key])
        elif key not in snapshot.entries:
            found.absent.append(key)


def judged(
    source: str,
    outcome: Verdict | Exception,
    check: Check,
    entry: Entry | None = None,
    digest: str | None = None,
) -> Checked:
    """The outcome for one matrix, or for that of `entry`: its verdict, or why its bytes do not decode."""
    checked = Checked(source=source, outcome="corrupt", digest=digest)
    if entry is not None:
        checked.version, checked.dark = entry.version, entry.admitted_dark
    if isinstance(outcome, Verdict):
        checked.outcome = outcome.status
        checked.verdict = outcome if check.witness else outcome.without_vector()
    else:
        checked.error = str(outcome)
    return checked
