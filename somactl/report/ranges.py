"""Ranges of keys in the order of their bytes, as shards of an audit are bounded."""

from __future__ import annotations

from dataclasses import dataclass

_Bound = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys k with after < k <= upto; None is before the first, or behind the last, of all keys."""

    after: str | None = None
    upto: str | None = None

    @property
    def lower(self) -> _Bound:
        return (-1, b"") if self.after is None else (0, self.after.encode())

    @property
    def upper(self) -> _Bound:
        return (1, b"") if self.upto is None else (0, self.upto.encode())

    @property
    def is_whole(self) -> bool:
        return self.after is None and self.upto is None

    def __contains__(self, key: str) -> bool:
        return self.lower < (0, key.encode()) <= self.upper

    def __str__(self) -> str:
        if self.is_whole:
            return "every key"
        parts = [
            *([] if self.after is None else [f"behind {self.after!r}"]),
            *(["to the last"] if self.upto is None else [f"up to {self.upto!r}"]),
        ]
        return f"keys {' '.join(parts)}"
