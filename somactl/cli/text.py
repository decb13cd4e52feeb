"""Numbers, times, sizes and tables as text, escaped where a terminal must not print it, and the standard
streams that it goes to: printing to them never fails."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from somactl.cli.signals import abortable
from somactl.suggestion import printable

if TYPE_CHECKING:
    import numpy as np


def columns(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Left-aligned columns, two spaces apart; the last one is never padded."""
    table = [[printable(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header) - 1)]
    return ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in table]


def numbers(array: np.ndarray) -> bytes:
    """Rows of numbers in columns, each with all of its digits; numpy.loadtxt reads them back."""
    rows = [[_digits(value) for value in row] for row in array]
    width = max(len(cell) for row in rows for cell in row)
    return "".join(" ".join(cell.rjust(width) for cell in row) + "\n" for row in rows).encode()


def _digits(value: np.generic) -> str:
    """The shortest decimal that gives back the number in its own precision; complex as 0.5-0.25j."""
    text = str(value)
    return text[1:-1] if text.startswith("(") else text


def wrapped(words: Iterable[str], indent: str, width: int) -> list[str]:
    """The words on as few lines as hold them; one that is longer than a line takes several."""
    room = width - len(indent)
    lines: list[str] = []
    for word in words:
        while len(word) > room:
            lines.append(indent + word[:room])
            word = word[room:]
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(indent + word)
    return lines


def when(seconds: float | None) -> str:
    """UTC to the second, and says so; the store's clock."""
    return "-" if seconds is None else f"{utc(seconds)}Z"


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def in_words(seconds: float) -> str:
    """A length of time in the largest unit of which there is one: 12d, 3h."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(seconds, 0.0):.0f}s"


def size(count: int | None) -> str:
    """Bytes for people: 8.0 MiB."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def shape(dimensions: Sequence[int] | None) -> str:
    return "-" if dimensions is None else "x".join(map(str, dimensions))


def on_lines(lines: Iterable[str]) -> str:
    """Lines for a terminal, of which no text in them can make more."""
    return "\n".join(map(printable, lines))


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
