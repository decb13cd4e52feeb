"""What a run keeps, so that another process goes on with it: in notes of a store, or of a file.

`canary/ID` is the head, moved by compare-and-set: of two runs at once one stops. `canary/ID/N` are the looks,
some in each note, with their samples. ID follows from the spec: another spec is another run.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from somactl.core.canary_samples import AnySample, ArmName
from somactl.core.canary_spec import Spec
from somactl.errors import CorruptValue, LockHeld
from somactl.operations.jobs.checkpoint import Checkpoint, Notes, forget_notes
from somactl.suggestion import again

PREFIX: Final = "canary/"
KEPT_SECONDS: Final = 30 * 86_400.0
"""What was not touched for so long is deleted when another run begins."""
HOOK_SECONDS: Final = 60.0
"""A hook that was begun is run again when it did not end for this long beyond its own limit."""


class Look(msgspec.Struct, frozen=True):
    """What came until a moment at which the judge was asked."""

    at: float
    samples: list[AnySample]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands. ended_at: the verdict is final, as of that time.

    hook_began_at, hook_ended: about the command that is run with the final verdict.
    """

    format: int = 1
    start: float
    parts: int = 0
    cursors: dict[ArmName, dict[str, float]] = {}
    ended_at: float | None = None
    hook_began_at: float | None = None
    hook_ended: bool = False


class Kept:
    """The state of one run. head is None where none has begun; looks are those that were kept."""

    def __init__(self, notes: Notes, name: str, checkpoint: Checkpoint[Head], looks: list[Look]) -> None:
        self.looks = looks
        self._notes, self._name, self._checkpoint = notes, name, checkpoint

    @classmethod
    async def open(cls, notes: Notes, spec: Spec, *, restart: bool = False) -> Kept:
        """What was kept of a run with this spec; with restart it is forgotten first.

        Raises CorruptValue, SchemaMismatch, and what the notes raise.
        """
        name = PREFIX + _id(spec)
        checkpoint = await Checkpoint.open(notes, name, Head, _taken)
        if restart and checkpoint.state is not None:
            parts: dict[str, bytes | None] = {_part(name, n): None for n in range(checkpoint.state.parts)}
            await checkpoint.save(None, parts)
        parts_of = 0 if checkpoint.state is None else checkpoint.state.parts
        names = [_part(name, n) for n in range(parts_of)]
        found = await notes.read_notes(names) if names else {}
        looks: list[Look] = []
        for each in names:
            if each not in found:
                raise CorruptValue(f"note {each!r} is missing", note=each)
            looks += _decoded(each, found[each].data or b"")
        return cls(notes, name, checkpoint, looks)

    @property
    def head(self) -> Head | None:
        return self._checkpoint.state

    async def begin(self, start: float) -> None:
        """Begin the window. Raises LockHeld where another run did."""
        await self._checkpoint.save(Head(start=start))
        await forget_notes(self._notes, PREFIX, start - KEPT_SECONDS, dry_run=False)

    async def keep(
        self,
        looks: Sequence[Look],
        cursors: dict[ArmName, dict[str, float]],
        *,
        ended_at: float | None = None,
    ) -> None:
        """Keep what came since the last time. Raises LockHeld where another run went on meanwhile."""
        head = self._head()
        part = {_part(self._name, head.parts): _encoded(looks)} if looks else {}
        moved = msgspec.structs.replace(
            head, parts=head.parts + len(part), cursors=cursors, ended_at=ended_at or head.ended_at
        )
        await self._checkpoint.save(moved, part)

    async def claim_hook(self, now: float, seconds: float) -> bool:
        """Whether this process is to run the hook: no other one did, nor is at it."""
        head = self._head()
        if head.hook_ended or (head.hook_began_at or -seconds - HOOK_SECONDS) + seconds + HOOK_SECONDS > now:
            return False
        await self._checkpoint.save(msgspec.structs.replace(head, hook_began_at=now))
        return True

    async def hook_ended(self) -> None:
        await self._checkpoint.save(msgspec.structs.replace(self._head(), hook_ended=True))

    def _head(self) -> Head:
        assert self.head is not None
        return self.head


def _id(spec: Spec) -> str:
    return hashlib.sha256(msgspec.json.encode(spec, order="sorted")).hexdigest()[:16]


def _part(name: str, number: int) -> str:
    return f"{name}/{number:06d}"


def _encoded(looks: Sequence[Look]) -> bytes:
    return zlib.compress(msgspec.json.encode(list(looks)))


def _decoded(name: str, data: bytes) -> list[Look]:
    try:
        return msgspec.json.decode(zlib.decompress(data), type=list[Look])
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise CorruptValue(f"note {name!r} is not what somactl writes: {exc}", note=name) from None


def _taken() -> LockHeld:
    return LockHeld(
        "another canary check of this spec went on meanwhile, and what this one saw is dropped",
        hint="one of them is enough: each look adds to what is kept",
        next=again(),
    )
