"""The values of a source in batches, read and examined ahead of what uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

from somactl.core.names import Pattern
from somactl.legacy.examine import examine_each
from somactl.legacy.request import MigrationContext, MigrationRequest
from somactl.legacy.source.contract import Value
from somactl.legacy.source.workspace import SortedNames
from somactl.operations.admission import Admitted
from somactl.operations.commit import policy_of
from somactl.report import MigrationRow

T = TypeVar("T")
BATCH_VALUES = 500
BATCH_ROWS = 20_000
BATCH_BYTES = 256 << 20
"""Of envelopes. A batch is one commit and one note, both of which have limits, unless one value is larger."""


@dataclass(slots=True)
class Batch:
    """Values of the source in the order of their keys, their rows, and envelopes for the rows' targets.

    slowest  the key that took longest to examine, with its seconds
    """

    values: list[Value]
    rows: list[MigrationRow]
    puts: Mapping[str, Admitted]
    slowest: tuple[str, float]


def examine_batch(values: list[Value], namespace: str, request: MigrationRequest) -> Batch:
    """The first of `values`, as many as make a batch, one at least. CPU-bound: belongs on a thread."""
    _load()
    rows: list[MigrationRow] = []
    puts: dict[str, Admitted] = {}
    size = 0
    slowest = ("", 0.0)
    each = examine_each(values, namespace, request.selection, request.policy)
    for count, (value, found) in enumerate(zip(values, each, strict=True)):
        slowest = max(slowest, (value.key, found.seconds), key=lambda one: one[1])
        size += sum(row.bytes for row in found.rows)
        if count and (len(rows) + len(found.rows) > BATCH_ROWS or size > BATCH_BYTES):
            return Batch(values[:count], rows, puts, slowest)  # it is rare that some are examined again
        rows += found.rows
        for target, admitted in found.puts.items():
            puts.setdefault(target, admitted)  # the first one has the claim
    return Batch(values, rows, puts, slowest)


@cache
def _load() -> None:
    """Load what the first matrix would load, numpy and LAPACK, so that it does not pass for a slow one."""
    import numpy as np

    from somactl.core.envelope import deserialize_matrix, serialize_matrix
    from somactl.core.invariants import check
    from somactl.legacy import kinds

    one = np.ones((1, 1))
    kinds.decide_kind(one)
    check(one)
    deserialize_matrix(serialize_matrix(one, key="one"))


async def list_names(context: MigrationContext, names: SortedNames) -> None:
    """Every key of the source that is asked for, into `names`."""
    match = context.request.match
    async for page in context.source.names(None if match is None else Pattern(match)):
        names.add(page)


async def values(
    context: MigrationContext, names: SortedNames, after: str | None
) -> AsyncGenerator[list[Value], None]:
    """The values behind the key `after`, as many at a time as source and pace allow."""
    most = context.pace.portion(BATCH_VALUES)
    pages = names.pages(after, most)
    pending: list[str] = []
    while True:
        if len(pending) < most:  # so that no batch is small but the last one
            pending += next(pages, [])
        if not pending:
            return
        found = await context.source.fetch(pending[:most])
        pending = pending[len(found) :]
        yield found


def cost_of(found: Sequence[Value]) -> tuple[int, int]:
    """How many values these are, and how many bytes."""
    return len(found), sum(len(value.data) for value in found)


async def batches(
    context: MigrationContext, names: SortedNames, after: str | None
) -> AsyncGenerator[Batch, None]:
    """All values behind `after`, examined.

    The next values are read while these are examined: the one keeps the source's server busy, the other us.
    """
    store = context.store
    request = replace(context.request, policy=policy_of(store, context.request.policy))
    async with aclosing(one_ahead(values(context, names, after))) as portions:
        async for rest in portions:
            while rest:
                batch = await asyncio.to_thread(examine_batch, rest, store.namespace, request)
                yield batch
                rest = rest[len(batch.values) :]


async def one_ahead(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items, the next one being made while one is used. Closes `items` at the end."""

    async def following() -> tuple[T] | None:
        async for item in items:
            return (item,)
        return None

    ahead = asyncio.create_task(following())
    try:
        while (item := await ahead) is not None:
            ahead = asyncio.create_task(following())
            yield item[0]
    finally:
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)
        await items.aclose()


async def as_it_is(item: T) -> T:
    """The work of a pipeline that only reads and collects."""
    return item
