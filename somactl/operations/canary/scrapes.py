"""Counters from scrape to scrape: by how much each grew, and where it did not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Cursor = dict[str, float]


@dataclass(frozen=True, slots=True)
class Series:
    """What was scraped of one series: its target, its bucket if it is one of a histogram, time -> value.

    target is one for all buckets of a histogram; instance is that of the process, which has many series.
    """

    target: str
    instance: str
    le: str | None
    points: dict[float, float]


@dataclass(frozen=True, slots=True)
class Growth:
    """What the counters of one target grew by until the scrape at t: by bucket, or None for no histogram."""

    t: float
    by: dict[str | None, int]


@dataclass(frozen=True, slots=True)
class Broken:
    """A scrape that tells no growth, and why."""

    t: float
    what: Literal["counter-reset", "rejected"]
    detail: str


def births(series: Iterable[Series]) -> dict[str, float]:
    """Instance -> when it was first scraped, as far as that was asked for."""
    found: dict[str, float] = {}
    for each in series:
        for t in each.points:
            found[each.instance] = min(t, found.get(each.instance, t))
    return found


def growths(
    series: Iterable[Series], start: float, cursor: Cursor, prefix: str, born: dict[str, float]
) -> Iterator[Growth | Broken]:
    """Growth from each scrape to the next, of those since the one that `cursor` names, which moves on.

    Without one they begin with the last scrape before `start`, or the first after it. What appears later in
    a process that was there before (`born`), as the first error does, grew from 0.
    """
    targets: dict[str, list[Series]] = {}
    for each in series:
        targets.setdefault(each.target, []).append(each)
    for target, group in targets.items():
        name = f"{prefix}{target}"
        times = sorted({t for each in group for t in each.points})
        told = cursor.get(name, start)
        before = max((t for t in times if t <= told), default=None)
        is_new = before is None and name not in cursor
        for t in (t for t in times if t > told):
            cursor[name] = t
            if before is not None or (is_new and born[group[0].instance] < t):
                yield _growth(group, before, t)
            before, is_new = t, False


def _growth(group: list[Series], before: float | None, t: float) -> Growth | Broken:
    by: dict[str | None, int] = {}
    for each in group:
        new = each.points.get(t)
        old = 0.0 if before is None else each.points.get(before)
        if new is None or old is None:
            continue  # a series that is gone, or new
        if not math.isfinite(new - old):
            return Broken(t, "rejected", f"{new:g} after {old:g} is no count")
        if new < old:
            return Broken(t, "counter-reset", f"it fell from {old:.15g} to {new:.15g}")
        grown = round(new - old)
        if abs(new - old - grown) > 1e-6:
            return Broken(t, "rejected", f"it grew by {new - old:g}, which is no count")
        by[each.le] = by.get(each.le, 0) + grown
    return Growth(t, by)
