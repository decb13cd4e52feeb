"""The pictures of a canary check: both arms' distributions, the quantile over time, evidence over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, TypeAlias

from somactl.core.canary_samples import ARMS, ArmName
from somactl.core.canary_verdict import Criterion, in_unit
from somactl.report.canary import CanaryDistribution, CanaryLook, CanaryPoint, CanaryReport
from somactl.report.canary_page.chart import (
    Frame,
    Points,
    Scale,
    Tick,
    band,
    chart,
    key,
    level,
    line,
    linear_ticks,
    log_ticks,
    steps,
    time_ticks,
    upright,
)
from somactl.report.page.html import Child, Html, el

MOST_POINTS: Final = 300
_LOWEST, _HIGHEST = -2.0, 6.0
"""What is farther from 0 than so many bars is not drawn, so that the bar itself is seen."""


_Axis: TypeAlias = tuple[Scale, Callable[[float], float], list[Tick]]


def seconds(value: float) -> str:
    return in_unit(value, "seconds")


def of_latency(report: CanaryReport) -> Criterion | None:
    """The criterion that tells both arms' quantiles: the two of latency tell the same."""
    criteria = report.verdict.criteria if report.verdict else []
    return next((each for each in criteria if each.name.startswith("latency")), None)


def figure(title: Child, picture: Child, *notes: Child) -> Html:
    return el("figure", el("figcaption", title), picture, (note for note in notes if note))


def thinned(looks: Sequence[CanaryLook]) -> list[CanaryLook]:
    """At most MOST_POINTS of them, with the last."""
    every = max(-(-len(looks) // MOST_POINTS), 1)
    return [look for place, look in enumerate(reversed(looks)) if place % every == 0][::-1]


def _span(looks: Sequence[CanaryLook]) -> Scale | None:
    last = max((look.at for look in looks), default=0.0)
    return Scale(0.0, last) if last > 0 else None


def _points(looks: Sequence[CanaryLook], name: str) -> list[tuple[float, CanaryPoint]]:
    return [(look.at, point) for look in looks for point in look.points if point.criterion == name]


def quantile(report: CanaryReport, label: str) -> Html | None:
    """The quantile of both arms with its confidence sequence, against the limit and the margin."""
    criterion, looks = of_latency(report), thinned(report.looks)
    x = _span(looks)
    if criterion is None or x is None or report.spec is None or report.spec.criteria.latency is None:
        return None
    points, limits = _points(looks, criterion.name), report.spec.criteria.latency
    values = [value for _, point in points for value in point.values.values()]
    known = [value for value in [*values, limits.max] if value]
    if not values or not known:
        return None
    y = _around(known, points)
    margin = None if limits.margin is None else 1.0 + limits.margin
    shapes = [
        *(_band(x, y, points, arm) for arm in ARMS),
        level(y, limits.max, "limit") if limits.max else None,
        line(x, y, [(at, _times(point, margin)) for at, point in points], "margin") if margin else None,
        *(line(x, y, [(at, point.values.get(arm)) for at, point in points], arm) for arm in ARMS),
    ]
    entries = [
        ("line baseline", "baseline"),
        ("line candidate", "candidate"),
        ("level limit", f"limit, {seconds(limits.max)}") if limits.max else None,
        ("line margin", f"baseline and {in_unit(limits.margin, 'share')}") if margin else None,
    ]
    frame = Frame(x, y, time_ticks(x), log_ticks(y, seconds))
    picture = chart(frame, shapes, _told(criterion, label))
    note = "The bands are confidence sequences: all of a band holds at once, however often it is looked at."
    return figure(f"{label} over the window", [picture, key(entries)], el("p", note, class_="note"))


def _around(known: Sequence[float], points: list[tuple[float, CanaryPoint]]) -> Scale:
    """From the least to the greatest value, and as far as the confidence sequences reach at the end."""
    _, last = points[-1]
    ends = [*last.lows.values(), *last.highs.values()]
    least = min([*known, *(end for end in ends if end > min(known) / 3)])
    greatest = max([*known, *(end for end in ends if end < max(known) * 3)])
    return Scale(least / 1.15, greatest * 1.15, is_log=True)


def _times(point: CanaryPoint, factor: float) -> float | None:
    value = point.values.get("baseline")
    return None if value is None else value * factor


def _band(x: Scale, y: Scale, points: list[tuple[float, CanaryPoint]], arm: ArmName) -> Html | None:
    ends = [(at, each.lows.get(arm), each.highs.get(arm)) for at, each in points if arm in each.values]
    return band(x, y, ends, arm)


def _told(criterion: Criterion, label: str) -> str:
    return f"{label} of both arms at the end: " + "; ".join(
        f"{arm} {in_unit(facts.value, 'seconds')}, {between(facts.low, facts.high)}"
        for arm, facts in criterion.arms.items()
    )


def between(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "unknown"
    if high is None:
        return f"at least {in_unit(low, 'seconds')}"
    return f"{in_unit(low, 'seconds')} to {in_unit(high, 'seconds')}"


def evidence(report: CanaryReport, criterion: Criterion) -> Html | None:
    """Log E of failing and of passing over time, each against its bar."""
    looks = thinned(report.looks)
    points, x = _points(looks, criterion.name), _span(looks)
    failing, passing = criterion.failing, criterion.passing
    if x is None or failing is None or passing is None or len(points) < 2:
        return None
    against: Points = [(at, point.failing) for at, point in points]
    for_it: Points = [(at, point.passing) for at, point in points]
    known = [value for _, value in [*against, *for_it] if value is not None]
    lowest, highest = min(known, default=0.0), max(known, default=0.0)
    bar = max(failing.bar, passing.bar)
    y = Scale(
        max(min(lowest * 1.08, -0.5 * bar), -2.0 * bar), min(max(highest * 1.08, 1.5 * bar), _HIGHEST * bar)
    )
    shapes = [
        level(y, failing.bar, "failing"),
        level(y, passing.bar, "passing"),
        line(x, y, for_it, "passing"),
        line(x, y, against, "failing"),
    ]
    entries = [
        ("line failing", f"that it fails: {failing.log_e:.3g}, bar {failing.bar:.3g}"),
        ("line passing", f"that it holds: {passing.log_e:.3g}, bar {passing.bar:.3g}"),
    ]
    words = f"Evidence about {criterion.name} at the end: " + "; ".join(text for _, text in entries)
    frame = Frame(x, y, time_ticks(x), linear_ticks(y, lambda value: f"{value:g}"))
    picture = chart(frame, shapes, words)
    return figure("Evidence, log E against its bar (dashed)", [picture, key(entries)])


def distribution(report: CanaryReport, label: str) -> Html | None:
    """How many of each arm's latencies lie where, with the quantile and the limit."""
    found, criterion = report.distribution, of_latency(report)
    if found is None or not any(sum(counts) for counts in found.counts.values()):
        return None
    asked = report.spec.criteria.latency if report.spec else None
    limit = asked.max if asked else None
    x, place, ticks = _axis(found, limit)
    limit = limit if limit and x.holds(place(limit)) else None
    shares = {arm: _density(found, arm) for arm in ARMS if sum(found.counts.get(arm, []))}
    y = Scale(0.0, 1.08 * max(max(each) for each in shares.values()))
    edges = [place(edge) for edge in found.edges]
    facts = criterion.arms if criterion else {}
    at = {arm: value for arm in ARMS if arm in facts and (value := facts[arm].value)}
    shapes = [
        *(steps(x, y, edges, heights, arm) for arm, heights in shares.items()),
        *(upright(x, place(value), arm) for arm, value in at.items()),
        upright(x, place(limit), "limit") if limit else None,
    ]
    entries = [
        *((f"steps {arm}", _summary(found, arm)) for arm in shares),
        *((f"level {arm}", f"{label} of the {arm}, {seconds(value)}") for arm, value in at.items()),
        ("level limit", f"limit, {seconds(limit)}") if limit else None,
    ]
    words = "Distribution of latencies: " + "; ".join(_summary(found, arm) for arm in shares)
    picture = chart(
        Frame(x, y, ticks, linear_ticks(y, lambda value: in_unit(value, "share"), 3)), shapes, words
    )
    return figure("Latencies of both arms, by share", [picture, key(entries)])


def _axis(found: CanaryDistribution, limit: float | None) -> _Axis:
    """By the logarithm, as far as a limit that is near; buckets, whose first edge is 0, side by side."""
    edges = found.edges
    if edges[0] > 0:
        reach = limit if limit and edges[0] / 3 < limit < edges[-1] * 3 else edges[0]
        scale = Scale(min(edges[0], reach / 1.1), max(edges[-1], reach * 1.1), is_log=True)
        return scale, lambda value: value, log_ticks(scale, seconds)
    every = -(-len(edges) // 6)
    ticks = [(float(number), seconds(edge) if edge else "0") for number, edge in enumerate(edges)][::every]
    return Scale(0.0, len(edges) - 1.0), lambda value: _interpolated(edges, value), ticks


def _interpolated(edges: Sequence[float], value: float) -> float:
    for number, (left, right) in enumerate(pairwise(edges)):
        if value <= right:
            return number + (value - left) / (right - left)
    return len(edges) - 1.0


def _density(found: CanaryDistribution, arm: ArmName) -> list[float]:
    """Shares of the arm, so that arms of different sizes compare."""
    whole = sum(found.counts[arm]) + found.beyond.get(arm, 0)
    return [count / whole for count in found.counts[arm]]


def _summary(found: CanaryDistribution, arm: ArmName) -> str:
    beyond = found.beyond.get(arm, 0)
    whole = sum(found.counts[arm]) + beyond
    more = f", {beyond:,} of them above all buckets" if beyond else ""
    return f"{arm}, {whole:,} latencies{more}"
