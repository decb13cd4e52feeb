"""Progress on stderr: a bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from somactl.cli.text import printable, size
from somactl.errors import SomactlError
from somactl.operations.jobs.progress import Progress

PATIENCE_SECONDS = 1.0  # a command that is done by then shows nothing
DRAW_SECONDS = 0.1
LOG_SECONDS = 30.0  # where stderr is no terminal


class ProgressPrinter:
    """Done, of how many, at which rate, and the time left: on a terminal's stderr a line that is drawn anew,
    elsewhere a remark every half minute. With --quiet nothing.

    remark   prints one sentence on stderr
    counted  what the whole comes to where the work itself cannot tell; None: not known (yet)
    """

    def __init__(self, remark: Callable[[str], None], *, quiet: bool = False, color: bool = True) -> None:
        self.counted: int | None = None
        self._total: int | None = None
        self._remark = remark
        self._quiet = quiet
        self._color = color
        self._what = ""
        self._began = self._told = time.monotonic()
        self._bar: _Bar | None = None
        self._is_drawn = False

    @property
    def is_watched(self) -> bool:
        """Whether a person looks on."""
        return not self._quiet and sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        now, done = time.monotonic(), progress.done
        if progress.what != self._what:
            self._what, self._since, self._first, self._bar = progress.what, now, done, None
        self._total = self.counted if progress.total is None else progress.total
        watched = sys.stderr.isatty()
        patience, every = (PATIENCE_SECONDS, DRAW_SECONDS) if watched else (0.0, LOG_SECONDS)
        if now - self._began < patience or now - self._told < every:
            return
        self._told = now
        rate = (done - self._first) / (now - self._since) if now > self._since else 0.0
        read = size(progress.read) if progress.read else ""
        extra = ", ".join(part for part in (read, progress.note) if part)
        if watched:
            self._draw(done, rate, extra)
        else:
            self._remark(self._sentence(done, rate, extra))

    def hide(self) -> None:
        """Take the line away, so that something else can be printed."""
        if self._is_drawn:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._is_drawn = False

    def _draw(self, done: int, rate: float, extra: str) -> None:
        self._bar = self._bar or _Bar(self._what, color=self._color)
        line = self._bar.line(done, self._total, f"{_shown(rate)} {extra}".strip())
        if line is not None:
            sys.stderr.write(f"\r\x1b[2K{line}")
            sys.stderr.flush()
            self._is_drawn = True

    def _sentence(self, done: int, rate: float, extra: str) -> str:
        count = f"{done}" if self._total is None else f"{done} of {self._total}"
        parts = [f"{count} {self._what}", *([extra] if extra else []), *([_shown(rate)] if rate else [])]
        if self._total is not None and rate:
            left = max(0, self._total - done) / rate
            parts.append(f"{left:.0f} s left" if left < 120 else f"{left / 60:.0f} min left")
        return ", ".join(parts)


class _Bar:
    """One step as rich draws it. rich is imported here and nowhere before: most commands never need it."""

    def __init__(self, what: str, *, color: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress as Bars,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, no_color=None if color else True, highlight=False)
        self._progress = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
            expand=True,
        )
        self._task: Any = self._progress.add_task(printable(what), total=None, rate="")

    def line(self, done: int, total: int | None, rate: str) -> str | None:
        """One line of the terminal; None where it cannot overwrite lines."""
        if self._console.is_dumb_terminal:
            return None
        self._progress.update(self._task, completed=done, total=total, rate=printable(rate))
        with self._console.capture() as captured:
            # One column less than there are: a terminal that is full goes on in the next line.
            self._console.print(self._progress, width=max(10, self._console.width - 1), no_wrap=True, end="")
        return captured.get().split("\n")[0]


def _shown(rate: float) -> str:
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


@asynccontextmanager
async def counting(printer: ProgressPrinter, count: Callable[[], Awaitable[int]]) -> AsyncIterator[None]:
    """Work whose total is found out beside it, once it takes long enough that a person would ask."""

    async def find() -> None:
        await asyncio.sleep(PATIENCE_SECONDS)
        with suppress(SomactlError):  # the work itself meets it, and tells
            printer.counted = await count()

    task = asyncio.ensure_future(find()) if printer.is_watched else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
