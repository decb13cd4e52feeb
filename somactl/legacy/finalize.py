"""Take out of the source what is safe in the store: whole values go, embedded matrices become references.

A value is touched only if it still is, byte for byte, the one that was migrated, and if the matrices read
from it a second time, by other means, are those that the store gives back. Its original bytes are written
down in the store first; then it is replaced by compare-and-set.

Only the live version of a target counts: retention removes older ones. Asked for by its version it comes from
the authority: what a cache has is no proof.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from somactl.core.portions import in_portions
from somactl.errors import (
    CorruptValue,
    InputRejected,
    InvariantViolated,
    NotFound,
    SomactlError,
    UsageError,
    VersionConflict,
)
from somactl.legacy import tally
from somactl.legacy.batches import as_it_is, cost_of
from somactl.legacy.examine import difference, digest, shown
from somactl.legacy.journal import Journal, Original, Page, State, encode, lock_held
from somactl.legacy.json_edit import Reference, replace_nodes
from somactl.legacy.request import MigrationProgress, MigrationRequest, Watch
from somactl.legacy.source.contract import Change, Source, Value
from somactl.legacy.source.workspace import to_bytes
from somactl.legacy.target import commits_of, label_of_adoption
from somactl.operations.admission import readmit
from somactl.operations.bounded import each_of
from somactl.operations.commit import verdicts_of
from somactl.operations.jobs.pace import Pace
from somactl.operations.jobs.pipeline import Ended, pipeline
from somactl.operations.jobs.progress import unwatched
from somactl.report import MigrateReport, MigrationRow
from somactl.store.contract import MAX_NOTE_BYTES, CommitMetadata, Entry, Stat, Store, is_dark
from somactl.store.request import new_commit_id
from somactl.suggestion import run

if TYPE_CHECKING:
    from somactl.legacy.independent_parser import SecondReading

COMMAND = "migration finalize"
_SAFE = ("migrate", "identical")
_TAKING = ("finalizing", "finalized", "forgetting")
MAX_ORIGINAL_BYTES = MAX_NOTE_BYTES - (1 << 20)
"""Compressed; the state is written with it. Values come one at a time long before they are so large."""
_READ_AT_ONCE = 8
_CHUNK_BYTES = 32 << 20
_CHUNK_KEYS = 1000


async def finalize(
    source: Source, store: Store, journal: Journal, pace: Pace, watch: Watch = unwatched
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
    finalizer = _Finalizer(source, store, journal)

    async def collect(portion: _Portion) -> None:
        resolved = await finalizer.resolve(portion.values, portion.rows, portion.known)
        report.finalized += resolved.finalized
        tally.leave(report, resolved.left_alone)
        if portion.ends_page:  # until then, the next run begins this page again
            await journal.advance(settled=journal.state.settled + 1)
            done, total = journal.state.settled, journal.state.pages
            watch(MigrationProgress(done, "batches finalized", total))

    async def finish(ended: Ended) -> None:
        if journal.state.settled == journal.state.pages:
            await journal.advance(phase="finalized")
            report.phase = "finalized"

    ended = await pipeline(
        _portions(source, journal),
        as_it_is,
        collect,
        pace=pace,
        cost=lambda portion: cost_of(portion.values),
        ahead=0,
        finish=finish,
    )
    report.complete = report.phase == "finalized"
    state = journal.state
    last = await journal.page(state.settled) if state.settled >= state.first_page else None
    conflicts = last.so_far.get("conflict") if last else None
    if conflicts:
        report.warnings.append(
            f"the last pass left {conflicts} matrices in conflict; their values stay in the source"
        )
    return tally.finish(report, ended)


def _refuse_other_phase(journal: Journal) -> None:
    phase = journal.state.phase
    if phase == "forgetting":
        raise UsageError(
            f"migration {journal.id} is being forgotten",
            hint="finish that first",
            next=run("migration forget", journal.id),
        )
    if phase in ("reverting", "reverted"):
        raise UsageError(
            f"migration {journal.id} is {phase}",
            hint="copy it again first, with the options it was made with",
            next=run("migration show", journal.id),
        )
    if phase == "copying":
        raise UsageError(
            f"migration {journal.id} has not come to its end",
            hint="finish it first: migrate-json with --resume, or with --apply and its plan",
            next=run("migration show", journal.id),
        )


def _safe_rows(page: Page) -> dict[str, list[MigrationRow]]:
    """The rows of matrices that should be in the store, by the key of the source."""
    rows: dict[str, list[MigrationRow]] = {}
    for row in page.rows:
        if row.outcome in _SAFE:
            rows.setdefault(row.key, []).append(row)
    return rows


class _Portion(NamedTuple):
    """Values of one page; see `_Finalizer.resolve`."""

    values: Sequence[Value]
    rows: Mapping[str, Sequence[MigrationRow]]
    known: Collection[str]
    ends_page: bool


async def _portions(source: Source, journal: Journal) -> AsyncGenerator[_Portion, None]:
    """The values of all pages that are not settled yet, as many at a time as the source brings at once."""
    for number in range(journal.state.settled + 1, journal.state.pages + 1):
        page = await journal.page(number)
        rows = _safe_rows(page)
        keys = list(rows)
        while True:
            values = await source.fetch(keys) if keys else []
            keys = keys[len(values) :]
            yield _Portion(values, rows, page.commits, not keys)
            if not keys:
                break


@dataclass(frozen=True, slots=True)
class Removal:
    """A value that may go, and what is to stand in its place; None: nothing."""

    value: Value
    left: bytes | None

    @property
    def original(self) -> Original:
        value = self.value
        key = to_bytes(value.key).hex()
        return Original(key, value.data, self.left, value.expires_at, value.attributes)


class Resolved(NamedTuple):
    """How many values are out of the source now, and why the others are not."""

    finalized: int
    left_alone: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Finalizer:
    """Takes values of one source out of it, for one migration."""

    source: Source
    store: Store
    journal: Journal

    async def resolve(
        self, values: Sequence[Value], rows: Mapping[str, Sequence[MigrationRow]], known: Collection[str]
    ) -> Resolved:
        """Take out those of `values` that are safe. `rows`: those of each of them, by its key; `known`:
        commits of this migration, however long ago the store has dropped their records."""
        before = await self.journal.originals_of([to_bytes(value.key) for value in values])
        finalized = 0
        left: dict[str, str] = {}
        open_ = []
        for value in values:
            original = before.get(to_bytes(value.key))
            if original is not None and _is_left(value, original):
                finalized += 1  # by a run that did not live to say so
            elif original is not None and original.data != value.data:
                # Its note holds the only copy of what was taken out then: nothing may take that note's place.
                left[value.key] = "it was finalized before, and has been written anew since"
            else:
                open_.append(value)
        notes: dict[str, bytes | None] = {}
        removals: list[Removal] = []
        for key, found in (await self._plan(open_, rows, known)).items():
            kept = b"" if isinstance(found, str) else encode(found.original)
            if isinstance(found, str):
                left[key] = found
            elif len(kept) > MAX_ORIGINAL_BYTES:
                left[key] = f"its original takes {len(kept)} bytes, more than the store keeps of one"
            else:
                notes[self.journal.original_name(to_bytes(key))] = kept
                # What a revert put back once, it puts back again.
                notes[self.journal.restored_name(to_bytes(key))] = None
                removals.append(found)
        if removals:
            await self.journal.write(self.journal.state, notes)
            refused = await self._take_out(removals)
            finalized += len(removals) - len(refused)
            left |= dict.fromkeys(refused, "it was changed at this moment")
        return Resolved(finalized, left)

    async def _take_out(self, removals: Sequence[Removal]) -> list[str]:
        """Replace the values, whose originals are written down; the keys of those that were changed since."""
        swapped = await self.source.swap([Change(r.value.key, r.value.data, r.left) for r in removals])
        try:
            now = await self.journal.overtaken()
        except SomactlError:
            # A revert may have come in between, which would not put these back once more. Where none did,
            # they are back too early, and the next run takes them out.
            await self._undo(removals, swapped)
            raise
        if now is not None:
            if not _goes_on(self.journal.state, now):
                await self._undo(removals, swapped)
            raise lock_held(self.journal.id)
        refused = [removal.value.key for removal, done in zip(removals, swapped, strict=True) if not done]
        if refused:  # a note says that a value was taken out; of these it would be untrue
            names = [self.journal.original_name(to_bytes(key)) for key in refused]
            await self.journal.write(self.journal.state, dict.fromkeys(names))
        return refused

    async def _undo(self, removals: Sequence[Removal], swapped: Sequence[bool]) -> None:
        """Put back what this run took out: a revert may have done its work, as it thinks, before that."""
        taken = [removal for removal, done in zip(removals, swapped, strict=True) if done]
        if taken:
            await self.source.swap([removal.original.put_back for removal in taken])

    async def _plan(
        self, values: Sequence[Value], rows: Mapping[str, Sequence[MigrationRow]], known: Collection[str]
    ) -> dict[str, Removal | str]:
        """By key, what is to become of a value, or why it stays.

        A matrix that this migration found in the store is committed again in its name before a value is said
        to be safe: so no other migration, which may have put it there, can take it back from under this one.
        """
        found: dict[str, Removal | str] = {}
        for value in values:
            if value.state != "text":
                found[value.key] = "it is not there any more"
            elif digest(value.data) != rows[shown(value.key)][0].source:
                found[value.key] = "it is not the value that was migrated"
        open_ = [(value, rows[shown(value.key)]) for value in values if value.key not in found]
        targets = sorted({row.target for _, own in open_ for row in own})
        stats = (await self.store.stat_many(targets)).stats if targets else {}
        safe = []
        for value, own in open_:
            defect = await self._defect(value, own, stats)
            if defect is None:
                safe.append((value, own))
            else:
                found[value.key] = defect
        versions = await self._adopt({row.target: stats[row.target] for _, own in safe for row in own}, known)
        return found | {value.key: _removal(value, own, versions) for value, own in safe}

    async def _defect(
        self, value: Value, rows: Sequence[MigrationRow], stats: Mapping[str, Stat]
    ) -> str | None:
        """Why not every target of `rows` is known to hold, bit for bit, what the value says."""
        for row in rows:
            stat = stats.get(row.target)
            if stat is None:
                return f"{row.target!r} is not in the store any more"
            if stat.content != row.content:
                return f"{row.target!r} holds another {stat.kind} since version {stat.version}"
        from somactl.legacy.independent_parser import SecondReading

        reading = SecondReading(value.data)
        for chunk in _chunks(stats[row.target] for row in rows):
            entries = await each_of(self._entry, chunk, at_once=_READ_AT_ONCE)
            read: dict[str, Entry] = {}
            for stat, entry in zip(chunk, entries, strict=True):
                if isinstance(entry, str):
                    return f"{stat.key!r} {entry}"
                read[stat.key] = entry
            defect = await asyncio.to_thread(_second_comparison, reading, rows, read)
            if defect is not None:
                return defect
        return None

    async def _entry(self, stat: Stat) -> Entry | str:
        """What the authority gives back, or what is the matter with it."""
        try:
            return await self.store.read(stat.key, stat.version)
        except NotFound:
            return "is being changed in the store"
        except CorruptValue as error:
            return f"is corrupt in the store: {error.message}"

    async def _adopt(self, found: Mapping[str, Stat], known: Collection[str]) -> dict[str, int]:
        """The version of each target in which it is this migration's own; without those that could not be."""
        commits = {stat.commit_id for stat in found.values()}
        own = commits.intersection(known)
        own |= await commits_of(self.store, self.journal.id, commits - own)
        versions = {key: stat.version for key, stat in found.items() if stat.commit_id in own}
        for chunk in _chunks(stat for key, stat in found.items() if key not in versions):
            versions |= await self._adopt_chunk(chunk)
        return versions

    async def _adopt_chunk(self, chunk: Sequence[Stat]) -> dict[str, int]:
        tolerances = MigrationRequest.from_wire(self.journal.state.asked).policy.tolerances
        puts = {}
        readmitted = partial(readmit, tolerances=tolerances, dark=is_dark(self.store))
        for entry in await each_of(self._entry, chunk, at_once=_READ_AT_ONCE):
            if isinstance(entry, Entry):
                try:
                    puts[entry.key] = await asyncio.to_thread(readmitted, entry)
                except InvariantViolated:
                    continue  # it was committed under wider tolerances than this migration's
        expected = {stat.key: stat.version for stat in chunk}
        metadata = CommitMetadata(label_of_adoption(self.journal), verdicts_of(puts), COMMAND)
        while puts:
            try:
                receipt = await self.store.commit_matrix_update(
                    {key: admitted.data for key, admitted in puts.items()},
                    metadata,
                    {key: expected[key] for key in puts},
                    commit_id=new_commit_id(),
                )
            except VersionConflict as conflict:
                puts = {key: admitted for key, admitted in puts.items() if key not in conflict.conflicts}
                continue
            return dict.fromkeys(puts, receipt.version)
        return {}


def _second_comparison(
    reading: SecondReading, rows: Sequence[MigrationRow], entries: Mapping[str, Entry]
) -> str | None:
    """What keeps a stored matrix from being the one in the value, read by other means; None: nothing."""
    from somactl.core.envelope import deserialize_matrix

    for row in rows:
        if row.target not in entries:
            continue
        try:
            wanted = reading.at(row.pointer)
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, InputRejected) as error:
            return f"{row.target!r} cannot be compared a second time ({type(error).__name__}: {error})"
        defect = difference(deserialize_matrix(entries[row.target].data).array, wanted, row.moves)
        if defect is not None:
            return f"{row.target!r} {defect}"
    return None


def _removal(value: Value, rows: Sequence[MigrationRow], versions: Mapping[str, int]) -> Removal | str:
    for row in rows:
        if row.target not in versions:
            return f"{row.target!r} is being changed in the store, or cannot be committed again"
    references = {
        row.pointer: Reference(row.target, versions[row.target], row.content).encode() for row in rows
    }
    if "" in references:
        return Removal(value, None)
    try:
        return Removal(value, replace_nodes(value.data, references))
    except InputRejected as error:
        return error.message


def _chunks(stats: Iterable[Stat]) -> Iterator[list[Stat]]:
    """A few at a time, so that not all of them are in memory at once."""
    return in_portions(stats, lambda stat: stat.size, _CHUNK_BYTES, _CHUNK_KEYS)


def _goes_on(mine: State, now: State) -> bool:
    """Whether the run that wrote the state since takes out the same values, and reverted nothing before."""
    return now.phase in _TAKING and (now.first_page, now.dead) == (mine.first_page, mine.dead)


def _is_left(value: Value, original: Original) -> bool:
    """Whether the value is what an earlier run has put there, in any spelling of the same JSON."""
    if original.left is None:
        return value.state == "gone"
    return value.state == "text" and _same_json(value.data, original.left)


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return a == b or json.loads(a) == json.loads(b)
    except (ValueError, RecursionError):
        return False
