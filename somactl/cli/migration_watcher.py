"""What is told of a migration while it runs, and the rows that a pipeline reads as they come."""

from __future__ import annotations

import base64

from somactl.cli.command import Session
from somactl.legacy.context import Progress
from somactl.legacy.examine import shown
from somactl.legacy.journal import Original
from somactl.operations.jobs.progress import Progress as Shown


class MigrationWatcher:
    """Passes on how far a migration is, and tells which value took longest to examine.

    In ndjson mode also what is rejected, in conflict or moved, a line each.
    """

    def __init__(self, session: Session) -> None:
        self.has_begun = False
        self._out = session.out
        self._what = ""
        self._bytes = 0
        self._slowest = ("", 0.0)

    def __call__(self, progress: Progress) -> None:
        if progress.what != self._what:
            self._what, self._bytes = progress.what, 0
        self._bytes += progress.json_bytes
        self._print_rows(progress)
        self._slowest = max(self._slowest, progress.slowest, key=lambda each: each[1])
        if progress.what == "values":
            self.has_begun = True
            if progress.done == progress.total:
                self._tell_slowest()
                return
        self._out.progress(Shown(progress.done, progress.what, progress.total, self._bytes))

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
            self._out.talk(f"slowest to examine: {shown(key)}, {seconds * 1e3:.1f} ms")
