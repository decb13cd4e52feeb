"""One event loop, and what SIGINT and SIGTERM mean in it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from types import FrameType

from somactl.errors import Interrupted, SomactlError, Terminated
from somactl.report import Report

_waiting_for_input = False


@contextmanager
def abortable() -> Iterator[None]:
    """Around a read that may wait for a person or a pipe: a signal ends it at once.

    Elsewhere a signal only cancels the task, so that a write that has begun can find out what became of it.
    """
    global _waiting_for_input  # signal handlers are process-wide, and so is this
    _waiting_for_input = True
    try:
        yield
    finally:
        _waiting_for_input = False


def run_until_done(work: Awaitable[Report]) -> Report:
    """Run `work` in the one event loop. The first SIGINT or SIGTERM cancels it; a write may finish.

    Raises Interrupted or Terminated, unless `work` itself said what became of it (OutcomeUnknown, 14), or
    returned what it had so far: an incomplete report, to whose codes the signal's is added.
    """
    received: list[int] = []

    async def supervised() -> Report:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def on_signal(number: int, frame: FrameType | None) -> None:
            received.append(number)
            if _waiting_for_input:
                raise asyncio.CancelledError
            if len(received) == 1:
                task.cancel()
                loop.call_soon_threadsafe(lambda: None)  # wakes a loop that waits for nothing else

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
        return await work

    try:
        report = asyncio.run(supervised())
    except asyncio.CancelledError:
        if not received:
            raise
        raise _stopped_by(received[0], Interrupted("stopped before anything was written")) from None
    except Interrupted as exc:
        raise _stopped_by(received[0], exc) from None
    if received and not report.complete:
        report.conclude(*report.codes, 128 + received[0])
    return report


def _stopped_by(number: int, error: Interrupted) -> SomactlError:
    """`error` as the class of the signal that caused it."""
    if number == signal.SIGTERM:
        return Terminated(error.message, hint=error.hint, next=error.next, **error.facts)
    return error
