"""Runs of `somactl` by the hundred: one process imports it, and forks one child a run.

Standard input gives the runs as a list of JSON, standard output their exit codes. The child does what the
executable does; its modules are there already: see `forkserver.py`.
A standard stream is one of

    FILE      a path to write to
    closed    no descriptor
    full      a disk without room
    gone      a pipe whose reader has closed its end
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STATES = ("closed", "full", "gone")


def run_all(runs: list[dict[str, Any]], env: dict[str, str]) -> list[int]:
    """Exit codes of runs `{"words": [...], "cwd": ..., "stdout": ..., "stderr": ...}`."""
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(runs).encode(), env=env, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return list(map(int, done.stdout.split()))


def _redirect(number: int, state: str) -> None:
    if state == "closed":
        os.close(number)
        return
    if state == "gone":
        read, write = os.pipe()
        os.close(read)
    else:
        path = "/dev/full" if state == "full" else state
        write = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(write, number)
    os.close(write)


def _child(run: dict[str, Any]) -> None:
    os.chdir(run["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        _redirect(number, run[name])
    forkserver.become_somactl(run["words"])


def _serve() -> None:
    forkserver.import_all()
    gc.freeze()  # a child that marks garbage would copy every page
    runs = json.loads(sys.stdin.buffer.read())
    for run in runs:
        child = os.fork()
        if child == 0:
            _child(run)
        _, status = os.waitpid(child, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    import forkserver

    sys.path = [entry for entry in sys.path if Path(entry).name != "support"]
    _serve()
