"""Tests of shares and quantiles that may be looked at after every sample: docs/CANARY.md has the proofs.

A test is an e-process: a statistic that begins at 1 and, while its null hypothesis holds, has a chance of at
most alpha ever to reach 1/alpha (Ville's inequality). Evidence is its logarithm, from a Beta mixture that is
cut at the share p0 (Robbins, Ann. Math. Stat. 41, 1970; Howard and Ramdas, Bernoulli 28(3), 2022).

    test = Mixture(0.05, 0.05)
    test.log_above(51, 700)         # the evidence of 51 of 700 that more than 5 % are beyond
    test.log_below(14, 700)         # the evidence of 14 of 700 that fewer are
    found = least_evidence(test, worse=candidate, better=baseline)      # that one p95 is above the other
    found.log_e >= test.bar         # shown at alpha

All is formed in log space: in doubles the incomplete beta function underflows from some 300 samples on, and
the evidence with it.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from somactl.core.saddle_point import deviance, stirling
from somactl.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TUNED_FOR: Final = 1000.0
"""The number of samples at which a mixture is tightest unless told otherwise; it is valid at every number."""
_NEGLIGIBLE: Final = -80.0  # log of a kernel whose whole tail is lost beside 1
_TINY: Final = 1e-300


class Mixture:
    """The two e-processes of a share p0: against "at most p0 are beyond", and against "at least p0 are".

    p0 is from 0 to 1, alpha from 0 to 0.5. k is the weight of the prior Beta(p0 k, (1 - p0) k), by default
    what makes it tightest at TUNED_FOR samples (Howard and Ramdas, 2022, equation 11 and their choice of r).
    Raises UsageError for a p0, alpha or k out of range.
    """

    def __init__(self, p0: float, alpha: float, k: float | None = None) -> None:
        if not (0.0 < p0 < 1.0 and 0.0 < alpha < 0.5):
            raise UsageError(f"no test is made for a share of {p0} at an alpha of {alpha}")
        self.p0, self.alpha = p0, alpha
        self.k = tuned(TUNED_FOR, alpha) if k is None else k
        if not 0.0 < self.k < math.inf:
            raise UsageError(f"a prior's weight of {k} is not above 0 and finite")
        self.bar = -math.log(alpha)
        """log 1/alpha: what log evidence must reach."""
        self._a, self._b = p0 * self.k, (1.0 - p0) * self.k
        kernel = _log_kernel(self._a, self._b, p0)
        self._above = kernel - _log_upper(self._a, self._b, p0, kernel)
        self._below = kernel - _log_lower(self._a, self._b, p0, kernel)

    def log_above(self, s: float, n: float) -> float:
        """Evidence that the share is above p0, when s of n are beyond; it grows with s."""
        a, b = self._a + s, self._b + (n - s)
        kernel = _log_kernel(a, b, self.p0)
        return self._above - kernel + _log_upper(a, b, self.p0, kernel)

    def log_below(self, s: float, n: float) -> float:
        """Evidence that the share is below p0, when s of n are beyond; it falls with s."""
        a, b = self._a + s, self._b + (n - s)
        kernel = _log_kernel(a, b, self.p0)
        return self._below - kernel + _log_lower(a, b, self.p0, kernel)


def tuned(n: float, alpha: float) -> float:
    """The weight k of a prior that makes a mixture tightest near n samples."""
    doubled = -2.0 * math.log(2.0 * alpha)
    return max(n / (doubled + math.log1p(doubled)) - 1.0, 1.0)


def _log_kernel(a: float, b: float, p: float) -> float:
    """log of pᵃ (1-p)ᵇ / B(a, b), without cancellation (Loader's saddle-point expansion)."""
    n = a + b
    return (
        0.5 * math.log(a / n * b / (2.0 * math.pi))
        - deviance(a, n * p)
        - deviance(b, n * (1.0 - p))
        - stirling(a)
        - stirling(b)
        + stirling(n)
    )


def _log_lower(a: float, b: float, p: float, kernel: float) -> float:
    """log I(a, b) at p: the chance that a Beta(a, b) is below p."""
    if p < (a + 1.0) / (a + b + 2.0):
        return kernel + math.log(_fraction(a, b, p) / a)
    return _log_complement(b, a, 1.0 - p, kernel)


def _log_upper(a: float, b: float, p: float, kernel: float) -> float:
    """log(1 - I(a, b)) at p: the chance that a Beta(a, b) is above p."""
    if p < (a + 1.0) / (a + b + 2.0):
        return _log_complement(a, b, p, kernel)
    return kernel + math.log(_fraction(b, a, 1.0 - p) / b)


def _log_complement(a: float, b: float, p: float, kernel: float) -> float:
    if kernel < _NEGLIGIBLE:
        return 0.0
    return math.log1p(-math.exp(kernel) * _fraction(a, b, p) / a)


def _fraction(a: float, b: float, x: float) -> float:
    """F of I(a, b) = xᵃ (1-x)ᵇ / (a B(a, b)) · F at x < (a+1)/(a+b+2): DLMF 8.17.22.

    Evaluated by Lentz's algorithm as Thompson and Barnett modified it (J. Comput. Phys. 64, 1986).
    """
    n = a + b
    c, d = 1.0, 1.0 / (1.0 - n * x / (a + 1.0) or _TINY)
    value, m = d, 0
    while True:
        m += 1
        at = a + 2 * m
        step = m * (b - m) * x / ((at - 1.0) * at)
        d = 1.0 / (1.0 + step * d or _TINY)
        c = 1.0 + step / c or _TINY
        value *= c * d
        step = -(a + m) * (n + m) * x / (at * (at + 1.0))
        d = 1.0 / (1.0 + step * d or _TINY)
        c = 1.0 + step / c or _TINY
        value *= c * d
        if abs(c * d - 1.0) < 4e-16:
            return value


@dataclass(frozen=True, slots=True)
class Counted:
    """Samples in ascending order, and how many stand before each: what a quantile's tests need of an arm.

    values has n entries (ties allowed); before has n + 1, from 0 to the weight of all, or is None where each
    value is one sample. divisor: so many dependent samples count for one. beyond: so many more are above
    every value.
    """

    values: NDArray[Any]
    before: NDArray[Any] | None = None
    divisor: float = 1.0
    beyond: int = 0

    @property
    def total(self) -> int:
        whole = len(self.values) if self.before is None else int(self.before[-1])
        return int(whole / self.divisor) + self.beyond

    def above(self, q: float) -> int:
        """How many are above q; rounded down where a divisor is, for it stands for the worse arm."""
        return self._behind(int(self.values.searchsorted(q, "right")), rounded_up=False)

    def at_least(self, q: float) -> int:
        """How many are q or above; rounded up where a divisor is, for it stands for the better arm."""
        return self._behind(int(self.values.searchsorted(q, "left")), rounded_up=True)

    def _behind(self, place: int, *, rounded_up: bool) -> int:
        if self.before is None:
            behind = len(self.values) - place
        else:
            behind = int(self.before[-1] - self.before[place])
        if self.divisor != 1.0:
            behind = math.ceil(behind / self.divisor) if rounded_up else int(behind / self.divisor)
        return min(behind + self.beyond, self.total)


class Least(NamedTuple):
    """The least evidence over all q, the q where it is (∞: none is beyond), and the counts there."""

    log_e: float
    q: float
    worse: int
    better: int


def least_evidence(
    test: Mixture, worse: Counted, better: Counted, *, enough: float = -math.inf, scale: float = 1.0
) -> Least:
    """The evidence that the quantile of `worse` is above that of `better`: the least over all thresholds q.

    At q it is log_above(#{worse > q}) + log_below(#{better >= q}). The first falls with q and the second
    rises, so that both at the ends of an interval bound it from below, and intervals are halved where the
    bound is least until no other can hold the minimum. Only values of `better`, and infinity, need be tried.
    Ends at the first q whose evidence is below `enough`. scale: as if so many times as many had come.
    """
    terms = _Terms(test, worse, better, scale)
    last = len(better.values)
    place = int((1.0 - test.p0) * last)  # near which the minimum lies where the arms are alike
    best = min(terms.at(place), terms.at(last), terms.at(0))
    heap = [(-math.inf, 0, place), (-math.inf, place, last)]
    while heap:
        bound, low, high = heapq.heappop(heap)
        if best.log_e < enough or bound >= best.log_e:
            break
        if high - low < 2:
            continue
        middle = (low + high) // 2
        best = min(best, terms.at(middle))
        for left, right in ((low, middle), (middle, high)):
            bound = terms.falling(right) + terms.rising(left)
            if right - left > 1 and bound < best.log_e:
                heapq.heappush(heap, (bound, left, right))
    return best


class _Terms:
    """Both factors at the values of `better` by place, each formed once; behind the last is infinity."""

    def __init__(self, test: Mixture, worse: Counted, better: Counted, scale: float) -> None:
        self._test, self._worse, self._better, self._scale = test, worse, better, scale
        self._values = better.values
        self._falling: dict[int, float] = {}  # by count: the arms may have many ties
        self._rising: dict[int, float] = {}

    def q(self, place: int) -> float:
        return float(self._values[place]) if place < len(self._values) else math.inf

    def falling(self, place: int) -> float:
        count = self._worse.above(self.q(place))
        if count not in self._falling:
            n = self._worse.total * self._scale
            self._falling[count] = self._test.log_above(count * self._scale, n)
        return self._falling[count]

    def rising(self, place: int) -> float:
        count = self._better.at_least(self.q(place))
        if count not in self._rising:
            n = self._better.total * self._scale
            self._rising[count] = self._test.log_below(count * self._scale, n)
        return self._rising[count]

    def at(self, place: int) -> Least:
        q = self.q(place)
        log_e = self.falling(place) + self.rising(place)
        return Least(log_e, q, self._worse.above(q), self._better.at_least(q))


def quantile_bounds(test: Mixture, low: Counted, high: Counted | None = None) -> tuple[float, float]:
    """A confidence sequence of a quantile: bounds that all hold at once, after every sample.

    p0 of `test` is the share beyond the quantile. Each side has half of alpha. (0, ∞) where nothing is known.
    low and high are the same samples where each is known exactly, or the ends of what each lies in.
    """
    high = low if high is None else high
    one_sided = Mixture(test.p0, test.alpha / 2, test.k)
    n = low.total
    above = _first(n + 1, lambda s: one_sided.log_above(s, n) >= one_sided.bar)
    below = _first(n + 1, lambda s: one_sided.log_below(s, n) < one_sided.bar) - 1
    least = _beyond(low, above) if above <= n else 0.0
    return least, _beyond(high, below + 1) if below >= 0 else math.inf


def _beyond(samples: Counted, count: int) -> float:
    """The count-th highest of the samples, count >= 1; of all where there are fewer, the lowest."""
    place = _first(len(samples.values), lambda i: samples.at_least(float(samples.values[i])) < count)
    return float(samples.values[max(place - 1, 0)])


def _first(end: int, holds: Any) -> int:
    """The first of 0 to end - 1 for which it holds, where it holds from there on; end if for none."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
