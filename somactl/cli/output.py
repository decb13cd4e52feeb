"""Data to stdout, talk to stderr; a table for people, JSON for programs; a closed pipe is no accident."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from somactl import config
from somactl.cli.progress import ProgressPrinter
from somactl.cli.suggest import Invocation, in_flags
from somactl.config import OUTPUTS
from somactl.errors import SomactlError
from somactl.report import ErrorReport, Report


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
    """One command's stdout and stderr.

    `closed` turns true when whoever reads stdout has gone (`| head`): writing on is then pointless, and
    the exit code is still the one the work earned.
    """

    def __init__(self, mode: str, *, quiet: bool = False, color: bool = True) -> None:
        self.mode = mode if mode in OUTPUTS else "table"
        self.quiet = quiet
        self.color = color and sys.stdout.isatty()
        self.closed = False
        self.progress = ProgressPrinter(self.talk, quiet=quiet, color=color)

    @property
    def is_watched(self) -> bool:
        """Whether a person may be looking at stderr."""
        return not self.quiet and sys.stderr is not None and sys.stderr.isatty()

    @property
    def is_json(self) -> bool:
        return self.mode != "table"

    def write(self, data: bytes | memoryview) -> None:
        """Raw bytes to stdout."""
        if self.closed:
            return
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            self._stdout_gone()

    def print(self, text: str) -> None:
        self.write((text + "\n").encode("utf-8", "surrogateescape"))

    def item(self, value: Any) -> None:
        """One line of ndjson."""
        self.write(msgspec.json.encode(value) + b"\n")

    def report(self, report: Report, *, asked_for: bool = True) -> None:
        """The finished report: a table with its undo and next commands, or JSON.

        With --quiet, where all went well: the rows alone, and no table that was not asked for.
        """
        self.progress.hide()
        if self.mode == "ndjson":
            self.item(report)
        elif self.mode == "json":
            self.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        else:
            from somactl.cli.render import degraded_line, render

            for part in report.degraded_services:
                self.warn(degraded_line(part))
            brief = self.quiet and report.code == 0
            text = render(report, color=self.color, brief=brief)
            if text and not (brief and not asked_for):
                self.print(text)

    def talk(self, text: str) -> None:
        """A remark for a person; silent with --quiet."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Something a person must be told, on stderr; in the JSON modes as an object on one line."""
        self.progress.hide()
        line = msgspec.json.encode({"message": text}).decode() if self.is_json else text
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def failure(self, error: SomactlError, during: Invocation | None = None) -> int:
        """Print what went wrong and what to do next; returns the exit code."""
        self.progress.hide()
        during = during or Invocation()
        if self.is_json:
            sys.stderr.write(msgspec.json.encode(error_report(error, during)).decode() + "\n")
        else:
            from somactl.cli.render import render_error

            sys.stderr.write(render_error(error, during) + "\n")
        sys.stderr.flush()
        return error.exit_code

    def close(self, code: int) -> int:
        """Flush what is left, quietly where nobody reads any more."""
        try:
            sys.stdout.flush()
        except (BrokenPipeError, ValueError):
            self._stdout_gone()
        return code

    def _stdout_gone(self) -> None:
        # The interpreter flushes stdout at exit and would complain there: give it somewhere to flush to.
        self.closed = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def error_report(error: SomactlError, during: Invocation) -> ErrorReport:
    advice = during.advice(error)
    told = [
        *([in_flags(error.hint)] if error.hint else []),
        *(f"run `{line}`" for line in advice if error.next),
    ]
    return ErrorReport(
        error=type(error).__name__,
        message=error.message,
        code=error.exit_code,
        retryable=error.retryable,
        command=during.command,
        store=during.store,
        namespace=during.namespace,
        hint="; ".join(told) or None,
        next=advice[0] if advice else None,
        others=advice[1:],
        explain=during.runbook(error),
        runbook=error.runbook and f"RUNBOOKS/{error.runbook}.md",
        facts=error.facts,
    )
