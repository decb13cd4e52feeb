"""One day of a number as a small picture, with the same in words for those who do not see it.

The height is a logarithm, from 1e-17 at the bottom to 1 at the top, so that rows compare; a dashed line is
the tolerance. What is over it is drawn thicker and in another colour, and a mark at the bottom stands where a
value was not right, with a number or without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from somactl.core.verdict import Tolerances
from somactl.report.page.html import Html, el
from somactl.report.page.words import number, plural
from somactl.serve.history import BUCKET_SECONDS, Point, Series, is_bad

MERGED = 3
"""Buckets that one step of a picture shows: a quarter of an hour."""
MAX_DRAWN = 500
"""Series whose pictures are kept."""
WIDTH, HEIGHT = 96, 24
_FLOOR = -17.0
_BOTTOM, _TOP = HEIGHT - 4.0, 1.0


class Pictures:
    """Two pictures of a series, of lambda_min's bound and of the trace error, drawn anew where it changed."""

    def __init__(self, tolerances: Tolerances) -> None:
        self._tolerances = tolerances
        self._drawn: dict[int, _Drawn] = {}

    def of(self, series: Series | None, now: float) -> tuple[Html, Html]:
        """As of `now`, by the clock of the series."""
        if series is None:
            return self._draw([])
        bucket = int(now // BUCKET_SECONDS)
        drawn = self._drawn.get(id(series))
        if drawn is None or (drawn.series, drawn.changes, drawn.bucket) != (series, series.changes, bucket):
            self._make_room()
            both = self._draw(series.points(now, MERGED))
            drawn = self._drawn[id(series)] = _Drawn(series, series.changes, bucket, both)
        return drawn.both

    def _draw(self, day: Sequence[Point]) -> tuple[Html, Html]:
        return (
            _picture(day, lambda each: each.lambda_min_bound, -1, self._tolerances.psd, "λ min bound"),
            _picture(day, lambda each: each.trace_error, 1, self._tolerances.trace, "trace error"),
        )

    def _make_room(self) -> None:
        if len(self._drawn) >= MAX_DRAWN:
            del self._drawn[next(iter(self._drawn))]


class _Drawn(NamedTuple):
    series: Series
    changes: int
    bucket: int
    both: tuple[Html, Html]


def _picture(
    day: Sequence[Point], pick: Callable[[Point], float | None], sign: int, tolerance: float, what: str
) -> Html:
    values = [pick(each) for each in day]
    sizes = [None if value is None else max(0.0, sign * value) for value in values]
    known = [value for value in values if value is not None]
    bad = sum(is_bad(each.outcome) for each in day if each.outcome)
    words = f"No {what} was recorded in the last day."
    if known:
        worst = f"lowest {number(min(known))}" if sign < 0 else f"largest {number(max(known))}"
        words = f"One day of the {what}: {worst}, latest {number(known[-1])}, tolerance {sign * tolerance:g}."
    if bad:
        words += f" Not right in {plural(bad, 'quarter of an hour', 'quarters of an hour')}."
    over = [size if size is not None and size > tolerance else None for size in sizes]
    line = _height(tolerance)
    return el(
        "svg",
        el("path", d=f"M0 {line}H{WIDTH}", class_="tolerance"),
        el("path", d=_path(sizes), class_="line") if known else None,
        el("path", d=_path(over), class_="over") if any(over) else None,
        el("path", d=_marks(day), class_="marks") if bad else None,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        role="img",
        aria_label=words,
    )


def _height(size: float) -> float:
    share = 1 - max(_FLOOR, min(0.0, math.log10(size) if size > 0 else _FLOOR)) / _FLOOR
    return round(_BOTTOM - share * (_BOTTOM - _TOP), 1)


def _path(sizes: Sequence[float | None]) -> str:
    """Steps, with gaps; what stays at one height is one stroke."""
    return "".join(_strokes(sizes))


def _strokes(sizes: Sequence[float | None]) -> Iterator[str]:
    width = WIDTH / max(1, len(sizes))
    at: float | None = None
    end = 0.0
    for index, size in enumerate(sizes):
        if size is None:
            if at is not None:
                yield f"H{end:g}"
            at = None
            continue
        height = _height(size)
        if at is None:
            yield f"M{index * width:g} {height:g}"
        elif height != at:
            yield f"H{end:g}V{height:g}"
        at, end = height, round((index + 1) * width, 1)
    if at is not None:
        yield f"H{end:g}"


def _marks(day: Sequence[Point]) -> str:
    width = WIDTH / max(1, len(day))
    bad = [index for index, each in enumerate(day) if each.outcome and is_bad(each.outcome)]
    return "".join(f"M{index * width:g} {HEIGHT - 1.5:g}h{max(width, 2.0):g}" for index in bad)
