"""Format numbers, times, sizes and tables for reports, and escape what a terminal must not print."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

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


# Characters that leave no mark of their own, and that `str.isprintable` lets pass all the same.
_INVISIBLE = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def printable(text: str) -> str:
    r"""One line of a terminal: what it would obey, or show as nothing or elsewhere, is escaped (`\x1b`).

    A control character moves the cursor or begins another line, a mark of direction makes one key read as
    another, and what has no width makes two keys look alike. Escaping twice changes nothing.
    """
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() and not _INVISIBLE.match(character):
        return character
    return character.encode("unicode_escape").decode()


def on_lines(lines: Iterable[str]) -> str:
    """Lines for a terminal, of which no text in them can make more."""
    return "\n".join(map(printable, lines))
