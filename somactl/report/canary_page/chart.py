"""Charts as SVG that take the width of the page, with text that keeps its size.

    x, y = Scale(0.0, 7200.0), Scale(0.01, 0.1, is_log=True)
    frame = Frame(x, y, time_ticks(x), log_ticks(y, seconds))
    chart(frame, [line(x, y, points, "candidate")], "What it shows, for a screen reader")

Shapes lie in a picture of SIDE by SIDE units that is stretched to the width there is; ticks are placed in
percent. All looks come from classes: a policy that admits one style admits no attribute `style`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from somactl.report.page.html import Child, Html, el

SIDE: Final = 1000
_TOP, _PLOT, _BOTTOM = 18, 176, 20
HEIGHT: Final = _TOP + _PLOT + _BOTTOM
_BEYOND: Final = 0.25
"""Shapes may leave the plot by this share of it, where they are cut off: farther coordinates tell nothing."""
Points: TypeAlias = "Sequence[tuple[float, float | None]]"
Ends: TypeAlias = "tuple[float, float | None, float | None]"
Tick: TypeAlias = "tuple[float, str]"


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a value stands between low and high: 0 to 1, linear or by its logarithm."""

    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        if self.is_log:
            value = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            value = (value - self.low) / (self.high - self.low)
        return min(max(value, -_BEYOND), 1.0 + _BEYOND)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


class Frame(NamedTuple):
    """The scales of a chart, and where they are marked."""

    x: Scale
    y: Scale
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick] = ()


def _across(x: Scale, value: float) -> str:
    return f"{SIDE * x.share(value):.4g}"


def _up(y: Scale, value: float) -> str:
    return f"{SIDE * (1.0 - y.share(value)):.4g}"


def line(x: Scale, y: Scale, points: Points, class_: str) -> Html | None:
    """Straight strokes from point to point; a value of None is a gap."""
    path = "".join(_strokes(x, y, points))
    return _path(path, f"line {class_}") if path else None


def _strokes(x: Scale, y: Scale, points: Points) -> Iterator[str]:
    pen = "M"
    for at, value in points:
        if value is None:
            pen = "M"
            continue
        yield f"{pen}{_across(x, at)} {_up(y, value)}"
        pen = "L"


def band(
    x: Scale, y: Scale, ends: Sequence[tuple[float, float | None, float | None]], class_: str
) -> Html | None:
    """What lies between two lines, given as (x, low, high); None is below or above all."""
    up = [f"{_across(x, at)} {_up(y, y.high if high is None else high)}" for at, _, high in ends]
    down = [f"{_across(x, at)} {_up(y, y.low if low is None else low)}" for at, low, _ in ends]
    return _path("M" + "L".join([*up, *reversed(down)]) + "Z", f"band {class_}") if ends else None


def steps(x: Scale, y: Scale, edges: Sequence[float], heights: Sequence[float], class_: str) -> Html:
    """A histogram as one outline, closed along the bottom."""
    path = [f"M{_across(x, edges[0])} {SIDE}"]
    for right, height in zip(edges[1:], heights, strict=True):
        path.append(f"V{_up(y, height)}H{_across(x, right)}")
    return _path("".join([*path, f"V{SIDE}Z"]), f"steps {class_}")


def level(y: Scale, value: float, class_: str) -> Html:
    return _path(f"M0 {_up(y, value)}H{SIDE}", f"level {class_}")


def upright(x: Scale, value: float, class_: str) -> Html:
    return _path(f"M{_across(x, value)} 0V{SIDE}", f"level {class_}")


def _path(d: str, class_: str) -> Html:
    return el("path", d=d, class_=class_)


def chart(frame: Frame, shapes: Iterable[Html | None], words: str) -> Html:
    """words: what is to be seen, for a screen reader."""
    x, y, x_ticks, y_ticks = frame
    plot = el(
        "svg",
        shapes,
        x=0,
        y=_TOP,
        width="100%",
        height=_PLOT,
        viewBox=f"0 0 {SIDE} {SIDE}",
        preserveAspectRatio="none",
    )
    return el(
        "svg",
        (_grid_line(y, value) for value, _ in y_ticks),
        plot,
        (_y_text(y, *tick) for tick in y_ticks),
        (_x_text(x, *tick) for tick in x_ticks),
        class_="chart",
        width="100%",
        height=HEIGHT,
        role="img",
        aria_label=words,
    )


def _height_of(y: Scale, value: float) -> float:
    return round(_TOP + _PLOT * (1.0 - y.share(value)), 1)


def _grid_line(y: Scale, value: float) -> Html:
    at = _height_of(y, value)
    return el("line", x1=0, x2="100%", y1=at, y2=at, class_="grid")


def _y_text(y: Scale, value: float, text: str) -> Html:
    return el("text", text, x=0, y=_height_of(y, value) - 3)


def _x_text(x: Scale, value: float, text: str) -> Html:
    share = x.share(value)
    anchor = "start" if share < 0.04 else "end" if share > 0.96 else "middle"
    return el("text", text, x=f"{100 * share:.4g}%", y=HEIGHT - 5, text_anchor=anchor)


def key(entries: Iterable[tuple[str, str] | None]) -> Html:
    """What the shapes mean: a sample of each, by its class, with its words."""
    return el("ul", (_entry(*each) for each in entries if each is not None), class_="key-of")


def _entry(class_: str, text: Child) -> Html:
    swatch = el("svg", el("path", d="M0 6H22", class_=class_), width=22, height=12, aria_hidden="true")
    return el("li", swatch, el("span", text))


_ROUND = (1.0, 2.0, 5.0)
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


def linear_ticks(scale: Scale, text: Callable[[float], str], most: int = 5) -> list[Tick]:
    """At round values, no more than `most`."""
    span = scale.high - scale.low
    step = next(size for size in _round_from(span / most) if span / size <= most)
    first = math.ceil(scale.low / step - 1e-9)
    found = (step * place for place in range(first, first + most + 1))
    return [(value, text(value)) for value in found if value <= scale.high + step * 1e-9]


def log_ticks(scale: Scale, text: Callable[[float], str], most: int = 5) -> list[Tick]:
    """At 1, 2 and 5 of each decade, or at fewer where these were too many; at round steps within a decade."""
    if scale.high < 8 * scale.low:
        return linear_ticks(scale, text, most)
    decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    for parts in (_ROUND, (1.0, 3.0), (1.0,)):
        found = [part * 10.0**decade for decade in decades for part in parts]
        held = [value for value in found if scale.holds(value)]
        if len(held) <= most:
            break
    every = -(-len(held) // most)
    return [(value, text(value)) for value in held[::every]]


def time_ticks(scale: Scale, most: int = 6) -> list[Tick]:
    """At round times of a scale that begins at 0 seconds."""
    span = scale.high
    if span < 5:
        return linear_ticks(scale, lambda value: f"{value:g} s", most)
    days = -(-span // (86400 * most)) * 86400
    step = next((size for size in _TIMES if span / size <= most), days)
    return [(step * place, _time(step * place, step)) for place in range(int(span / step + 1e-9) + 1)]


def _time(value: float, step: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if step >= size and step % size == 0:
            return f"{value / size:g} {unit}" if value else "0"
    return f"{value:g} s" if value else "0"


def _round_from(least: float) -> Iterator[float]:
    decade = math.floor(math.log10(least))
    while True:
        yield from (part * 10.0**decade for part in _ROUND)
        decade += 1
