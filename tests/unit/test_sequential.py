"""E-processes of quantiles: against exact arithmetic, all thresholds, and what a supermartingale is."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
from flint import arb, ctx

from somactl.core.sequential import Counted, Mixture, least_evidence, quantile_bounds, tuned
from somactl.errors import UsageError

TEST = Mixture(0.05, 0.05)
COUNTS = [(0, 0), (0, 10), (14, 700), (51, 700), (700, 700), (2500, 50_000), (3000, 50_000), (51_000, 10**6)]


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    before, ctx.prec = ctx.prec, 600
    yield
    ctx.prec = before


def exactly(s: int, n: int, test: Mixture) -> tuple[float, float]:
    """The formula of docs/CANARY.md in 600 bits: the logs of M+ and M-."""
    p, k = arb(test.p0), arb(test.k)
    a, b = p * k, (1 - p) * k

    def log_beta(x: arb, y: arb) -> arb:
        return x.lgamma() + y.lgamma() - (x + y).lgamma()

    def below(x: arb, y: arb) -> arb:
        return p.beta_lower(x, y, regularized=True)

    def beyond(x: arb, y: arb) -> arb:
        return (1 - p).beta_lower(y, x, regularized=True)

    whole = log_beta(a + s, b + n - s) - log_beta(a, b) - s * p.log() - (n - s) * (1 - p).log()
    above = whole + beyond(a + s, b + n - s).log() - beyond(a, b).log()
    return float(above), float(whole + below(a + s, b + n - s).log() - below(a, b).log())


@pytest.mark.parametrize(("s", "n"), COUNTS)
@pytest.mark.parametrize(
    "test", [TEST, Mixture(0.01, 0.0125), Mixture(0.5, 0.05, 1.0)], ids=["p95", "p99", "p50"]
)
def test_the_evidence_is_that_of_the_formula(test: Mixture, s: int, n: int) -> None:
    above, below = exactly(s, n, test)
    assert test.log_above(s, n) == pytest.approx(above, rel=1e-12, abs=1e-9)
    assert test.log_below(s, n) == pytest.approx(below, rel=1e-12, abs=1e-9)


def test_evidence_of_a_million_does_not_underflow() -> None:
    assert TEST.log_above(10**6, 10**6) == pytest.approx(10**6 * math.log(20), rel=3e-3)
    assert TEST.log_below(0, 10**6) == pytest.approx(-(10**6) * math.log(0.95), rel=3e-3)
    assert TEST.log_above(0, 10**6) < TEST.log_above(10**4, 10**6) < 0
    assert TEST.log_below(10**6, 10**6) < TEST.log_below(10**5, 10**6) < 0


@pytest.mark.parametrize(("s", "n"), [(0, 0), (3, 20), (60, 1000), (1, 1000), (900, 1000)])
def test_it_is_a_fair_game_at_p0_and_loses_beyond(s: int, n: int) -> None:
    """E[M of n + 1 | S] = M of n where the share is p0 exactly; below it M+ falls, above it M- does."""

    def expected(log: object, p: float) -> float:
        assert callable(log)
        return p * math.exp(log(s + 1, n + 1) - log(s, n)) + (1 - p) * math.exp(log(s, n + 1) - log(s, n))

    for log in (TEST.log_above, TEST.log_below):
        assert expected(log, 0.05) == pytest.approx(1.0, abs=1e-9)
    assert expected(TEST.log_above, 0.03) < 1 < expected(TEST.log_above, 0.08)
    assert expected(TEST.log_below, 0.08) < 1 < expected(TEST.log_below, 0.03)


@pytest.mark.parametrize(("k", "needed"), [(tuned(200, 0.05), 91), (tuned(1000, 0.05), 154)])
def test_how_many_without_one_beyond_show_that_a_p95_is_below(k: float, needed: int) -> None:
    test = Mixture(0.05, 0.05, k)
    assert next(n for n in range(1000) if test.log_below(0, n) >= test.bar) == needed


def everywhere(test: Mixture, worse: list[float], better: list[float]) -> float:
    points = sorted({*worse, *better})
    between = [(low + high) / 2 for low, high in itertools.pairwise(points)]
    return min(
        test.log_above(sum(x > q for x in worse), len(worse))
        + test.log_below(sum(y >= q for y in better), len(better))
        for q in [points[0] - 1, *points, *between, math.inf]
    )


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("digits", [1, 12], ids=["ties", "no-ties"])
def test_the_least_evidence_is_the_least_at_any_threshold(seed: int, digits: int) -> None:
    draw = random.Random(seed)
    sizes, slower = (draw.randint(1, 300), draw.randint(1, 300)), draw.choice([1.0, 1.3, 2.0])
    worse = [round(draw.lognormvariate(0, 0.5) * slower, digits) for _ in range(sizes[0])]
    better = [round(draw.lognormvariate(0, 0.5), digits) for _ in range(sizes[1])]
    sides = Counted(np.sort(worse)), Counted(np.sort(better))
    found = least_evidence(TEST, *sides)
    assert found.log_e == pytest.approx(everywhere(TEST, worse, better), abs=1e-12)
    assert found.worse == sum(x > found.q for x in worse)
    assert found.better == sum(y >= found.q for y in better)
    assert least_evidence(TEST, *sides, enough=found.log_e + 1).log_e < found.log_e + 1


def test_counted_samples_are_as_many_single_ones() -> None:
    values, counts = np.array([0.1, 0.2, 0.3, 0.4]), np.array([700, 200, 60, 40])
    one = Counted(values, np.concatenate([[0], np.cumsum(counts)]))
    many = Counted(np.repeat(values, counts))
    assert least_evidence(TEST, one, many) == least_evidence(TEST, many, one)
    assert quantile_bounds(TEST, one) == quantile_bounds(TEST, many)
    halved = Counted(one.values, one.before, 2.0)
    assert (halved.total, halved.above(0.3), halved.at_least(0.4), one.above(0.05)) == (500, 20, 20, 1000)


def test_the_bounds_are_the_values_that_the_tests_do_not_refute() -> None:
    draw = np.random.default_rng(7)
    values = np.sort(np.round(draw.lognormal(0, 0.5, 800), 2))
    low, high = quantile_bounds(TEST, Counted(values))
    half = Mixture(0.05, 0.025, TEST.k)

    def refuted(x: float) -> tuple[bool, bool]:
        s = int((values > x).sum())
        return half.log_above(s, 800) >= half.bar, half.log_below(s, 800) >= half.bar

    assert refuted(low) == (False, False)
    assert refuted(low - 0.005) == (True, False)
    assert refuted(high) == (False, True)
    assert refuted(high - 0.005) == (False, False)
    assert low < np.quantile(values, 0.95) < high
    assert quantile_bounds(TEST, Counted(values[:1])) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("p0", "alpha", "k"), [(0, 0.05, 1), (1, 0.05, 1), (0.05, 0, 1), (0.05, 0.5, 1), (0.05, 0.05, 0)]
)
def test_no_test_is_made_of_nonsense(p0: float, alpha: float, k: float) -> None:
    with pytest.raises(UsageError):
        Mixture(p0, alpha, k)
