"""Compare a cache with its authority, key by key, and mend what differs.

The cache is always looked at before the authority. So a commit in between can make a copy look older than it
is, which a second look tells; it can never make one look newer than what the authority has committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from somactl.core.names import Pattern, validate_key
from somactl.errors import InvalidName, NotFound
from somactl.operations.cache import PAGE_BYTES, PAGE_KEYS, Warming, fill, note, refuse_other_incarnation
from somactl.report import CacheWarmReport
from somactl.store.cached import Cached, CachedStore, View
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
"""Copies that no order of events can explain, unless somebody restored the authority without
`init --new-incarnation`, or wrote into the cache."""


async def reconcile(store: CachedStore, warming: Warming, report: CacheWarmReport) -> None:
    """Measure every difference, and mend it unless it is a dry run. Raises StoreUnavailable.

    First all live keys of the authority, then whatever else the cache holds.
    """
    if not warming.dry_run:
        report.adopted = await store.adopt()
        await refuse_other_incarnation(store)
    async for page in store.scan(warming.match, page_bytes=PAGE_BYTES, page_keys=PAGE_KEYS):
        report.checked += len(page)
        if not await _compare(store, [stat.key for stat in page], warming, report, live=True):
            return
        warming.each(report)
    pattern = None if warming.match is None else Pattern(warming.match)
    async for names in store.cache.keys():
        keys = [key for key in names if pattern is None or pattern.matches(key)]
        for start in range(0, len(keys), PAGE_KEYS):
            await _compare(store, keys[start : start + PAGE_KEYS], warming, report, live=False)
            warming.each(report)


async def _compare(
    store: CachedStore, keys: Sequence[str], warming: Warming, report: CacheWarmReport, *, live: bool
) -> bool:
    """Judge and mend the `live` keys, or those that are not; False where the cache's memory ends."""
    view = await store.cache.find(keys, payloads=live)
    await warming.paced(sum(one.size for one in view.entries.values() if live))
    nameless = {key for key in keys if not _is_key(key)}
    truth = await store.authority.stat_many([key for key in keys if key not in nameless])
    wrong: list[Cached] = []
    lacking: list[Stat] = []
    for key in keys:
        stat = truth.stats.get(key)
        if (stat is not None) != live:
            continue  # the other pass looks at it
        held = view.entries.get(key)
        judgement = await _judge(store, key, held, stat, truth) if key not in nameless else "corrupt"
        _count(report, key, judgement, held, view)
        kept = stat is not None and stat.kind in store.kinds
        # A newer copy displaces an outdated one by itself; what is otherwise wrong must go first.
        replaced = judgement == "outdated" and kept
        if held is not None and judgement not in ("identical", "missing") and not replaced:
            wrong.append(held)
        if stat is not None and kept and judgement != "identical":
            lacking.append(stat)
    if warming.dry_run:
        return True
    report.evicted += await store.cache.evict(wrong)
    return await fill(store, lacking, warming, report)


def _is_key(name: str) -> bool:
    try:
        validate_key(name)
    except InvalidName:
        return False
    return True


async def _judge(
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


def _count(report: CacheWarmReport, key: str, judgement: Judgement, held: Cached | None, view: View) -> None:
    field = "current" if judgement == "identical" else judgement
    setattr(report, field, getattr(report, field) + 1)
    if held is None:
        return
    if judgement in FINDINGS:
        what = (
            f"version {held.version}, content {held.content or '-'}" if held.defect is None else held.defect
        )
        note(report, key, judgement, f"{FINDINGS[judgement]}: {what}")
    if judgement in ("outdated", "deleted"):
        age = view.now - held.filled_at
        if report.oldest_stale_seconds is None or age > report.oldest_stale_seconds:
            report.oldest_stale_seconds, report.oldest_stale_key = age, key
