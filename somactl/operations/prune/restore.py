"""Bring back what an order deleted, in as many commits as its bytes need."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from somactl.core.verdict import Tolerances
from somactl.errors import (
    CommitIdReused,
    CommitNotFound,
    NotFound,
    SomactlError,
    VersionCompacted,
    VersionConflict,
)
from somactl.operations.admission import Admitted
from somactl.operations.bounded import batched, each_of
from somactl.operations.commit import Request, write
from somactl.operations.commit_ids import new_commit_id
from somactl.operations.prune.parts import add, name_parts, stop
from somactl.operations.prune.record import MAX_LISTED, OrderRecord, commits_sent, decoded, order_note
from somactl.operations.readmission import readmit
from somactl.report import LeftAlone, RestoreReport
from somactl.store.contract import CommitStatus, Entry, Receipt, Stat, Store

AT_ONCE = 16
KEYS_AT_ONCE = 10_000
PORTION_KEYS = 10_000
PORTION_BYTES = 256 << 20


class Found(msgspec.Struct):
    """Where the deleted keys are now.

    hidden   still deleted, by the prune: these can come back
    already  live, with the very value that was deleted
    left     written since, or gone for good
    """

    hidden: dict[str, Stat]
    already: list[str]
    left: list[LeftAlone]


async def pruned_by(store: Store, commit_id: str, status: CommitStatus) -> list[Receipt] | None:
    """The commits by which an order, or one batch of it, deleted; None where `commit_id` is no prune.

    `status` is that of `commit_id`. Raises CommitNotFound for an order that deleted nothing, and
    CommitIdReused where the id is an order's and that of a commit which is not the order's.
    """
    own = [receipt] if (receipt := _prune_receipt(status)) else None
    note = (await store.read_notes([order_note(commit_id)])).get(order_note(commit_id))
    if note is None:
        return own
    sent = commits_sent(decoded(note, OrderRecord))
    receipts: list[Receipt] = []
    for some in batched(sent, KEYS_AT_ONCE):
        found = await each_of(store.commit_status, some, at_once=AT_ONCE)
        receipts += [receipt for one in found if (receipt := _prune_receipt(one))]
    if status.state == "committed" and own is None:
        if not receipts:
            return None
        raise CommitIdReused(
            f"{commit_id} is the id of a prune order and, later, of a commit that is not its own",
            hint=f"undo the order batch by batch: `somactl restore --commit {receipts[0].commit_id}` ...; "
            "the commit key by key, with `somactl restore KEY --version N`",
            commit_id=commit_id,
            order=[receipt.commit_id for receipt in receipts[:MAX_LISTED]],
        )
    if not receipts:
        raise CommitNotFound(
            f"order {commit_id} deleted nothing, or the records of its commits are gone",
            hint="somactl ls --deleted shows what can be restored",
        )
    return receipts


def _prune_receipt(status: CommitStatus) -> Receipt | None:
    """Of a commit that carried out (a part of) an order."""
    if status.record is None or status.record.receipt is None or status.record.metadata is None:
        return None
    return status.record.receipt if status.record.metadata.command == "prune" else None


async def restore_pruned(
    store: Store,
    receipts: Sequence[Receipt],
    request: Request,
    tolerances: Tolerances,
    *,
    partial: bool,
) -> RestoreReport:
    """Make the values that these commits deleted the newest ones again, bit for bit the same.

    A key that was written since stays as it is, and one whose grace is over cannot come back: with
    `partial` the others are restored and these reported; else VersionConflict or VersionCompacted names
    them, and nothing is written. What is back already is not restored twice.
    """
    deleted_at = {key: receipt.version for receipt in receipts for key in receipt.keys}
    found = await _find(store, deleted_at)
    if found.left and not partial:
        _refuse(found.left)
    portions = list(_portions(found.hidden.values()))
    base = request.commit_id or new_commit_id()
    ids = await name_parts(store, base, len(portions), dry_run=request.dry_run)
    report = _report(store, found, base, dry_run=request.dry_run)
    if request.dry_run:
        report.restored_keys = len(found.hidden)
        report.restored_bytes = sum(stat.size for stat in found.hidden.values())
        report.next = "run the same command without --dry-run"
    elif not portions:
        await _note_replay(store, report)
    else:
        for portion, commit_id in zip(portions, ids, strict=True):
            try:
                await _restore(store, portion, deleted_at, request, commit_id, tolerances, report)
            except SomactlError as exc:
                if not report.commits:
                    raise
                stop(report, exc)
                return report
    if report.left:
        report.complete = False
        report.conclude(4)
    return report


async def _note_replay(store: Store, report: RestoreReport) -> None:
    """All is back already: by this very restore, if its id is known."""
    status = await store.commit_status(report.commit_id)
    if status.record is not None and status.record.receipt is not None:
        receipt = status.record.receipt
        report.replayed, report.version = True, receipt.version
        report.incarnation, report.committed_at = receipt.incarnation, receipt.committed_at


async def _find(store: Store, deleted_at: Mapping[str, int]) -> Found:
    tombstones = {
        stat.key: stat async for page in store.scan(deleted=True) for stat in page if stat.key in deleted_at
    }
    live: dict[str, Stat] = {}
    keys = list(deleted_at)
    for begin in range(0, len(keys), KEYS_AT_ONCE):
        live |= (await store.stat_many(keys[begin : begin + KEYS_AT_ONCE])).stats
    rewritten = [key for key in keys if key in live]

    async def is_back(key: str) -> bool:
        return await _is_back(store, live[key], deleted_at[key])

    same = await each_of(is_back, rewritten, at_once=AT_ONCE)
    back = {key for key, one in zip(rewritten, same, strict=True) if one}
    found = Found({}, [], [])
    for key, version in deleted_at.items():
        hidden = tombstones.get(key)
        if key in back:
            found.already.append(key)
        elif key in live:
            found.left.append(LeftAlone(key=key, why="written since", version=live[key].version))
        elif hidden is None:
            found.left.append(LeftAlone(key=key, why="past its grace"))
        elif hidden.version != version:
            found.left.append(LeftAlone(key=key, why="written since", version=hidden.version))
        else:
            found.hidden[key] = hidden
    return found


async def _is_back(store: Store, now: Stat, deleted_at: int) -> bool:
    """Whether the live value is the one that was deleted."""
    try:
        return (await store.read(now.key, deleted_at - 1)).data == (await store.read(now.key)).data
    except NotFound:
        return False


def _refuse(left: Sequence[LeftAlone]) -> None:
    """Raises VersionConflict if any was written since, else VersionCompacted."""
    hint = "--partial restores the others and leaves these alone"
    names = ", ".join(repr(one.key) for one in left[:3]) + (f" and {len(left) - 3} more" if left[3:] else "")
    written = {one.key: one.version for one in left if one.why == "written since"}
    if not written:
        raise VersionCompacted(
            f"past their grace, with their values gone: {names}",
            hint=hint,
            keys=[one.key for one in left[:MAX_LISTED]],
        )
    raise VersionConflict(
        f"written since they were pruned, or past their grace: {names}",
        conflicts={
            key: {"expected": {"version": 0}, "found": {"version": version}}
            for key, version in list(written.items())[:MAX_LISTED]
        },
        hint=hint,
    )


def _portions(stats: Iterable[Stat]) -> Iterator[list[Stat]]:
    """What one commit restores: no more than fits in memory beside its copies."""
    portion: list[Stat] = []
    held = 0
    for stat in stats:
        if portion and (len(portion) == PORTION_KEYS or held + stat.size > PORTION_BYTES):
            yield portion
            portion, held = [], 0
        portion.append(stat)
        held += stat.size
    if portion:
        yield portion


async def _restore(
    store: Store,
    portion: Sequence[Stat],
    deleted_at: Mapping[str, int],
    request: Request,
    commit_id: str,
    tolerances: Tolerances,
    report: RestoreReport,
) -> None:
    async def before(stat: Stat) -> Entry:
        return await store.read(stat.key, deleted_at[stat.key] - 1)

    entries = await each_of(before, portion, at_once=AT_ONCE)
    admitted = await asyncio.to_thread(_readmit_all, entries, tolerances)
    guarded = replace(request, commit_id=commit_id, expected=0)
    part = await write(store, admitted, guarded, RestoreReport)
    add(report, part, len(portion), sum(stat.size for stat in portion))


def _readmit_all(entries: Sequence[Entry], tolerances: Tolerances) -> dict[str, Admitted | None]:
    return {entry.key: readmit(entry, tolerances) for entry in entries}


def _report(store: Store, found: Found, commit_id: str, *, dry_run: bool) -> RestoreReport:
    return RestoreReport(
        store=store.name,
        namespace=store.namespace,
        commit_id=commit_id,
        dry_run=dry_run,
        of_prune=True,
        already=len(found.already),
        left=found.left[:MAX_LISTED],
        left_omitted=max(0, len(found.left) - MAX_LISTED),
    )
