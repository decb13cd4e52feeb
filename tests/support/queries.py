"""What a query of Prometheus names, held against the catalogue of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator

import promql_parser
from promql_parser import AggregateExpr, BinaryExpr, Expr, Matcher, MatchOp, VectorSelector

from somactl.telemetry.catalogue import GROUPING, METRICS, Metric

OTHERS = {
    "up": {"job"},
    "ALERTS": {"alertname", "alertstate"},
    "push_time_seconds": set(GROUPING),
    "push_failure_time_seconds": set(GROUPING),
}
"""Metrics of Prometheus and of the Pushgateway themselves, and their labels."""
PARTS = ("_bucket", "_count", "_sum")


def problems(query: str) -> Iterator[str]:
    """What the query names that the catalogue does not have; raises ValueError where it is no query."""
    seen = list(_walk(promql_parser.parse(query)))
    selectors = [each for each in seen if isinstance(each, VectorSelector)]
    known: set[str] = set()
    for selector in selectors:
        labels, found = _judge(selector)
        known |= labels
        yield from found
    if not selectors:
        yield "it names no metric"
    for each in seen:
        modifier = each.modifier if isinstance(each, AggregateExpr | BinaryExpr) else None
        named = getattr(modifier, "labels", None) or getattr(
            getattr(modifier, "matching", None), "labels", []
        )
        yield from (f"no metric of the query has a label {name}" for name in named if name not in known)


def _walk(node: Expr) -> Iterator[Expr]:
    """The node and all below it."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        below = getattr(node, name, None)
        if isinstance(below, Expr):
            yield from _walk(below)
    for argument in getattr(node, "args", ()):
        yield from _walk(argument)


def _judge(selector: VectorSelector) -> tuple[set[str], list[str]]:
    """The labels that the metric has, and what is wrong with the selector."""
    name = selector.name or ""
    if name in OTHERS:
        return OTHERS[name], [
            f"{name} has no label {each.name}"
            for each in _matchers(selector)
            if each.name not in OTHERS[name]
        ]
    metric = _metric(name)
    if metric is None:
        return set(), [f"there is no metric {name}"]
    labels = {*GROUPING, *metric.labels, *(["le"] if metric.type == "histogram" else [])}
    wrong = [f"{name} has no label {each.name}" for each in _matchers(selector) if each.name not in labels]
    return labels, [*wrong, *(text for each in _matchers(selector) for text in _values(metric, each))]


def _metric(name: str) -> Metric | None:
    """The metric of a series: of a histogram these are its parts."""
    for part in PARTS:
        metric = METRICS.get(name.removesuffix(part))
        if name.endswith(part) and metric is not None and metric.type == "histogram":
            return metric
    metric = METRICS.get(name)
    return None if metric is None or metric.type == "histogram" else metric


def _matchers(selector: VectorSelector) -> list[Matcher]:
    return list(selector.matchers.matchers)


def _values(metric: Metric, matcher: Matcher) -> Iterator[str]:
    """A value that the label never has; of a pattern each alternative counts."""
    allowed = metric.labels.get(matcher.name)
    if allowed is None:
        return
    pattern = matcher.op in (MatchOp.Re, MatchOp.NotRe)
    for value in matcher.value.split("|") if pattern else [matcher.value]:
        if not (any(re.fullmatch(value, each) for each in allowed) if pattern else value in allowed):
            yield f"{metric.name}: {matcher.name} is never {value}"
