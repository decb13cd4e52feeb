"""How numbers, times and tables read, in every report alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any


def columns(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Left-aligned columns, two spaces apart; the last one is never padded."""
    table = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header) - 1)]
    return ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in table]


def when(seconds: float | None) -> str:
    """UTC to the second; the store's clock."""
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


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
