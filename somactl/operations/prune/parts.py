"""A restore that takes several commits: their ids, remembered so that it can be taken back as a whole."""

from __future__ import annotations

import msgspec

from somactl.core.order import validate_order_id
from somactl.errors import CorruptValue, SomactlError
from somactl.operations.prune.record import MAX_LISTED
from somactl.report import CommitReport, PartialCommit, RestoreReport
from somactl.store.contract import Store

RESTORE_PREFIX = "restore/"


class RestoreParts(msgspec.Struct, frozen=True):
    """Which commits one restore was to make; some may never have come."""

    commits: list[str]
    format: int = 1


async def name_parts(store: Store, base: str, count: int, *, dry_run: bool) -> list[str]:
    """The ids of `count` commits: `base` itself for one, else `base/0001` and so on, and remembered."""
    if count <= 1:
        return [base]
    validate_order_id(base)
    ids = [f"{base}/{number:04}" for number in range(1, count + 1)]
    if not dry_run:
        await store.write_notes({RESTORE_PREFIX + base: msgspec.json.encode(RestoreParts(ids))})
    return ids


async def parts_of(store: Store, base: str) -> list[str]:
    """The commits of the restore `base`; none where there was no such restore of several."""
    name = RESTORE_PREFIX + base
    note = (await store.read_notes([name])).get(name)
    if note is None:
        return []
    try:
        return msgspec.json.decode(note.data or b"", type=RestoreParts).commits
    except msgspec.DecodeError as exc:
        raise CorruptValue(f"note {name!r} is not what somactl writes: {exc}", note=name) from None


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


def stop(whole: RestoreReport, error: SomactlError) -> None:
    """What was restored stands, and the report says why there is no more of it."""
    whole.stopped, whole.complete = f"{type(error).__name__}: {error.message}", False
    whole.conclude(error.exit_code)
