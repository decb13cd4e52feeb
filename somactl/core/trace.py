"""The trace of a stored density matrix, summed exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from somactl.core.hermitian import Array, U


def trace_error(diagonal: Array) -> float:
    """|sum of the diagonal - 1|, correctly rounded (Shewchuk's `math.fsum`); infinite on overflow."""
    return _exact_distance(diagonal.tolist())


def factor_trace_error(factor: Array, tolerance: float) -> float:
    """| ||F||_F^2 - 1 |, of a contiguous float64 or complex128 F; exact where its rounding could decide.

    Row sums of squares carry a relative error of at most (k + 1) u each, k the real numbers in a row; they
    are added exactly. If `tolerance` lies within that error, every square is split into two floats whose
    sum is exact (Dekker, Numer. Math. 18 (1971) 224), and all are added exactly.
    """
    real: Array = factor.view(np.float64).reshape(len(factor), -1)
    sums = np.einsum("ij,ij->i", real, real)
    error = _exact_distance(sums.tolist())
    doubt = 2.0 * (real.shape[1] + 2) * U * float(np.sum(sums))
    if abs(error - tolerance) > doubt or not math.isfinite(error):
        return error
    x = real.reshape(-1)
    square = x * x
    high = x * 134217729.0  # 2^27 + 1: Veltkamp's split into two halves of 26 bits
    high -= high - x
    low = x - high
    rest = ((high * high - square) + 2.0 * high * low) + low * low
    return _exact_distance([*square.tolist(), *rest.tolist()])


def _exact_distance(terms: list[Any]) -> float:
    try:
        return abs(math.fsum([*terms, -1.0]))
    except (OverflowError, ValueError):
        return math.inf
