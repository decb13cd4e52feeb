"""The trace of a stored density matrix, summed exactly: shown rounded, compared before it is rounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from somactl.core.hermitian import Array, U

Exact = Callable[[], Fraction]
"""The exact value of an error, for the one case in which its rounded value cannot decide."""

_HALF = 1 << 27
_EXACT_SUM = 512  # this many products of 27 bits each fit into an int64


def within(error: float, tolerance: float, exact: Exact | None) -> bool:
    """Whether an error, correctly rounded to `error`, is at most `tolerance` before it was rounded.

    Rounding is monotone: an error that is smaller or larger than the tolerance once rounded was so before.
    Only where the two are equal is the exact value asked for; None if `error` is exact. A NaN is a no.
    """
    if exact is not None and error == tolerance and math.isfinite(tolerance):
        return exact() <= Fraction(tolerance)
    return error <= tolerance


def trace_error(diagonal: Array) -> float:
    """|sum of the diagonal - 1|, correctly rounded (Shewchuk's `math.fsum`); infinite on overflow."""
    try:
        return abs(math.fsum([*diagonal.tolist(), -1.0]))
    except OverflowError:  # of a partial sum: the whole may be finite
        return _rounded(exact_trace_error(diagonal))
    except ValueError:  # Inf - Inf
        return math.inf


def exact_trace_error(diagonal: Array) -> Fraction:
    """|sum of the diagonal - 1| of finite numbers."""
    return abs(sum(map(Fraction, diagonal.tolist()), Fraction(-1)))


def factor_trace_error(factor: Array, tolerance: float) -> float:
    """| ||F||_F^2 - 1 |, of a contiguous float64 or complex128 F; correctly rounded where that could decide.

    Row sums of squares carry a relative error of at most (k + 1) u each, k the real numbers in a row; they
    are added exactly, and rounded once. If `tolerance` lies within that error, the squares are added as
    integers. Squares that underflow are lost in it: the sum or its distance from 1 is at least 1/2.
    """
    real: Array = factor.view(np.float64).reshape(len(factor), -1)
    sums = np.einsum("ij,ij->i", real, real)
    error = trace_error(sums)
    doubt = 2.0 * U * ((real.shape[1] + 2) * float(np.sum(sums)) + error)
    if abs(error - tolerance) > doubt or not math.isfinite(error):
        return error
    return _rounded(exact_factor_trace_error(factor))


def exact_factor_trace_error(factor: Array) -> Fraction:
    """| ||F||_F^2 - 1 | of finite numbers: their mantissas as integers, one sum for each exponent."""
    mantissas, exponents = np.frexp(np.abs(factor.view(np.float64).reshape(-1)))
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    total = Fraction(-1)
    for exponent in np.unique(exponents).tolist():
        squares = _sum_of_squares(whole[exponents == exponent])
        total += squares * Fraction(2) ** (2 * (exponent - 53))
    return abs(total)


def _sum_of_squares(whole: Array) -> int:
    """Of integers below 2^53, exactly: (h 2^27 + l)^2 in parts whose sums stay below 2^63."""
    high, low = np.divmod(whole, _HALF)
    parts = ((high, high, _HALF * _HALF), (high, low, 2 * _HALF), (low, low, 1))
    return sum(scale * _dot(a, b) for a, b, scale in parts)


def _dot(a: Array, b: Array) -> int:
    starts: Any = np.arange(0, len(a), _EXACT_SUM)
    return sum(np.add.reduceat(a * b, starts).tolist())


def _rounded(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
