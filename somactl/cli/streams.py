"""Standard streams that take what is printed, whatever became of them: closed, full, failing, unread.

Printing never fails where it stands, so that no work depends on it: what standard output could not take is
remembered, and `Output.close` makes an exit code of it. What standard error could not take is lost.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, TextIO

from somactl.cli.signals import abortable

STDIN, STDOUT, STDERR = 0, 1, 2


class StandardStream(io.RawIOBase):
    """The descriptor of a standard stream, which accepts every byte and passes on those that it can.

    has_left turns true when the reader has closed its end (`| head`), or a signal ended a write that waited
    for it; failure is any other reason why something was not written.
    """

    def __init__(self, descriptor: int) -> None:
        self.has_left = False
        self.failure: OSError | None = None
        self._descriptor = descriptor

    @property
    def is_open(self) -> bool:
        return not self.has_left and self.failure is None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Take all of it. A signal ends the waiting for a reader who does not read."""
        rest = memoryview(data).cast("B")
        length = len(rest)
        try:
            with abortable():
                while rest and self.is_open:
                    rest = rest[self._write_some(rest) :]
        except BrokenPipeError:
            self.has_left = True
        except OSError as exc:
            self.failure = exc
        except BaseException:
            # A signal. What comes next may be printed, unless that were to wait again, or begin in mid-line.
            self.has_left = bool(rest) and (len(rest) < length or not self._takes_now())
            raise
        return length

    def _takes_now(self) -> bool:
        return bool(select.select([], [self._descriptor], [], 0)[1])

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # another process made the pipe that it shares with us a non-blocking one
            select.select([], [self._descriptor], [])
            return 0


class _Talk(StandardStream):
    """Standard error: each message is tried anew, since a disk may have room again."""

    def write(self, data: Any) -> int:
        self.failure, self.has_left = None, False
        return super().write(data)


def secure() -> None:
    """Make the three standard streams safe to use, before anything is opened.

    In the place of a closed descriptor, which the next file to be opened would get (a database, to which
    messages would then be written), comes one that cannot be written to.
    """
    for descriptor in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(STDIN, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = _text(StandardStream(STDOUT), sys.stdout, "surrogateescape")
    sys.stderr = _text(_Talk(STDERR), sys.stderr, "backslashreplace")


def take_failure(stream: TextIO) -> OSError | None:
    """Why the stream did not take all that was printed, told once; None where it did, or its reader left."""
    raw = stream.buffer
    if not isinstance(raw, StandardStream) or raw.failure is None:
        return None
    failure, raw.failure, raw.has_left = raw.failure, None, True
    return failure


def takes_more(stream: TextIO) -> bool:
    raw = stream.buffer
    return not isinstance(raw, StandardStream) or raw.is_open


def _text(raw: StandardStream, old: TextIO | None, errors: str) -> TextIO:
    """Text over `raw` as Python would have opened it. Nothing is buffered that could fail later."""
    encoding = "utf-8" if old is None else old.encoding
    errors = errors if old is None or old.errors is None else old.errors
    return io.TextIOWrapper(
        raw,  # type: ignore[type-var]  # as Python itself does with `-u`
        encoding=encoding,
        errors=errors,
        write_through=True,
    )
