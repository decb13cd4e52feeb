"""What an order would delete of the namespace as it is: states and totals read, and the plan made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from somactl.core.order import Item, Order
from somactl.core.retention import Deletion, KeyState, PrunePlan, plan
from somactl.operations.prune.request import PruneRequest
from somactl.report import PruneItem
from somactl.store.contract import Stats, Store

KEYS_AT_ONCE = 10_000
LOOKS = 3


class Part(msgspec.Struct, frozen=True):
    """The plan for the items `[start, start + len(plan.outcomes))` of an order."""

    start: int
    plan: PrunePlan
    states: dict[str, KeyState]

    @property
    def goal_met(self) -> bool:
        """Whether the order is not to be followed any further."""
        return "beyond-limit" in self.plan.outcomes[-1:]


async def inspect(
    store: Store, order: Order, request: PruneRequest, start: int, stop: int, deletes: int
) -> Part:
    """The plan for the items `[start, stop)`; earlier ones made `deletes` deletions.

    Where the goal counts what the namespace holds, states and totals are those of one version, unless it
    is written so often that none stands still for long enough.
    """
    items = order.items[start:stop]
    keys = total = 0
    for _ in range(LOOKS):
        found = await _stats(store, items)
        if not request.bounds_namespace:
            break
        summary = await store.summary()
        keys, total = summary.keys, summary.stored_bytes
        if {stats.version for stats in found} == {summary.head.version}:
            break
    states = {key: KeyState(stat.version, stat.size) for stats in found for key, stat in stats.stats.items()}
    outcome = plan(
        states,
        msgspec.structs.replace(order, items=items),
        request.goal,
        total_keys=keys,
        total_bytes=total,
        missing=request.missing,
        changed=request.changed,
        deleted=deletes,
    )
    return Part(start, outcome, states)


async def _stats(store: Store, items: Sequence[Item]) -> list[Stats]:
    keys = [item.key for item in items]
    return [
        await store.stat_many(keys[begin : begin + KEYS_AT_ONCE])
        for begin in range(0, len(keys), KEYS_AT_ONCE)
    ]


def told(order: Order, part: Part, *, dry_run: bool) -> list[PruneItem]:
    """The items that come before the goal, in sequence, each with what came of it."""
    as_said = {"delete": "delete" if dry_run else "deleted", "beyond-limit": None}
    said = [(index, as_said.get(outcome, outcome)) for index, outcome in enumerate(part.plan.outcomes)]
    return [_item(order, part, index, outcome) for index, outcome in said if outcome is not None]


def not_applied(items: Iterable[PruneItem]) -> list[PruneItem]:
    """Those of them that are not deleted."""
    return [item for item in items if item.outcome not in ("delete", "deleted")]


def _item(order: Order, part: Part, index: int, outcome: str) -> PruneItem:
    item = order.items[part.start + index]
    state = part.states.get(item.key)
    return PruneItem(
        line=item.line,
        place=order.place(part.start + index),
        key=item.key,
        outcome=outcome,  # type: ignore[arg-type]  # the one caller passes no other
        ranked=item.version,
        found=None if state is None else state.version,
    )


def expected(deletes: Sequence[Deletion]) -> dict[str, int]:
    return {one.key: one.version for one in deletes}
