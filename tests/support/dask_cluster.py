"""A Dask scheduler and its workers, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

TESTS = Path(__file__).resolve().parent.parent
QUIET = ["--no-dashboard", "--host", "127.0.0.1"]


class DaskCluster:
    """A scheduler that gives a task up after `allowed_failures` deaths and one more, and `count` workers."""

    def __init__(self, folder: Path, count: int = 2, *, allowed_failures: int = 3) -> None:
        self.folder, self._count = folder, count
        self._environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(allowed_failures),
        }
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.folder.mkdir()
        place = self.folder / "scheduler.json"
        self.scheduler = self._start("scheduler", ["--port", "0", "--scheduler-file", str(place), *QUIET])
        for number in range(self._count):  # they start while the scheduler does
            words = ["--scheduler-file", str(place), "--nthreads", "1", "--no-nanny", *QUIET]
            folder = ["--local-directory", str(self.folder / str(number))]
            self.workers.append(self._start("worker", [*words, *folder]))
        until = time.monotonic() + 60
        while not place.exists() or not place.read_text():
            if self.scheduler.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"no scheduler: {(self.folder / 'log').read_text()}")
            time.sleep(0.02)
        self.address: str = json.loads(place.read_text())["address"]
        return self

    def _start(self, kind: str, words: list[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(command, env=self._environ, stdout=log, stderr=log)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()
