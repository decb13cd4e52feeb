"""What audits remember from run to run: the ledger and the known bad keys, as two notes that move together.

::

    memory = await Memory.open(store, incarnation, tolerances, method)
    ledger = memory.ledger
    ...                                     # ledger = ledger.record(after, upto, ...), for page after page
    ledger = await memory.save(ledger, found=found, cleared=cleared)    # what others saved meanwhile is in it

A ledger's claims leave out the keys that are known to be bad: so both are read at one moment and written at
once, by compare-and-set. Where another audit was faster, its notes are read and merged, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Self, TypeVar

import msgspec

from somactl.errors import CorruptValue, NamespaceNotFound, OutcomeUnknown, VersionConflict
from somactl.operations.audit.known_bad import (
    MAX_KNOWN_BAD,
    Findings,
    KnownBad,
    decode_findings,
    findings_name,
    updated,
)
from somactl.operations.audit.ledger import Ledger, decode_ledger, encode_ledger, ledger_name, merge
from somactl.operations.jobs.checkpoint import Notes
from somactl.store.contract import Note

TRIES = 20
FIRST_PAUSE = 0.005
T = TypeVar("T", Ledger, Findings)


class Memory:
    """The notes of one incarnation, one set of tolerances and one method, as they were last read or written.

    ledger     what is claimed
    known_bad  key -> what is known of it
    """

    def __init__(
        self, notes: Notes, incarnation: str, tolerances: Mapping[str, float], method: str, *, anew: bool
    ) -> None:
        self._notes = notes
        self._subject = incarnation, dict(tolerances), method
        self._names = ledger_name(tolerances, method), findings_name(tolerances, method)
        self._versions: dict[str, int] = {}
        self._anew = anew
        self._unanswered = False  # no reply came to a write, once

    @classmethod
    async def open(
        cls,
        notes: Notes,
        incarnation: str,
        tolerances: Mapping[str, float],
        method: str,
        *,
        anew: bool = False,
    ) -> Self:
        """Read the notes, which need not exist. Those of another incarnation count as none.

        anew  begin anew in the place of damaged notes, which otherwise raise CorruptValue
        Raises SchemaMismatch where a newer somactl wrote them.
        """
        memory = cls(notes, incarnation, tolerances, method, anew=anew)
        await memory._read()
        return memory

    async def _read(self) -> dict[str, Note]:
        try:
            found = await self._notes.read_notes(self._names)
        except NamespaceNotFound:
            found = {}
        self._versions = {name: found[name].version if name in found else 0 for name in self._names}
        try:
            ledger = self._ours(found.get(self._names[0]), decode_ledger)
            findings = self._ours(found.get(self._names[1]), decode_findings)
        except CorruptValue:
            if not self._anew:
                raise
            ledger = findings = None  # one without the other would claim what is not known
        incarnation, tolerances, method = self._subject
        blank = Ledger(incarnation=incarnation, tolerances=tolerances, method=method)
        self.ledger = blank if ledger is None else ledger
        self.known_bad = {} if findings is None else {each.key: each for each in findings.known}
        return found

    def _ours(self, note: Note | None, decode: Callable[[Note], T]) -> T | None:
        if note is None:
            return None
        decoded = decode(note)
        if (decoded.tolerances, decoded.method) != self._subject[1:]:
            raise CorruptValue(
                f"note {note.name!r} is about other tolerances than its name says", note=note.name
            )
        return decoded if decoded.incarnation == self._subject[0] else None

    async def save(
        self, ledger: Ledger, *, found: Iterable[KnownBad] = (), cleared: Mapping[str, float] | None = None
    ) -> Ledger:
        """Write `ledger`, merged with what is there, and its findings; the ledger that stands there then.

        found    keys that are bad, as this audit read them; all of those in ranges that `ledger` claims
        cleared  key -> when this audit read it, and it was proven or gone
        Beyond MAX_KNOWN_BAD keys the last ones (in the order of keys) are forgotten, and the ledger doubts
        all that is behind the others. Raises VersionConflict where other audits were faster every time,
        and what the notes raise.
        """
        found, cleared = tuple(found), dict(cleared or {})
        for attempt in range(TRIES):
            merged, known_bad = _bounded(merge(self.ledger, ledger), updated(self.known_bad, found, cleared))
            if await self._write(self._changes(merged, known_bad), last=attempt == TRIES - 1):
                self.ledger, self.known_bad = merged, known_bad
                break
            await asyncio.sleep(
                random.uniform(0, FIRST_PAUSE * 2 ** min(attempt, 8))
            )  # many shards end at once
            await self._read()
        return self.ledger

    async def begin_anew(self) -> None:
        """Give up all claims, here and in the note; the known bad keys stay. Raises what the notes raise."""
        incarnation, tolerances, method = self._subject
        self.ledger = Ledger(incarnation=incarnation, tolerances=tolerances, method=method)
        name = self._names[0]
        self._versions.update(await self._notes.write_notes({name: None}, {name: self._versions[name]}))

    def _changes(self, ledger: Ledger, known_bad: Mapping[str, KnownBad]) -> dict[str, bytes | None]:
        """The notes to write; the findings only where they are others than were read."""
        changes: dict[str, bytes | None] = {self._names[0]: encode_ledger(ledger)}
        if known_bad != self.known_bad or (not known_bad and self._versions[self._names[1]]):
            incarnation, tolerances, method = self._subject
            known = tuple(known_bad.values())
            findings = Findings(incarnation=incarnation, tolerances=tolerances, method=method, known=known)
            changes[self._names[1]] = msgspec.json.encode(findings) if known else None
        return changes

    async def _write(self, changes: Mapping[str, bytes | None], *, last: bool) -> bool:
        """Whether they are written now; if not, others were. Raises what the last attempt met."""
        try:
            written = await self._notes.write_notes(changes, self._versions)
        except VersionConflict:
            if last:
                raise
            return False
        except OutcomeUnknown:
            there = await self._read()
            if {name: there[name].data if name in there else None for name in changes} == changes:
                return True
            if last or self._unanswered:
                raise
            self._unanswered = True
            return False
        self._versions = {**self._versions, **written}
        return True


def _bounded(ledger: Ledger, known_bad: dict[str, KnownBad]) -> tuple[Ledger, dict[str, KnownBad]]:
    """What is kept by name, in the order of keys; of what is forgotten, the ledger claims nothing."""
    keys = sorted(known_bad)
    forgotten = [known_bad[key] for key in keys[MAX_KNOWN_BAD:]]
    if forgotten:
        keys = keys[:MAX_KNOWN_BAD]
        ledger = ledger.doubt(keys[-1], None, at=max(each.last_seen for each in forgotten))
    return ledger.compacted(), {key: known_bad[key] for key in keys}
