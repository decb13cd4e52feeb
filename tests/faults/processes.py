"""Client processes as the tests see them: started, killed, and what they told put into the history."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import msgspec

from faults import writer_process
from faults.history import Attempt, History
from faults.opening import Spec
from faults.writer_process import Order
from servers import watchdog
from somactl.errors import OutcomeUnknown, StoreUnavailable
from somactl.store.contract import Receipt

SECONDS = 30.0


class Client:
    """One process that commits."""

    def __init__(self, pid: int, number: int, told: Path) -> None:
        self.pid = pid
        self.number = number
        self._told = told

    def kill(self) -> None:
        """kill -9; return when it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        watchdog.wait_until_gone([self.pid])

    @property
    def lines(self) -> list[list[str]]:
        """The words of each whole line that it told."""
        text = self._told.read_text() if self._told.exists() else ""
        return [line.split(" ", 3) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    @property
    def acknowledged(self) -> int:
        return sum(words[0] == "done" for words in self.lines)

    def wait_for(self, count: int) -> None:
        """Return when it has had that many commits acknowledged."""
        deadline = time.monotonic() + SECONDS
        while self.acknowledged < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"client {self.number} did not commit {count} times: {self.lines[-3:]}")
            time.sleep(0.002)

    def add_to(self, history: History) -> None:
        """Put what it told into the history. What it sent last may have no outcome."""
        for words in self.lines:
            number = int(words[1])
            commit_id = writer_process.commit_id(self.number, number)
            if words[0] == "sent":
                updates, side = writer_process.update(self.number, number)
                history.attempts[commit_id] = Attempt(commit_id, updates, {}, side, floor=0)
                continue
            attempt = history.attempts[commit_id]
            attempt.ended = float(words[2])
            if words[0] == "done":
                attempt.outcome = "acknowledged"
                attempt.receipt = msgspec.json.decode(words[3], type=Receipt)
            else:
                code, name = words[3].split()
                assert int(code) in (11, 12, 13, 14), f"client {self.number} ended a commit with {name}"
                attempt.outcome = "unknown" if name == OutcomeUnknown.__name__ else "refused"
                attempt.error = StoreUnavailable(f"as client {self.number} told: {words[3]}")


class Clients:
    """Starts clients, from a process that has imported all they need."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.writer_process"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._count = 0

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(self, spec: Spec) -> Client:
        told = self._folder / f"client-{self._count}"
        order = Order(spec, self._count, str(told))
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order).decode() + "\n")
        self._process.stdin.flush()
        client = Client(int(self._line()), self._count, told)
        self._count += 1
        return client

    def __enter__(self) -> Self:
        assert self._line() == "ready"
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate(timeout=SECONDS)  # no more orders: it ends, and its children with it
