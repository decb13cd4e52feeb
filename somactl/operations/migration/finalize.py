"""Take out of the source what is safe in the store: whole values go, embedded matrices become references.

A value is touched only if it still is, byte for byte, the one that was migrated, and if the matrices read
from it a second time, by other means, are those that the store gives back. Its original bytes are written
down in the store first; then it is replaced by compare-and-set.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from somactl.core.json_edit import Reference, replace_nodes
from somactl.errors import CorruptValue, InputRejected, NotFound, UsageError
from somactl.operations.migration.batches import until_told
from somactl.operations.migration.examine import difference, digest, shown
from somactl.operations.migration.journal import Journal, Original, Page, encode, lock_held
from somactl.operations.migration.pace import Pace
from somactl.operations.migration.run import Progress, Watch, unwatched
from somactl.report import MigrateReport, MigrationRow
from somactl.source.contract import Change, Source, Value
from somactl.source.workspace import to_bytes, to_text
from somactl.store.contract import MAX_NOTE_BYTES, Entry, Stat, Store

MAX_LEFT_ALONE = 10_000
_SAFE = ("migrate", "identical")
MAX_ORIGINAL_BYTES = MAX_NOTE_BYTES - (1 << 20)
"""Compressed; the state is written with it. Values come one at a time long before they are so large."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A value that may go, and what is to stand in its place; None: nothing."""

    value: Value
    left: bytes | None


async def finalize(
    source: Source, store: Store, journal: Journal, pace: Pace, each: Watch = unwatched
) -> MigrateReport:
    """Carry it out for every page of the migration that is not settled yet; `left_alone` says what stays."""
    if not source.replaceable:
        raise UsageError(f"{source.name}: what came by a pipe cannot be replaced where it came from")
    _refuse_other_phase(journal)
    if journal.state.phase != "finalizing":
        # The last pass has looked at every value; of what an earlier one found, it is the newer word.
        await journal.advance(phase="finalizing", settled=journal.state.first_page - 1)
    report = journal.report("finalizing")
    if await store.durability() == "memory":
        report.warnings.append(
            f"{store.name} promises no more than memory: what it loses in a crash, matrices and original "
            "bytes alike, is not in the source any more either"
        )

    async def work(stop: asyncio.Event) -> None:
        while journal.state.settled < journal.state.pages and await pace.turn(stop):
            page = await journal.page(journal.state.settled + 1)
            await _settle_page(source, store, journal, page, pace, report)
            await journal.advance(settled=journal.state.settled + 1)
            each(Progress(journal.state.settled, journal.state.pages, what="batches finalized"))
        if journal.state.settled == journal.state.pages:
            await journal.advance(phase="finalized")
            report.phase = "finalized"

    stopped = await until_told(work)
    if report.phase != "finalized":
        report.complete = False
        report.stopped = "a signal" if stopped else "--max-duration"
    report.conclude(4 if not report.complete or report.left_alone else 0)
    return report


def _refuse_other_phase(journal: Journal) -> None:
    phase = journal.state.phase
    if phase == "forgetting":
        raise UsageError(f"migration {journal.id} is being forgotten", hint="finish that first: --forget")
    if phase in ("reverting", "reverted"):
        raise UsageError(f"migration {journal.id} is {phase}", hint="run it again before it is finalized")
    if phase == "copying":
        raise UsageError(
            f"migration {journal.id} has not come to its end", hint="finish it first: add --resume"
        )


async def _settle_page(
    source: Source, store: Store, journal: Journal, page: Page, pace: Pace, report: MigrateReport
) -> None:
    by_key: dict[str, list[MigrationRow]] = {}
    for row in page.rows:
        if row.outcome in _SAFE:
            by_key.setdefault(row.key, []).append(row)
    async for values in fetched(source, list(by_key)):
        await _settle_values(source, store, journal, values, by_key, report)
        pace.did(len(values), sum(len(value.data) for value in values))


async def fetched(source: Source, keys: Sequence[str]) -> AsyncIterator[list[Value]]:
    """The values of `keys`, a portion at a time."""
    while keys:
        found = await source.fetch(keys)
        keys = keys[len(found) :]
        yield found


async def _settle_values(
    source: Source,
    store: Store,
    journal: Journal,
    values: Sequence[Value],
    rows: dict[str, list[MigrationRow]],
    report: MigrateReport,
) -> None:
    before = await journal.originals_of([to_bytes(value.key) for value in values])
    removals: list[Removal] = []
    notes: dict[str, bytes | None] = {}
    for value in values:
        original = before.get(to_bytes(value.key))
        if original is not None and _is_left(value, original):
            report.finalized += 1  # by a run that did not live to say so
            continue
        if original is not None and original.data != value.data:
            # Its note holds the only copy of what was taken out then: nothing may take that note's place.
            leave(report, value.key, "it was finalized before, and has been written anew since")
            continue
        removal = await _judge(store, value, rows[shown(value.key)])
        if isinstance(removal, str):
            leave(report, value.key, removal)
            continue
        kept = encode(_original(removal))
        if len(kept) > MAX_ORIGINAL_BYTES:
            leave(
                report, value.key, f"its original takes {len(kept)} bytes, more than the store keeps of one"
            )
            continue
        notes[journal.original_name(to_bytes(value.key))] = kept
        removals.append(removal)
    if not removals:
        return
    await journal.write(journal.state, notes)
    swapped = await source.swap([Change(r.value.key, r.value.data, r.left) for r in removals])
    now = await journal.overtaken()
    if now is not None:
        if now.phase in ("reverting", "reverted"):
            # It may have put these back, as it thinks, and forgotten them, before they were taken out.
            await source.swap([put_back(_original(removal)) for removal in removals])
        raise lock_held(journal.id)
    refused = [removal.value.key for removal, done in zip(removals, swapped, strict=True) if not done]
    report.finalized += len(removals) - len(refused)
    for key in refused:
        leave(report, key, "it was changed at this moment")
    if refused:  # a note says that a value was taken out; of these it would be untrue
        await journal.write(journal.state, {journal.original_name(to_bytes(key)): None for key in refused})


def _is_left(value: Value, original: Original) -> bool:
    """Whether the value is what an earlier run has put there, in any spelling of the same JSON."""
    if original.left is None:
        return value.state == "gone"
    return value.state == "text" and _same_json(value.data, original.left)


def _same_json(a: bytes, b: bytes) -> bool:
    import json

    try:
        return a == b or json.loads(a) == json.loads(b)
    except (ValueError, RecursionError):
        return False


def _original(removal: Removal) -> Original:
    value = removal.value
    key = to_bytes(value.key).hex()
    return Original(key, value.data, removal.left, value.expires_at, value.attributes)


def put_back(original: Original) -> Change:
    """What undoes the removal of a value, unless it was changed since."""
    key = to_text(bytes.fromhex(original.key))
    return Change(key, original.left, original.data, original.expires_at, original.attributes)


async def _judge(store: Store, value: Value, rows: Sequence[MigrationRow]) -> Removal | str:
    """What is to become of one value, or why it is left alone."""
    if value.state != "text" or digest(value.data) != rows[0].source:
        return (
            "it is not the value that was migrated" if value.state == "text" else "it is not there any more"
        )
    stats = (await store.stat_many([row.target for row in rows])).stats
    try:
        references = {row.pointer: await _reference(store, value, row, stats.get(row.target)) for row in rows}
    except _NotSafe as defect:
        return str(defect)
    if "" in references:
        return Removal(value, None)
    try:
        return Removal(value, replace_nodes(value.data, references))
    except InputRejected as error:
        return error.message


class _NotSafe(Exception):
    """Why a matrix may not be taken out of the source."""


async def _reference(store: Store, value: Value, row: MigrationRow, stat: Stat | None) -> bytes:
    """What stands for the matrix of `row`, if its target holds it, bit for bit; raises _NotSafe.

    Only the live version counts: retention removes older ones. Asked for by its version it comes from the
    authority: what a cache has is no proof that it is safe.
    """
    if stat is None:
        raise _NotSafe(f"{row.target!r} is not in the store any more")
    if stat.content != row.content:
        raise _NotSafe(f"{row.target!r} holds another {stat.kind} since version {stat.version}")
    try:
        entry = await store.read(row.target, stat.version)
    except NotFound:
        raise _NotSafe(f"{row.target!r} is being changed in the store") from None
    except CorruptValue as error:
        raise _NotSafe(f"{row.target!r} is corrupt in the store: {error.message}") from None
    defect = await asyncio.to_thread(_second_comparison, value.data, row, entry)
    if defect is not None:
        raise _NotSafe(f"{row.target!r} {defect}")
    return Reference(row.target, entry.version, row.content).encode()


def _second_comparison(value: bytes, row: MigrationRow, entry: Entry) -> str | None:
    """What keeps the stored matrix from being the one in `value`, read by other means; None: nothing."""
    from somactl.core.envelope import deserialize_matrix
    from somactl.operations.migration.second_reading import read_again

    try:
        wanted = read_again(value, row.pointer)
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, InputRejected) as error:
        return f"cannot be compared a second time ({type(error).__name__}: {error})"
    return difference(deserialize_matrix(entry.data).array, wanted, row.moves)


def leave(report: MigrateReport, key: str, why: str) -> None:
    """Say that a value was not touched, and why; the list is bounded, and says so."""
    if len(report.left_alone) < MAX_LEFT_ALONE:
        report.left_alone[shown(key)] = why
    elif not any("left alone" in warning for warning in report.warnings):
        report.warnings.append(f"more than {MAX_LEFT_ALONE} values were left alone; only so many are listed")
