"""The hybrid's calls to its cache, through a circuit breaker: no error of the cache reaches a caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from somactl.errors import NotPrimary, SomactlError, StoreFull, TooFewReplicas
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
from somactl.store.hybrid import fills as filling, incarnation as incarnations
from somactl.store.hybrid.health import Breaker, Troubles
from somactl.store.hybrid.tasks import Background

MOST_KEYS = 65_536
_TRIES = 5
_PAUSE = 0.01
_REMIND_SECONDS = 1.0
_MISSED = ("late", "lost")
_REFUSALS = {
    "foreign": "it serves another incarnation of the namespace, so it takes no copies until it is reconciled",
    "blocked": "an `init --new-incarnation` has begun and not finished, so it serves nothing",
}

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
                continue  # commits may be acknowledged in another order than they were made in
            self._forget(place)  # the newest stand last
            self._writes[place] = write
            if owed:
                self._owed[place] = write
        while len(self._writes) > MOST_KEYS:
            self._forget(next(iter(self._writes)))

    def forbids(self, key: str, incarnation: str, version: int) -> bool:
        """Whether a copy of that version may be older than what was committed here."""
        # Under None stand keys that `distrust` was told of: which incarnation they have is not known.
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


class CacheWriter:
    """Looks at copies and keeps them, through the cache's breaker. No error of the cache reaches a caller.

    kinds  of which matrices copies are kept
    head   asks the authority where it is
    clock  counts seconds and never goes back
    """

    def __init__(
        self,
        cache: Cache,
        kinds: frozenset[str],
        breaker: Breaker,
        head: incarnations.Ask,
        background: Background,
        clock: Callable[[], float],
    ) -> None:
        self.breaker = breaker
        self.troubles = Troubles(cache.name)
        self.written = RecentWrites(clock, cache.ttl)
        self._cache = cache
        self._kinds = kinds
        self._head = head
        self._background = background
        self._clock = clock
        self._reminded = clock() - _REMIND_SECONDS
        self._incarnation: str | None = None

    def learn(self, incarnation: str) -> None:
        """Note the incarnation that the authority has just named: no other is served from now on."""
        self._incarnation = incarnation

    def answering(self) -> bool:
        """Whether the cache is asked at all; if not, now and then one call tries, beside the callers."""
        if self.breaker.try_again() and not self._background.start_if_room(self._try_again()):
            self.breaker.gave_up()
        return self.breaker.closed

    async def inspect(self, keys: Sequence[str], *, hurry: bool = True) -> View | None:
        """What the cache holds under `keys`; None where it does not answer, or is left alone for now."""
        if not self.answering():
            return None
        view: View | None = None
        with self._noting("read"):
            view = await self._cache.find(keys, hurry=hurry)
            self._answered(view)
        if view is not None and self.written.owes and self._clock() >= self._reminded + _REMIND_SECONDS:
            self._reminded = self._clock()
            self._background.start_if_room(self._remind())
        return view

    def servable(self, view: View | None, key: str) -> Entry | None:
        """The value in `view`, if it may be served; what may not is counted by its reason."""
        if view is None or (held := view.entries.get(key)) is None:
            return None
        if held.defect is not None:
            self._cache.counts.corrupt += 1
            return None
        age = view.now - held.filled_at
        # The authority may have named another incarnation than the cache serves, and a clock may have been
        # set back, which makes an age negative.
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

    def keep_later(self, view: View | None, entries: Sequence[Entry]) -> None:
        """Put what the authority has said into the cache, beside the caller.

        view  what was seen before, if anything: what is wrong in it is removed first; where the cache served
              another incarnation, nothing is even sent
        """
        if view is None or self._cache.read_only or not self.breaker.closed or not entries:
            return
        fills = [filling.of_entry(entry, view.now, self._kinds) for entry in entries]
        refusal = _refusal(view, fills[0].incarnation)
        if refusal is not None:
            self._refused(refusal, len(fills))
            return
        seen = (view.entries.get(fill.key) for fill in fills)
        wrong = [held for held in seen if held is not None and held.defect is not None]
        size = sum(len(fill.entry.data) for fill in fills if fill.entry is not None)
        if not self._background.start_if_room(self._keep(fills, wrong), size=size):
            self._cache.counts.skipped += len(fills)

    async def _keep(self, fills: Sequence[Fill], wrong: Sequence[Cached]) -> None:
        with self._noting("write"):
            if wrong:
                await self._cache.evict(wrong)
            await self.put(fills)

    async def keep(self, fills: Sequence[Fill]) -> bool:
        """Tell the cache of a commit. Whether it holds all of it now, or newer."""
        took = told = False
        with self._noting("write"):
            if self.breaker.closed:
                took, told = await self._tell(fills)
        for fill in fills:
            self.written.add([fill.key], fill.incarnation, fill.version, owed=not told)
        if not told:
            self._cache.counts.skipped += len(fills)
        return took

    async def _tell(self, fills: Sequence[Fill]) -> tuple[bool, bool]:
        """Whether the cache took all of it, and whether it holds nothing older any more."""
        try:
            done = await self.put(fills)
        except StoreFull as exc:
            self._failed(exc, "write")
            await self._cache.drop([fill.key for fill in fills])  # no copy is better than an old one
            return False, True
        # A tombstone is small, and keeps an older copy of what was missed from being served.
        missed = [_tombstone(fill) for fill, o in zip(fills, done.outcomes, strict=False) if o in _MISSED]
        if missed and done.refusal is None:
            done = await self.put(missed)
        return done.refusal is None and not missed, done.refusal is None

    async def distrust(self, keys: Sequence[str]) -> None:
        """Remove what is held under `keys`: whether it is still so cannot be told."""
        told = False
        with self._noting("write"):
            if self.breaker.closed:
                await self._cache.drop(keys)
                told = True
        self.written.add(keys, None, None, owed=not told)

    async def put(self, fills: Sequence[Fill]) -> Filled:
        """As the cache's own, but where it does not know its incarnation, find that out first."""
        for attempt in range(_TRIES):
            done = await self._cache.put(fills)
            if done.refusal == "unmarked":
                await incarnations.establish(self._cache, self._head)
            elif done.refusal == "blocked":
                held = (await self._cache.find([])).marker or ESTABLISHING
                if not held.startswith(ESTABLISHING):
                    break  # an `init` is at work, which takes longer than a caller waits
                await asyncio.sleep(_PAUSE * (attempt + 1))
            else:
                break
        if done.refusal is not None:
            self._refused(done.refusal, len(fills))
        else:
            self.troubles.over("write", *_REFUSALS)
        return done

    def _refused(self, refusal: Refusal, count: int) -> None:
        self._cache.counts.refused += count
        if refusal in _REFUSALS:
            self.troubles.note(refusal, _REFUSALS[refusal])

    async def _try_again(self) -> None:
        """Find out whether the cache is back, and tell it what it missed before anything reads from it."""
        try:
            with self._noting("read"):
                view = await self._cache.find([], hurry=True)
                with self._noting("write"):
                    await self._tell_owed()
                    self._answered(view)
        finally:
            self.breaker.gave_up()  # means nothing once it is known

    async def _remind(self) -> None:
        with self._noting("write"):
            await self._tell_owed()

    async def _tell_owed(self) -> None:
        """Tombstones for keys whose version is known; of the others nothing may be kept."""
        owed = self.written.owed
        unknown = {place: write for place, write in owed.items() if write.version is None}
        await self._cache.drop([key for key, _ in unknown])
        self.written.told(unknown)
        by_incarnation: dict[str, list[Fill]] = {}
        for (key, incarnation), write in owed.items():
            if incarnation is not None and write.version is not None:
                fill = filling.absence(key, write.version, incarnation)
                by_incarnation.setdefault(incarnation, []).append(fill)
        for incarnation, fills in by_incarnation.items():
            if (await self.put(fills)).refusal is None:
                self.written.told({place: write for place, write in owed.items() if place[1] == incarnation})

    def _answered(self, view: View) -> None:
        self.breaker.succeeded()
        self.troubles.over("unreachable", "read")
        if _refusal(view, self._incarnation or "") is None:
            self.troubles.over(*_REFUSALS)

    @contextmanager
    def _noting(self, doing: str) -> Iterator[None]:
        """What the cache raises inside ends the block, and goes no further."""
        try:
            yield
        except SomactlError as exc:
            self._failed(exc, doing)

    def _failed(self, error: SomactlError, doing: str) -> None:
        self._cache.counts.failures += 1
        self.trouble(error, doing)
        self.breaker.failed()

    def trouble(self, error: SomactlError, doing: str = "write") -> None:
        """Note an error of the cache. Any answer ends what is mere silence; of what was refused while
        `doing` that (read or write), only the same, done with success, is an end."""
        silent = error.retryable and not isinstance(error, NotPrimary | TooFewReplicas)
        self.troubles.note("unreachable" if silent else doing, error.message)

    def degradations(self, authority: str) -> tuple[Degradation, ...]:
        """What is wrong now, as one degradation that says what that means; () where all is well."""
        waiting = len(self.written.owed) if self.written.owes else 0
        trouble = self.troubles.present or ("it has not taken what was committed" if waiting else None)
        if trouble is None:
            return ()
        detail = f"{trouble}; reads go to {authority}"
        if waiting:
            detail += (
                f"; the commits are durable, but of {waiting} {'key' if waiting == 1 else 'keys'} the cache "
                f"may serve to others what was there before, for at most {self._cache.ttl:g} s"
            )
        return (Degradation(self._cache.name, self.breaker.state, detail),)


def _refusal(view: View, incarnation: str) -> Refusal | None:
    """Why the cache would not take copies of that incarnation; None where it would, or may soon."""
    marker = view.marker
    if marker is None or marker == incarnation or marker.startswith(ESTABLISHING):
        return None
    return "blocked" if marker.startswith(INITIALISING) else "foreign"


def _tombstone(fill: Fill) -> Fill:
    """What keeps out copies that are older than `fill`."""
    return Fill(fill.key, fill.version, fill.incarnation, fill.read_at)
