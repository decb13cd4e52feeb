"""A sample of a namespace: how its members are drawn, and what a look at them proves of the rest."""

from __future__ import annotations

import hashlib
import heapq
import math
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Final, Generic, TypeVar

from somactl.core.saddle_point import deviance, stirling
from somactl.errors import UsageError

CONFIDENCE: Final = 0.95
MAX_SEED: Final = (1 << 53) - 1
"""What every reader of JSON takes for the same number."""

T = TypeVar("T")
_SLACK: Final = 1e-10  # far above the rounding of `_hypergeometric`; it may only make a bound larger
_TWO_DIGITS: Final = Context(prec=2, rounding=ROUND_CEILING)


class Reservoir(Generic[T]):
    """Draws `size` items of a stream, uniformly and without replacement, in one pass and O(size) memory.

    Each key has a rank: its BLAKE2b digest under the seed. The items of the lowest ranks are the sample
    (bottom-k sampling: Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007). A keyed
    hash of distinct keys behaves as independent uniform numbers, so every set of `size` keys is as likely
    as any other over the choice of the seed. Which keys are drawn depends on the seed and the keys alone,
    not on pages, order or what was read twice: the draw can be repeated by an auditor.

    Raises UsageError for a size below 1 or a seed outside 0 to MAX_SEED.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise UsageError("a sample has at least one member", hint="draw 3000 for a bound of 0.1 %")
        if not 0 <= seed <= MAX_SEED:
            raise UsageError(f"a seed is a whole number from 0 to {MAX_SEED}")
        self.size = size
        self.offered = 0
        """Items offered so far: the population, once the stream has ended."""
        self._hash = hashlib.blake2b(key=seed.to_bytes(8, "big"), digest_size=16)
        self._items: dict[str, T] = {}
        self._ranks: list[tuple[int, str]] = []  # a heap; ranks are negated, so that the highest is first

    def offer(self, key: str, item: T) -> None:
        """The next item of the stream. A key comes once."""
        self.offered += 1
        hashed = self._hash.copy()
        hashed.update(key.encode())
        rank = (-int.from_bytes(hashed.digest(), "big"), key)
        if len(self._ranks) < self.size:
            heapq.heappush(self._ranks, rank)
        elif rank > self._ranks[0]:
            del self._items[heapq.heapreplace(self._ranks, rank)[1]]
        else:
            return
        self._items[key] = item

    def chosen(self) -> list[T]:
        """The items drawn so far, in the order of their keys; all of them, if no more than `size` came."""
        return [self._items[key] for key in sorted(self._items)]


def upper_bound(drawn: int, bad: int, population: int, confidence: float = CONFIDENCE) -> int:
    """How many of `population` are bad at most, at `confidence`, when `bad` of `drawn` are.

    The exact one-sided bound of Clopper and Pearson (Biometrika 26, 1934) for a finite population: the
    largest K at which a draw without replacement would show no more than `bad` with a probability of at
    least 1 - confidence. Whatever the true number, the bound falls short of it with a probability below
    1 - confidence. A census is exact, and who draws nothing knows nothing. A member that could not be
    checked (undecided, unreadable, never reached) counts as bad: it was not shown to be sound.

    Raises UsageError unless 0 <= bad <= drawn <= population and 0.5 <= confidence < 1.
    """
    _refuse_impossible(drawn, bad, population, confidence)
    if drawn in (0, population):
        return bad + population - drawn
    enough = (1.0 - confidence) * (1.0 - _SLACK)
    low, high = bad, population - (drawn - bad) + 1  # possible: P = 1; and impossible: a sound one too few
    while high - low > 1:
        middle = (low + high) // 2
        if _is_likely(bad, population, middle, drawn, enough):
            low = middle
        else:
            high = middle
    return low


def statement(
    drawn: int, bad: int, population: int, confidence: float = CONFIDENCE, of: str = "the namespace"
) -> str:
    """What a sample shows, in one sentence, with the share rounded up: never more than is proven.

    `0 of 3,000 drawn: at 95 % confidence under 0.1 % of the namespace (at most 996 of 1,000,000)`.
    Arguments and errors as those of `upper_bound`; `of` says what was drawn from.
    """
    bound = upper_bound(drawn, bad, population, confidence)
    if drawn == population:
        return f"{bad:,} of {drawn:,} drawn, which is all of {of}: nothing is estimated"
    share = Fraction(100 * bound, population)
    shown = _TWO_DIGITS.divide(Decimal(100 * bound), Decimal(population))
    under = "under" if share < Fraction(shown) else "at most"
    level = Decimal(str(confidence)) * 100
    return (
        f"{bad:,} of {drawn:,} drawn: at {level.normalize():f} % confidence {under} {shown.normalize():f} % "
        f"of {of} (at most {bound:,} of {population:,})"
    )


def _refuse_impossible(drawn: int, bad: int, population: int, confidence: float) -> None:
    if not 0 <= bad <= drawn <= population:
        raise UsageError(f"no sample has {bad} of {drawn} drawn from {population}")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"a confidence of {confidence} is not from 0.5 to below 1")


def _is_likely(bad: int, population: int, marked: int, drawn: int, enough: float) -> bool:
    """Whether P(X <= bad) >= enough, for X marked ones among `drawn`; `marked` of `population` are marked.

    Where `bad` is a standard deviation beyond the mean it is 1/2 at least, by Cantelli's inequality. Else it
    is summed downwards from P(X = bad), each term by its ratio to the one before. The ratios only fall, so
    that the rest is negligible once a term is.
    """
    mean = drawn * (marked / population)
    beyond = bad + 1 - mean
    if beyond > 0 and beyond * beyond >= mean * (1.0 - drawn / population):
        return True
    term = total = 1.0
    for x in range(bad, max(0, drawn - (population - marked)), -1):
        ratio = x / (marked - x + 1) * ((population - marked - drawn + x) / (drawn - x + 1))
        term *= ratio
        total += term
        if ratio < 1.0 and term < 1e-17 * total * (1.0 - ratio):
            break
    return _hypergeometric(bad, population, marked, drawn) + math.log(total) >= math.log(enough)


def _hypergeometric(x: int, population: int, marked: int, drawn: int) -> float:
    """log P(X = x), free of the cancellation that log-gamma suffers for large populations.

    Three binomial terms at p = drawn / population: C. Loader, "Fast and Accurate Computation of Binomial
    Probabilities" (2000), as R's `dhyper` has it.
    """
    p, q = drawn / population, (population - drawn) / population
    return (
        _binomial(x, marked, p, q)
        + _binomial(drawn - x, population - marked, p, q)
        - _binomial(drawn, population, p, q)
    )


def _binomial(x: int, n: int, p: float, q: float) -> float:
    """log of C(n, x) pˣ qⁿ⁻ˣ, with q = 1 - p given for its accuracy (Loader's saddle-point expansion)."""
    if x == 0:
        return n * (math.log1p(-p) if p < q else math.log(q))
    if x == n:
        return n * (math.log1p(-q) if q < p else math.log(p))
    rest = n - x
    return (
        (stirling(n) - stirling(x) - stirling(rest))
        - (deviance(x, n * p) + deviance(rest, n * q))
        - 0.5 * (math.log(2 * math.pi) + math.log(x) + math.log(rest / n))
    )
