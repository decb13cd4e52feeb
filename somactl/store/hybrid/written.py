"""What this process has committed of late, so that it never reads its own past from the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

MOST_KEYS = 65_536


class Write(msgspec.Struct, frozen=True):
    """A key that was committed here.

    version  what it was committed as; None where even that is unknown, and any copy may be outdated
    until    when every copy from before has expired, by the clock of `Written`
    owed     whether the cache has yet to be told
    """

    incarnation: str | None
    version: int | None
    until: float
    owed: bool


class Written:
    """Keys committed in the last `ttl` seconds: older copies of them are not served here.

    Elsewhere such copies may be, until they expire, where the cache could not be told of the commit; it is
    told as soon as it answers again. At most `MOST_KEYS` are remembered; the oldest are forgotten first.
    """

    def __init__(self, clock: Callable[[], float], ttl: float) -> None:
        self._clock = clock
        self._ttl = ttl
        self._writes: dict[str, Write] = {}
        self._owed: dict[str, Write] = {}

    def add(self, keys: Iterable[str], incarnation: str | None, version: int | None, *, owed: bool) -> None:
        write = Write(incarnation, version, self._clock() + self._ttl, owed)
        for key in keys:
            self._forget(key)  # the newest stand last
            self._writes[key] = write
            if owed:
                self._owed[key] = write
        while len(self._writes) > MOST_KEYS:
            self._forget(next(iter(self._writes)))

    def forbids(self, key: str, incarnation: str, version: int) -> bool:
        """Whether a copy of that version may be older than what was committed here."""
        write = self._writes.get(key)
        if write is None or self._clock() >= write.until:
            return False
        if write.version is None:
            return True
        return write.incarnation == incarnation and version < write.version

    @property
    def owes(self) -> bool:
        """Whether the cache may have yet to be told of anything."""
        return bool(self._owed)

    @property
    def owed(self) -> dict[str, Write]:
        """What the cache has yet to be told, as long as it matters."""
        now = self._clock()
        while self._writes:
            oldest = next(iter(self._writes))
            if now < self._writes[oldest].until:
                break
            self._forget(oldest)
        return dict(self._owed)

    def told(self, writes: dict[str, Write]) -> None:
        """The cache knows of these now; a key that was committed again meanwhile stays."""
        for key, write in writes.items():
            if self._owed.get(key) is write:
                del self._owed[key]

    def _forget(self, key: str) -> None:
        self._writes.pop(key, None)
        self._owed.pop(key, None)
