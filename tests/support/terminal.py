"""Run a program with a terminal for its stderr (and, where wanted, everything), as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shown:
    """What came out: `out` by the pipe on stdout, `screen` on the terminal."""

    code: int
    out: bytes
    screen: str


def run_watched(
    words: Sequence[str | Path], cwd: Path, env: dict[str, str], *, stdin: bytes = b"", columns: int = 100
) -> Shown:
    """Run with stderr on a terminal of `columns`, stdin and stdout piped."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(cwd / ".stdin", "wb") as given:
        given.write(stdin)
    with open(cwd / ".stdin", "rb") as given, open(cwd / ".stdout", "wb") as out:
        process = subprocess.Popen(
            words, cwd=cwd, env=env | {"TERM": "xterm-256color"}, stdin=given, stdout=out, stderr=slave
        )
    os.close(slave)
    screen = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other side has closed it
            break
        if not part:
            break
        screen += part
    os.close(master)
    return Shown(process.wait(timeout=60), (cwd / ".stdout").read_bytes(), screen.decode())
