"""A namespace that is to keep within a limit: how far it is over it, since when, and without an order."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from somactl.core.order import Item, Order, content_digest
from somactl.core.retention import Goal
from somactl.errors import CorruptValue, UsageError, VersionConflict
from somactl.operations.prune.request import PruneRequest
from somactl.report import PruneReport
from somactl.store.contract import NamespaceSummary, Stat, Store

OVER_PREFIX = "retention/over/"


def over_by(goal: Goal, keys: int, stored_bytes: int) -> int:
    """By how many keys or bytes a namespace exceeds the goal."""
    held = {"keep": keys, "max-bytes": stored_bytes}.get(goal.kind, 0)
    return max(0, held - goal.amount)


async def report_without_order(store: Store, request: PruneRequest) -> PruneReport:
    """No order came: nothing is deleted, and the report says whether that is a problem."""
    if not request.bounds_namespace:
        raise UsageError(
            "there is no order, and no limit to compare the namespace with",
            hint="name an order with --order-file FILE (- is standard input), or a limit with --keep N",
        )
    report = PruneReport(
        store=store.name,
        namespace=store.namespace,
        directed=False,
        dry_run=request.dry_run,
        goal=request.goal.kind,
        amount=request.goal.amount,
        grace=request.grace,
    )
    summary = await store.summary()
    report.keys_left, report.bytes_left = summary.keys, summary.stored_bytes
    await classify(store, request, report, over=True, remember=not request.dry_run)
    if report.short_by:
        report.warnings.append("no order came, so nothing was deleted")
    return report


async def classify(
    store: Store, request: PruneRequest, report: PruneReport, *, over: bool, remember: bool
) -> None:
    """Say how far the namespace is over its limit, and since when; degraded (4) where it is.

    over: whether it may be; a run that met its goal is not asked what came after.
    """
    goal = request.goal
    if not request.bounds_namespace:
        return
    report.short_by = over_by(goal, report.keys_left or 0, report.bytes_left or 0) if over else 0
    since, now = await _since(store, goal, over=report.short_by > 0, remember=remember)
    if not report.short_by:
        return
    report.over_since, report.over_seconds = since, max(0.0, now - since)
    report.degraded = True
    report.finish(*(set(report.codes) - {0}), 4)


class Over(msgspec.Struct, frozen=True):
    """What the note says: since when, by the store's clock."""

    since: float


def _noted(name: str, data: bytes) -> float:
    try:
        return msgspec.json.decode(data, type=Over).since
    except (msgspec.DecodeError, RecursionError) as exc:
        raise CorruptValue(f"note {name!r} is not what somactl writes: {exc}", note=name) from None


async def _since(store: Store, goal: Goal, *, over: bool, remember: bool) -> tuple[float, float]:
    """Since when the namespace is known to be over this limit, and the time now, by the store's clock."""
    name = f"{OVER_PREFIX}{goal.kind}/{goal.amount}"
    note, now = (await store.read_notes([name])).get(name), await store.clock()
    since = now if note is None or not note.data else _noted(name, note.data)
    if not remember or (note is None and not over) or (over and since != now):
        return since, now
    data = msgspec.json.encode(Over(now)) if over else None
    with suppress(VersionConflict):  # another run has just noted the same
        await store.write_notes({name: data}, {name: 0 if note is None else note.version})
    return since, now


async def oldest_first(store: Store, request: PruneRequest) -> Order | None:
    """The order `--oldest-first`: the keys that were written longest ago, as many as meet the goal.

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
