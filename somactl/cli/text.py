"""How numbers, times and tables read, in every report alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def columns(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Left-aligned columns, two spaces apart; the last one is never padded."""
    table = [[str(cell) for cell in row] for row in (header, *rows)]
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


def printable(text: str) -> str:
    """What stands in a key of foreign data, made harmless: a terminal obeys control characters, and those
    that turn the direction of writing make one key read as another."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
