"""A part of a whole, as it is asked for: so much of it, or so many bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Share:
    """A fraction of the whole, from 0 to 1."""

    fraction: float

    def of(self, whole: int) -> int:
        """So many of `whole` bytes (or things), rounded up, so that a share of few is not none."""
        return math.ceil(round(self.fraction * whole, 6))

    def __str__(self) -> str:
        return f"{100 * self.fraction:.9g}%"


@dataclass(frozen=True, slots=True)
class Size:
    """So many bytes."""

    bytes_: int

    def of(self, whole: int) -> int:
        """So many of `whole` bytes: no more than there are."""
        return min(self.bytes_, whole)

    def __str__(self) -> str:
        return f"{self.bytes_}B"


Part: TypeAlias = Share | Size
