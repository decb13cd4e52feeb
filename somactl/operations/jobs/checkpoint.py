"""The checkpoint of a resumable job: one note of the store, moved by compare-and-set alone.

A job that commits in steps saves, before each commit, what the step will have done and the commit's id; the
next save counts that step and announces the following one, so that a step costs one write::

    checkpoint = await Checkpoint.open(store, "job/7", State, taken)
    if checkpoint.state is not None and checkpoint.state.announced:
        done = await arrived(store, checkpoint.state.announced)   # after a crash: there, or never to be
    await checkpoint.save(State(announced=commit_id, ...))        # raises LockHeld where another run goes on
    await store.commit_matrix_update(..., commit_id=commit_id)
    await checkpoint.save(State(counted, announced=following))

Every save expects the version that this object read or wrote last. So of two runs of one job one stops, and
there is no lock that could outlive its process. A state is a msgspec struct with a field `format`; a reader
refuses the formats of a newer somactl instead of guessing at them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from somactl.errors import (
    CorruptValue,
    LockHeld,
    NamespaceNotFound,
    OutcomeUnknown,
    SchemaMismatch,
    SomactlError,
    VersionConflict,
)
from somactl.store.contract import CommitRecord, Note, Store

T = TypeVar("T", bound=msgspec.Struct)


class Notes(Protocol):
    """What keeps notes as `Store` promises it: a store itself, or a file (`NotesFile`)."""

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]: ...

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]: ...

    def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]: ...


class Checkpoint(Generic[T]):
    """The state of one job, as this run read or wrote it last; `state` is None where there is none (yet).

    name   the note's
    kind   the struct of its state
    taken  makes the error for a run that finds its state moved by another one
    """

    def __init__(
        self, store: Notes, name: str, kind: type[T], taken: Callable[[], LockHeld], note: Note | None = None
    ) -> None:
        self.name = name
        self.state: T | None = None if note is None else decode_note(note, kind)
        self.version = 0 if note is None else note.version
        self._store = store
        self._kind = kind
        self._taken = taken

    @classmethod
    async def open(
        cls, store: Notes, name: str, kind: type[T], taken: Callable[[], LockHeld]
    ) -> Checkpoint[T]:
        """The checkpoint of that name, which need not exist, nor its namespace: that is for the first save
        to find out. Raises CorruptValue, SchemaMismatch."""
        try:
            note = (await store.read_notes([name])).get(name)
        except NamespaceNotFound:
            note = None
        return cls(store, name, kind, taken, note)

    async def save(
        self,
        state: T | None,
        notes: Mapping[str, bytes | None] | None = None,
        *,
        guards: Mapping[str, int] | None = None,
    ) -> None:
        """Make `state` the state (None deletes it), and write `notes` with it, or nothing at all.

        guards: versions that other notes must be at. Raises LockHeld where another run moved the state,
        VersionConflict where it is a guard that does not hold, OutcomeUnknown where neither a reply nor the
        notes themselves tell.
        """
        data = None if state is None else msgspec.json.encode(state)
        changes = {**(notes or {}), self.name: data}
        try:
            written = await self._store.write_notes(changes, {**(guards or {}), self.name: self.version})
            self.version = written[self.name]
        except VersionConflict as exc:
            if self.name not in exc.conflicts:
                raise
            raise self._taken() from None
        except OutcomeUnknown:
            if not await self._is_written(changes):
                raise
            self.version = 0 if data is None else self.version + 1
        self.state = state

    async def _is_written(self, changes: Mapping[str, bytes | None]) -> bool:
        """Two runs may write the same state; a note beside it tells which of them did."""
        found = await self._store.read_notes(list(changes))
        note = found.get(self.name)
        version = 0 if note is None else note.version
        there = {name: note.data for name, note in found.items()}
        expected = 0 if changes[self.name] is None else self.version + 1
        return version == expected and all(there.get(name) == data for name, data in changes.items())

    async def overtaken(self) -> T | None:
        """The state that another run wrote since; None where none did. Raises LockHeld where it is gone."""
        now = await Checkpoint.open(self._store, self.name, self._kind, self._taken)
        if now.state is None:
            raise self._taken()
        return None if now.version == self.version else now.state


class _Marked(msgspec.Struct):
    """What every note of a job has; later formats too."""

    format: int = 1


def decode_note(note: Note, kind: type[T], damaged: type[SomactlError] = CorruptValue) -> T:
    """The struct in a note's JSON.

    Raises SchemaMismatch for a format that is newer than the default of `kind.format`, and `damaged` for
    what no somactl wrote.
    """
    data = note.data or b""
    known = next((each.default for each in msgspec.structs.fields(kind) if each.name == "format"), 1)
    try:
        if msgspec.json.decode(data, type=_Marked).format > known:
            raise SchemaMismatch(
                f"note {note.name!r} was written by a newer somactl", hint="use that one to go on with it"
            )
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise damaged(f"note {note.name!r} is not what somactl writes: {exc}", note=note.name) from None


async def arrived(store: Store, commit_id: str) -> CommitRecord | None:
    """The record of a commit that a job announced; None: it is not there, and from now on never will be."""
    status = await store.commit_status(commit_id, resolve=True)
    return status.record if status.state == "committed" else None


async def forget_notes(store: Notes, prefix: str, horizon: float, *, dry_run: bool) -> int:
    """Delete the notes below `prefix` that were last written before `horizon`; how many there are."""
    count = 0
    async for page in store.scan_notes(prefix):
        old = {note.name: note.version for note in page if note.written_at <= horizon}
        count += len(old)
        if old and not dry_run:
            try:
                await store.write_notes(dict.fromkeys(old), old)
            except VersionConflict:
                count -= len(old)  # one of them is in use again; the next run looks anew
    return count
