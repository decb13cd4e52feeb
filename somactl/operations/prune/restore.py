"""Bring back what an order deleted, in as many commits as its bytes need."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from somactl.core.order import validate_order_id
from somactl.core.portions import batched, in_portions
from somactl.errors import (
    CommitIdReused,
    CommitNotFound,
    Interrupted,
    LockHeld,
    NotFound,
    SomactlError,
    VersionCompacted,
    VersionConflict,
)
from somactl.operations.admission import Admitted, readmit
from somactl.operations.bounded import each_of
from somactl.operations.commit import write
from somactl.operations.jobs.checkpoint import Checkpoint
from somactl.operations.jobs.registry import Undo
from somactl.operations.prune.record import MAX_LISTED, RestoreParts, order_note, order_record, restore_note
from somactl.operations.undo import invert, receipt_of
from somactl.report import LeftAlone, PartialCommit, RestoreReport
from somactl.store.contract import CommitStatus, Entry, Receipt, Stat, Store, is_dark
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


async def take_back(store: Store, undo: Undo) -> RestoreReport | None:
    """What an order deleted is brought back, and what a restore of that in several commits did is inverted;
    None where it is the id of neither."""
    receipts = await pruned_by(store, undo.undone, undo.status)
    if receipts is not None:
        return await restore_pruned(store, receipts, undo)
    if undo.partial or undo.status.record is not None:
        return None
    parts = await parts_of(store, undo.undone)
    return await invert_each(store, parts, undo) if parts else None


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
    for some in batched(record.commits_sent, KEYS_AT_ONCE):
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


async def restore_pruned(store: Store, receipts: Sequence[Receipt], undo: Undo) -> RestoreReport:
    """Make the values that the commits of an order deleted the newest again, bit for bit the same.

    A key that was written since stays as it is, and one whose grace is over cannot come back: with
    `partial` the others are restored and these reported; else VersionConflict or VersionCompacted names
    them, and nothing is written. What is back already is not restored twice.
    """
    request = undo.request
    deleted_at = {key: receipt.version for receipt in receipts for key in receipt.keys}
    found = await _find(store, deleted_at)
    if found.left and not undo.partial:
        _refuse(found.left, others=bool(found.hidden))
    # What one commit restores: no more than fits in memory beside its copies.
    portions = list(in_portions(found.hidden.values(), lambda stat: stat.size, PORTION_BYTES, PORTION_KEYS))
    base = request.commit_id or new_commit_id()
    ids = await name_parts(store, base, undo.undone, len(portions), resend=False, dry_run=request.dry_run)
    whole = _Whole(store, base, [_Part(None, left=found.left, already=len(found.already))])
    if request.dry_run:
        hidden = found.hidden.values()
        return whole.report(
            dry_run=True, restored_keys=len(hidden), restored_bytes=sum(stat.size for stat in hidden)
        )
    if not portions:
        return whole.report(**await _replay(store, base))
    after = None
    for portion, commit_id in zip(portions, ids, strict=True):
        one = _Portion(portion, after, {stat.key: deleted_at[stat.key] for stat in portion}, commit_id)
        try:
            whole.parts.append(await _restore(store, one, undo))
        except (SomactlError, asyncio.CancelledError) as exc:
            return whole.stopped(exc)
        after = portion[-1].key
    return whole.report()


async def _replay(store: Store, commit_id: str) -> dict[str, Any]:
    """Of a restore that finds all back already: the fields that tell whether it was this very one."""
    status = await store.commit_status(commit_id)
    if status.record is not None and status.record.receipt is not None:
        receipt = status.record.receipt
        return {
            "replayed": True,
            "version": receipt.version,
            "incarnation": receipt.incarnation,
            "committed_at": receipt.committed_at,
        }
    return {"replayed": bool(await parts_of(store, commit_id))}


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


async def _restore(store: Store, portion: _Portion, undo: Undo) -> _Part:
    """Commit one portion.

    A key may have been written and deleted again while others were restored. That it is absent, which the
    commit expects, does not show it, so it is looked for at the last moment.
    """

    async def before(stat: Stat) -> Entry:
        return await store.read(stat.key, portion.deleted_at[stat.key] - 1)

    entries = await each_of(before, portion.stats, at_once=AT_ONCE)

    def readmitted() -> dict[str, Admitted | None]:
        dark = is_dark(store)
        return {entry.key: readmit(entry, undo.tolerances, dark=dark) for entry in entries}

    admitted = await asyncio.to_thread(readmitted)
    now = await _find(store, portion.deleted_at, portion.after, portion.stats[-1].key)
    if now.left and not undo.partial:
        _refuse(now.left, others=bool(now.hidden))
    if not now.hidden:
        return _Part(None, left=now.left, already=len(now.already))
    guarded = replace(undo.request, commit_id=portion.commit_id, expected=0)
    commit = await write(store, {key: admitted[key] for key in now.hidden}, guarded, RestoreReport)
    size = sum(stat.size for stat in now.hidden.values())
    return _Part(commit, len(now.hidden), size, now.left, len(now.already))


async def invert_each(store: Store, commits: Sequence[str], undo: Undo) -> RestoreReport:
    """The inverse of a restore that took several commits, last first, each a commit of its own."""
    request = undo.request
    base = request.commit_id or new_commit_id()
    ids = await name_parts(store, base, undo.undone, len(commits), resend=True, dry_run=request.dry_run)
    whole = _Whole(store, base, [])
    for inverted, commit_id in zip(reversed(commits), ids, strict=True):
        try:
            status = await store.commit_status(inverted)
            if status.state != "committed":
                continue  # that restore ended before it
            receipt = receipt_of(store, inverted, status)
            commit = await invert(store, receipt, replace(request, commit_id=commit_id), undo.tolerances)
        except (SomactlError, asyncio.CancelledError) as exc:
            return whole.stopped(exc)
        size = sum(item.bytes or 0 for item in commit.items)
        whole.parts.append(_Part(commit, len(commit.items), size))
    return whole.report(dry_run=request.dry_run)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one commit restored, `keys` of `bytes` in sum; keys that were left alone, or were back already."""

    commit: RestoreReport | None
    keys: int = 0
    bytes: int = 0
    left: Sequence[LeftAlone] = ()
    already: int = 0

    def __post_init__(self) -> None:
        if self.commit is not None:
            del self.commit.items[MAX_LISTED:]  # so that memory does not grow with the keys
            self.commit.admitted_dark = _first(self.commit.admitted_dark)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A restore in several commits."""

    store: Store
    commit_id: str
    parts: list[_Part]

    def stopped(self, error: SomactlError | asyncio.CancelledError) -> RestoreReport:
        """What was restored stands, and the report says why there is no more of it. Raises the error where
        nothing was.

        A cancellation comes here between two commits; the outcome of one that was on its way is an error's.
        """
        if not any(part.commit for part in self.parts):
            raise error
        if isinstance(error, asyncio.CancelledError):
            error = Interrupted("interrupted between two commits")
        report = self.report(stopped=f"{type(error).__name__}: {error.message}", complete=False)
        report.finish(error.exit_code)
        return report

    def report(self, **fields: Any) -> RestoreReport:
        """Incomplete (4) where a key was left alone."""
        done = [(part, part.commit) for part in self.parts if part.commit is not None]
        items = [item for _, commit in done for item in commit.items][:MAX_LISTED]
        left = [one for part in self.parts for one in part.left]
        report = RestoreReport(
            store=self.store.name,
            namespace=self.store.namespace,
            commit_id=self.commit_id,
            of_prune=True,
            commits=[
                PartialCommit(
                    commit_id=commit.commit_id, version=commit.version or 0, keys=part.keys, bytes=part.bytes
                )
                for part, commit in done
            ],
            items=items,
            items_omitted=sum(part.keys for part in self.parts) - len(items),
            left=left[:MAX_LISTED],
            left_omitted=len(left[MAX_LISTED:]),
            already=sum(part.already for part in self.parts),
            **{
                "complete": not left,
                "restored_keys": sum(part.keys for part in self.parts),
                "restored_bytes": sum(part.bytes for part in self.parts),
                **fields,
            },
        )
        for _, commit in done:
            report.admitted_dark = _first({**report.admitted_dark, **commit.admitted_dark})
            report.warnings += commit.warnings
        if done:
            last = done[-1][1]
            report.incarnation, report.version = last.incarnation, last.version
            report.committed_at, report.stores = last.committed_at, last.stores
        report.finish(4 if left else 0)
        return report


def _first(admitted: dict[str, list[str]]) -> dict[str, list[str]]:
    return dict(list(admitted.items())[:MAX_LISTED])


async def name_parts(
    store: Store, base: str, undone: str, count: int, *, resend: bool, dry_run: bool
) -> list[str]:
    """The ids of `count` commits of restore `base`: `base` itself for one, else `base/0001` and so on.

    These are remembered before any of them is used, so that the restore, run again, is still one. What an
    earlier run committed is none of the `count`, or, with `resend`, the first of them again; an id that was
    given up is passed over. Raises CommitIdReused where `base` is taken, LockHeld where another run names
    them too.
    """
    checkpoint = await _parts(store, base)
    known = checkpoint.state
    if known is None and count <= 1:
        return [base]
    validate_order_id(base)
    if known is None:
        if (await store.commit_status(base)).state != "unseen":
            raise _reused(base, "for a commit")
        if await store.read_notes([order_note(base)]):
            raise _reused(base, "for a prune order")
        known = RestoreParts([], undone)
    elif known.undone != undone:
        raise _reused(base, f"to restore {known.undone}")
    passed_over = ("aborted",) if resend else ("aborted", "committed")
    found = await each_of(store.commit_status, known.commits, at_once=AT_ONCE)
    spent = {one.commit_id for one in found if one.state in passed_over}
    numbers = range(len(known.commits) + 1, count + len(spent) + 1)
    ids = [*known.commits, *(f"{base}/{number:04}" for number in numbers)]
    if numbers and not dry_run:
        await checkpoint.save(RestoreParts(ids, undone))
    return [one for one in ids if one not in spent][:count]


async def parts_of(store: Store, base: str) -> list[str]:
    """The commits of the restore `base`; none where there was no such restore of several."""
    known = (await _parts(store, base)).state
    return [] if known is None else known.commits


async def _parts(store: Store, base: str) -> Checkpoint[RestoreParts]:
    def taken() -> LockHeld:
        return LockHeld(f"another run of restore {base} is under way", hint="let it finish", next=again())

    return await Checkpoint.open(store, restore_note(base), RestoreParts, taken)


def _reused(base: str, how: str) -> CommitIdReused:
    return CommitIdReused(
        f"commit id {base} was used before, {how}", hint="restore under a new id", commit_id=base
    )
