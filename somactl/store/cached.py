"""What a cache before a store is, and what an operator may ask of it. `docs/STORE_HYBRID.md` says why.

A cache holds copies of what the authority has committed. It decides nothing: whatever is missing, too old,
damaged or of another incarnation is asked of the authority. All times are seconds since 1970 by the
cache server's own clock, which alone measures the age of an entry.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol, cast

import msgspec

from somactl.errors import StoreUnavailable
from somactl.store.contract import Entry, Finding, Store

Outcome = Literal["stored", "same", "older", "late", "lost"]
Refusal = Literal["unmarked", "blocked", "foreign", "read-only"]

INITIALISING = "!"
ESTABLISHING = "?"
"""A marker that begins so names no incarnation, and nothing is served under it: `init` is at work (or
died at work), or another process is just asking the authority for its incarnation."""


class Fill(msgspec.Struct, frozen=True):
    """One state of one key that the authority is known to have had.

    version    at which it was so; for a tombstone any version at which the key had no value to be cached
    read_at    the cache's clock before the authority was asked, or before the commit was sent: the age of
               the copy counts from here. A tombstone serves nothing, so it has no age
    entry      the value; None for a tombstone, which keeps older copies out
    content    its content digest, "" for a tombstone
    ttl        a life shorter than the cache's own, in seconds; it cannot be longer
    """

    key: str
    version: int
    incarnation: str
    read_at: float
    entry: Entry | None = None
    content: str = ""
    ttl: float | None = None


class Cached(msgspec.Struct, frozen=True):
    """What the cache holds under a key, by its own account.

    content   the content digest it claims; "" for a tombstone
    entry     the value, where its bytes were asked for and are what the account says; never degraded
    defect    what is wrong with it: then nothing here is to be trusted
    token     its exact state, for `evict`
    """

    key: str
    version: int = 0
    incarnation: str = ""
    content: str = ""
    filled_at: float = 0.0
    size: int = 0
    entry: Entry | None = None
    defect: str | None = None
    token: tuple[bytes, ...] = ()


class View(msgspec.Struct, frozen=True):
    """Some keys of the cache, as its server saw them at `now`.

    marker    the incarnation that may be served; None: nothing may (see INITIALISING)
    entries   key -> what is held; keys of which nothing is held do not stand here
    """

    now: float
    marker: str | None
    entries: Mapping[str, Cached]

    @property
    def serving(self) -> str | None:
        """The incarnation whose entries may be served now; None for none."""
        marker = self.marker
        return None if marker is None or marker.startswith((INITIALISING, ESTABLISHING)) else marker


class Filled(msgspec.Struct, frozen=True):
    """What became of fills, in their order; `refusal` says why the cache took none of them.

    outcomes   stored: it is there now; same: it was; older: something newer is there; late: its time was
               up before it arrived; lost: its bytes were evicted on the way
    refusal    unmarked: the cache does not know which incarnation it serves; blocked: it serves none for
               the moment; foreign: it serves another one
    """

    outcomes: tuple[Outcome, ...] = ()
    refusal: Refusal | None = None


class Memory(msgspec.Struct, frozen=True):
    """Of the cache's server, in bytes. `limit` 0: there is none but the machine's."""

    used: int
    limit: int
    policy: str


class Counts(msgspec.Struct):
    """What happened in a cache since it was opened.

    hits, misses     reads that it answered, or did not
    corrupt          entries that were not what was put in, and were not served
    stored, older, late, refused   what became of fills; refused: for the incarnation's sake
    evicted          entries removed because they were wrong
    failures         calls that the cache did not answer, or refused
    skipped          fills and invalidations that were not sent: too many under way, or its breaker open
    """

    hits: int = 0
    misses: int = 0
    corrupt: int = 0
    stored: int = 0
    older: int = 0
    late: int = 0
    refused: int = 0
    evicted: int = 0
    failures: int = 0
    skipped: int = 0


class Cache(Protocol):
    """One namespace of a cache. Every method may raise StoreUnavailable or ConfigurationError.

    `ttl`: no copy older than this many seconds is served or kept. With `read_only`, nothing is written:
    `put`, `evict` and `drop` do nothing, and `mark` and `block` raise ReadOnlyStore.
    """

    name: str
    namespace: str
    ttl: float
    read_only: bool
    counts: Counts

    async def find(self, keys: Sequence[str], *, payloads: bool = True, hurry: bool = False) -> View:
        """What is held under `keys`, in one look; with `payloads` also the values, verified.

        `hurry`: the caller could as well ask the authority, so give up soon.
        """
        ...

    async def put(self, fills: Sequence[Fill]) -> Filled:
        """Keep each state, if it is newer than what is there and its time is not yet up."""
        ...

    async def evict(self, entries: Sequence[Cached]) -> int:
        """Remove entries that are still exactly what was found; returns how many were."""
        ...

    async def drop(self, keys: Sequence[str]) -> None:
        """Remove whatever is held under `keys`."""
        ...

    async def mark(self, expected: str | None, marker: str, *, seconds: float) -> bool:
        """Replace the marker `expected` (None: there is none) by `marker` for `seconds`."""
        ...

    async def block(self, marker: str, *, seconds: float) -> None:
        """Set the marker, whatever it was."""
        ...

    def keys(self) -> AsyncIterator[list[str]]:
        """Pages of all keys held, in no order; one that comes or goes meanwhile may be missed."""
        ...

    async def memory(self) -> Memory: ...

    async def diagnose(self) -> list[Finding]:
        """As `Store.diagnose`: changes nothing, and that it cannot be reached is a finding."""
        ...

    async def close(self) -> None: ...


class CachedStore(Store, Protocol):
    """A store that is an authority with a cache before it; each is open to operations about the two.

    `kinds`: of which matrices the cache keeps copies.
    """

    authority: Store
    cache: Cache
    kinds: frozenset[str]

    async def fill(self, fills: Sequence[Fill]) -> Filled:
        """As `Cache.put`; a cache that does not know its incarnation is told that of the authority first."""
        ...

    async def adopt(self) -> bool:
        """Make a cache that serves another incarnation serve the authority's; whether it did, and had to.

        A cache that is blocked by `init` is left to it. Raises StoreUnavailable.
        """
        ...


def cached(store: Store) -> CachedStore | None:
    """`store` as one with a cache before it; None where there is none."""
    return cast(CachedStore, store) if getattr(store, "cache", None) is not None else None


def naming_allow_stale(error: StoreUnavailable, copied: Entry) -> StoreUnavailable:
    """The authority's error, saying that there is a copy, and how to get it."""
    told = copy.copy(error)
    told.hint = (
        f"`allow_stale` serves the cache's copy, version {copied.version}, {copied.age or 0.0:.0f} s old"
        + (f"; or: {error.hint}" if error.hint else "")
    )
    return told
