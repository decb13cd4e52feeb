"""Orders and messages for tests, and shorthands to carry them out."""

from __future__ import annotations

import json
from typing import Any

from somactl.core.order import Order, parse_order
from somactl.core.retention import Goal
from somactl.operations.prune import PruneRequest, prune
from somactl.report import PruneReport
from somactl.store.contract import Stat, Store
from somactl.testing.values import listed


def text(*keys: str) -> Order:
    return parse_order("\n".join(keys).encode())


def message(*keys: Any, now: float, **fields: Any) -> Order:
    """A message issued a minute ago that expires in an hour, unless `fields` say otherwise."""
    values = {
        "order_id": "order-7",
        "issued_at": now - 60,
        "expires_at": now + 3600,
        "issuer": "manager-1",
        "sequence": 7,
        "namespace": "default",
        "keys": list(keys),
    }
    return parse_order(json.dumps(values | fields).encode())


async def carry_out(
    store: Any, order: Order | bytes | None, goal: Goal | None = None, **options: Any
) -> PruneReport:
    return await prune(store, order, PruneRequest(goal=goal or Goal(), **options))


async def live(store: Store) -> list[str]:
    return [stat.key for stat in await listed(store.scan())]


async def tombstones(store: Store) -> dict[str, Stat]:
    return {stat.key: stat for stat in await listed(store.scan(deleted=True))}
