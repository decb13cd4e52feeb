"""Stops the servers of a test run, and removes their folders, when the run ends in whatever way.

Run as a program, it reads what to guard from its standard input, whose other end the test process holds:
the input ends when that process does, even by SIGKILL. (PR_SET_PDEATHSIG would not do: it fires when the
*thread* that started the server ends.) Nothing but the standard library is imported, to start in 10 ms.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress


def tree(pid: int) -> list[int]:
    """The process and its descendants, parents first."""
    found = [pid]
    for parent in found:
        found += _children(parent)
    return found


def _children(parent: int) -> list[int]:
    if os.path.isdir("/proc/self/task"):
        return [child for thread in _threads(parent) for child in _children_of_thread(parent, thread)]
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in table.stdout.splitlines()]
    return [int(child) for child, of in rows if int(of) == parent]


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:  # it has ended
        return []


def _children_of_thread(pid: int, thread: str) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{thread}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def stop_tree(pid: int) -> list[int]:
    """SIGSTOP to all of them. A parent is stopped before its children are listed, so it starts no more."""
    stopped = []
    pending = [pid]
    while pending:
        process = pending.pop()
        send(process, signal.SIGSTOP)
        stopped.append(process)
        pending += _children(process)
    return stopped


def kill_tree(pid: int) -> list[int]:
    """SIGKILL to all of them, as if at one moment."""
    processes = stop_tree(pid)
    for process in processes:
        send(process, signal.SIGKILL)
    return processes


def wait_until_gone(processes: list[int], seconds: float = 10) -> None:
    """Return when each has ended, with all of its threads."""
    deadline = time.monotonic() + seconds
    while any(map(_runs, processes)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {processes} outlive SIGKILL by {seconds} s")
        time.sleep(0.002)


def _runs(pid: int) -> bool:
    """Whether any thread of the process runs.

    The first thread is a zombie as soon as it has ended itself, and the whole process is shown as one then,
    while another thread may still be in the kernel: SQLite's, say, whose last write shows a moment later. A
    process whose threads have all ended holds no memory, file or port, only its exit code.
    """
    return any(_state(f"/proc/{pid}/task/{thread}/stat") not in "ZX" for thread in _threads(pid))


def _state(stat: str) -> str:
    """R, S, D, ... as proc(5) has them; X, dead, where the thread is there no longer."""
    try:
        with open(stat) as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def end_all(servers: dict[int, signal.Signals]) -> None:
    """Stop them by their signals, so that they leave no shared memory; kill those that take too long."""
    for pid, number in servers.items():
        send(pid, number)
        for process in tree(pid):
            send(process, signal.SIGCONT)
    with suppress(TimeoutError):
        wait_until_gone(list(servers), seconds=3)
    for pid in servers:
        if _runs(pid):
            wait_until_gone(kill_tree(pid))


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    servers: dict[int, signal.Signals] = {}
    folders: set[str] = set()
    for line in sys.stdin:
        match line.rstrip("\n").split(" ", 2):
            case ["server", pid, stop_signal]:
                servers[int(pid)] = signal.Signals(int(stop_signal))
            case ["ended", pid]:
                servers.pop(int(pid), None)
            case ["folder", folder]:
                folders.add(folder)
            case ["removed", folder]:
                folders.discard(folder)
    end_all(servers)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
