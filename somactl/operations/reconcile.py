"""Compare a cache with its authority, key by key, and mend what differs."""

from __future__ import annotations

from collections.abc import Sequence

from somactl.core.names import Pattern
from somactl.operations.cache import PAGE_BYTES, PAGE_KEYS, Warming, fill, note, refuse_other_incarnation
from somactl.operations.copies import FINDINGS, STALE, Compared, compare
from somactl.report import CacheWarmReport
from somactl.store.cached import Cached, CachedStore
from somactl.store.contract import Stat


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
    found = await compare(store, keys, payloads=live)
    await warming.paced(sum(one.held.size for one in found if live and one.held))
    wrong: list[Cached] = []
    lacking: list[Stat] = []
    for one in found:
        held, stat, judgement = one.held, one.stat, one.judgement
        if (stat is not None) != live:
            continue  # the other pass looks at it
        _count(report, one)
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


def _count(report: CacheWarmReport, one: Compared) -> None:
    held, judgement = one.held, one.judgement
    field = "current" if judgement == "identical" else judgement
    setattr(report, field, getattr(report, field) + 1)
    if held is None:
        return
    if judgement in FINDINGS:
        what = (
            f"version {held.version}, content {held.content or '-'}" if held.defect is None else held.defect
        )
        note(report, one.key, judgement, f"{FINDINGS[judgement]}: {what}")
    if judgement in STALE and (report.oldest_stale_seconds is None or one.age > report.oldest_stale_seconds):
        report.oldest_stale_seconds, report.oldest_stale_key = one.age, one.key
