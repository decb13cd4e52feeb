"""What a canary check is asked: the arms, the criteria and the window. How each field is written.

::

    version: 1
    window: 2h
    interval: 1s
    confidence: 0.95
    arms:
      baseline:  {source: probe, store: env:BASELINE_STORE, namespace: default, keys: "state:*"}
      candidate: {source: probe, store: env:CANDIDATE_STORE, namespace: default, keys: "state:*"}
    criteria:
      invariants: {violations: 0, trace_error: 1e-8, undecided: hold, clampable: report}
      latency:    {quantile: 0.95, max: 60ms, margin: 20%}
      errors:     {max_share: 1%}
      degraded:   {max_share: 5%}
      conflicts:  {max_share: 2%}

A time has a unit (us, ms, s, m, h, d), a share is 20% or 0.2. FIELDS lists every field by its path, for each
is also a flag. `canary_spec_file.read_spec` reads both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from somactl.core.canary_samples import ARMS, ArmName

Attitude: TypeAlias = Literal["report", "hold", "count"]
Source: TypeAlias = Literal["probe", "prometheus", "samples"]


class Arm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the samples of an arm come from; the fields of its source, as they were written.

    probe: store, or health (the URL of a /healthz); cache, namespace, keys (a pattern). prometheus: url,
    match (labels), and the names of metrics: latency (a histogram), requests, errors, commits and conflicts
    (counters), psd, trace_error and degraded (gauges). samples: file.
    """

    source: Source
    store: str | None = None
    cache: str | None = None
    namespace: str | None = None
    keys: str | None = None
    health: str | None = None
    url: str | None = None
    match: str | None = None
    latency: str | None = None
    requests: str | None = None
    errors: str | None = None
    commits: str | None = None
    conflicts: str | None = None
    psd: str | None = None
    trace_error: str | None = None
    degraded: str | None = None
    file: str | None = None


class Invariants(msgspec.Struct, frozen=True, kw_only=True):
    """No more than `violations` in the candidate, nor a trace error above `trace_error`.

    undecided, clampable: whether such verdicts are only reported, hold the rollout, or count as violations.
    """

    violations: int = 0
    trace_error: float = 1e-8
    undecided: Attitude = "hold"
    clampable: Attitude = "report"


class LatencyLimit(msgspec.Struct, frozen=True, kw_only=True):
    """The quantile is at most `max` seconds, and at most 1 + margin times the baseline's; None: not asked."""

    quantile: float = 0.95
    max: float | None = None
    margin: float | None = None


class ShareLimit(msgspec.Struct, frozen=True, kw_only=True):
    max_share: float


class Criteria(msgspec.Struct, frozen=True, kw_only=True):
    invariants: Invariants | None = None
    latency: LatencyLimit | None = None
    errors: ShareLimit | None = None
    degraded: ShareLimit | None = None
    conflicts: ShareLimit | None = None


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. window, interval and gap in seconds; gap is the least between two samples of an arm."""

    arms: dict[ArmName, Arm]
    criteria: Criteria
    version: int = 1
    window: float = 7200.0
    interval: float = 1.0
    gap: float = 0.1
    confidence: float = 0.95

    @property
    def alpha(self) -> float:
        """The chance of a false alarm that is allowed: 1 - confidence."""
        return round(1.0 - self.confidence, 12)


class Field(NamedTuple):
    """A field: its path, what it says, an example, and how its text is read (ValueError if it is wrong)."""

    path: str
    what: str
    example: str
    read: Callable[[str], Any]


_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?)"
_duration_form = re.compile(_NUMBER + r" ?(us|µs|ms|s|m|h|d)\Z").match
_share_form = re.compile(_NUMBER + r" ?(%?)\Z").match
_number_form = re.compile(_NUMBER + r"\Z").match


def seconds(text: str) -> float:
    """A time with its unit, above 0. Raises ValueError."""
    found = _duration_form(text)
    if found is None:
        if _number_form(text):
            raise ValueError(f"{text} has no unit: write {text}ms, {text}s, {text}m or {text}h")
        raise ValueError("this is no time: write a number and us, ms, s, m, h or d")
    value = float(found[1]) * _UNITS[found[2]]
    if not 0.0 < value < math.inf:
        raise ValueError("a time here is above 0 and finite")
    return value


def share(text: str) -> float:
    """A share of a whole, from 0 to 1, as 20% or 0.2. Raises ValueError."""
    found = _share_form(text)
    if found is None:
        raise ValueError("this is no share: write 20% or 0.2")
    value = float(found[1]) / (100.0 if found[2] else 1.0)
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"{text} is no share from 0 to 1: is {text}% meant?" if not found[2] else "above 100%"
        )
    return value


def _between(low: float, high: float, read: Callable[[str], float]) -> Callable[[str], float]:
    def bounded(text: str) -> float:
        value = read(text)
        if not low < value < high:
            raise ValueError(f"{text} is not above {low:g} and below {high:g}")
        return value

    return bounded


def _number(text: str) -> float:
    if _number_form(text) is None or not math.isfinite(float(text)):
        raise ValueError("this is no number from 0 on, such as 1e-8; it has no unit")
    return float(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise ValueError("this is no whole number from 0 on")
    return int(text)


def _text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("this is empty, or not one line of text")
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def chosen(text: str) -> str:
        if text not in words:
            raise ValueError(f"this is none of {', '.join(words)}")
        return text

    return chosen


_ARM_FIELDS: dict[str, tuple[str, str]] = {
    "store": ("a store to read and time", "env:STORE"),
    "cache": ("the cache before that store", "env:CACHE"),
    "namespace": ("its namespace", "default"),
    "keys": ("which keys are read", "state:*"),
    "health": ("the address of a /healthz, instead of a store", "https://candidate.example/healthz"),
    "url": ("the address of a Prometheus", "http://prometheus.example:9090"),
    "match": ("the labels of the arm's series", 'version="2.1"'),
    "latency": ("a histogram of seconds", "somabrain_rho_read_latency_seconds"),
    "requests": ("a counter of requests", "http_requests_total"),
    "errors": ("a counter of those that failed", "http_errors_total"),
    "commits": ("a counter of commits", "commits_total"),
    "conflicts": ("a counter of those that conflicted", "conflicts_total"),
    "psd": ("a gauge that is 1 while all invariants hold", "somabrain_rho_psd_ok"),
    "trace_error": ("a gauge of the largest trace error", "somabrain_rho_trace_norm_error"),
    "degraded": ("a gauge that is 1 in degraded mode", "somabrain_degraded_mode"),
    "file": ("a recording, NDJSON", "samples.ndjson"),
}
SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "probe": ("store", "cache", "namespace", "keys", "health"),
    "prometheus": tuple(_ARM_FIELDS)[tuple(_ARM_FIELDS).index("url") : -1],
    "samples": ("file",),
}
"""The fields that an arm of each source may have."""
_attitude = _one_of("report", "hold", "count")


def _fields() -> list[Field]:
    rows = [
        Field("version", "the version of this form", "1", _one_of("1")),
        Field("window", "how long it is watched", "2h", seconds),
        Field("interval", "how often it is looked at", "1s", seconds),
        Field("gap", "the least time between two samples of an arm", "100ms", seconds),
        Field("confidence", "1 - the chance of a false alarm", "0.95", _between(0.5, 1.0, share)),
    ]
    for arm in ARMS:
        rows.append(Field(f"arms.{arm}.source", "where its samples come from", "probe", _one_of(*SOURCES)))
        rows += [Field(f"arms.{arm}.{name}", *about, _text) for name, about in _ARM_FIELDS.items()]
    rows += [
        Field("criteria.invariants.violations", "how many are allowed", "0", _whole),
        Field("criteria.invariants.trace_error", "the largest trace error allowed", "1e-8", _number),
        Field("criteria.invariants.undecided", "what undecided matrices do", "hold", _attitude),
        Field("criteria.invariants.clampable", "what clampable matrices do", "report", _attitude),
        Field("criteria.latency.quantile", "which quantile", "0.95", _between(0.0, 1.0, share)),
        Field("criteria.latency.max", "what it may be at most", "60ms", seconds),
        Field("criteria.latency.margin", "how far above the baseline's it may be", "20%", share),
    ]
    for name in ("errors", "degraded", "conflicts"):
        limit = share if name == "degraded" else _between(0.0, 1.0, share)
        rows.append(Field(f"criteria.{name}.max_share", f"the largest share of {name} allowed", "1%", limit))
    return rows


FIELDS: Final[dict[str, Field]] = {field.path: field for field in _fields()}
