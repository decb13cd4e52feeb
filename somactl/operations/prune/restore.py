"""Bring back what an order deleted, in as many commits as its bytes need."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

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
from somactl.operations.admission import Admitted, readmit
from somactl.operations.bounded import batched, each_of, in_portions
from somactl.operations.commit import Request, write
from somactl.operations.prune.record import MAX_LISTED, commits_sent, order_record
from somactl.operations.prune.restore_parts import add, name_parts, parts_of, stop
from somactl.report import LeftAlone, RestoreReport
from somactl.store.contract import CommitStatus, Entry, Receipt, Stat, Store
from somactl.store.request import new_commit_id
from somactl.suggestion import again, run

AT_ONCE = 16
KEYS_AT_ONCE = 10_000
PORTION_KEYS = 10_000
PORTION_BYTES = 256 << 20


class RestoreCandidates(msgspec.Struct):
    """Where the deleted keys are now.

    hidden   still deleted, by the prune: these can come back
    already  live, with the very value that was deleted
    left     written or deleted since, or gone for good
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
    record = await order_record(store, commit_id)
    if record is None:
        return own
    receipts: list[Receipt] = []
    for some in batched(commits_sent(record), KEYS_AT_ONCE):
        found = await each_of(store.commit_status, some, at_once=AT_ONCE)
        receipts += [receipt for one in found if (receipt := _prune_receipt(one))]
    if status.state == "committed" and own is None:
        if not receipts:
            return None
        raise CommitIdReused(
            f"{commit_id} is the id of a prune order and, later, of a commit that is not its own",
            hint="undo the order batch by batch, and the commit key by key",
            next=[
                *(run("restore", commit=receipt.commit_id) for receipt in receipts[:MAX_LISTED]),
                run("log"),
            ],
            commit_id=commit_id,
            order=[receipt.commit_id for receipt in receipts[:MAX_LISTED]],
        )
    if not receipts:
        raise CommitNotFound(
            f"order {commit_id} deleted nothing, or the records of its commits are gone",
            next=run("ls", deleted=True),
        )
    return receipts


def _prune_receipt(status: CommitStatus) -> Receipt | None:
    """Of a commit that carried out (a part of) an order."""
    if status.record is None or status.record.receipt is None or status.record.metadata is None:
        return None
    return status.record.receipt if status.record.metadata.command == "prune" else None


async def restore_pruned(
    store: Store,
    undone: str,
    receipts: Sequence[Receipt],
    request: Request,
    tolerances: Tolerances,
    *,
    partial: bool,
) -> RestoreReport:
    """Make the values that the commits of order `undone` deleted the newest again, bit for bit the same.

    A key that was written since stays as it is, and one whose grace is over cannot come back: with
    `partial` the others are restored and these reported; else VersionConflict or VersionCompacted names
    them, and nothing is written. What is back already is not restored twice.
    """
    deleted_at = {key: receipt.version for receipt in receipts for key in receipt.keys}
    found = await _find(store, deleted_at)
    if found.left and not partial:
        _refuse(found.left, others=bool(found.hidden))
    # What one commit restores: no more than fits in memory beside its copies.
    portions = list(in_portions(found.hidden.values(), lambda stat: stat.size, PORTION_BYTES, PORTION_KEYS))
    base = request.commit_id or new_commit_id()
    ids = await name_parts(store, base, undone, len(portions), resend=False, dry_run=request.dry_run)
    report = _report(store, base, dry_run=request.dry_run)
    _leave(report, found)
    if request.dry_run:
        report.restored_keys = len(found.hidden)
        report.restored_bytes = sum(stat.size for stat in found.hidden.values())
    elif not portions:
        await _note_replay(store, report)
    else:
        after = None
        for portion, commit_id in zip(portions, ids, strict=True):
            one = _Portion(portion, after, {stat.key: deleted_at[stat.key] for stat in portion}, commit_id)
            try:
                await _restore(store, one, request, tolerances, report, partial=partial)
            except (SomactlError, asyncio.CancelledError) as exc:
                if not report.commits:
                    raise
                stop(report, exc)
                return report
            after = portion[-1].key
    if report.left:
        report.complete = False
        report.finish(4)
    return report


def _leave(report: RestoreReport, found: RestoreCandidates) -> None:
    """Report the keys that are not restored."""
    report.already += len(found.already)
    listed = found.left[: MAX_LISTED - len(report.left)]
    report.left = report.left + listed
    report.left_omitted += len(found.left) - len(listed)


async def _note_replay(store: Store, report: RestoreReport) -> None:
    """All is back already: by this very restore, if its id is known."""
    status = await store.commit_status(report.commit_id)
    if status.record is not None and status.record.receipt is not None:
        receipt = status.record.receipt
        report.replayed, report.version = True, receipt.version
        report.incarnation, report.committed_at = receipt.incarnation, receipt.committed_at
    elif await parts_of(store, report.commit_id):
        report.replayed = True


async def _find(
    store: Store, deleted_at: Mapping[str, int], after: str | None = None, last: str | None = None
) -> RestoreCandidates:
    """Where the keys are now, those that can come back in byte order; all lie between `after` and `last`."""
    tombstones: dict[str, Stat] = {}
    async for page in store.scan(after=after, deleted=True):
        tombstones |= {stat.key: stat for stat in page if stat.key in deleted_at}
        if last is not None and page[-1].key.encode() >= last.encode():
            break
    live: dict[str, Stat] = {}
    for keys in batched(deleted_at, KEYS_AT_ONCE):
        live |= (await store.stat_many(keys)).stats
    rewritten = [key for key in deleted_at if key in live]

    async def is_back(key: str) -> bool:
        return await _is_back(store, live[key], deleted_at[key])

    same = await each_of(is_back, rewritten, at_once=AT_ONCE)
    back = {key for key, one in zip(rewritten, same, strict=True) if one}
    found = RestoreCandidates({}, [], [])
    for key, version in sorted(deleted_at.items(), key=lambda one: one[0].encode()):
        hidden = tombstones.get(key)
        if key in back:
            found.already.append(key)
        elif key in live:
            found.left.append(_left(live[key], "written since"))
        elif hidden is None:
            found.left.append(LeftAlone(key=key, why="past its grace"))
        elif hidden.version != version:
            found.left.append(_left(hidden, "deleted again"))
        else:
            found.hidden[key] = hidden
    return found


def _left(now: Stat, why: Literal["written since", "deleted again"]) -> LeftAlone:
    return LeftAlone(key=now.key, why=why, version=now.version, commit_id=now.commit_id)


async def _is_back(store: Store, now: Stat, deleted_at: int) -> bool:
    """Whether the live value is the one that was deleted."""
    try:
        return (await store.read(now.key, deleted_at - 1)).data == (await store.read(now.key)).data
    except NotFound:
        return False


def _refuse(left: Sequence[LeftAlone], *, others: bool) -> None:
    """Raises VersionConflict if any was written or deleted since, else VersionCompacted."""
    commits = {one.commit_id for one in left if one.why == "deleted again"}
    hint = "the others can be restored, and these be left alone" if others else None
    go_on = [again(partial=True)] if others else [run("log", left[0].key)]
    if len(commits) == 1 and all(one.commit_id in commits for one in left):
        hint = "what deleted them last is what can be undone"
        go_on = [run("restore", commit=commit) for commit in commits if commit]
    moved = {one.key: one.version for one in left if one.why != "past its grace"}
    if not moved:
        raise VersionCompacted(
            f"past their grace, with their values gone: {_names(left)}",
            hint=hint or "nothing of it can be restored",
            next=go_on,
            keys=[one.key for one in left[:MAX_LISTED]],
        )
    told = [
        f"{what}: {_names(some)}"
        for what, some in (
            ("written since they were pruned", [one for one in left if one.why == "written since"]),
            (
                f"deleted again by commit {', '.join(sorted(map(str, commits))[:3])}",
                [one for one in left if one.why == "deleted again"],
            ),
            ("past their grace", [one for one in left if one.why == "past its grace"]),
        )
        if some
    ]
    raise VersionConflict(
        "; ".join(told),
        conflicts={
            key: {"expected": {"version": 0}, "found": {"version": version}}
            for key, version in list(moved.items())[:MAX_LISTED]
        },
        hint=hint or "there are no others to restore",
        next=go_on,
    )


def _names(left: Sequence[LeftAlone]) -> str:
    return ", ".join(repr(one.key) for one in left[:3]) + (f" and {len(left) - 3} more" if left[3:] else "")


@dataclass(frozen=True, slots=True)
class _Portion:
    """What one commit brings back: keys in byte order, the last key of the portion before, and since when
    each is deleted."""

    stats: Sequence[Stat]
    after: str | None
    deleted_at: Mapping[str, int]
    commit_id: str


async def _restore(
    store: Store,
    portion: _Portion,
    request: Request,
    tolerances: Tolerances,
    report: RestoreReport,
    *,
    partial: bool,
) -> None:
    """Commit one portion.

    A key may have been written and deleted again while others were restored. That it is absent, which the
    commit expects, does not show it, so it is looked for at the last moment.
    """

    async def before(stat: Stat) -> Entry:
        return await store.read(stat.key, portion.deleted_at[stat.key] - 1)

    entries = await each_of(before, portion.stats, at_once=AT_ONCE)
    admitted = await asyncio.to_thread(_readmit_all, entries, tolerances)
    now = await _find(store, portion.deleted_at, portion.after, portion.stats[-1].key)
    if now.left and not partial:
        _refuse(now.left, others=bool(now.hidden))
    _leave(report, now)
    if not now.hidden:
        return
    admitted = {key: admitted[key] for key in now.hidden}
    guarded = replace(request, commit_id=portion.commit_id, expected=0)
    part = await write(store, admitted, guarded, RestoreReport)
    add(report, part, len(now.hidden), sum(stat.size for stat in now.hidden.values()))


def _readmit_all(entries: Sequence[Entry], tolerances: Tolerances) -> dict[str, Admitted | None]:
    return {entry.key: readmit(entry, tolerances) for entry in entries}


def _report(store: Store, commit_id: str, *, dry_run: bool) -> RestoreReport:
    return RestoreReport(
        store=store.name, namespace=store.namespace, commit_id=commit_id, dry_run=dry_run, of_prune=True
    )
