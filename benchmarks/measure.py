"""Fair timing: both sides in one run, interleaved A B A B, each at its best number of BLAS threads.

Why the pauses: numpy and scipy each bring an OpenBLAS, and the threads of a pool keep spinning for some
100 ms after its last call. Without a pause the side that runs second is measured on half a machine: `dpotrf`
right after `eigvalsh` took 16 ms instead of 6.5 ms (n = 1024, two cores).
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from threadpoolctl import threadpool_limits

BIN = Path(sys.executable).parent


def settle(window: float = 0.01, patience: float = 1.0) -> None:
    """Waits until no thread of this process spins any more: a window in which it used next to no CPU time."""
    for _ in range(int(patience / window)):
        before = time.process_time()
        time.sleep(window)
        if time.process_time() - before < window / 10:
            return


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


Memory = Literal["fresh", "reused"]


def large_buffers(kind: Memory) -> None:
    """Where glibc's malloc shall take buffers of 4 MiB and more from; elsewhere this does nothing.

    fresh   from the system, page by page: what a command meets that handles one matrix and ends
    reused  from what was freed before: what a service settles into
    Ask for fresh memory before any large buffer is freed: what lies free in the heap is used first. Left
    alone, malloc drifts between the two with the history of the process, and `np.save` between 9 and 0.8 ms.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, (4 if kind == "fresh" else 32) << 20)
        mallopt(_M_TRIM_THRESHOLD, (8 if kind == "fresh" else 1024) << 20)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure one comparison: until `seconds` are spent, within the bounds on rounds."""

    seconds: float = 6.0
    least: int = 5
    most: int = 25

    def rounds(self, seconds_per_round: float) -> int:
        return max(self.least, min(self.most, int(self.seconds / max(seconds_per_round, 1e-9))))


QUICK = Effort(seconds=1.0, least=3, most=7)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things compared. `seconds(threads)` runs it once on that many BLAS threads and times it."""

    name: str
    seconds: Callable[[int], float]
    threaded: bool = True


def local(
    name: str,
    run: Callable[[Any], object],
    *,
    setup: Callable[[], Any] = lambda: None,
    inner: int = 1,
    threaded: bool = True,
) -> Side:
    """A side in this process. `setup()` is not timed and feeds `run`, which is called `inner` times."""

    def seconds(threads: int) -> float:
        with threadpool_limits(limits=threads):
            argument = setup()
            settle()
            gc.disable()
            try:
                start = time.perf_counter()
                for _ in range(inner):
                    run(argument)
                return (time.perf_counter() - start) / inner
            finally:
                gc.enable()

    return Side(name, seconds, threaded)


def command(name: str, argv: Sequence[str], env: dict[str, str] | None = None) -> Side:
    """A side that is a whole process, from spawn to exit; it must succeed."""

    def seconds(_threads: int) -> float:
        start = time.perf_counter()
        done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, check=False)
        elapsed = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{name} exited {done.returncode}: {done.stderr.decode(errors='replace')}")
        return elapsed

    return Side(name, seconds, threaded=False)


@dataclass(frozen=True, slots=True)
class Samples:
    """What one side took: its best thread count and one time for each round, in seconds."""

    name: str
    threads: int
    times: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _best_threads(side: Side) -> tuple[int, float]:
    """(thread count, seconds) of the fastest of a few runs on each count; the first run only warms up."""
    most = min(2, cores())
    warm = side.seconds(most)
    tries = 1 if warm > 2.0 else 3
    if not side.threaded:
        return 1, min(side.seconds(1) for _ in range(tries))
    best = {t: min(side.seconds(t) for _ in range(tries)) for t in range(1, most + 1)}
    return min(best.items(), key=lambda item: item[1])


def interleave(sides: Sequence[Side], effort: Effort) -> list[Samples]:
    """Times all sides in turn, round after round, so that a slow spell of the machine hits each alike."""
    tuned = [(side, *_best_threads(side)) for side in sides]
    pauses = 0.1 * len(sides)
    rounds = effort.rounds(sum(seconds for _, _, seconds in tuned) + pauses)
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for column, (side, threads, _) in zip(times, tuned, strict=True):
            column.append(side.seconds(threads))
    return [
        Samples(side.name, threads, tuple(column))
        for column, (side, threads, _) in zip(times, tuned, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `figure` against `goal` in the sense of `sense`; a row without a goal informs.

    low and high are the least and the largest figure of any round; detail is a remark for the reader.
    """

    name: str
    measure: str
    figure: float
    low: float
    high: float
    sense: Literal[">=", "<=", ""] = ""
    goal: float | None = None
    digits: int = 1
    unit: str = "x"
    detail: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.figure >= self.goal if self.sense == ">=" else self.figure <= self.goal

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met, "command": self.command}

    @property
    def command(self) -> str:
        return f"benchmarks/run.py --only {self.name}"


def ratio(
    name: str,
    measure: str,
    above: Samples,
    below: Samples,
    *,
    sense: Literal[">=", "<=", ""] = "",
    goal: float | None = None,
    scale: float = 1.0,
    digits: int = 1,
    detail: str = "",
) -> Row:
    """`scale` times the ratio of medians; the spread is that of the ratios round by round."""
    each = [scale * a / b for a, b in zip(above.times, below.times, strict=True)]
    return Row(
        name,
        measure,
        scale * above.median / below.median,
        min(each),
        max(each),
        sense,
        goal,
        digits,
        detail=detail,
        seconds={s.name: s.median for s in (above, below)},
        threads={s.name: s.threads for s in (above, below)},
    )


_LAUNCHER = """
import json, os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss]))
"""


def peak_bytes(argv: Sequence[str], env: dict[str, str] | None = None) -> int:
    """Peak resident bytes of a process that must succeed.

    A process inherits the peak of the one that spawned it (Linux keeps the larger one over exec), so a bare
    interpreter stands between this large process and the measured one.
    """
    launcher = [sys.executable, "-S", "-I", "-c", _LAUNCHER, *argv]
    done = subprocess.run(launcher, capture_output=True, text=True, check=True, env=env)
    code, kilobytes = (int(part) for part in done.stdout.strip().strip("[]").split(","))
    if code:
        raise RuntimeError(f"{' '.join(argv)} exited {code}: {done.stderr}")
    return kilobytes * (1 if sys.platform == "darwin" else 1024)
