"""Latencies of one run, as a job can tell them: p50, p95 and the longest.

A histogram that begins anew with each run would make `rate()` lie, so a job pushes gauges.
"""

from __future__ import annotations

import math
from collections import Counter

from somactl.telemetry.catalogue import OPERATIONS

_STEP = math.log(1.02)
_QUANTILES = {"p50": 0.5, "p95": 0.95}


class Latencies:
    """Counts durations in steps of 2 %, so that millions of them need little memory.

    latencies = Latencies(); latencies("read", 0.012); latencies.stats()
    """

    def __init__(self) -> None:
        self._counts: dict[str, Counter[int]] = {operation: Counter() for operation in OPERATIONS}
        self._longest = dict.fromkeys(OPERATIONS, 0.0)

    def __call__(self, operation: str, seconds: float) -> None:
        """Note that one call of `operation` took so long."""
        self._counts[operation][math.ceil(math.log(max(seconds, 1e-9)) / _STEP)] += 1
        self._longest[operation] = max(self._longest[operation], seconds)

    def stats(self) -> dict[tuple[str, str], float]:
        """(operation, stat) -> seconds, at most 2 % too long; what was not called is left out."""
        found = {}
        for operation, counts in self._counts.items():
            if not counts:
                continue
            longest = self._longest[operation]
            for stat, quantile in _QUANTILES.items():
                found[operation, stat] = min(longest, _quantile(counts, quantile))
            found[operation, "max"] = longest
        return found


def _quantile(counts: Counter[int], quantile: float) -> float:
    """The upper edge of the step in which that share of all is reached."""
    wanted, seen = quantile * counts.total(), 0
    for step in sorted(counts):
        seen += counts[step]
        if seen >= wanted:
            return math.exp(step * _STEP)
    raise AssertionError("the whole was not reached")
