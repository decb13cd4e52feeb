"""Dependence of samples: found where there is some, not where there is none, and taken out by the stride."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from somactl.core.canary_dependence import LEAST, Dependence, dependence, spread

P0 = 0.05


def correlated(phi: float, n: int, seed: int) -> NDArray[Any]:
    noise = np.random.default_rng(seed).standard_normal(n + 500) * np.sqrt(1 - phi * phi)
    return np.exp(0.5 * lfilter([1], [1, -phi], noise)[500:])


@pytest.mark.parametrize("n", [64, 100, 400, 7200])
def test_independent_samples_are_not_thinned(n: int) -> None:
    strides = [dependence(np.random.default_rng(seed).lognormal(0, 0.5, n), P0).stride for seed in range(60)]
    assert strides == [1] * 60


@pytest.mark.parametrize(("phi", "low", "high"), [(0.3, 2, 3), (0.6, 4, 7), (0.9, 15, 27)])
def test_dependent_ones_are_thinned_until_little_is_left(phi: float, low: int, high: int) -> None:
    for seed in range(6):
        values = correlated(phi, 7200, seed)
        found = dependence(values, P0)
        assert found.stride is not None
        assert low <= found.stride <= high
        assert found.ranks == pytest.approx(6 / np.pi * np.arcsin(phi / 2), abs=0.05)
        assert phi**found.stride < 0.2


def test_what_no_stride_removes_has_none() -> None:
    assert dependence(correlated(0.99, 7200, 1), P0).stride is None
    assert dependence(correlated(0.9, 100, 3), P0).stride is None


def test_a_trend_is_no_dependence() -> None:
    trend = np.exp(np.sin(2 * np.pi * np.arange(7200) / 7200))
    for seed in range(6):
        assert dependence(np.random.default_rng(seed).lognormal(0, 0.5, 7200) * trend, P0).stride == 1


def test_pauses_that_slow_several_at_once_are_found_although_the_ranks_hardly_show_them() -> None:
    draw = np.random.default_rng(2)
    pauses = np.convolve(draw.random(7200) < 0.01, np.ones(5))[:7200] > 0
    found = dependence(draw.lognormal(0, 0.5, 7200) * np.where(pauses, 20.0, 1.0), P0)
    assert found.ranks is not None
    assert found.ranks < 0.2 < (found.exceedances or 0.0)
    assert found.stride in (4, 5, 6)


@pytest.mark.parametrize("values", [np.full(500, 3.0), np.zeros(500), np.arange(500) % 2 * 1.0])
def test_ties_have_no_order(values: NDArray[Any]) -> None:
    shuffled = np.random.default_rng(1).permutation(values)
    assert dependence(shuffled, P0).stride == 1


def test_too_few_tell_nothing() -> None:
    assert dependence(np.ones(LEAST - 1), P0) == Dependence()
    assert dependence(np.ones(0), P0) == Dependence()


@pytest.mark.parametrize("p", [0.0, 0.001, 0.05, 0.5, 1.0])
def test_independent_counts_are_worth_what_they_are(p: float) -> None:
    for seed in range(12):
        draw = np.random.default_rng(seed)
        total = draw.integers(0, 200, 500).astype(float)
        assert spread(draw.binomial(total.astype(int), p).astype(float), total) == 1.0
        assert spread((draw.random(5000) < p).astype(float), np.ones(5000)) == 1.0


def test_counts_in_bursts_are_worth_less() -> None:
    draw = np.random.default_rng(4)
    bursts = np.convolve(draw.random(7200) < 0.002, np.ones(10))[:7200] > 0
    assert 5 < spread(bursts.astype(float), np.ones(7200)) < 20
    rates = np.where(draw.random(500) < 0.1, 0.2, 0.01)
    assert spread(draw.binomial(100, rates).astype(float), np.full(500, 100.0)) > 5
    assert spread(np.ones(5), np.ones(5)) == 1.0
