"""Two terms of binomial and beta probabilities that keep their digits where log-gamma cancels.

C. Loader, "Fast and Accurate Computation of Binomial Probabilities" (2000), as R's `dbinom` has it.
"""

from __future__ import annotations

import math


def stirling(n: float) -> float:
    """log n! minus Stirling's formula for it: log(√(2πn) (n/e)ⁿ), n > 0; n! is Γ(n + 1)."""
    if n < 16:
        return math.lgamma(n + 1) - 0.5 * math.log(2 * math.pi * n) - n * math.log(n) + n
    s = 1.0 / (n * n)
    return (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - s / 1188) * s) * s) * s) / n


def deviance(x: float, mean: float) -> float:
    """x log(x / mean) + mean - x, x and mean > 0, by a series where they nearly cancel (Loader's `bd0`)."""
    v = (x - mean) / (x + mean)
    if abs(v) >= 0.1:
        return x * math.log(x / mean) + mean - x
    total, power, j = (x - mean) * v, 2 * x * v, 1
    while True:
        power *= v * v
        step = power / (2 * j + 1)
        if total + step == total:
            return total
        total, j = total + step, j + 1
