"""Telling when a process has taken what was written to it."""

from __future__ import annotations

import fcntl
import sys
import termios
import time


def wait_until_read(pipe: int, seconds: float = 60) -> None:
    """Return when nothing is left in the pipe, of which `pipe` is either end."""
    deadline = time.monotonic() + seconds
    while int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder):
        assert time.monotonic() < deadline, "the pipe is not read"
        time.sleep(0.05)
