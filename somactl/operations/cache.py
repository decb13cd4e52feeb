"""Fill a cache from its authority, or compare the two and mend what differs, without disturbing either."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from somactl.core.names import Pattern
from somactl.core.portions import in_portions
from somactl.errors import StoreUnavailable, UsageError
from somactl.operations.copies import FINDINGS, STALE, Compared, compare
from somactl.operations.jobs.pace import Pace
from somactl.operations.jobs.progress import Progress, Watch, unwatched
from somactl.report import CacheFinding, CacheWarmReport
from somactl.store.cached import ESTABLISHING, INITIALISING, Cached, CachedStore, Fill, cached
from somactl.store.contract import Entry, Stat, Store
from somactl.suggestion import run

PAGE_BYTES = 8 << 20
PAGE_KEYS = 256
JITTER = 0.2
"""Copies made together live this much shorter at most, each by its own draw: they must not all expire at
once, and never longer than the cache's ttl."""
HEAD_ROOM = 0.9
"""Of the server's memory limit. Beyond it, it would begin to evict what is used, or to refuse."""
MAX_FINDINGS = 1000


@dataclass(slots=True)
class Warming:
    """What to fill and how.

    match  keys by pattern; None: all
    pace   bounds the keys and bytes per second that are moved
    allow_empty  whether it is in order that nothing matches, or there is nothing to compare
    watch  told after every page how many keys were looked at
    dice   numbers evenly from 0 to 1
    """

    match: str | None = None
    pace: Pace = field(default_factory=Pace)
    dry_run: bool = False
    allow_empty: bool = False
    watch: Watch = unwatched
    dice: Callable[[], float] = random.random

    async def paced(self, keys: int, moved: int) -> None:
        """Wait until so many more keys and bytes are no more than the rate allows."""
        self.pace.did(keys, moved)
        await self.pace.turn()

    def tell(self, report: CacheWarmReport) -> None:
        note = f"{report.filled} copied"
        self.watch(Progress(report.checked, "keys", read=report.bytes_filled, note=note))

    def life(self, ttl: float) -> float:
        """Seconds that one copy is to live."""
        return ttl * (1.0 - JITTER * self.dice())


def cached_store(store: Store) -> CachedStore:
    """`store`, if there is a cache before it; raises UsageError otherwise."""
    pair = cached(store)
    if pair is None:
        raise UsageError(
            "there is no cache before this store",
            hint="name one with --cache redis://HOST:PORT/0, or in SOMACTL_CACHE",
        )
    return pair


def report_for(store: CachedStore, warming: Warming, *, reconcile: bool = False) -> CacheWarmReport:
    return CacheWarmReport(
        store=store.name,
        namespace=store.namespace,
        dry_run=warming.dry_run,
        reconcile=reconcile,
        match=warming.match,
        allow_empty=warming.allow_empty,
    )


async def warm(store: CachedStore, warming: Warming, report: CacheWarmReport) -> None:
    """Copy what the cache lacks. Whatever is committed meanwhile wins: see `Cache.put`.

    Raises StoreUnavailable where either cannot be reached, or the cache serves another incarnation.
    """
    await refuse_other_incarnation(store)
    async for page in store.scan(warming.match, page_bytes=PAGE_BYTES, page_keys=PAGE_KEYS):
        report.checked += len(page)
        stats = [stat for stat in page if stat.kind in store.kinds]
        report.not_cached += len(page) - len(stats)
        view = await store.cache.find([stat.key for stat in stats], payloads=False)
        head = view.serving
        missing = [stat for stat in stats if not is_current(view.entries.get(stat.key), head, stat)]
        report.current += len(stats) - len(missing)
        if not await fill(store, missing, warming, report):
            return
        warming.tell(report)


async def refuse_other_incarnation(store: CachedStore) -> None:
    """Raise StoreUnavailable where the cache would take nothing, and say why."""
    marker = (await store.cache.find([])).marker
    if marker is None or marker.startswith(ESTABLISHING):
        return
    if marker.startswith(INITIALISING):
        raise StoreUnavailable(
            "the cache serves nothing: an `init --new-incarnation` has begun and not finished",
            hint="wait for it; if it died, do it again",
            next=[run("doctor"), run("init", new_incarnation=True)],
        )
    head = await store.head()
    if marker != head.incarnation:
        raise StoreUnavailable(
            f"the cache serves incarnation {marker}, and the authority is in {head.incarnation}",
            hint="reconciled, it serves the authority's; check first that no other database uses this cache "
            "for a namespace of the same name",
            next=run("cache-warm", reconcile=True),
        )


def is_current(held: Cached | None, incarnation: str | None, stat: Stat) -> bool:
    """Whether the cache holds exactly the version that the authority has."""
    return (
        held is not None
        and held.defect is None
        and held.incarnation == incarnation
        and (held.version, held.content) == (stat.version, stat.content)
    )


async def fill(store: CachedStore, stats: Sequence[Stat], warming: Warming, report: CacheWarmReport) -> bool:
    """Copy these keys, portion by portion; False, said in the report, where the cache's memory ends."""
    for portion in in_portions(stats, lambda stat: stat.size, PAGE_BYTES, warming.pace.portion(PAGE_KEYS)):
        size = sum(stat.size for stat in portion)
        if not await _has_room(store, size, report):
            return False
        if warming.dry_run:
            report.filled += len(portion)
            report.bytes_filled += size
            continue
        read_at = (await store.cache.find([])).now
        snapshot = await store.authority.read_many([stat.key for stat in portion])
        for error in snapshot.corrupt.values():
            note(report, str(error.facts.get("key", "")), "corrupt in the authority", error.message)
        fills = [
            _fill(entry, read_at, warming.life(store.cache.ttl), store.kinds)
            for entry in snapshot.entries.values()
        ]
        await put(store, fills, report)
        await warming.paced(len(portion), size)
    return True


def _fill(entry: Entry, read_at: float, life: float, kinds: frozenset[str]) -> Fill:
    header = entry.framed
    if header.kind not in kinds:  # it was another one when it was listed
        return Fill(entry.key, entry.version, entry.incarnation, read_at)
    return Fill(entry.key, entry.version, entry.incarnation, read_at, entry, header.content, ttl=life)


async def put(store: CachedStore, fills: Sequence[Fill], report: CacheWarmReport) -> None:
    """Fill these, and count what became of each."""
    if not fills:
        return
    done = await store.fill(fills)
    if done.refusal is not None:
        await refuse_other_incarnation(store)
        raise StoreUnavailable(f"the cache took no copies: {done.refusal}", hint="run it again")
    for one, outcome in zip(fills, done.outcomes, strict=True):
        if outcome == "stored":
            report.filled += 1
            report.bytes_filled += len(one.entry.data) if one.entry else 0
        elif outcome in ("same", "older"):  # another process was faster
            report.current += 1
        else:
            report.complete = False
            report.warnings.append(f"the copy of {one.key!r} came too late ({outcome}); run it again")


async def _has_room(store: CachedStore, size: int, report: CacheWarmReport) -> bool:
    memory = await store.cache.memory()
    ahead = report.bytes_filled if report.dry_run else 0  # only counted; it would be in use by now
    if memory.limit == 0 or memory.used + size + ahead <= HEAD_ROOM * memory.limit:
        return True
    then = "evict what is in use" if memory.policy != "noeviction" else "refuse writes"
    report.stopped = (
        f"the cache's memory: {memory.used} of {memory.limit} bytes are used, and with {size} more the "
        f"server would soon {then}"
    )
    report.complete = False
    return False


def note(report: CacheWarmReport, key: str, what: str, detail: str) -> None:
    """A finding; the list is bounded, the count is not."""
    report.findings_total += 1
    if len(report.findings) < MAX_FINDINGS:
        report.findings.append(CacheFinding(key=key, what=what, detail=detail))


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
        warming.tell(report)
    pattern = None if warming.match is None else Pattern(warming.match)
    async for names in store.cache.keys():
        keys = [key for key in names if pattern is None or pattern.matches(key)]
        for start in range(0, len(keys), PAGE_KEYS):
            await _compare(store, keys[start : start + PAGE_KEYS], warming, report, live=False)
            warming.tell(report)


async def _compare(
    store: CachedStore, keys: Sequence[str], warming: Warming, report: CacheWarmReport, *, live: bool
) -> bool:
    """Judge and mend the `live` keys, or those that are not; False where the cache's memory ends."""
    found = await compare(store, keys, payloads=live)
    read = [one.held.size for one in found if live and one.held]
    await warming.paced(len(read), sum(read))
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


def finish(report: CacheWarmReport, *, ended_by: str | None = None) -> CacheWarmReport:
    """3 for findings, 4 where it did not get to the end or left something outdated in the cache, else 0."""
    if ended_by is not None:
        report.stopped = ended_by
        report.complete = False
    elif not report.allow_empty and (report.match is not None or report.reconcile) and not _looked_at(report):
        report.complete = False
        what = "there was nothing to compare" if report.match is None else "no key matches"
        report.warnings.append(f"{what}; where that is to be expected, say so with --allow-empty")
    left = report.dry_run and (report.outdated + report.deleted + report.foreign > 0)
    report.finish(3 if report.findings_total else 0, 4 if not report.complete or left else 0)
    return report


def _looked_at(report: CacheWarmReport) -> int:
    """How many keys there were, in the authority or in the cache."""
    only_cached = report.deleted + report.newer + report.unknown + report.contradicting
    return report.checked + report.current + only_cached + report.foreign + report.corrupt
