"""Many keys as of one version, as many as possible from the cache."""

from __future__ import annotations

from collections.abc import Sequence

from somactl.store.contract import Entry, Snapshot, Stat, Store
from somactl.store.hybrid import fills
from somactl.store.hybrid.cache_writer import CacheWriter
from somactl.store.hybrid.health import AuthorityGuard

_ATTEMPTS = 3


async def read_many(
    authority: Store, truth: AuthorityGuard, copies: CacheWriter, keys: Sequence[str], kinds: frozenset[str]
) -> Snapshot:
    """The authority fixes the version first: at which version of the namespace each key has which version.

    A copy is used only where it is of that very version, so it does not matter when it was made. What is
    missing is read from the authority; if the namespace has moved on by then, it begins anew, and after a
    few times the authority alone is read.
    """
    wanted = list(dict.fromkeys(keys))
    for _ in range(_ATTEMPTS if copies.answering() else 0):
        snapshot = await _attempt(authority, truth, copies, wanted, kinds)
        if snapshot is not None:
            return snapshot
    return await truth.ask(lambda: authority.read_many(wanted))


async def _attempt(
    authority: Store, truth: AuthorityGuard, copies: CacheWriter, keys: list[str], kinds: frozenset[str]
) -> Snapshot | None:
    """None where the versions moved on between the two questions."""
    stats = await truth.ask(lambda: authority.stat_many(keys))
    copies.learn(stats.incarnation)
    cachable = [key for key, stat in stats.stats.items() if stat.kind in kinds]
    view = await copies.inspect(cachable) if cachable else None
    entries: dict[str, Entry] = {}
    for key in cachable:
        entry = copies.servable(view, key)
        if entry is not None and _is(entry, stats.incarnation, stats.stats[key]):
            entries[key] = entry
    copied = len(entries)
    missing = [key for key in keys if key in stats.stats and key not in entries]
    corrupt = {}
    if missing:
        rest = await truth.ask(lambda: authority.read_many(missing))
        if (rest.incarnation, rest.version) != (stats.incarnation, stats.version):
            return None
        corrupt = dict(rest.corrupt)
        if view is not None:
            held = [view.entries[key] for key in rest.entries if key in view.entries]
            copies.keep_later(
                view,
                [
                    fills.of_entry(rest.entries[key], view.now, kinds)
                    for key in cachable
                    if key in rest.entries
                ],
                wrong=[one for one in held if one.defect is not None],
            )
        entries |= rest.entries
    copies.count(hits=copied, misses=len(missing))
    return Snapshot(
        incarnation=stats.incarnation,
        version=stats.version,
        entries={key: entries[key] for key in keys if key in entries},
        absent=stats.absent,
        corrupt=corrupt,
    )


def _is(entry: Entry, incarnation: str, stat: Stat) -> bool:
    return (entry.incarnation, entry.version) == (incarnation, stat.version)
