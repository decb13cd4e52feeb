"""Whether samples depend on each other, and how far apart two must be that do not.

A slow trend is no dependence here: each sample is compared with the median of the BLOCK around it. The
chance that independent samples are called dependent is some 1e-4 at each measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 256
"""Samples over which a trend is taken out."""
LEAST: Final = 64
"""Fewer samples tell nothing of dependence."""
LATEST: Final = 1 << 16
"""So many of the latest samples are measured."""
MAX_STRIDE: Final = 64
WEAK: Final = 0.1
"""An autocorrelation that does no harm: with it an e-process keeps its level, as was simulated."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """The autocorrelation of neighbours, of ranks and of exceedances, and the stride that removes it.

    All are None where there are too few samples; stride is None too where none up to MAX_STRIDE does.
    """

    ranks: float | None = None
    exceedances: float | None = None
    stride: int | None = None


def dependence(values: NDArray[Any], p0: float) -> Dependence:
    """How the samples depend, which are in the order of time; p0 is the share that counts as beyond."""
    values = values[-LATEST:]
    if len(values) < LEAST:
        return Dependence()
    lags = min(MAX_STRIDE, len(values) // 8)
    relative = _without_trend(values)
    of_ranks = _autocorrelation(_ranks(relative), lags)
    beyond = relative > np.quantile(relative, 1.0 - p0, method="higher")
    of_beyond, strong = _clustering(beyond, lags)
    stride = max(_rank_stride(of_ranks, len(values)), _first_quiet(strong))
    return Dependence(float(of_ranks[0]), float(of_beyond[0]), stride if stride <= lags else None)


def _without_trend(values: NDArray[Any]) -> NDArray[Any]:
    medians = _of_blocks(values, np.median)
    return values / np.where(medians == 0.0, 1.0, medians)


def _of_blocks(values: NDArray[Any], statistic: Callable[..., NDArray[Any]]) -> NDArray[Any]:
    """For each value the statistic of the block it is in; a rest belongs to the last block."""
    blocks = max(len(values) // BLOCK, 1)
    size = len(values) // blocks
    found = statistic(values[: blocks * size].reshape(blocks, size), axis=1)
    counts = np.full(blocks, size)
    counts[-1] += len(values) - blocks * size
    repeated: NDArray[Any] = np.repeat(found, counts)
    return repeated


def _ranks(values: NDArray[Any]) -> NDArray[Any]:
    """Twice the mean ranks, so that ties have no order, about the mean of each block."""
    ordered = np.sort(values)
    ranks = ordered.searchsorted(values, "left") + ordered.searchsorted(values, "right")
    centred: NDArray[Any] = ranks - _of_blocks(ranks, np.mean)
    return centred


def _autocorrelation(x: NDArray[Any], lags: int) -> NDArray[Any]:
    """At lags 1 to `lags`, with what taking out the mean of a block has removed put back."""
    transform = np.fft.rfft(x, 1 << (len(x) + lags).bit_length())
    products = np.fft.irfft(np.abs(transform) ** 2)[: lags + 1]
    if products[0] <= 0.0:
        return np.zeros(lags)
    removed: NDArray[Any] = 1.0 / min(BLOCK, len(x)) + products[1:] / products[0]
    return removed


def _rank_stride(of_ranks: NDArray[Any], n: int) -> int:
    """The lag from which on it is weak; as in an AR(1) of its first lags, where that reaches further."""
    noise = max(WEAK, 4.0 / math.sqrt(n))
    if not (of_ranks[:4] > noise).any():
        return 1
    first = float(min(max(of_ranks[0], of_ranks[1:2].max(initial=0.0) ** 0.5), 0.999))
    decayed = math.ceil(math.log(WEAK) / math.log(first)) if first > WEAK else 1
    return max(decayed, _first_quiet(of_ranks > WEAK))


def _clustering(beyond: NDArray[Any], lags: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The autocorrelation of a rare event, and where it is neither weak nor chance (a Poisson count)."""
    n, places = len(beyond), np.flatnonzero(beyond)
    m = len(places)
    if m < 2 or m == n:
        return np.zeros(lags), np.zeros(lags, dtype=bool)
    both = np.array([np.count_nonzero(beyond[places[places < n - lag] + lag]) for lag in range(1, lags + 1)])
    expected = m * m / n
    correlation = (both / m - m / n) / (1.0 - m / n)
    return correlation, (both > expected + 4.0 * math.sqrt(expected) + 3.0) & (correlation > WEAK)


def _first_quiet(strong: NDArray[Any]) -> int:
    """The first lag, counting from 1, at which and behind which it is quiet; one more than all if none."""
    quiet = ~np.append(strong, [False, False])
    both = np.flatnonzero(quiet[:-1] & quiet[1:])
    return int(both[0]) + 1


def spread(bad: NDArray[Any], total: NDArray[Any]) -> float:
    """How many counted samples are worth one that is independent: 1 for independent ones.

    bad of total in each interval, in the order of time. Counts are summed over ever longer blocks, and their
    variance is compared with the binomial one: the largest ratio that is no chance (batch means).
    """
    whole = float(total.sum())
    p = float(bad.sum()) / whole if whole else 0.0
    worst = 1.0
    while 0.0 < p < 1.0 and len(total) >= 20:
        expected = total * p
        used = expected > 0
        deviations = (bad[used] - expected[used]) ** 2 / (expected[used] * (1.0 - p))
        freedom = max(len(deviations) - 1, 1)
        ratio = float(deviations.sum()) / freedom
        kurtosis = float((1.0 / (expected[used] * (1.0 - p))).mean()) if used.any() else 0.0
        if ratio > 1.0 + 4.0 * math.sqrt((2.0 + kurtosis) / freedom):
            worst = max(worst, ratio)
        even = len(total) // 2 * 2
        bad, total = (each[:even].reshape(-1, 2).sum(axis=1) for each in (bad, total))
    return worst
