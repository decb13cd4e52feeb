"""The values of a source in batches, read and examined ahead of their use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from somactl.core.names import Pattern
from somactl.legacy.examine import Selection, examine_each
from somactl.legacy.source.contract import Source, Value
from somactl.legacy.source.workspace import SortedNames
from somactl.operations.admission import Admitted, Policy
from somactl.operations.jobs.pace import Pace
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

    @property
    def json_bytes(self) -> int:
        return sum(len(value.data) for value in self.values)


@dataclass(frozen=True, slots=True)
class Examiner:
    """How values become rows and envelopes; see `examine_each`."""

    namespace: str
    selection: Selection = field(default_factory=Selection)
    policy: Policy = field(default_factory=Policy)

    def batch(self, values: list[Value]) -> Batch:
        """The first of `values`, as many as make a batch, one at least. CPU-bound: belongs on a thread."""
        _load()
        rows: list[MigrationRow] = []
        puts: dict[str, Admitted] = {}
        size = 0
        slowest = ("", 0.0)
        each = examine_each(values, self.namespace, self.selection, self.policy)
        for count, (value, found) in enumerate(zip(values, each, strict=True)):
            if found.seconds > slowest[1]:
                slowest = (value.key, found.seconds)
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


async def list_names(source: Source, match: str | None, names: SortedNames) -> None:
    """Every key of the source that matches, into `names`."""
    async for page in source.names(None if match is None else Pattern(match)):
        names.add(page)


async def values(
    source: Source, names: SortedNames, after: str | None, pace: Pace | None = None
) -> AsyncGenerator[list[Value], None]:
    """The values behind the key `after`, as many at a time as the source brings at once and `pace` allows."""
    most = BATCH_VALUES if pace is None else pace.portion(BATCH_VALUES)
    pages = names.pages(after, most)
    pending: list[str] = []
    while True:
        if len(pending) < most:  # so that no batch is small but the last one
            pending += next(pages, [])
        if not pending:
            return
        found = await source.fetch(pending[:most])
        pending = pending[len(found) :]
        yield found


async def batches(
    found: AsyncGenerator[list[Value], None], examiner: Examiner, pace: Pace, stop: asyncio.Event
) -> AsyncGenerator[Batch, None]:
    """`found`, examined, at the pace that is allowed; ends early where the time is up or `stop` is set.

    The next values are read while these are examined: the one keeps the source's server busy, the other us.
    """
    async with aclosing(one_ahead(found)) as portions:
        rest: list[Value] | None = None
        while await pace.turn(stop):
            rest = rest or await anext(portions, None)
            if rest is None:
                return
            batch = await asyncio.to_thread(examiner.batch, rest)
            rest = rest[len(batch.values) :]
            pace.did(len(batch.values), batch.json_bytes)
            yield batch


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


async def until_told(work: Callable[[asyncio.Event], Awaitable[None]]) -> bool:
    """Run `work`; cancelled, set the event it was given and let it come to an end. Whether that happened."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(work(stop))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await task  # where it has ended already, what came of it counts
    return stop.is_set()
