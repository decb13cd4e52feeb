"""A dead man's switch as healthchecks.io documents it: it raises the alarm when no ping comes in time.

URL/start   the run began
URL         it ended with 0
URL/CODE    it ended with that exit code

with `rid`, an id of the run, so that its start and end are told from those of others. It is never in the way:
each ping is sent by a thread, within the time of a push, and one that fails is told and changes nothing.
"""

from __future__ import annotations

import threading
import time
import uuid

from somactl.telemetry.pushgateway import TIMEOUT, Access, Client, PushFailed, parse_url


class Ping:
    """The pings of one run. Raises UsageError and SecretExposed for what is no URL of a server."""

    def __init__(self, url: str) -> None:
        self._access = Access(parse_url(url, "--ping", by_flag=True))
        self._run = uuid.uuid4()
        self._last: threading.Thread | None = None
        self._until = 0.0
        self._defect = ""

    def start(self) -> None:
        """Tell that the run began; returns at once."""
        self._send("/start")

    def end(self, code: int) -> None:
        """Tell how it ended, after the start was told; returns at once."""
        self._send(f"/{code}" if code else "")

    def wait(self) -> str:
        """Why a ping failed, once all are sent or given up; empty where none did."""
        if self._last is not None:
            self._last.join(max(0.0, self._until - time.monotonic()))
            if self._last.is_alive():
                return f"no answer within {TIMEOUT:g} s"
        return self._defect

    def _send(self, suffix: str) -> None:
        before, self._until = self._last, time.monotonic() + TIMEOUT
        self._last = threading.Thread(
            target=self._sent, args=(suffix, before, self._until), daemon=True, name="somactl ping"
        )
        self._last.start()

    def _sent(self, suffix: str, before: threading.Thread | None, until: float) -> None:
        if before is not None:
            before.join(TIMEOUT / 2)
        try:
            client = Client(self._access, max(0.0, until - time.monotonic()))
            status, _ = client.request("GET", f"{suffix}?rid={self._run}")
        except PushFailed as exc:
            self._defect = str(exc)
        else:
            if not 200 <= status < 300:
                self._defect = f"it answers {status}"
