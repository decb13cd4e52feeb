"""The log of a server: one JSON object a line on stderr, written by a thread, so that no reader holds it up.

    log.event("refused", why="header too large", client="10.0.0.7")

A line holds what it was given and nothing else: no header, no query, no body. Lines that come faster than
they can be written are counted and left out, and so are those of one kind beyond BURST in a second.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from somactl.report.encoding import to_json

WAITING = 1000
"""Lines that may wait for the writer."""
BURST = 20
"""Lines of one limited kind in a second; how many more there were stands in the next one."""


def write_stderr(data: bytes) -> None:
    while data:
        data = data[os.write(2, data) :]


class Log:
    """Hands lines to a thread. `close` writes those that wait, for a second at most."""

    def __init__(
        self, write: Callable[[bytes], None] = write_stderr, *, wall: Callable[[], float] = time.time
    ) -> None:
        self._write = write
        self._wall = wall
        self._lines: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._lost = 0
        self._seen: dict[str, tuple[int, int]] = {}
        self._thread: threading.Thread | None = None

    def event(self, event: str, **facts: Any) -> None:
        """One line. Facts that are None are left out."""
        self._put(event, {name: value for name, value in facts.items() if value is not None})

    def limited(self, event: str, kind: str, **facts: Any) -> None:
        """As `event`, for what a client can cause at will."""
        second = int(self._wall())
        known, count = self._seen.get(kind, (second, 0))
        if known == second and count >= BURST:
            self._seen[kind] = (known, count + 1)
            return
        suppressed = max(0, count - BURST) if known != second else 0
        self._seen[kind] = (second, 1 if known != second else count + 1)
        self.event(event, kind=kind, suppressed=suppressed or None, **facts)

    def close(self) -> None:
        if self._thread is None:
            return
        try:
            self._lines.put(None, timeout=1.0)
        except queue.Full:
            return
        self._thread.join(1.0)

    def _put(self, event: str, facts: dict[str, Any]) -> None:
        lost = {"lost": self._lost} if self._lost else {}
        line = to_json({"time": round(self._wall(), 3), "event": event, **facts, **lost})
        try:
            self._lines.put_nowait(line + b"\n")
        except queue.Full:
            self._lost += 1
            return
        self._lost = 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write(line)
            except OSError:
                continue  # stderr is closed or full: serving goes on
