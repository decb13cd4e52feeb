"""Compare a cache's copies with the authority, key by key, without changing either.

The cache is always looked at before the authority. So a commit in between can make a copy look older than it
is, which a second look tells; it can never make one look newer than what the authority has committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from somactl.core.names import validate_key
from somactl.errors import InvalidName, NotFound
from somactl.store.cached import Cached, CachedStore
from somactl.store.contract import Revision, Stat, Stats

Judgement = Literal[
    "identical", "missing", "outdated", "deleted", "newer", "unknown", "contradicting", "foreign", "corrupt"
]
FINDINGS: dict[Judgement, str] = {
    "newer": "the authority has not committed that version yet",
    "unknown": "the authority never committed that state of the key",
    "contradicting": "the authority has another content at that version",
    "corrupt": "it is not what was put there",
}
"""Copies that no order of events can explain, unless the authority was restored without
`init --new-incarnation`, or the cache was written to by hand."""

STALE: tuple[Judgement, ...] = ("outdated", "deleted")
"""Copies of what was committed, and is not the newest any more: served for at most the cache's ttl."""


class Compared(msgspec.Struct, frozen=True):
    """One key: what the cache holds, what the authority has, and how the one looks beside the other.

    age  seconds since the copy was made, by the cache's clock; 0 where there is none
    """

    key: str
    judgement: Judgement
    held: Cached | None
    stat: Stat | None
    age: float = 0.0

    @property
    def difference(self) -> str:
        """What differs and how old the copy is, as a sentence."""
        if self.held is None or self.held.defect is not None:
            return self.held.defect or "" if self.held else "no copy"
        copy = f"the copy, {self.age:.0f} s old, is of version {self.held.version}"
        if self.judgement in FINDINGS:
            copy += f" ({FINDINGS[self.judgement]})"
        there = "has no such key now" if self.stat is None else f"has version {self.stat.version}"
        return f"{copy}; the authority {there}"


async def compare(store: CachedStore, keys: Sequence[str], *, payloads: bool = False) -> list[Compared]:
    """Each key as it is in both; with `payloads` the copies' bytes are verified as well.

    Raises StoreUnavailable, NamespaceNotFound.
    """
    view = await store.cache.find(keys, payloads=payloads)
    nameless = {key for key in keys if not is_key(key)}
    truth = await store.authority.stat_many([key for key in keys if key not in nameless])
    found = []
    for key in keys:
        held, stat = view.entries.get(key), truth.stats.get(key)
        judgement = "corrupt" if key in nameless else await _classify(store, key, held, stat, truth)
        found.append(Compared(key, judgement, held, stat, view.now - held.filled_at if held else 0.0))
    return found


def is_key(name: str) -> bool:
    try:
        validate_key(name)
    except InvalidName:
        return False
    return True


async def _classify(
    store: CachedStore, key: str, held: Cached | None, stat: Stat | None, truth: Stats
) -> Judgement:
    if held is None:
        return "missing" if stat is not None and stat.kind in store.kinds else "identical"
    if held.defect is not None:
        return "corrupt"
    if held.incarnation != truth.incarnation:
        return "foreign"
    if held.version > truth.version:
        return "newer"
    if not held.content:  # a tombstone: it serves nothing, and may stay if it keeps out nothing that is
        if stat is not None and held.version > stat.version:
            return "unknown"
        return "missing" if stat is not None and stat.kind in store.kinds else "identical"
    if stat is not None and held.version >= stat.version:
        if held.version > stat.version:
            return "unknown"
        return "identical" if held.content == stat.content else "contradicting"
    now = (await store.cache.find([key], payloads=False)).entries.get(key)
    if now is None or now.token != held.token:
        return "identical"  # it was being replaced just now
    if not await _was_committed(store, held):
        return "unknown"
    return "outdated" if stat is not None else "deleted"


async def _was_committed(store: CachedStore, held: Cached) -> bool:
    """Whether the authority once had this content at this version, or may have and has forgotten it."""
    try:
        history = await store.authority.history(held.key)
    except NotFound:
        history = []
    for revision in history:
        if revision.version == held.version:
            return revision.content == held.content
    kept = (await store.head()).retention
    return _may_be_forgotten(history, held) and min(kept.seconds, kept.record_seconds) < store.cache.ttl


def _may_be_forgotten(history: Sequence[Revision], held: Cached) -> bool:
    """Whether nothing as old as the copy is known of the key any more."""
    return all(revision.version > held.version for revision in history)
