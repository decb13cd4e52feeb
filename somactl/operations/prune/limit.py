"""A namespace that is to keep within a limit: how far it is over it, since when, and without an order."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from somactl.core.order import Item, Order, content_digest
from somactl.core.retention import Goal
from somactl.errors import LockHeld, UsageError
from somactl.operations.jobs.checkpoint import Checkpoint
from somactl.operations.prune.request import PruneRequest
from somactl.report import PruneReport
from somactl.store.contract import NamespaceSummary, Stat, Store


class Over(msgspec.Struct, frozen=True):
    """What the note of a limit says: since when the namespace is over it, by the store's clock."""

    since: float


def over_note(goal: Goal) -> str:
    return f"retention/over/{goal.kind}/{goal.amount}"


def over_by(goal: Goal, keys: int, stored_bytes: int) -> int:
    """By how many keys or bytes a namespace exceeds the goal; 0 where the goal does not bound it."""
    held = {"keep": keys, "max-bytes": stored_bytes}.get(goal.kind, 0)
    return max(0, held - goal.amount)


async def report_without_order(store: Store, request: PruneRequest) -> PruneReport:
    """No order came: nothing is deleted, and the report says whether that is a problem."""
    if not request.bounds_namespace:
        raise UsageError(
            "there is no order, and no limit to compare the namespace with",
            hint="name an order with --order-file FILE (- is standard input), or a limit with --keep N",
        )
    summary = await store.summary()
    short_by = over_by(request.goal, summary.keys, summary.stored_bytes)
    report = PruneReport(
        store=store.name,
        namespace=store.namespace,
        directed=False,
        dry_run=request.dry_run,
        goal=request.goal.kind,
        amount=request.goal.amount,
        grace=request.grace,
        keys_left=summary.keys,
        bytes_left=summary.stored_bytes,
        warnings=["no order came, so nothing was deleted"] if short_by else [],
        **await excess(store, request.goal, short_by, remember=not request.dry_run),
    )
    report.finish(4 if short_by else 0)
    return report


async def excess(store: Store, goal: Goal, short_by: int, *, remember: bool) -> dict[str, Any]:
    """The fields of a report on a namespace that is over `goal` by `short_by`; none where it is not.

    remember: whether the note of that limit is written where it is new, and deleted where it is over.
    """
    noted = await Checkpoint.open(store, over_note(goal), Over, _taken)
    since = noted.state.since if noted.state else None
    if not short_by and since is None:
        return {}
    now = await store.clock()
    if remember and (not short_by or since is None):
        with suppress(LockHeld):  # another run has just noted the same
            await noted.save(Over(now) if short_by else None)
    if not short_by:
        return {}
    since = now if since is None else since
    over_seconds = max(0.0, now - since)
    return {"short_by": short_by, "over_since": since, "over_seconds": over_seconds, "degraded": True}


def _taken() -> LockHeld:
    return LockHeld("another run notes the same limit")


async def oldest_first(store: Store, request: PruneRequest) -> Order | None:
    """The order that stands in for one that did not come: the keys that were written longest ago, as many as
    meet the goal.

    None where the goal is met already. Each item has its version, so that what is written from now on stays.
    """
    if not request.bounds_namespace:
        raise UsageError("--fallback wants a limit", hint="add --keep N or --max-bytes SIZE")
    summary = await store.summary()
    if not over_by(request.goal, summary.keys, summary.stored_bytes):
        return None
    stats = [stat async for page in store.scan() for stat in page]
    stats.sort(key=lambda stat: (stat.version, stat.key.encode()))
    chosen = _as_many_as_needed(stats, request.goal, summary)
    items = tuple(Item(stat.key, stat.version, 0) for stat in chosen)
    return Order("list", items, content_digest(items)) if items else None


def _as_many_as_needed(stats: list[Stat], goal: Goal, summary: NamespaceSummary) -> list[Stat]:
    keys, size = summary.keys, summary.stored_bytes
    for count, stat in enumerate(stats):
        if not over_by(goal, keys, size):
            return stats[:count]
        keys, size = keys - 1, size - stat.size
    return stats
