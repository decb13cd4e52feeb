"""What SIGINT and SIGTERM mean: while somactl starts, while it works, while it prints, and when it is done.

starting, asking, printing   they end it at once                                  Stopped
working                      they cancel the task; a write may finish             run_until_done
done                         the code is decided, and no signal changes it        let_go
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from somactl.errors import Interrupted, SomactlError, Terminated

if TYPE_CHECKING:
    import asyncio

    from somactl.report import Report

NUMBERS = (signal.SIGINT, signal.SIGTERM)
SIGNALLED = tuple(128 + number for number in NUMBERS)
_waiting_for_input = False
_cancels_again = False
_came: list[int] = []
_received: list[int] = []  # by the work under way


class Stopped(BaseException):
    """A signal that came while no work was under way. No `except Exception` takes it for a fault."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.exit_code = 128 + number

    def error(self) -> SomactlError:
        return _of_signal(self.number, Interrupted("stopped before anything was written"))


def catch() -> None:
    """From here on the first signal raises Stopped; a second one ends the process where it is."""
    _handle(_stop)


def let_go(code: int) -> None:
    """From here on a signal ends the process with `code`: what it was to do is done."""
    _handle(lambda number, frame: os._exit(code))


@contextmanager
def abortable(*, reads: bool = False) -> Iterator[None]:
    """Around a read or write that may wait for a person or a pipe: a signal ends it at once.

    Elsewhere a signal only cancels the task, so that a write that has begun can find out what became of it.
    A read does not begin after a signal: what it waits for might never come.
    """
    global _waiting_for_input  # signal handlers are process-wide, and so is this
    before, _waiting_for_input = _waiting_for_input, True
    try:
        if reads and _received:
            import asyncio

            raise asyncio.CancelledError
        yield
    finally:
        _waiting_for_input = before


@contextmanager
def impatient() -> Iterator[None]:
    """Around work that writes no matrix: a second signal cancels it again, so that it waits no more."""
    global _cancels_again  # as above
    _cancels_again = True
    try:
        yield
    finally:
        _cancels_again = False


def run_until_done(
    work: Coroutine[Any, Any, Report],
    done: Sequence[Report] = (),
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Report:
    """Run `work` in the one event loop. The first SIGINT or SIGTERM cancels it; a write may finish.

    Raises Interrupted or Terminated, unless `work` itself said what became of it (OutcomeUnknown, 14), or
    returned what it had so far: an incomplete report, to whose codes the signal's is added. The same holds
    for the last report in `done`, which is what `work` had done when it was stopped on its way out.
    `loop` makes the event loop, where the usual one will not do.
    """
    import asyncio

    global _received
    received = _received = list(_came)
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if _waiting_for_input and running:
            raise asyncio.CancelledError
        if running and len(received) <= (2 if _cancels_again else 1):
            loop, task = running[0]
            task.cancel()
            loop.call_soon_threadsafe(lambda: None)  # wakes a loop that waits for nothing else

    async def supervised() -> Report:
        task = asyncio.current_task()
        assert task is not None
        running.append((asyncio.get_running_loop(), task))
        try:
            if received:
                raise asyncio.CancelledError
            return await work
        finally:
            running.clear()
            work.close()

    _handle(on_signal)
    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            report = runner.run(supervised())
    except asyncio.CancelledError:
        if not received:
            raise
        if not done:
            raise Stopped(received[0]).error() from None
        report = done[-1].finish(*done[-1].codes, 128 + received[0])
    except Interrupted as exc:
        raise _of_signal(received[0], exc) from None
    finally:
        if not received:
            catch()
    if received and not report.complete:
        report.finish(*report.codes, 128 + received[0])
    return report


def _handle(handler: Callable[[int, FrameType | None], Any]) -> None:
    for number in NUMBERS:
        signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    if _came:
        os._exit(128 + number)
    _came.append(number)
    raise Stopped(number)


def _of_signal(number: int, error: Interrupted) -> SomactlError:
    """`error` as the class of the signal that caused it."""
    if number == signal.SIGTERM:
        return Terminated(error.message, hint=error.hint, next=error.next, **error.facts)
    return error
