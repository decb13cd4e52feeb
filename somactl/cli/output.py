"""A command's output: data to stdout, messages to stderr; tables for people, JSON for programs."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from somactl import config
from somactl.cli.suggest import Invocation, in_flags
from somactl.cli.text import on_lines, size, take_failure, takes_more
from somactl.config import OUTPUTS
from somactl.errors import ResultNotWritten, SomactlError
from somactl.operations.jobs.progress import Progress
from somactl.report import ErrorReport, Report, decide
from somactl.report.encoding import to_json
from somactl.suggestion import again, printable

PATIENCE_SECONDS = 1.0  # a command that is done by then shows nothing
DRAW_SECONDS = 0.1
LOG_SECONDS = 30.0  # where stderr is no terminal


def output_mode(argv: Sequence[str]) -> str:
    """The output mode as far as it can be known before the arguments are parsed, for early errors."""
    words = list(argv)
    for i, word in enumerate(words):
        if re.fullmatch(r"--output|-q*o", word) and i + 1 < len(words):
            return words[i + 1]
        if attached := re.fullmatch(r"(?:--output=|-q*o)(.+)", word):
            return attached[1]
    return config.output_from_environment()


class Output:
    """One command's stdout and stderr. Printing never fails (`cli.text`); `close` says what it came to."""

    def __init__(self, mode: str, *, quiet: bool = False, color: bool = True) -> None:
        self.mode = mode if mode in OUTPUTS else "table"
        self.quiet = quiet
        self.color = color and sys.stdout.isatty()
        self.progress = ProgressPrinter(self.talk, quiet=quiet, color=color)

    @property
    def is_watched(self) -> bool:
        """Whether a person may be looking at stderr."""
        return not self.quiet and sys.stderr is not None and sys.stderr.isatty()

    @property
    def closed(self) -> bool:
        """Whether stdout takes no more: its reader has left (`| head`), or it failed."""
        return not takes_more(sys.stdout)

    @property
    def is_json(self) -> bool:
        return self.mode != "table"

    def write(self, data: bytes | memoryview) -> None:
        """Raw bytes to stdout."""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def print(self, text: str) -> None:
        """Text on stdout, line by line."""
        self.write((on_lines(text.split("\n")) + "\n").encode())

    def item(self, value: Any) -> None:
        """One line of ndjson."""
        self.write(to_json(value) + b"\n")

    def report(self, report: Report, *, asked_for: bool = True) -> None:
        """The finished report: a table with its undo and next commands, or JSON.

        With --quiet, where all went well: the rows alone, and no table that was not asked for.
        """
        self.progress.hide()
        if self.mode == "ndjson":
            self.item(report)
        elif self.mode == "json":
            self.write(msgspec.json.format(to_json(report), indent=2) + b"\n")
        else:
            from somactl.cli.render import DARK_LINE, degraded_line, render

            if report.dark:
                self.warn(DARK_LINE)
            for part in report.degraded_services:
                self.warn(degraded_line(part))
            brief = self.quiet and report.code == 0
            text = render(report, color=self.color, brief=brief)
            if text and not (brief and not asked_for):
                self.write((text + "\n").encode())

    def talk(self, text: str) -> None:
        """A remark for a person; silent with --quiet."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Something a person must be told, on stderr; in the JSON modes as an object on one line."""
        self.progress.hide()
        line = to_json({"message": text}).decode() if self.is_json else printable(text)
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def failure(
        self, error: SomactlError, during: Invocation | None = None, *, code: int | None = None
    ) -> int:
        """Print what went wrong and what to do next; returns the exit code, by default the error's."""
        self.progress.hide()
        during = during or Invocation()
        error.during(command=during.command, store=during.store, namespace=during.namespace)
        code = error.exit_code if code is None else code
        if self.is_json:
            line = to_json(error_report(error, during, code)).decode()
        else:
            from somactl.cli.render import render_error

            line = render_error(error, during)
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
        return code

    def close(self, code: int, standing: Standing | None = None) -> int:
        """The exit code of a run that earned `code`: with 17 where stdout did not take all that was printed.

        Quiet where its reader closed the pipe. Otherwise stderr is told, also of the work that stands.
        """
        sys.stdout.flush()
        failure = take_failure(sys.stdout)
        if failure is None:
            return code
        why = (failure.strerror or "it failed").lower()
        error = ResultNotWritten(f"the result could not be written to standard output: {why}")
        return self.unprinted(error, decide((code, error.exit_code)), standing)

    def unprinted(self, error: SomactlError, code: int, standing: Standing | None = None) -> int:
        """Tell on stderr why the result is not on stdout, and what stands all the same; returns the code."""
        standing = standing or Standing()
        report = standing.report
        if report is not None:
            error.facts["code_of_the_work"] = report.code
            if standing.is_change:
                error.facts["report"] = msgspec.to_builtins(report)
            else:
                error.next = (again(),)
        self.failure(error, standing.during, code=code)
        if report is not None and standing.is_change and not self.is_json:
            from somactl.cli.render import render

            sys.stderr.write(render(report) + "\n")
        return code


@dataclass(frozen=True, slots=True)
class Standing:
    """What a command has done, to be told on stderr where its report could not be printed.

    is_change: it changed something, or wrote a file; otherwise the command can simply be run again.
    """

    report: Report | None = None
    is_change: bool = False
    during: Invocation | None = None


def error_report(error: SomactlError, during: Invocation, code: int) -> ErrorReport:
    advice = during.advice(error)
    told = [
        *([in_flags(error.hint)] if error.hint else []),
        *(f"run `{line}`" for line in advice if error.next),
    ]
    return ErrorReport(
        error=type(error).__name__,
        message=error.message,
        code=code,
        retryable=error.retryable,
        dark=during.dark,
        command=error.command,
        store=error.store,
        namespace=error.namespace,
        hint="; ".join(told) or None,
        next=advice[0] if advice else None,
        others=advice[1:],
        explain=during.runbook(error),
        runbook=error.runbook and f"RUNBOOKS/{error.runbook}.md",
        facts=error.facts,
    )


class ProgressPrinter:
    """Done, of how many, at which rate, and the time left: on a terminal's stderr a line that is drawn anew,
    elsewhere a remark every half minute. With --quiet nothing.

    remark   prints one sentence on stderr
    counted  what the whole comes to where the work itself cannot tell; None: not known (yet)
    reason   what holds the work back at the moment; empty: nothing does
    """

    def __init__(self, remark: Callable[[str], None], *, quiet: bool = False, color: bool = True) -> None:
        self.counted: int | None = None
        self.reason: Callable[[], str] = lambda: ""
        self._last: Progress | None = None
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
        self._last = progress
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
        extra = ", ".join(part for part in (read, progress.note, self.reason()) if part)
        if watched:
            self._draw(done, rate, extra)
        else:
            self._remark(self._sentence(done, rate, extra))

    def again(self) -> None:
        """Show anew what was shown last: time goes by while nothing is done, and the reason may change."""
        if self._last is not None:
            self(self._last)

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
        count = f"{done} {self._what}"
        if self._total is not None:
            share = 100 * min(done, self._total) // self._total if self._total else 100
            count = f"{done} of {self._total} {self._what} ({share} %)"
        parts = [count, *([extra] if extra else []), *([_shown(rate)] if rate else [])]
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
