"""One audit of a range at a time: the note that says who is at work, and how far a run has come.

The note is the run's checkpoint and its lease in one. It is written by compare-and-set alone, so that of two
runs that both think it free one stops. A run that was killed leaves a lease that ends by itself, by the
store's clock; what it had done until then is what `--resume` goes on from.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from somactl.errors import CorruptValue, LockHeld, SomactlError, VersionConflict
from somactl.operations.jobs.checkpoint import Checkpoint, Notes, decode_note
from somactl.report import VerifyReport
from somactl.suggestion import again

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
CLOCK_SLACK = 60.0
"""By how much a run's idea of the store's time may differ from another one's."""
POLL_SECONDS = 2.0
PREFIX = "audit/run/"
GATE = "audit/gate"

OnOverlap = Literal["fail", "wait", "skip"]
Phase = Literal["all", "recheck"]


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run is.

    request   the identity of what was asked for; another request does not go on from here, nor one in
              another incarnation
    holder    who is at work, for a person to find; until  when the lease ends, by the store's clock
    began     when the audit began, of which this run is the first or goes on with
    accepted  the digest of what is accepted, which the report counts apart
    phase     `all` (or what changed), then `recheck`
    report    what was found so far, and which key was reached
    """

    request: str
    incarnation: str = ""
    holder: str
    since: float
    until: float
    began: float = 0.0
    accepted: str | None = None
    phase: Phase = "all"
    report: VerifyReport | None = None
    format: int = 1


class Lease:
    """The lease of this run, and the checkpoint that it carries."""

    def __init__(
        self, notes: Notes, scope: str, checkpoint: Checkpoint[RunState], now: Callable[[], float]
    ) -> None:
        self._notes, self._scope, self._checkpoint, self._now = notes, scope, checkpoint, now
        self._writing = asyncio.Lock()
        self._is_held = True
        self.lost: LockHeld | None = None
        """Why this run must end: another one has taken its lease, which had ended."""

    @property
    def state(self) -> RunState:
        state = self._checkpoint.state
        assert state is not None  # it was written when the lease was taken
        return state

    async def save(self, **changes: Any) -> None:
        """Keep these fields of the state, and hold the lease for its full time again. Raises LockHeld."""
        async with self._writing:
            if self.lost is not None:
                raise self.lost
            if self._is_held:
                await self._save(changes)

    async def _save(self, changes: dict[str, Any]) -> None:
        now = self._now()
        try:
            if now >= self.state.until and await _overlapping(self._notes, self._scope, now, besides=True):
                raise _taken()
            state = msgspec.structs.replace(self.state, **{"until": now + LEASE_SECONDS, **changes})
            await self._checkpoint.save(state)
        except LockHeld as exc:
            self.lost = exc
            raise

    async def release(self, *, finished: bool) -> None:
        """Let go of the lease. What a run that is not `finished` has come to stays for `--resume`.

        Raises LockHeld where it is another run's by now.
        """
        async with self._writing:
            if self.lost is None:
                self._is_held = False
                state = None if finished else msgspec.structs.replace(self.state, until=0.0)
                await self._checkpoint.save(state)

    @asynccontextmanager
    async def renewed(self) -> AsyncIterator[None]:
        """Within the block the lease is renewed."""
        task = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _renew(self) -> None:
        while self._is_held and self.lost is None:
            await asyncio.sleep(RENEW_SECONDS)
            with suppress(SomactlError):  # the next time, or the work itself meets it
                await self.save()


async def take(
    notes: Notes,
    scope: str,
    fresh: Callable[[RunState | None], RunState],
    *,
    now: Callable[[], float],
    wait: bool = False,
    talk: Callable[[str], None] = lambda sentence: None,
) -> Lease:
    """The lease of a scope, `all` or a shard such as `2-of-8`.

    fresh  the state to begin with, given the one that an earlier run has left
    now    the time by the store's clock
    wait   for another audit of the same keys to end, which is told by `talk`

    A run that begins moves the gate as well, so that none began between its look at the others and its own
    first write. Raises LockHeld where another audit of the same keys is at work, and what writing a note
    raises.
    """
    told = False
    while True:
        try:
            gate = (await notes.read_notes([GATE])).get(GATE)
            other = await _overlapping(notes, scope, now())
            if other is None:
                checkpoint = await Checkpoint.open(notes, PREFIX + scope, RunState, _taken)
                state = fresh(checkpoint.state)
                guard = {GATE: 0 if gate is None else gate.version}
                await checkpoint.save(state, {GATE: state.holder.encode()}, guards=guard)
                return Lease(notes, scope, checkpoint, now)
        except CorruptValue as exc:
            talk(f"what an earlier audit left is damaged, and forgotten: {exc.message}")
            await notes.write_notes({exc.facts["note"]: None})
            continue
        except (LockHeld, VersionConflict):  # another one begins at this moment: look again
            await asyncio.sleep(random.uniform(0.0, 0.05))
            continue
        sentence = _sentence(other, now())
        if not wait:
            raise LockHeld(sentence, next=again(on_overlap="wait"), holder=other.holder, since=other.since)
        if not told:
            talk(f"waiting: {sentence}")
            told = True
        await asyncio.sleep(min(POLL_SECONDS, max(0.1, other.until - now())))


async def _overlapping(notes: Notes, scope: str, now: float, *, besides: bool = False) -> RunState | None:
    """Another run at work on some of the same keys; with `besides` one of another scope."""
    names = [note.name async for page in notes.scan_notes(PREFIX) for note in page]
    names = [name for name in names if _have_common_keys(name.removeprefix(PREFIX), scope)]
    for name, note in (await notes.read_notes(names)).items():
        if besides and name == PREFIX + scope:
            continue
        state = decode_note(note, RunState)
        # An end that lies further ahead was written when the store's clock was wrong: no run waits for it.
        if now < state.until <= now + LEASE_SECONDS + CLOCK_SLACK:
            return state
    return None


def _have_common_keys(one: str, other: str) -> bool:
    """Shards of one count, `2-of-8` and `3-of-8`, have none."""
    return "all" in (one, other) or one == other or one.partition("-")[2] != other.partition("-")[2]


def holder() -> str:
    """Who holds a lease, for a person to find."""
    return f"process {os.getpid()} on {platform.node() or 'a host without a name'}"


def _taken() -> LockHeld:
    return LockHeld("another audit of the namespace has taken over", next=again(on_overlap="wait"))


def _sentence(other: RunState, now: float) -> str:
    since = datetime.fromtimestamp(other.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    left = max(0.0, other.until - now)
    return (
        f"an audit is under way since {since}, held by {other.holder}; if that is gone, its lease ends in "
        f"{left:.0f} s"
    )
