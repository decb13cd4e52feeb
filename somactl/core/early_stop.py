"""A proof after k << n columns of the Cholesky factorisation, for matrices of low rank.

With k columns eliminated, H = L1 L1^H + (0 (+) S) but for rounding, so lambda_min(H) >= -(mu + B) where
mu bounds -lambda_min(S), here by Frobenius norms, and B the rounding. The split is additive: no inverse of
the leading block enters, and a remainder that is itself negative is covered. docs/CERTIFICATE.md, section 4.

No shift is used: with one, the remainder of a rank-k matrix would be the shift amplified, not rounding noise.
"""

from __future__ import annotations

import numpy as np

from somactl.core.hermitian import SLACK, TILE, Array, HermitianPart, U
from somactl.core.lapack import eliminate, potrf
from somactl.core.weights import weights
from somactl.core.witness import schur_direction

FROM_ORDER = 512  # below, one full factorisation costs less than finding out
PROBE = 6  # ranks up to n / 6 are worth it: at most 42 % of the full factorisation's work
MARGIN = 16.0  # stop at eps / 16: what lies nearer to -eps is left to the route that finds witnesses
NORM_UNDERFLOW = 2.0**-510
"""n times this is more than a norm can lose to squares that underflow."""


def low_rank_bound(part: HermitianPart, eps: float) -> float | None:
    """A proven lower bound of lambda_min, at least -eps / 16; None if the rank is not low or the proof fails.

    Costs a matrix of full rank n^2 / 16 reads at most, or a factorisation of its leading sixth.
    """
    n, work = part.n, part.work
    if not concentrated(part.diagonal, part.source[:: max(1, n // 16)], n):
        return None
    probe = n // PROBE
    part.load(0.0, leading=probe)
    column = potrf(work, probe)
    k = _collapse(work, probe if column == 0 else column - 1, eps, exhausted=column != 0)
    if k is None:
        return None
    part.load(0.0)
    if potrf(work, k) != 0:
        return None
    pivots = work.diagonal()[:k]
    if not np.all((pivots.real > 0.0) & (pivots.real < np.inf) & (pivots.imag == 0.0)):
        return None
    eliminate(work, k)
    return _bound(part, k, eps)


def concentrated(diagonal: Array, sample: Array, n: int) -> bool:
    """Whether tr(H)^2 / ||H||_F^2, which never exceeds the rank, leaves room for a rank below n / 6.

    sample: some entries of H, evenly spread, from which ||H||_F is estimated.
    """
    if n < FROM_ORDER:
        return False
    squares = float(np.mean(np.square(np.abs(sample)))) * n * n
    trace = float(np.sum(diagonal))
    return trace * trace * PROBE < n * squares


def _collapse(work: Array, columns: int, eps: float, *, exhausted: bool) -> int | None:
    """How many pivots stand before the first that is as small as the tolerance; None if none does."""
    pivots = np.square(work.diagonal()[:columns].real)
    small = np.flatnonzero(~(pivots > eps / (8.0 * work.shape[0])))
    if len(small):
        columns = int(small[0])
    elif not exhausted:
        return None
    return columns or None


def _bound(part: HermitianPart, k: int, eps: float) -> float | None:
    """-(mu + B) of the stored remainder; None if that is below -eps / 16 or H looks negative beyond rounding.

    B = (1 + 2^-20) (u (sum_i w_min(i,k+1) t_i + m ||S||_F) + charge), t_i = max(H_ii, 0), and
    2 max(-S_ii, 0) more for i > k; m = k + 4 (real), 2k + 4 (complex);
    mu = max(0, min(||S||_F, ||offdiag S||_F - min S_ii)). The n 2^-510 in the norm covers all underflow.
    """
    n, is_complex = part.n, part.is_complex
    remaining = part.work.diagonal()[k:].real
    off_diagonal = _upper_norm(part.work, k) + n * NORM_UNDERFLOW
    norm = SLACK * (np.hypot(off_diagonal, float(np.sqrt(np.sum(np.square(remaining))))) + n * NORM_UNDERFLOW)
    sizes = np.maximum(part.diagonal, 0.0)
    sizes[k:] += 2.0 * np.maximum(-remaining, 0.0)
    steps = 2 * k + 4 if is_complex else k + 4
    rounding = float(np.sum(weights(n, is_complex, limit=k + 1) * sizes)) + steps * norm
    bound = SLACK * (U * rounding + part.charge)
    index = int(remaining.argmin())
    lowest = float(remaining[index])
    mu = max(0.0, min(norm, SLACK * off_diagonal - lowest))
    lower = (mu + bound) * (1.0 + 8.0 * U)
    if not lower * MARGIN <= eps:
        return None
    if lowest < -bound:
        x = schur_direction(part, k, k + index)
        if lowest < -2.0 * bound * float(np.sum(np.square(np.abs(x)))):
            return None
    return -float(lower)


def _upper_norm(work: Array, k: int) -> float:
    """Frobenius norm of the remainder's off-diagonal part, from the upper triangle that holds it."""
    total = 0.0
    for i in range(k, work.shape[0], TILE):
        corner = np.triu(work[i : i + TILE, i : i + TILE], 1).view(np.float64)
        right = work[i : i + TILE, i + TILE :].view(np.float64)
        total += float(np.sum(corner * corner)) + float(np.einsum("ij,ij->", right, right))
    return float(np.sqrt(2.0 * total))
