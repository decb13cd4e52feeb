"""How the latencies of both arms are distributed: a few dozen counts, however many samples there are.

distributed(samples)        # CanaryDistribution, or None where no latency came
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from somactl.core.canary_samples import ARMS, AnySample, ArmName, Buckets, Latency
from somactl.report.canary import CanaryDistribution

BINS: Final = 48
_LEAST_RATIO: Final = 1.02
"""Bins are no narrower than this, so that what differs by rounding alone is one bar."""


def distributed(samples: Iterable[AnySample]) -> CanaryDistribution | None:
    """Of requests where there are any, else of buckets; None where there are none, or none that agree."""
    seconds: dict[ArmName, list[float]] = {arm: [] for arm in ARMS}
    buckets: list[Buckets] = []
    for sample in samples:
        if isinstance(sample, Latency):
            seconds[sample.arm].append(sample.seconds)
        elif isinstance(sample, Buckets):
            buckets.append(sample)
    if any(seconds.values()):
        return _of_requests({arm: np.array(values) for arm, values in seconds.items()})
    return _of_buckets(buckets)


def _of_requests(seconds: dict[ArmName, NDArray[Any]]) -> CanaryDistribution:
    both = np.concatenate(list(seconds.values()))
    positive = both[both > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1e-6, 1e-6)
    bins = max(min(BINS, math.ceil(math.log(high / low) / math.log(_LEAST_RATIO))), 1)
    edges = np.geomspace(low, max(high, low * _LEAST_RATIO), bins + 1)
    return CanaryDistribution(
        edges=[float(edge) for edge in edges],
        counts={arm: _counted(values, edges) for arm, values in seconds.items()},
    )


def _counted(values: NDArray[Any], edges: NDArray[Any]) -> list[int]:
    return [int(n) for n in np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]]


def _of_buckets(samples: list[Buckets]) -> CanaryDistribution | None:
    if len({tuple(sample.edges) for sample in samples}) != 1:
        return None
    totals: dict[ArmName, Counter[int]] = {arm: Counter() for arm in ARMS}
    for sample in samples:
        totals[sample.arm].update(dict(enumerate(sample.counts)))
    last = len(samples[0].edges)
    return CanaryDistribution(
        edges=[0.0, *samples[0].edges],
        counts={arm: [counts[place] for place in range(last)] for arm, counts in totals.items()},
        beyond={arm: counts[last] for arm, counts in totals.items()},
    )
