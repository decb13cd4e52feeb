"""Whether the matrices of a value are safe in the store, and whose they are there.

Only the live version of a target counts: retention removes older ones. Asked for by its version it comes from
the authority: what a cache has is no proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from somactl.core.verdict import Tolerances
from somactl.errors import CorruptValue, InputRejected, InvariantViolated, NotFound, VersionConflict
from somactl.legacy.context import MigrationRequest
from somactl.legacy.examine import difference, digest
from somactl.legacy.journal import Journal
from somactl.legacy.json_edit import Reference, replace_nodes
from somactl.legacy.ownership import commits_of, label_of_adoption
from somactl.legacy.source.contract import Value
from somactl.operations.admission import readmit
from somactl.operations.bounded import each_of, in_portions
from somactl.operations.commit import verdicts_of
from somactl.report import MigrationRow
from somactl.store.contract import CommitMetadata, Entry, Stat, Store
from somactl.store.request import new_commit_id

if TYPE_CHECKING:
    from somactl.legacy.independent_parser import SecondReading

COMMAND = "migrate-json --finalize"
_READ_AT_ONCE = 8
_CHUNK_BYTES = 32 << 20
_CHUNK_KEYS = 1000


@dataclass(frozen=True, slots=True)
class Removal:
    """A value that may go, and what is to stand in its place; None: nothing."""

    value: Value
    left: bytes | None


@dataclass(frozen=True, slots=True)
class Judged:
    """Values that may go, and those that may not, each with the reason."""

    removals: list[Removal] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


async def classify(
    store: Store,
    journal: Journal,
    values: Sequence[Value],
    rows: Mapping[str, Sequence[MigrationRow]],
    known: Collection[str],
) -> Judged:
    """What is to become of `values`; `rows`: those of each of them, by its key; `known`: commits of this
    migration, however long ago the store has dropped their records.

    A matrix that this migration found in the store is committed again in its name before a value is said to
    be safe: so its writer, another migration say, cannot take it back from under this one.
    """
    judged = Judged()
    open_ = []
    for value in values:
        defect = _difference_of_source(value, rows[value.key])
        if defect is None:
            open_.append(value)
        else:
            judged.kept[value.key] = defect
    targets = {row.target for value in open_ for row in rows[value.key]}
    stats = (await store.stat_many(sorted(targets))).stats if targets else {}
    safe = []
    for value in open_:
        defect = await _defect(store, value, rows[value.key], stats)
        if defect is None:
            safe.append(value)
        else:
            judged.kept[value.key] = defect
    found = {row.target: stats[row.target] for value in safe for row in rows[value.key]}
    versions = await _adopt(store, journal, found, known)
    for value in safe:
        removal = _removal(value, rows[value.key], versions)
        if isinstance(removal, Removal):
            judged.removals.append(removal)
        else:
            judged.kept[value.key] = removal
    return judged


def _difference_of_source(value: Value, rows: Sequence[MigrationRow]) -> str | None:
    if value.state != "text":
        return "it is not there any more"
    return None if digest(value.data) == rows[0].source else "it is not the value that was migrated"


async def _defect(
    store: Store, value: Value, rows: Sequence[MigrationRow], stats: Mapping[str, Stat]
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
    for chunk in _chunks([stats[row.target] for row in rows]):
        entries = await each_of(lambda stat: _entry(store, stat), chunk, at_once=_READ_AT_ONCE)
        for stat, entry in zip(chunk, entries, strict=True):
            if isinstance(entry, str):
                return f"{stat.key!r} {entry}"
        read = {stat.key: entry for stat, entry in zip(chunk, entries, strict=True)}
        defect = await asyncio.to_thread(_second_comparison, reading, rows, read)
        if defect is not None:
            return defect
    return None


async def _entry(store: Store, stat: Stat) -> Entry | str:
    """What the authority gives back, or what is the matter with it."""
    try:
        return await store.read(stat.key, stat.version)
    except NotFound:
        return "is being changed in the store"
    except CorruptValue as error:
        return f"is corrupt in the store: {error.message}"


def _second_comparison(
    reading: SecondReading, rows: Sequence[MigrationRow], entries: Mapping[str, Entry | str]
) -> str | None:
    """What keeps a stored matrix from being the one in the value, read by other means; None: nothing."""
    from somactl.core.envelope import deserialize_matrix

    for row in rows:
        entry = entries.get(row.target)
        if not isinstance(entry, Entry):
            continue
        try:
            wanted = reading.at(row.pointer)
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, InputRejected) as error:
            return f"{row.target!r} cannot be compared a second time ({type(error).__name__}: {error})"
        defect = difference(deserialize_matrix(entry.data).array, wanted, row.moves)
        if defect is not None:
            return f"{row.target!r} {defect}"
    return None


async def _adopt(
    store: Store, journal: Journal, found: Mapping[str, Stat], known: Collection[str]
) -> dict[str, int]:
    """The version of each target in which it is this migration's own; without those that could not be."""
    commits = {stat.commit_id for stat in found.values()}
    own = commits.intersection(known)
    own |= await commits_of(store, journal.id, commits - own)
    versions = {key: stat.version for key, stat in found.items() if stat.commit_id in own}
    tolerances = MigrationRequest.from_json(journal.state.asked).policy.tolerances
    for chunk in _chunks([stat for key, stat in found.items() if key not in versions]):
        versions |= await _adopt_chunk(store, journal, chunk, tolerances)
    return versions


async def _adopt_chunk(
    store: Store, journal: Journal, chunk: Sequence[Stat], tolerances: Tolerances
) -> dict[str, int]:
    entries = await each_of(lambda stat: _entry(store, stat), chunk, at_once=_READ_AT_ONCE)
    puts = {}
    for entry in entries:
        if isinstance(entry, Entry):
            try:
                puts[entry.key] = await asyncio.to_thread(readmit, entry, tolerances)
            except InvariantViolated:
                continue  # it was committed under wider tolerances than this migration's
    expected = {stat.key: stat.version for stat in chunk if stat.key in puts}
    metadata = CommitMetadata(label_of_adoption(journal), verdicts_of(puts), COMMAND)
    while puts:
        updates = {key: admitted.data for key, admitted in puts.items()}
        try:
            receipt = await store.commit_matrix_update(
                updates, metadata, {key: expected[key] for key in puts}, commit_id=new_commit_id()
            )
        except VersionConflict as conflict:
            puts = {key: admitted for key, admitted in puts.items() if key not in conflict.conflicts}
            continue
        return dict.fromkeys(puts, receipt.version)
    return {}


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
