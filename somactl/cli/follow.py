"""How far a migration is, told while it runs; and the rows that a pipeline reads as they come."""

from __future__ import annotations

import base64
import sys
import time

from somactl.cli.command import Session
from somactl.cli.text import printable, size
from somactl.operations.migration.examine import shown
from somactl.operations.migration.journal import Original
from somactl.operations.migration.run import Progress

PROGRESS_SECONDS = 0.2
LOG_SECONDS = 30.0  # where stderr is no terminal


class Follow:
    """How far it is, how long it will take, and which value took longest to examine.

    In ndjson mode also what is rejected, in conflict or moved, a line each.
    """

    def __init__(self, session: Session) -> None:
        self.has_begun = False
        self._out = session.out
        self._what = ""
        self._slowest = ("", 0.0)
        self._last = time.monotonic()
        self._every = PROGRESS_SECONDS if sys.stderr.isatty() else LOG_SECONDS

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.what != self._what:
            self._what, self._since, self._first, self._bytes = progress.what, now, progress.done, 0
        self._bytes += progress.json_bytes
        self._print_rows(progress)
        self._slowest = max(self._slowest, progress.slowest, key=lambda each: each[1])
        if progress.what == "values":
            self.has_begun = True
            if progress.done == progress.total:
                self._tell_slowest()
                return
        if now - self._last >= self._every:
            self._last = now
            self._tell(progress, now)

    def left(self, original: Original) -> None:
        """One that `--revert` could not put back: in ndjson mode a line with all of it."""
        if self._out.mode != "ndjson":
            return
        line = {"key": shown(bytes.fromhex(original.key).decode("utf-8", "surrogateescape"))}
        try:
            line |= {"original": original.data.decode()}
        except UnicodeDecodeError:
            line |= {"original_base64": base64.b64encode(original.data).decode()}
        self._out.item(line)

    def _print_rows(self, progress: Progress) -> None:
        if self._out.mode != "ndjson":
            return
        for row in progress.rows:
            if row.outcome in ("rejected", "conflict") or row.moves:
                self._out.item(row)

    def _tell_slowest(self) -> None:
        key, seconds = self._slowest
        if key:
            self._out.talk(f"slowest to examine: {printable(shown(key))}, {seconds * 1e3:.1f} ms")

    def _tell(self, progress: Progress, now: float) -> None:
        count = f"{progress.done}" if progress.total is None else f"{progress.done} of {progress.total}"
        read = f", {size(self._bytes)}" if self._bytes else ""
        text = f"{count} {progress.what}{read}{self._left(progress, now)}"
        if sys.stderr.isatty():
            self._out.progress(text)
        else:
            self._out.talk(text)

    def _left(self, progress: Progress, now: float) -> str:
        done = progress.done - self._first
        if done <= 0 or progress.total is None:
            return ""
        left = (progress.total - progress.done) * (now - self._since) / done
        return f", {left:.0f} s left" if left < 120 else f", {left / 60:.0f} min left"
