"""What an audit reads: the index of a namespace in key order, cut into tasks of keys to prove.

Each page covers a range of keys, those behind `after` up to and with `upto`, without a gap to the one before.
So what is noted of pages adds up to the whole namespace, whatever was written to it meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from somactl.core.portions import batched, in_portions
from somactl.core.sampling import Reservoir
from somactl.operations.audit.model import Task
from somactl.store.contract import Stat, Store

PAGE_BYTES = 8 << 20
PAGE_KEYS = 512
JOINED_KEYS = 32 << 10

Wanted: TypeAlias = Callable[[Stat], bool]


@dataclass(frozen=True, slots=True)
class Bounds:
    """A range of keys, those behind `after` up to and with `upto`; None is the first and the last end."""

    after: str | None = None
    upto: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no key can lie in it, as in a shard where there are more shards than keys."""
        return self.after is not None and self.after == self.upto

    def has(self, key: str) -> bool:
        return (self.after is None or key > self.after) and self.before_end(key)

    def before_end(self, key: str) -> bool:
        return self.upto is None or key <= self.upto

    def within(self, after: str | None, upto: str | None) -> Bounds | None:
        """The part of this range that lies behind `after` up to `upto`; None where there is none."""
        begins = [each for each in (self.after, after) if each is not None]
        ends = [each for each in (self.upto, upto) if each is not None]
        part = Bounds(max(begins, default=None), min(ends, default=None))
        if part.after is not None and part.upto is not None and part.after >= part.upto:
            return None
        return part


@dataclass(frozen=True, slots=True)
class Page:
    """One range of keys and what is to be proven of it.

    bounds   the range; None where the keys were named or drawn
    stats    of the keys of the task: where they were when they were listed
    skipped  the values of the range that have no invariants
    absent   keys that were named, and are not there
    keys, bytes_   how many matrices the range holds, and their size, whether they are proven now or not
    whole    whether the task has all of them, but for those that this audit has proven before
    recheck  whether they are read again although nothing changed
    listed_at  when, by this process's monotonic clock
    """

    bounds: Bounds | None
    task: Task
    stats: dict[str, Stat]
    skipped: list[Stat] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    keys: int = 0
    bytes_: int = 0
    whole: bool = True
    recheck: bool = False
    listed_at: float = field(default_factory=time.monotonic)


def everything(stat: Stat) -> bool:
    return True


async def pages(
    store: Store,
    bounds: Bounds,
    *,
    match: str | None = None,
    wanted: Wanted = everything,
    recheck: bool = False,
    page_keys: int = PAGE_KEYS,
) -> AsyncGenerator[Page, None]:
    """The pages of a range, of whose matrices those are to be proven that are `wanted`.

    Raises NamespaceNotFound, StoreUnavailable.
    """
    after = bounds.after
    async with aclosing(_listed(store, bounds, match, page_keys)) as listed:
        async for stats in listed:
            upto = stats[-1].key
            yield _page(Bounds(after, upto), stats, wanted, recheck)
            after = upto
    if after is None or after != bounds.upto:
        yield _page(Bounds(after, bounds.upto), [], wanted, recheck)


async def _listed(
    store: Store, bounds: Bounds, match: str | None, page_keys: int
) -> AsyncGenerator[list[Stat], None]:
    scan = store.scan(match, bounds.after, page_bytes=PAGE_BYTES, page_keys=page_keys)
    async for stats in scan:
        inside = stats if bounds.before_end(stats[-1].key) else [s for s in stats if bounds.before_end(s.key)]
        if inside:
            yield inside
        if len(inside) < len(stats):
            return


def _page(bounds: Bounds | None, stats: Sequence[Stat], wanted: Wanted, recheck: bool) -> Page:
    rhos = [stat for stat in stats if stat.kind == "rho"]
    chosen = rhos if wanted is everything else [stat for stat in rhos if wanted(stat)]
    return Page(
        bounds,
        task_of(chosen),
        {stat.key: stat for stat in chosen},
        skipped=[] if len(rhos) == len(stats) else [stat for stat in stats if stat.kind != "rho"],
        keys=len(rhos),
        bytes_=sum(stat.size for stat in rhos),
        whole=recheck or len(chosen) == len(rhos),
        recheck=recheck,
    )


def task_of(stats: Iterable[Stat]) -> Task:
    stats = list(stats)
    return Task([stat.key for stat in stats], [stat.size for stat in stats])


async def joined(
    pages: AsyncGenerator[Page, None], task_bytes: Callable[[], int]
) -> AsyncGenerator[Page, None]:
    """The pages, consecutive ones made into one until its task has `task_bytes`, which may change meanwhile.

    Their keys and sizes alone are in memory, of at most `JOINED_KEYS` keys.
    """
    held: Page | None = None
    async with aclosing(pages):
        async for page in pages:
            if held is not None and not _fit(held, page, task_bytes()):
                yield held
                held = None
            held = page if held is None else _together(held, page)
            if held.task.bytes_ >= task_bytes():
                yield held
                held = None
    if held is not None:
        yield held


def _fit(held: Page, page: Page, task_bytes: int) -> bool:
    return (
        held.bounds is not None
        and page.bounds is not None
        and held.bounds.upto == page.bounds.after
        and held.recheck == page.recheck
        and held.keys + page.keys + len(held.skipped) + len(page.skipped) <= JOINED_KEYS
        and held.task.bytes_ + page.task.bytes_ <= task_bytes
    )


def _together(first: Page, second: Page) -> Page:
    assert first.bounds is not None
    assert second.bounds is not None
    return Page(
        Bounds(first.bounds.after, second.bounds.upto),
        Task(first.task.keys + second.task.keys, first.task.sizes + second.task.sizes),
        {**first.stats, **second.stats},
        first.skipped + second.skipped,
        first.absent + second.absent,
        first.keys + second.keys,
        first.bytes_ + second.bytes_,
        first.whole and second.whole,
        first.recheck,
        min(first.listed_at, second.listed_at),
    )


async def named(store: Store, keys: Sequence[str]) -> AsyncGenerator[Page, None]:
    """Pages of exactly these keys, each once, in the order in which they are named.

    Raises NamespaceNotFound, StoreUnavailable, InvalidName.
    """
    for some in batched(dict.fromkeys(keys), PAGE_KEYS):
        found = (await store.stat_many(some)).stats
        there = [found[key] for key in some if key in found]
        absent = [key for key in some if key not in found]
        for stats in in_portions(there, lambda stat: stat.size, PAGE_BYTES):
            yield replace(_page(None, stats, everything, False), absent=absent)
            absent = []
        if absent:
            yield replace(_page(None, [], everything, False), absent=absent)


async def sampled(
    store: Store, bounds: Bounds, match: str | None, reservoir: Reservoir[Stat]
) -> AsyncGenerator[Page, None]:
    """Pages of those matrices of a range that the reservoir draws, in key order, once it has seen all."""
    async for page in pages(store, bounds, match=match):
        for stat in page.stats.values():
            reservoir.offer(stat.key, stat)
    for stats in in_portions(reservoir.chosen(), lambda stat: stat.size, PAGE_BYTES, PAGE_KEYS):
        yield _page(None, stats, everything, False)
