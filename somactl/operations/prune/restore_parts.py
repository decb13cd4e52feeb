"""A restore that takes several commits: their ids, remembered so that it can be taken back as a whole."""

from __future__ import annotations

import asyncio

import msgspec

from somactl.core.order import validate_order_id
from somactl.errors import CommitIdReused, CorruptValue, Interrupted, SomactlError
from somactl.operations.bounded import each_of
from somactl.operations.prune.record import MAX_LISTED, order_note, write_note
from somactl.report import CommitReport, PartialCommit, RestoreReport
from somactl.store.contract import Store

RESTORE_PREFIX = "restore/"
AT_ONCE = 16


class RestoreParts(msgspec.Struct, frozen=True):
    """Which commits one restore was to make, of what; some may never have come."""

    commits: list[str]
    undone: str = ""
    format: int = 1


async def name_parts(
    store: Store, base: str, undone: str, count: int, *, resend: bool, dry_run: bool
) -> list[str]:
    """The ids of `count` commits of restore `base`: `base` itself for one, else `base/0001` and so on.

    These are remembered, so that the restore, run again, is still one. What an earlier run committed is
    none of the `count`, or, with `resend`, the first of them again; an id that was given up is passed over.
    Raises CommitIdReused where `base` is taken, VersionConflict where another run names them too.
    """
    known, version = await _known(store, base)
    if known is None and count <= 1:
        return [base]
    given = [] if known is None else known.commits
    passed_over = ("aborted",) if resend else ("aborted", "committed")
    found = await each_of(store.commit_status, given, at_once=AT_ONCE)
    spent = {one.commit_id for one in found if one.state in passed_over}
    ids = await _named(store, base, undone, count + len(spent), known, version, dry_run=dry_run)
    return [one for one in ids if one not in spent][:count]


async def parts_of(store: Store, base: str) -> list[str]:
    """The commits of the restore `base`; none where there was no such restore of several."""
    known, _ = await _known(store, base)
    return [] if known is None else known.commits


async def _known(store: Store, base: str) -> tuple[RestoreParts | None, int]:
    name = RESTORE_PREFIX + base
    note = (await store.read_notes([name])).get(name)
    if note is None:
        return None, 0
    try:
        return msgspec.json.decode(note.data or b"", type=RestoreParts), note.version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptValue(f"note {name!r} is not what somactl writes: {exc}", note=name) from None


async def _named(
    store: Store,
    base: str,
    undone: str,
    count: int,
    known: RestoreParts | None,
    version: int,
    *,
    dry_run: bool,
) -> list[str]:
    """At least `count` ids, those that are `known` first; remembered before any of them is used."""
    validate_order_id(base)
    if known is None:
        await _refuse_used(store, base)
    elif known.undone != undone:
        raise _reused(base, f"to restore {known.undone}")
    ids = [] if known is None else list(known.commits)
    more = [f"{base}/{number:04}" for number in range(len(ids) + 1, count + 1)]
    if more and not dry_run:
        name = RESTORE_PREFIX + base
        data = msgspec.json.encode(RestoreParts([*ids, *more], undone))
        await write_note(store, name, {name: data}, {name: version})
    return [*ids, *more]


async def _refuse_used(store: Store, base: str) -> None:
    """The id of a restore of several commits must not be that of something else. Raises CommitIdReused."""
    if (await store.commit_status(base)).state != "unseen":
        raise _reused(base, "for a commit")
    if await store.read_notes([order_note(base)]):
        raise _reused(base, "for a prune order")


def _reused(base: str, how: str) -> CommitIdReused:
    return CommitIdReused(
        f"commit id {base} was used before, {how}", hint="restore under a new id", commit_id=base
    )


def add(whole: RestoreReport, part: CommitReport, count: int, size: int) -> None:
    """Count `part`, one of its commits, of `count` keys and `size` bytes."""
    whole.incarnation, whole.version = part.incarnation, part.version
    whole.committed_at, whole.stores = part.committed_at, part.stores
    commit = PartialCommit(commit_id=part.commit_id, version=part.version or 0, keys=count, bytes=size)
    whole.commits.append(commit)
    listed = part.items[: MAX_LISTED - len(whole.items)]
    whole.items += listed
    whole.items_omitted += count - len(listed)
    whole.restored_keys += count
    whole.restored_bytes += size


def stop(whole: RestoreReport, error: SomactlError | asyncio.CancelledError) -> None:
    """What was restored stands, and the report says why there is no more of it.

    A cancellation comes here between two commits; the outcome of one that was on its way is an error's.
    """
    if isinstance(error, asyncio.CancelledError):
        error = Interrupted("interrupted between two commits")
    whole.stopped, whole.complete = f"{type(error).__name__}: {error.message}", False
    whole.finish(error.exit_code)
