"""The cache as the hybrid calls it: it helps where it can, and is never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from somactl.errors import SomactlError, StoreFull
from somactl.store.cached import (
    ESTABLISHING,
    INITIALISING,
    Cache,
    Cached,
    Fill,
    Filled,
    Refusal,
    View,
)
from somactl.store.contract import Degradation, Entry
from somactl.store.hybrid import marker
from somactl.store.hybrid.background import Background
from somactl.store.hybrid.breaker import Breaker
from somactl.store.hybrid.recent_writes import RecentWrites

_TRIES = 5
_PAUSE = 0.01
_REMIND_SECONDS = 1.0
_MISSED = ("late", "lost")
_TROUBLES = {
    "foreign": "it serves another incarnation of the namespace, so it takes no copies until it is reconciled",
    "blocked": "an `init --new-incarnation` has begun and not finished, so it serves nothing",
}


class CacheWriter:
    """Looks at copies and keeps them, through the cache's breaker. No error of the cache reaches a caller.

    head   asks the authority where it is
    clock  counts seconds and never goes back
    """

    def __init__(
        self,
        cache: Cache,
        breaker: Breaker,
        head: marker.Ask,
        background: Background,
        clock: Callable[[], float],
    ) -> None:
        self.breaker = breaker
        self.written = RecentWrites(clock, cache.ttl)
        self._cache = cache
        self._head = head
        self._background = background
        self._clock = clock
        self._trouble: str | None = None
        self._reminded = clock() - _REMIND_SECONDS
        self._incarnation: str | None = None

    def learn(self, incarnation: str) -> None:
        """Note the incarnation that the authority has just named: no other is served from now on."""
        self._incarnation = incarnation

    def answering(self) -> bool:
        """Whether the cache is asked at all; if not, it is tried now and then, beside the callers."""
        if self.breaker.try_again() and not self._background.start(self._try_again()):
            self.breaker.gave_up()
        return self.breaker.closed

    async def look(self, keys: Sequence[str], *, hurry: bool = True) -> View | None:
        """What the cache holds under `keys`; None where it does not answer, or is left alone for now."""
        if not self.answering():
            return None
        try:
            view = await self._cache.find(keys, hurry=hurry)
        except SomactlError as exc:
            self._failed(exc)
            return None
        self.breaker.succeeded()
        if self.written.owes and self._clock() >= self._reminded + _REMIND_SECONDS:
            self._reminded = self._clock()
            self._background.start(self._remind())
        return view

    def servable(self, view: View | None, key: str) -> Entry | None:
        """The value in `view`, if it may be served; what may not is counted by its reason."""
        if view is None or (held := view.entries.get(key)) is None:
            return None
        if held.defect is not None:
            self._cache.counts.corrupt += 1
            return None
        age = view.now - held.filled_at
        if (
            held.incarnation != view.serving
            or held.incarnation != (self._incarnation or held.incarnation)
            or not 0 <= age <= self._cache.ttl
            or self.written.forbids(key, held.incarnation, held.version)
        ):
            return None
        return held.entry and replace(held.entry, age=age)

    def count(self, *, hits: int = 0, misses: int = 0) -> None:
        self._cache.counts.hits += hits
        self._cache.counts.misses += misses

    def keep_later(self, view: View, fills: Sequence[Fill], wrong: Sequence[Cached] = ()) -> None:
        """Put `fills` into the cache beside the caller, after removing the entries found `wrong`.

        `view`: what was seen before; where the cache served another incarnation, nothing is even sent.
        """
        if self._cache.read_only or not self.breaker.closed or not fills:
            return
        refusal = _refusal(view, fills[0].incarnation)
        if refusal is not None:
            self._refused(refusal, len(fills))
            return
        size = sum(len(fill.entry.data) for fill in fills if fill.entry is not None)
        if not self._background.start(self._keep(fills, wrong), size=size):
            self._cache.counts.skipped += len(fills)

    async def _keep(self, fills: Sequence[Fill], wrong: Sequence[Cached]) -> None:
        try:
            if wrong:
                await self._cache.evict(wrong)
            await self.put(fills)
        except SomactlError as exc:
            self._failed(exc)

    async def keep(self, fills: Sequence[Fill]) -> bool:
        """Tell the cache of a commit. Whether it holds all of it now, or newer."""
        took = told = False
        try:
            if self.breaker.closed:
                took, told = await self._tell(fills)
        except SomactlError as exc:
            self._failed(exc)
        self.owe(fills, owed=not told)
        return took

    def owe(self, fills: Sequence[Fill], *, owed: bool = True) -> None:
        """Note what was committed; `owed`: the cache may hold what was there before, and is told later."""
        for fill in fills:
            self.written.add([fill.key], fill.incarnation, fill.version, owed=owed)
        if owed:
            self._cache.counts.skipped += len(fills)

    async def _tell(self, fills: Sequence[Fill]) -> tuple[bool, bool]:
        """Whether the cache took all of it, and whether it holds nothing older any more."""
        try:
            done = await self.put(fills)
        except StoreFull as exc:
            self._failed(exc)
            await self._cache.drop([fill.key for fill in fills])  # no copy is better than an old one
            return False, True
        missed = [_tombstone(fill) for fill, o in zip(fills, done.outcomes, strict=False) if o in _MISSED]
        if missed and done.refusal is None:
            done = await self.put(missed)
        return done.refusal is None and not missed, done.refusal is None

    async def distrust(self, keys: Sequence[str]) -> None:
        """Remove what is held under `keys`: whether it is still so cannot be told."""
        told = False
        try:
            if self.breaker.closed:
                await self._cache.drop(keys)
                told = True
        except SomactlError as exc:
            self._failed(exc)
        self.written.add(keys, None, None, owed=not told)

    async def put(self, fills: Sequence[Fill]) -> Filled:
        """As the cache's own, but where it does not know its incarnation, find that out first."""
        for attempt in range(_TRIES):
            done = await self._cache.put(fills)
            if done.refusal == "unmarked":
                await marker.establish(self._cache, self._head)
            elif done.refusal == "blocked":
                held = (await self._cache.find([])).marker or ESTABLISHING
                if not held.startswith(ESTABLISHING):
                    break
                await asyncio.sleep(_PAUSE * (attempt + 1))
            else:
                break
        if done.refusal is not None:
            self._refused(done.refusal, len(fills))
        return done

    def _refused(self, refusal: Refusal, count: int) -> None:
        self._cache.counts.refused += count
        self._trouble = _TROUBLES.get(refusal, self._trouble)

    async def _try_again(self) -> None:
        """Find out whether the cache is back, and tell it what it missed before it is read again."""
        try:
            await self._cache.find([], hurry=True)
            await self._tell_owed()
        except SomactlError as exc:
            self._failed(exc)
        else:
            self.breaker.succeeded()
        finally:
            self.breaker.gave_up()  # means nothing once it is known

    async def _remind(self) -> None:
        try:
            await self._tell_owed()
        except SomactlError as exc:
            self._failed(exc)

    async def _tell_owed(self) -> None:
        """Tombstones for keys whose version is known; of the others nothing may be kept."""
        owed = self.written.owed
        unknown = {place: write for place, write in owed.items() if write.version is None}
        await self._cache.drop([key for key, _ in unknown])
        self.written.told(unknown)
        by_incarnation: dict[str, list[Fill]] = {}
        for (key, incarnation), write in owed.items():
            if incarnation is not None and write.version is not None:
                fill = Fill(key, write.version, incarnation, 0.0)
                by_incarnation.setdefault(incarnation, []).append(fill)
        for incarnation, fills in by_incarnation.items():
            if (await self.put(fills)).refusal is None:
                self.written.told({place: write for place, write in owed.items() if place[1] == incarnation})

    def trouble(self, error: SomactlError) -> None:
        """Report an error of the cache that says nothing about whether it answers."""
        self._trouble = error.message

    def _failed(self, error: SomactlError) -> None:
        self._cache.counts.failures += 1
        self._trouble = error.message
        self.breaker.failed()

    def degradation(self, authority: str) -> Degradation | None:
        """What went wrong since opening, and what that means; None where all went well."""
        waiting = len(self.written.owed) if self.written.owes else 0
        if self._trouble is None and not waiting:
            return None
        detail = f"{self._trouble or 'it has not taken what was committed'}; reads go to {authority}"
        if waiting:
            detail += (
                f"; the commits are durable, but of {waiting} {'key' if waiting == 1 else 'keys'} the cache "
                f"may serve to others what was there before, for at most {self._cache.ttl:g} s"
            )
        return Degradation(self._cache.name, self.breaker.state, detail)


def _refusal(view: View, incarnation: str) -> Refusal | None:
    """Why the cache would not take copies of that incarnation; None where it would, or may soon."""
    marker = view.marker
    if marker is None or marker == incarnation or marker.startswith(ESTABLISHING):
        return None
    return "blocked" if marker.startswith(INITIALISING) else "foreign"


def _tombstone(fill: Fill) -> Fill:
    """What keeps out copies that are older than `fill`."""
    return Fill(fill.key, fill.version, fill.incarnation, fill.read_at)
