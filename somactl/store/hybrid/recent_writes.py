"""What this process has committed of late, so that it never reads its own past from the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import msgspec

MOST_KEYS = 65_536

Place: TypeAlias = "tuple[str, str | None]"
"""A key and the incarnation it was written in; None where that is unknown."""


class Write(msgspec.Struct, frozen=True):
    """A key that was committed here.

    version  what it was committed as; None where even that is unknown, and any copy may be outdated
    until    when every copy from before has expired, by the clock of `RecentWrites`
    """

    version: int | None
    until: float


class RecentWrites:
    """Keys committed in the last `ttl` seconds: older copies of them are not served here.

    Elsewhere such copies may be, until they expire, where the cache could not be told of the commit (it is
    `owed`); it is told as soon as it answers again. At most `MOST_KEYS` are remembered; the oldest are
    forgotten first. Commits may be noted in any order: the highest version of a key counts.
    """

    def __init__(self, clock: Callable[[], float], ttl: float) -> None:
        self._clock = clock
        self._ttl = ttl
        self._writes: dict[Place, Write] = {}
        self._owed: dict[Place, Write] = {}

    def add(self, keys: Iterable[str], incarnation: str | None, version: int | None, *, owed: bool) -> None:
        write = Write(version, self._clock() + self._ttl)
        for key in keys:
            place = (key, incarnation)
            known = self._writes.get(place)
            if known is not None and (known.version or 0) > (version or 0):
                continue
            self._forget(place)  # the newest stand last
            self._writes[place] = write
            if owed:
                self._owed[place] = write
        while len(self._writes) > MOST_KEYS:
            self._forget(next(iter(self._writes)))

    def forbids(self, key: str, incarnation: str, version: int) -> bool:
        """Whether a copy of that version may be older than what was committed here."""
        for place in ((key, incarnation), (key, None)):
            write = self._writes.get(place)
            current = write is not None and self._clock() < write.until
            if write is not None and current and (write.version is None or version < write.version):
                return True
        return False

    @property
    def owes(self) -> bool:
        """Whether the cache may have yet to be told of anything."""
        return bool(self._owed)

    @property
    def owed(self) -> dict[Place, Write]:
        """What the cache has yet to be told, as long as it matters."""
        now = self._clock()
        while self._writes:
            oldest = next(iter(self._writes))
            if now < self._writes[oldest].until:
                break
            self._forget(oldest)
        return dict(self._owed)

    def told(self, writes: Mapping[Place, Write]) -> None:
        """The cache knows of these now; a key that was committed again meanwhile stays."""
        for place, write in writes.items():
            if self._owed.get(place) is write:
                del self._owed[place]

    def _forget(self, place: Place) -> None:
        self._writes.pop(place, None)
        self._owed.pop(place, None)
