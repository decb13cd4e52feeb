"""How far an operation is, for a person who waits; `cli.output.ProgressPrinter` shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` things called `what`; the total is None where it is not known (yet).

    read  bytes that were read or moved so far
    note  what else is worth telling
    """

    done: int
    what: str
    total: int | None = None
    read: int = 0
    note: str = ""


Watch: TypeAlias = Callable[[Progress], None]


def unwatched(progress: Progress) -> None:
    """For an operation that is called without an audience."""
