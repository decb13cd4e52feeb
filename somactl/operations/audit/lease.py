"""One audit of a range at a time: the note that says who is at work, and how far a run has come.

The note is the run's checkpoint and its lease in one. It is written by compare-and-set alone, so that of two
runs that both think it free one stops. A run that was killed leaves a lease that ends by itself, by the
store's clock; what it had done until then is what `--resume` goes on from.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from somactl.errors import LockHeld, SomactlError
from somactl.operations.jobs.checkpoint import Checkpoint, Notes, decode_note
from somactl.report import VerifyReport
from somactl.suggestion import again

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
POLL_SECONDS = 2.0
PREFIX = "audit/run/"

OnOverlap = Literal["fail", "wait", "skip"]
Phase = Literal["all", "recheck"]


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run is.

    request   the identity of what was asked for; another request does not go on from here
    holder    who is at work, for a person to find; until  when the lease ends, by the store's clock
    phase     `all` (or what changed), then `recheck`
    reached   the last key that is done in the first of these
    report    what was found so far
    """

    request: str
    holder: str
    since: float
    until: float
    phase: Phase = "all"
    reached: str | None = None
    report: VerifyReport | None = None
    format: int = 1


class Lease:
    """The lease of this run, and the checkpoint that it carries."""

    def __init__(self, checkpoint: Checkpoint[RunState], now: Callable[[], float]) -> None:
        self._checkpoint, self._now = checkpoint, now
        self._writing = asyncio.Lock()
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
            until = self._now() + LEASE_SECONDS
            await self._checkpoint.save(msgspec.structs.replace(self.state, **{"until": until, **changes}))

    async def release(self, *, finished: bool) -> None:
        """Let go of the lease. What a run that is not `finished` has come to stays for `--resume`."""
        if self.lost is None:
            async with self._writing:
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
        while self.lost is None:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self.save()
            except LockHeld as exc:
                self.lost = exc
            except SomactlError:
                pass  # the next time, or the work itself meets it


async def take(
    notes: Notes,
    scope: str,
    fresh: Callable[[RunState | None], RunState],
    *,
    now: Callable[[], float],
    on_overlap: OnOverlap = "fail",
    waiting: Callable[[str], None] = lambda sentence: None,
) -> Lease | None:
    """The lease of a scope, `all` or a shard such as `2-of-8`; None where another audit is skipped for.

    fresh  the state to begin with, given the one that an earlier run has left
    now    the time by the store's clock

    Raises LockHeld where another audit of the same keys is at work, and what writing a note raises.
    """
    told = False
    while True:
        other = await _overlapping(notes, scope, now())
        if other is None:
            checkpoint = await Checkpoint.open(notes, PREFIX + scope, RunState, _taken)
            with suppress(LockHeld):  # another one was faster: it is found in the next turn
                await checkpoint.save(fresh(checkpoint.state))
                lease = Lease(checkpoint, now)
                other = await _overlapping(notes, scope, now(), since=lease.state.since)
                if other is None:
                    return lease
                await lease.release(finished=True)
        if other is None:
            continue
        sentence = _sentence(other, now())
        if on_overlap == "fail":
            raise LockHeld(sentence, next=again(on_overlap="wait"), holder=other.holder, since=other.since)
        if on_overlap == "skip":
            waiting(f"{sentence}; this one is skipped")
            return None
        if not told:
            waiting(f"waiting: {sentence}")
            told = True
        await asyncio.sleep(min(POLL_SECONDS, max(0.1, other.until - now())))


async def _overlapping(notes: Notes, scope: str, now: float, since: float = math.inf) -> RunState | None:
    """Another run at work on some of the same keys; of two that began at once, the one that was first."""
    names = [note.name async for page in notes.scan_notes(PREFIX) for note in page]
    for name, note in (await notes.read_notes(names)).items():
        other, own = name.removeprefix(PREFIX), name == PREFIX + scope
        apart = "all" not in (other, scope) and other.partition("-")[2] == scope.partition("-")[2] and not own
        if apart or (own and since < math.inf):
            continue
        state = decode_note(note, RunState)
        if state.until > now and (state.since, other) < (since, scope):
            return state
    return None


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
