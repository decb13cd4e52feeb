"""Canaries by the thousand: what the judge of latencies decides, looked at after every pair of samples.

The rules are those of `somactl.core.canary_latency`, with log M looked up in a table; `tests/unit/
test_canary_simulation.py` holds both to the same decision at the same sample.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import gammaln, ndtri

from somactl.core.canary_dependence import dependence
from somactl.core.canary_latency import LEAST_SAMPLES
from somactl.core.canary_verdict import PRECISION
from somactl.core.sequential import Counted, Mixture, least_evidence

P0 = 0.05
WINDOW = 7200
Array = NDArray[Any]
Arms = Callable[[np.random.Generator, int], tuple[Array, Array]]
"""(candidate, baseline) of so many samples each."""


class TabledMixture(Mixture):
    """A Mixture that looks up what a simulation asks for: up to `largest` samples, `most` of them beyond.

    Neighbouring tails differ by one term, I(a + 1, b - 1) = I(a, b) - pᵃ qᵇ⁻¹ / (a B(a, b)): DLMF 8.17.20.
    """

    def __init__(self, p0: float, alpha: float, largest: int = WINDOW, most: int = 1000) -> None:
        super().__init__(p0, alpha)
        self._most, self._largest = most, largest
        shape = largest + 1, most + 1
        self.above, self.below = np.full(shape, np.nan), np.full(shape, np.nan)
        s = np.arange(largest + 1.0)
        log_a, log_b = gammaln(self._a + s), gammaln(self._b + s)
        for n in range(largest + 1):
            self._fill(n, min(n, most), log_a, log_b[n::-1])

    def _fill(self, n: int, last: int, log_a: Array, log_b: Array) -> None:
        s, p, q = np.arange(last + 1), self.p0, 1.0 - self.p0
        a, b = self._a + s, self._b + n - s
        kernel = (
            gammaln(self.k + n) - log_a[: last + 1] - log_b[: last + 1] + a * math.log(p) + b * math.log(q)
        )
        steps = kernel - np.log(a * q)
        low, high = super().log_below(last, n), super().log_above(0, n)
        lower = np.logaddexp.accumulate(np.append(low - self._below + kernel[-1], steps[-2::-1]))[::-1]
        upper = np.logaddexp.accumulate(np.append(high - self._above + kernel[0], steps[:-1]))
        self.below[n, : last + 1] = self._below - kernel + lower
        self.above[n, : last + 1] = self._above - kernel + upper

    def log_above(self, s: float, n: float) -> float:
        return float(self.above[int(n), int(s)]) if s <= self._most else super().log_above(s, n)

    def log_below(self, s: float, n: float) -> float:
        return float(self.below[int(n), int(s)]) if s <= self._most else super().log_below(s, n)


@cache
def mixture(alpha: float, largest: int) -> TabledMixture:
    return TabledMixture(P0, alpha, largest)


@dataclass(frozen=True, slots=True)
class Run:
    """How a canary ended: after how many pairs it failed, if it did; its stride; whether it passed."""

    failed: int | None
    stride: int | None
    passed: bool = False


def run(
    candidate: Array, baseline: Array, *, margin: float, alpha: float, passing: float | None = None
) -> Run:
    """One canary whose only criterion is latency.margin. alpha: of FAIL; passing: of PASS, if it is asked."""
    judged = _Watch(candidate / (1.0 + margin), baseline, mixture(alpha, len(candidate)))
    failed = judged.first_failure()
    passed = failed is None and passing is not None and judged.passes(mixture(passing, len(candidate)))
    return Run(failed, judged.stride, passed)


def shows_no_worse(candidate: Array, baseline: Array, margin: float, alpha: float = 0.05) -> bool:
    """Whether independent samples pass at their end."""
    worse, better = Counted(np.sort(baseline)), Counted(np.sort(candidate / (1.0 + margin)))
    test = Mixture(P0, alpha)
    return least_evidence(test, worse, better).log_e >= test.bar + PRECISION


class _Watch:
    def __init__(self, candidate: Array, baseline: Array, test: TabledMixture) -> None:
        self._x, self._y, self._test = candidate, baseline, test
        self.stride: int | None = 1
        self._next_review = LEAST_SAMPLES
        self._q: float | None = None

    def first_failure(self) -> int | None:
        """After how many pairs it fails."""
        n, whole = LEAST_SAMPLES, len(self._x)
        while n <= whole:
            if n >= self._next_review:
                self._review(n)
            end = min(self._next_review - 1, whole)
            if self.stride is None:
                n = end + 1
                continue
            crossing = self._first_doubt(n, end)
            if crossing is None:
                n = end + 1
                continue
            n = crossing
            if self._crosses(n):
                if not self._review(n):
                    return n
                if self.stride is not None and self._crosses(n):
                    return n
            n += 1
        return None

    def passes(self, test: TabledMixture) -> bool:
        self._review(len(self._x))
        if self.stride is None:
            return False
        x, y = (Counted(np.sort(each[:: self.stride])) for each in (self._x, self._y))
        return least_evidence(test, y, x).log_e >= test.bar + PRECISION

    def _review(self, n: int) -> bool:
        self._next_review = 2 * n
        before = self.stride
        strides = [dependence(each[:n], P0).stride for each in (self._x, self._y)]
        self.stride = None if None in strides else max(each for each in strides if each)
        return before != self.stride

    def _first_doubt(self, begin: int, end: int) -> int | None:
        """The first n of begin to end at which the kept threshold no longer shows that none was crossed."""
        if self._q is None:
            return begin
        stride, q, test = self.stride or 1, self._q, self._test
        beyond = [np.cumsum(self._x[:end:stride] > q), np.cumsum(self._y[:end:stride] >= q)]
        if max(beyond[0][-1], beyond[1][-1]) > 1000:
            return begin
        kept = (np.arange(begin, end + 1) + stride - 1) // stride
        log_e = test.above[kept, beyond[0][kept - 1]] + test.below[kept, beyond[1][kept - 1]]
        found = np.flatnonzero(log_e >= test.bar)
        return begin + int(found[0]) if len(found) else None

    def _crosses(self, n: int) -> bool:
        stride = self.stride or 1
        x, y = (Counted(np.sort(each[:n:stride])) for each in (self._x, self._y))
        least = least_evidence(self._test, x, y, enough=self._test.bar)
        self._q = least.q
        return least.log_e >= self._test.bar + PRECISION


def independent(sigma: float, slower: float = 1.0) -> Arms:
    """Lognormal latencies."""
    return lambda draw, n: (draw.lognormal(0, sigma, n) * slower, draw.lognormal(0, sigma, n))


def dependent(phi: float, sigma: float = 0.5) -> Arms:
    """AR(1) on the log scale, each arm by itself."""

    def series(draw: np.random.Generator, n: int) -> Array:
        noise = draw.standard_normal(n) * math.sqrt(1 - phi * phi)
        values, _ = lfilter([1], [1, -phi], noise, zi=[phi * draw.standard_normal()])
        return np.exp(sigma * values)

    return lambda draw, n: (series(draw, n), series(draw, n))


def shocked(sigma: float = 0.5, share: float = 0.05, factor: float = 5.0, length: int = 1) -> Arms:
    """Both arms are slowed at once, for `length` pairs."""

    def arms(draw: np.random.Generator, n: int) -> tuple[Array, Array]:
        begins = draw.random(n) < share / length
        slow = 1.0 + (factor - 1.0) * (np.convolve(begins, np.ones(length))[:n] > 0)
        return draw.lognormal(0, sigma, n) * slow, draw.lognormal(0, sigma, n) * slow

    return arms


def tied(sigma: float = 0.5) -> Arms:
    """Latencies in steps of a tenth of the median: some twenty values in all."""
    return lambda draw, n: (
        np.round(draw.lognormal(0, sigma, n), 1),
        np.round(draw.lognormal(0, sigma, n), 1),
    )


def diurnal(sigma: float = 0.5, swing: float = 0.5) -> Arms:
    """Both arms drift together, by exp(±swing) over the window."""

    def arms(draw: np.random.Generator, n: int) -> tuple[Array, Array]:
        trend = np.exp(swing * np.sin(2 * np.pi * (np.arange(n) / n + draw.random())))
        return draw.lognormal(0, sigma, n) * trend, draw.lognormal(0, sigma, n) * trend

    return arms


def mann_whitney(candidate: Array, baseline: Array, begin: int = 30) -> Array:
    """z of the candidate being slower, after each pair from `begin` on (nan before; no ties)."""
    xs: list[float] = []
    ys: list[float] = []
    wins, z = 0, np.full(len(candidate), np.nan)
    for i, (x, y) in enumerate(zip(candidate.tolist(), baseline.tolist(), strict=True)):
        wins += bisect.bisect_left(ys, x)
        bisect.insort(xs, x)
        wins += len(xs) - bisect.bisect_right(xs, y)
        bisect.insort(ys, y)
        n = i + 1
        if n >= begin:
            z[i] = (wins - n * n / 2) / math.sqrt(n * n * (2 * n + 1) / 12)
    return z


def mann_whitney_alarms(z: Array) -> tuple[bool, bool, bool]:
    """False alarms at 5 % at every look, at every 60th, and with Kayenta's interval of 98 % at every look."""
    five, one = -ndtri(0.05), -ndtri(0.01)
    with np.errstate(invalid="ignore"):
        return bool((z > five).any()), bool((z[59::60] > five).any()), bool((z > one).any())


ALIKE: dict[str, Arms] = {
    "equal": independent(0.5),
    "ar6": dependent(0.6),
    "ar9": dependent(0.9),
    "shocks": shocked(),
    "long-shocks": shocked(length=20),
    "ties": tied(),
    "diurnal": diurnal(),
}
"""Arms that are alike, and what is hard about them."""
