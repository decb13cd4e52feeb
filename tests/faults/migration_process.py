"""Runs of `somactl migrate-json` that can be killed, stopped and signalled at any step they take.

As `faults.writer_process`: one process imports everything, prints `ready`, and forks a child for each order
that it reads. The child leaves in its folder what it printed (`out`, `err`), each step before and after it
took it (`steps`), and, if it came to its end, its exit code and its peak memory (`ended`).
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from somactl import runtime
from somactl.cli import main as somactl
from somactl.legacy import batches, revert

NEEDED = (
    "somactl.cli.app",
    "somactl.cli.commands.migrate",
    "somactl.cli.render",
    "somactl.core.envelope",
    "somactl.legacy.kinds",
    "somactl.legacy.independent_parser",
    "somactl.legacy.source.postgres",
    "somactl.legacy.source.redis",
    "somactl.store.hybrid",
    "somactl.store.postgres",
    "somactl.store.redis",
    "somactl.store.redis.cache",
    "somactl.store.sqlite",
    "scipy.linalg",
)
STEPS = {"write_notes": "notes", "commit_matrix_update": "commit", "swap": "swap"}


class Order(msgspec.Struct, frozen=True):
    """One run.

    signals   step -> the signal that the process then sends to itself: `before commit 3` (the third commit of
              this run is about to be sent), `after notes 1`, `before swap 2`
    """

    words: list[str]
    environment: dict[str, str]
    folder: str
    batch_values: int
    signals: dict[str, int] = {}


class Steps:
    """Counts the writes of a run, tells of each, and signals where it is asked to."""

    def __init__(self, order: Order) -> None:
        self._signals = order.signals
        self._told = os.open(f"{order.folder}/steps", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._counts: dict[str, int] = {}

    async def take(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        self._counts[name] = number = self._counts.get(name, 0) + 1
        self._tell(f"before {name} {number}")
        result = await call()
        self._tell(f"after {name} {number}")
        return result

    def _tell(self, step: str) -> None:
        os.write(self._told, f"{step} {time.monotonic()}\n".encode())
        if step in self._signals:
            os.kill(os.getpid(), self._signals[step])


class Watched:
    """A store or a source whose writes are steps."""

    def __init__(self, inner: Any, steps: Steps) -> None:
        self._inner = inner
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in STEPS:
            return found

        async def step(*arguments: Any, **options: Any) -> Any:
            return await self._steps.take(STEPS[name], lambda: found(*arguments, **options))

        return step


def watched(
    opening: Callable[..., AbstractAsyncContextManager[Any]], steps: Steps
) -> Callable[..., AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def open_watched(*arguments: Any, **options: Any) -> AsyncIterator[Watched]:
        async with opening(*arguments, **options) as inner:
            yield Watched(inner, steps)

    return open_watched


def carry_out(order: Order) -> int:
    """The code with which `somactl` would have exited."""
    os.environ.clear()
    os.environ.update(order.environment)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, (path, mode) in enumerate(
        ((os.devnull, os.O_RDONLY), (f"{order.folder}/out", flags), (f"{order.folder}/err", flags))
    ):
        os.dup2(os.open(path, mode), number)
    steps = Steps(order)
    batches.BATCH_VALUES = revert.RESTORE_VALUES = order.batch_values
    runtime.open_store = watched(runtime.open_store, steps)
    runtime.open_source = watched(runtime.open_source, steps)
    sys.argv = ["somactl", *order.words]
    try:
        somactl()
    except SystemExit as ended:
        return int(ended.code or 0)


def peak_kib() -> int:
    """The most memory that this process has had at once."""
    found = re.search(r"VmHWM:\s+([0-9]+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def main() -> None:
    for name in NEEDED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # killed children leave no zombies
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = msgspec.json.decode(line, type=Order)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = carry_out(order)
            Path(order.folder, "ended").write_text(f"{code} {peak_kib()}")
            os._exit(0)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
