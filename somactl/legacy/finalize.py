"""Take out of the source what is safe in the store: whole values go, embedded matrices become references.

A value is touched only if it still is, byte for byte, the one that was migrated, and if the matrices read
from it a second time, by other means, are those that the store gives back. Its original bytes are written
down in the store first; then it is replaced by compare-and-set.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from somactl.errors import SomactlError, UsageError
from somactl.legacy.batches import until_told
from somactl.legacy.context import Progress, Watch, unwatched
from somactl.legacy.examine import shown
from somactl.legacy.journal import (
    Journal,
    Original,
    Page,
    State,
    encode,
    lock_held,
    put_back,
)
from somactl.legacy.leaving import finish, leave
from somactl.legacy.safety import Removal, classify
from somactl.legacy.source.contract import Change, Source, Value
from somactl.legacy.source.workspace import to_bytes
from somactl.operations.jobs.pace import Pace
from somactl.report import MigrateReport, MigrationRow
from somactl.store.contract import MAX_NOTE_BYTES, Store
from somactl.suggestion import afresh, again

_SAFE = ("migrate", "identical")
_TAKING = ("finalizing", "finalized", "forgetting")
MAX_ORIGINAL_BYTES = MAX_NOTE_BYTES - (1 << 20)
"""Compressed; the state is written with it. Values come one at a time long before they are so large."""


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

    conflicts = 0
    for number in range(journal.state.first_page, journal.state.settled + 1):
        conflicts += _conflicts(await journal.page(number))

    async def work(stop: asyncio.Event) -> None:
        nonlocal conflicts
        while journal.state.settled < journal.state.pages and await pace.turn(stop):
            page = await journal.page(journal.state.settled + 1)
            if not await _resolve_page(source, store, journal, page, pace, stop, report):
                break
            conflicts += _conflicts(page)
            await journal.advance(settled=journal.state.settled + 1)
            each(Progress(journal.state.settled, journal.state.pages, what="batches finalized"))
        if journal.state.settled == journal.state.pages:
            await journal.advance(phase="finalized")
            report.phase = "finalized"

    stopped = await until_told(work)
    if conflicts:
        report.warnings.append(
            f"the last pass left {conflicts} matrices in conflict; their values stay in the source"
        )
    return finish(report, done=report.phase == "finalized", stopped=stopped)


def _conflicts(page: Page) -> int:
    return sum(row.outcome == "conflict" for row in page.rows)


_COPY_FIRST = "copy it again first, with the wishes it was made with"


def _refuse_other_phase(journal: Journal) -> None:
    phase = journal.state.phase
    if phase == "forgetting":
        raise UsageError(
            f"migration {journal.id} is being forgotten",
            hint="finish that first",
            next=again(finalize=None, forget=True),
        )
    if phase in ("reverting", "reverted"):
        raise UsageError(f"migration {journal.id} is {phase}", hint=_COPY_FIRST, next=afresh())
    if phase == "copying":
        raise UsageError(
            f"migration {journal.id} has not come to its end", hint="finish it first: add --resume"
        )


async def _resolve_page(
    source: Source,
    store: Store,
    journal: Journal,
    page: Page,
    pace: Pace,
    stop: asyncio.Event,
    report: MigrateReport,
) -> bool:
    """Whether all of it was looked at; else the next run begins this page again."""
    by_key: dict[str, list[MigrationRow]] = {}
    for row in page.rows:
        if row.outcome in _SAFE:
            by_key.setdefault(row.key, []).append(row)
    first = True
    async for values in _fetched(source, list(by_key)):
        if not first and not await pace.turn(stop):
            return False
        first = False
        await _resolve_values(source, store, journal, values, page, by_key, report)
        pace.did(len(values), sum(len(value.data) for value in values))
    return True


async def _fetched(source: Source, keys: Sequence[str]) -> AsyncIterator[list[Value]]:
    """The values of `keys`, a portion at a time."""
    while keys:
        found = await source.fetch(keys)
        keys = keys[len(found) :]
        yield found


async def _resolve_values(
    source: Source,
    store: Store,
    journal: Journal,
    values: Sequence[Value],
    page: Page,
    by_key: dict[str, list[MigrationRow]],
    report: MigrateReport,
) -> None:
    before = await journal.originals_of([to_bytes(value.key) for value in values])
    open_ = []
    for value in values:
        original = before.get(to_bytes(value.key))
        if original is not None and _is_left(value, original):
            report.finalized += 1  # by a run that did not live to say so
        elif original is not None and original.data != value.data:
            # Its note holds the only copy of what was taken out then: nothing may take that note's place.
            leave(report, value.key, "it was finalized before, and has been written anew since")
        else:
            open_.append(value)
    rows = {value.key: by_key[shown(value.key)] for value in open_}
    judged = await classify(store, journal, open_, rows, page.commits)
    for key, why in judged.kept.items():
        leave(report, key, why)
    notes: dict[str, bytes | None] = {}
    removals: list[Removal] = []
    for removal in judged.removals:
        key, kept = removal.value.key, encode(_original(removal))
        if len(kept) > MAX_ORIGINAL_BYTES:
            leave(report, key, f"its original takes {len(kept)} bytes, more than the store keeps of one")
            continue
        notes[journal.original_name(to_bytes(key))] = kept
        notes[journal.restored_name(to_bytes(key))] = None  # what a revert put back once, it puts back again
        removals.append(removal)
    if removals:
        await journal.write(journal.state, notes)
        await _take_out(source, journal, removals, report)


async def _take_out(
    source: Source, journal: Journal, removals: Sequence[Removal], report: MigrateReport
) -> None:
    """Replace the values, whose originals are written down."""
    swapped = await source.swap([Change(r.value.key, r.value.data, r.left) for r in removals])
    try:
        now = await journal.overtaken()
    except SomactlError:
        # It cannot be told whether a revert came in between, which would not put these back once more. Where
        # none did, they are back too early, and the next run takes them out.
        await _undo(source, removals, swapped)
        raise
    if now is not None:
        if not _goes_on(journal.state, now):
            await _undo(source, removals, swapped)
        raise lock_held(journal.id)
    refused = [removal.value.key for removal, done in zip(removals, swapped, strict=True) if not done]
    report.finalized += len(removals) - len(refused)
    for key in refused:
        leave(report, key, "it was changed at this moment")
    if refused:  # a note says that a value was taken out; of these it would be untrue
        await journal.write(journal.state, {journal.original_name(to_bytes(key)): None for key in refused})


def _goes_on(mine: State, now: State) -> bool:
    """Whether the run that wrote the state since takes out the same values, and reverted nothing before."""
    return now.phase in _TAKING and (now.first_page, now.dead) == (mine.first_page, mine.dead)


async def _undo(source: Source, removals: Sequence[Removal], swapped: Sequence[bool]) -> None:
    """Put back what this run took out: a revert may have done its work, as it thinks, before that."""
    taken = [removal for removal, done in zip(removals, swapped, strict=True) if done]
    if taken:
        await source.swap([put_back(_original(removal)) for removal in taken])


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
