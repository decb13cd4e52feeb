"""How a sample is drawn, and what it proves: against exact counting."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from fractions import Fraction
from math import comb, fsum, log, log1p

import pytest

from somactl.core.sampling import MAX_SEED, Reservoir, statement, upper_bound
from somactl.errors import UsageError

LARGEST = 24


def drawn_by(size: int, seed: int, keys: list[str]) -> list[str]:
    reservoir: Reservoir[str] = Reservoir(size, seed)
    for key in keys:
        reservoir.offer(key, key)
    assert reservoir.offered == len(keys)
    return reservoir.chosen()


def cases(largest: int) -> list[tuple[int, int]]:
    return [(population, drawn) for population in range(1, largest + 1) for drawn in range(population + 1)]


def at_most(bad: int, population: int, marked: int, drawn: int) -> Fraction:
    """P(X <= bad), by counting subsets."""
    sets = sum(comb(marked, x) * comb(population - marked, drawn - x) for x in range(bad + 1) if x <= drawn)
    return Fraction(sets, comb(population, drawn))


def exact_bound(drawn: int, bad: int, population: int, doubt: Fraction) -> int:
    possible = range(bad, population - (drawn - bad) + 1)
    return max(marked for marked in possible if at_most(bad, population, marked, drawn) >= doubt)


def test_the_counting_itself_by_listing_every_subset() -> None:
    subsets = list(itertools.combinations(range(8), 3))
    for marked, bad in itertools.product(range(9), range(4)):
        few = sum(sum(member < marked for member in subset) <= bad for subset in subsets)
        assert at_most(bad, 8, marked, 3) == Fraction(few, len(subsets))


@pytest.mark.parametrize(("confidence", "doubt"), [(0.95, Fraction(1, 20)), (0.5, Fraction(1, 2))])
def test_the_bound_is_the_exact_one(confidence: float, doubt: Fraction) -> None:
    for population, drawn in cases(LARGEST):
        for bad in range(drawn + 1):
            wanted = exact_bound(drawn, bad, population, doubt)
            assert upper_bound(drawn, bad, population, confidence) == wanted, (drawn, bad, population)


@pytest.mark.parametrize(
    ("drawn", "bad", "population", "bound"),
    [(3000, 0, 1_000_000, 996), (3000, 7, 1_000_000, 4375), (20_000, 2, 100_000, 29), (900, 850, 1000, 948)],
)
def test_the_bound_of_a_large_population(drawn: int, bad: int, population: int, bound: int) -> None:
    assert upper_bound(drawn, bad, population) == bound
    assert at_most(bad, population, bound, drawn) >= Fraction(1, 20)
    assert at_most(bad, population, bound + 1, drawn) < Fraction(1, 20)


def test_the_bound_of_more_than_can_be_counted() -> None:
    bound = upper_bound(100_000, 0, 10**12)
    none_at = [fsum(log1p(-marked / (10**12 - i)) for i in range(100_000)) for marked in (bound, bound + 1)]
    assert none_at[0] >= log(0.05) > none_at[1]


@pytest.mark.parametrize("bad", range(30))
def test_the_bound_of_a_population_without_end_is_the_binomial_one(bad: int) -> None:
    share = upper_bound(30, bad, 10**15) / 10**15
    at_most = fsum(comb(30, x) * share**x * (1 - share) ** (30 - x) for x in range(bad + 1))
    assert at_most == pytest.approx(0.05, rel=1e-9)


def test_it_falls_short_of_the_truth_in_at_most_one_of_twenty_draws() -> None:
    for population, drawn in cases(LARGEST):
        bounds = [upper_bound(drawn, bad, population) for bad in range(drawn + 1)]
        assert bounds == sorted(bounds)
        for truth in range(population + 1):
            short = [bad for bad, bound in enumerate(bounds) if bound < truth]
            risk = at_most(max(short), population, truth, drawn) if short else Fraction(0)
            assert risk <= Fraction(1, 20), (population, drawn, truth)


def test_a_census_is_exact_and_no_draw_proves_nothing() -> None:
    assert [upper_bound(5, bad, 5) for bad in range(6)] == [0, 1, 2, 3, 4, 5]
    assert (upper_bound(0, 0, 7), upper_bound(0, 0, 0)) == (7, 0)


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (
            (3000, 0, 1_000_000),
            "0 of 3,000 drawn: at 95 % confidence under 0.1 % of the namespace (at most 996 of 1,000,000)",
        ),
        (
            (3000, 3, 1_000_000),
            "3 of 3,000 drawn: at 95 % confidence under 0.26 % of the namespace (at most 2,580 of 1,000,000)",
        ),
        ((1, 0, 100), "0 of 1 drawn: at 95 % confidence at most 95 % of the namespace (at most 95 of 100)"),
        ((0, 0, 5), "0 of 0 drawn: at 95 % confidence at most 100 % of the namespace (at most 5 of 5)"),
        ((5, 2, 5), "2 of 5 drawn, which is all of the namespace: nothing is estimated"),
    ],
)
def test_the_statement(sample: tuple[int, int, int], says: str) -> None:
    assert statement(*sample) == says


def test_other_words_and_confidence() -> None:
    says = statement(3000, 0, 1_000_000, 0.999, of="what matches")
    assert (
        says
        == "0 of 3,000 drawn: at 99.9 % confidence under 0.23 % of what matches (at most 2,296 of 1,000,000)"
    )


def test_no_share_is_stated_that_is_smaller_than_the_proven_one() -> None:
    numbers = random.Random(11)
    for _ in range(500):
        population = numbers.randrange(2, 10 ** numbers.randrange(1, 8))
        drawn = numbers.randrange(1, min(population, 5000))
        bad = min(drawn, numbers.choice([0, 0, 1, 5]))
        says = statement(drawn, bad, population)
        found = re.search(r"(under|at most) ([\d.]+) %", says)
        assert found is not None
        shown, proven = Fraction(found[2]), Fraction(100 * upper_bound(drawn, bad, population), population)
        assert proven < shown if found[1] == "under" else proven == shown, says
        assert shown <= proven * Fraction(11, 10)  # two digits of it are exact


@pytest.mark.parametrize(
    ("drawn", "bad", "population", "confidence"),
    [(-1, 0, 5, 0.95), (2, 3, 5, 0.95), (6, 0, 5, 0.95), (2, -1, 5, 0.95), (2, 0, 5, 1.0), (2, 0, 5, 0.4)],
)
def test_what_is_no_sample(drawn: int, bad: int, population: int, confidence: float) -> None:
    with pytest.raises(UsageError):
        upper_bound(drawn, bad, population, confidence)


def test_every_subset_is_drawn_as_often() -> None:
    keys = [f"k{n}" for n in range(6)]
    seen = Counter(tuple(drawn_by(3, seed, keys)) for seed in range(20_000))
    subsets = list(itertools.combinations(keys, 3))
    expected = 20_000 / len(subsets)
    chi_square = sum((seen[subset] - expected) ** 2 / expected for subset in subsets)
    assert set(seen) <= set(subsets)
    assert chi_square < 36.19  # 19 degrees of freedom, exceeded by chance once in 100


def test_a_draw_depends_on_the_seed_and_the_keys_alone() -> None:
    keys = [f"acme:({n}.0, 14.0, 43.0):data" for n in range(2000)]
    mixed = random.Random(1).sample(keys, len(keys))
    first = drawn_by(50, 4711, keys)
    assert first == drawn_by(50, 4711, mixed) == sorted(first)
    assert first != drawn_by(50, 4712, keys)
    assert len(set(first)) == 50
    # Drawn in parts and drawn from again, it is the same sample.
    parts = drawn_by(50, 4711, keys[:700]) + drawn_by(50, 4711, keys[700:])
    assert drawn_by(50, 4711, parts) == first


def test_keys_come_back_in_the_order_of_their_bytes() -> None:
    keys = ["\U0001f600", "\uffee", "é", "z", "a"]
    assert drawn_by(9, 0, keys) == sorted(keys, key=str.encode)


def test_it_keeps_no_more_than_was_asked_for() -> None:
    reservoir: Reservoir[int] = Reservoir(10, MAX_SEED)
    for n in range(5000):
        reservoir.offer(f"{n}", n)
        assert len(reservoir._items) == len(reservoir._ranks) == min(n + 1, 10)
    assert all(isinstance(n, int) for n in reservoir.chosen())


@pytest.mark.parametrize(("size", "seed"), [(0, 0), (-1, 0), (1, -1), (1, MAX_SEED + 1)])
def test_no_sample_of_nothing_and_no_other_seed(size: int, seed: int) -> None:
    with pytest.raises(UsageError):
        Reservoir(size, seed)
