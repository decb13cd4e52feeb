"""Run a program with a terminal for its stderr (and, where wanted, everything), as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
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


class Typing:
    """A shell in a terminal, and what a person types into it."""

    def __init__(self, words: Sequence[str | Path], cwd: Path, env: dict[str, str]) -> None:
        self.screen = ""
        self._pid, self._master = pty.fork()
        if self._pid == 0:
            os.chdir(cwd)
            os.execvpe(str(words[0]), [str(word) for word in words], env)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, done: Callable[[], bool], seconds: float = 30) -> None:
        """Read what is shown until `done`."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise AssertionError(f"it did not come to that; the screen: {self.screen!r}")
            ready, _, _ = select.select([self._master], [], [], 0.05)
            if ready:
                self.screen += os.read(self._master, 65536).decode(errors="replace")

    def shows(self, text: str) -> None:
        """Wait until `text` is on the screen, and forget what came before it."""
        self.until(lambda: text in self.screen)
        self.screen = self.screen.partition(text)[2]

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._master)
