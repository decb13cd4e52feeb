"""What an audit reads: the index of a namespace in key order, cut into tasks of keys to prove.

Each page covers a range of keys, those behind `after` up to and with `upto`, without a gap to the one before.
So what is noted of pages adds up to the whole namespace, whatever was written to it meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from somactl.operations.audit.model import Task
from somactl.store.contract import Stat, Store

PAGE_BYTES = 8 << 20
PAGE_KEYS = 512


@dataclass(frozen=True, slots=True)
class Bounds:
    """A range of keys, those behind `after` up to and with `upto`; None is the first and the last end."""

    after: str | None = None
    upto: str | None = None

    def before_end(self, key: str) -> bool:
        return self.upto is None or key <= self.upto


@dataclass(frozen=True, slots=True)
class Page:
    """One range of keys and what is to be proven of it.

    stats    of the keys of the task: where they were when they were listed
    skipped  the values of the range that have no invariants
    keys, bytes_   how many matrices the range holds, and their size, whether they are proven now or not
    whole    whether the task has all of them
    recheck  whether they are read again although nothing changed
    """

    bounds: Bounds
    task: Task
    stats: dict[str, Stat]
    skipped: list[Stat] = field(default_factory=list)
    keys: int = 0
    bytes_: int = 0
    whole: bool = True
    recheck: bool = False


def everything(stat: Stat) -> bool:
    return True


async def pages(
    store: Store,
    bounds: Bounds,
    *,
    match: str | None = None,
    wanted: Callable[[Stat], bool] = everything,
    recheck: bool = False,
) -> AsyncGenerator[Page, None]:
    """The pages of a range, of whose matrices those are to be proven that are `wanted`.

    Raises NamespaceNotFound, StoreUnavailable.
    """
    after = bounds.after
    async with aclosing(_listed(store, bounds, match)) as listed:
        async for stats in listed:
            upto = stats[-1].key
            yield _page(Bounds(after, upto), stats, wanted, recheck)
            after = upto
    if after is None or after != bounds.upto:
        yield _page(Bounds(after, bounds.upto), [], wanted, recheck)


async def _listed(store: Store, bounds: Bounds, match: str | None) -> AsyncGenerator[list[Stat], None]:
    scan = store.scan(match, bounds.after, page_bytes=PAGE_BYTES, page_keys=PAGE_KEYS)
    async for stats in scan:
        inside = stats if bounds.before_end(stats[-1].key) else [s for s in stats if bounds.before_end(s.key)]
        if inside:
            yield inside
        if len(inside) < len(stats):
            return


def _page(bounds: Bounds, stats: Sequence[Stat], wanted: Callable[[Stat], bool], recheck: bool) -> Page:
    rhos = [stat for stat in stats if stat.kind == "rho"]
    chosen = rhos if wanted is everything else [stat for stat in rhos if wanted(stat)]
    return Page(
        bounds,
        task_of(chosen),
        {stat.key: stat for stat in chosen},
        skipped=[] if len(rhos) == len(stats) else [stat for stat in stats if stat.kind != "rho"],
        keys=len(rhos),
        bytes_=sum(stat.size for stat in rhos),
        whole=len(chosen) == len(rhos),
        recheck=recheck,
    )


def task_of(stats: Iterable[Stat]) -> Task:
    stats = list(stats)
    return Task([stat.key for stat in stats], [stat.size for stat in stats])
