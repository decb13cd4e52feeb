"""A plan as a file of lines: what was asked, a row for each value and matrix, and a seal over all of it.

    {"plan": 1, "source": ..., "name": ..., "namespace": ..., "asked": {"request": 1, ...}}
    {"key": ..., "outcome": "migrate", ...}          `report.MigrationRow`, in the order of the keys' bytes
    {"rows": 481, "sha256": "..."}                   over every byte before this line

It is read line by line, so that a plan may be as long as its source. Before anything is written, all of the
source and every target is compared with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import msgspec

from somactl.core.text_encoding import without_mark
from somactl.errors import InputRejected, NamespaceNotFound, PlanStale, UsageError
from somactl.legacy.batches import as_it_is, cost_of, values
from somactl.legacy.examine import digest, shown
from somactl.legacy.request import MigrationContext, MigrationProgress, MigrationRequest
from somactl.legacy.source.contract import Value
from somactl.legacy.source.workspace import SortedNames
from somactl.legacy.target import outcome_at, replaceable
from somactl.operations.jobs.pipeline import Ended, pipeline
from somactl.report import MigrationRow
from somactl.suggestion import again

FORMAT = 1
_MAX_LINE_BYTES = 1 << 20
_AGAIN = "make the plan again; nothing of this one was carried out"
_STOPPED = "what was copied before stands; make a new plan for the rest"


class Head(msgspec.Struct, frozen=True):
    """What a plan was made for: the migration's source (see `Source.identity`), target and request."""

    plan: int
    source: str
    name: str
    namespace: str
    asked: dict[str, Any]


class Seal(msgspec.Struct, frozen=True):
    rows: int
    sha256: str


class PlanWriter:
    """Hands a plan to `write` as its rows come; only `seal` makes it one that can be applied."""

    def __init__(self, write: Callable[[bytes], object], context: MigrationContext) -> None:
        self._out = write
        self._digest = hashlib.sha256()
        self._rows = 0
        source, namespace = context.source, context.store.namespace
        self._write(Head(FORMAT, source.identity, source.name, namespace, context.request.to_wire()))

    def add(self, rows: Iterable[MigrationRow]) -> None:
        for row in rows:
            self._write(row)
            self._rows += 1

    def seal(self) -> None:
        self._out(msgspec.json.encode(Seal(self._rows, self._digest.hexdigest())) + b"\n")

    def _write(self, value: msgspec.Struct) -> None:
        line = msgspec.json.encode(value) + b"\n"
        self._digest.update(line)
        self._out(line)


class Plan:
    """A plan that was read to its end once, and found whole. Raises InputRejected for any other.

    `digest` names it: two plans with the same rows for the same request have the same.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.head, self.digest = self._verify()
        self.request = MigrationRequest.from_wire(self.head.asked)

    def rows(self) -> Iterator[MigrationRow]:
        """Every row, from the first one on."""
        self._file.seek(0)
        self._file.readline()
        for line in self._file:
            if line.startswith(b'{"rows":'):
                return
            yield _row(line)

    def refuse_other(self, source: str, namespace: str) -> None:
        """Raise UsageError where it was made for another source or namespace."""
        if self.head.source != source:
            raise UsageError(f"{self._name} was made for {self.head.source}, not for this source")
        if self.head.namespace != namespace:
            raise UsageError(
                f"{self._name} was made for namespace {self.head.namespace!r}, not {namespace!r}"
            )

    def _verify(self) -> tuple[Head, str]:
        digest = hashlib.sha256()
        head: Head | None = None
        rows = 0
        for number, line in enumerate(iter(lambda: self._file.readline(_MAX_LINE_BYTES), b""), 1):
            try:
                if number == 1:
                    line = without_mark(line)
                    head = _head(line)
                elif line.startswith(b'{"rows":'):
                    seal = msgspec.json.decode(line, type=Seal)
                    if head is None or (seal.rows, seal.sha256) != (rows, digest.hexdigest()):
                        raise self._defect("its seal is not that of what it holds")
                    if self._file.read(1):
                        raise self._defect("something follows its seal")
                    return head, seal.sha256
                else:
                    _row(line)
                    rows += 1
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                raise self._defect(f"line {number} is not what a plan has there ({exc})") from None
            digest.update(line)
        raise self._defect("it ends before its seal")

    def _defect(self, what: str) -> InputRejected:
        return InputRejected(
            f"{self._name} is no whole plan: {what}",
            hint="make it again; a plan is not edited by hand",
            next=again(apply=None, dry_run=True, plan_file=self._name),
        )


def _head(line: bytes) -> Head:
    head = msgspec.json.decode(line, type=Head)
    if head.plan != FORMAT:
        raise msgspec.DecodeError(f"plan format {head.plan}; this somactl knows {FORMAT}")
    return head


_row = msgspec.json.Decoder(MigrationRow).decode


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


async def compare_plan(context: MigrationContext, names: SortedNames, plan: Plan, after: str | None) -> Ended:
    """Compare all of the source and every target with the plan, before anything is written: PlanStale.

    At the pace that is allowed; it fits where that came to its end.
    """
    planned = PlannedRows(plan, after)
    done = read = 0

    async def collect(found: Sequence[Value]) -> None:
        nonlocal done, read
        await _refuse_changes(context, found, planned)
        count, size = cost_of(found)
        done, read = done + count, read + size
        total = None if after else len(names)
        context.watch(MigrationProgress(done, "values compared with the plan", total, read))

    found = values(context, names, after)
    ended = await pipeline(found, as_it_is, collect, pace=context.pace, cost=cost_of, ahead=0)
    if ended == "done":
        planned.refuse_rest()
    return ended


async def _refuse_changes(context: MigrationContext, found: Sequence[Value], planned: PlannedRows) -> None:
    rows = planned.take(found)
    read = {shown(value.key): digest(value.data) if value.state == "text" else "" for value in found}
    for row in rows:
        if row.source != read[row.key]:
            raise planned.stale(f"the value of {row.key!r} has changed since the plan was made")
    await _refuse_moved_targets(context, rows, planned)


async def _refuse_moved_targets(
    context: MigrationContext, rows: Sequence[MigrationRow], planned: PlannedRows
) -> None:
    named = [row for row in rows if row.content and row.reason != "collision"]
    try:
        stats = (await context.store.stat_many([row.target for row in named])).stats if named else {}
    except NamespaceNotFound:
        stats = {}  # so the plan took it to be, too
    old = await replaceable(context.store, context.migration, stats, named)
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
