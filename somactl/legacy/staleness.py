"""Whether a plan still fits what it was made from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from somactl.errors import NamespaceNotFound, PlanStale
from somactl.legacy.batches import values
from somactl.legacy.context import MigrationContext, Progress
from somactl.legacy.examine import digest, shown
from somactl.legacy.plan import Plan
from somactl.legacy.source.contract import Value
from somactl.legacy.source.workspace import SortedNames
from somactl.legacy.target import outcome_at, replaceable
from somactl.report import MigrationRow

_AGAIN = "make the plan again; nothing of this one was carried out"
_STOPPED = "what was copied before stands; make a new plan for the rest"


class PlannedRows:
    """The rows of a plan, value by value, beginning behind the key `after`."""

    def __init__(self, plan: Plan, after: str | None) -> None:
        self._rows = plan.rows()
        self._next = next(self._rows, None)
        self._resumed = after is not None
        if after is not None:
            last = shown(after)
            while self._next is not None and self._next.key != last:
                self._step()
            self._of(last)

    def take(self, found: Sequence[Value]) -> list[MigrationRow]:
        """The rows of these values, which are the next ones of the source; raises PlanStale."""
        rows: list[MigrationRow] = []
        for value in found:
            of_value = self._of(shown(value.key))
            if not of_value:
                raise self.stale(f"key {shown(value.key)!r} is new in the source since the plan was made")
            rows += of_value
        return rows

    def refuse_rest(self) -> None:
        """Raise PlanStale where the plan has values that the source has no more."""
        if self._next is not None:
            raise self.stale(f"key {self._next.key!r} of the plan is no more in the source")

    def stale(self, message: str) -> PlanStale:
        """The error, and what stands."""
        return PlanStale(message, hint=_STOPPED if self._resumed else _AGAIN)

    def _of(self, key: str) -> list[MigrationRow]:
        rows = []
        while self._next is not None and self._next.key == key:
            rows.append(self._next)
            self._step()
        return rows

    def _step(self) -> None:
        self._next = next(self._rows, None)


async def is_fresh(
    run: MigrationContext, names: SortedNames, planned: PlannedRows, after: str | None, stop: asyncio.Event
) -> bool:
    """Compare all of the source and every target with the plan, before anything is written: PlanStale.

    At the run's pace; False where the time is up or `stop` is set before it has come to the end.
    """
    done = 0
    portions = values(run.source, names, after, run.pace)
    while await run.pace.turn(stop):
        found = await anext(portions, None)
        if found is None:
            planned.refuse_rest()
            return True
        await _refuse_changes(run, found, planned)
        size = sum(len(value.data) for value in found)
        run.pace.did(len(found), size)
        done += len(found)
        run.each(Progress(done, None if after else len(names), size, what="values compared with the plan"))
    return False


async def _refuse_changes(run: MigrationContext, found: Sequence[Value], planned: PlannedRows) -> None:
    rows = planned.take(found)
    read = {shown(value.key): digest(value.data) if value.state == "text" else "" for value in found}
    for row in rows:
        if row.source != read[row.key]:
            raise planned.stale(f"the value of {row.key!r} has changed since the plan was made")
    await _refuse_moved_targets(run, rows, planned)


async def _refuse_moved_targets(
    run: MigrationContext, rows: Sequence[MigrationRow], planned: PlannedRows
) -> None:
    named = [row for row in rows if row.content and row.reason != "collision"]
    try:
        stats = (await run.store.stat_many([row.target for row in named])).stats if named else {}
    except NamespaceNotFound:
        stats = {}  # so the plan took it to be, too
    old = await replaceable(run.store, run.migration, stats, named)
    for row in named:
        now = "migrate" if row.target in old else outcome_at(stats.get(row.target), row.content)
        if now != row.outcome:
            raise planned.stale(f"{row.target!r} was to end as {row.outcome}, and would end as {now} now")


def refuse_difference(rows: Sequence[MigrationRow], planned: Sequence[MigrationRow]) -> None:
    """Raise PlanStale unless a batch comes to exactly what the plan says of it."""
    for row, wanted in zip(rows, planned, strict=False):
        if _essence(row) != _essence(wanted):
            raise PlanStale(
                f"{row.key!r} at {row.pointer!r} was to end as {wanted.outcome}, and ends as {row.outcome}",
                hint=_STOPPED,
            )
    if len(rows) != len(planned):
        raise PlanStale(f"the plan has {len(planned)} rows where there are {len(rows)}", hint=_STOPPED)


def _essence(row: MigrationRow) -> tuple[str, ...]:
    return row.key, row.pointer, row.source, row.outcome, row.reason, row.target, row.kind, row.content
