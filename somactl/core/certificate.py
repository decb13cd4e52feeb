"""Proof that `lambda_min(rho) >= -eps`, by Cholesky factorisations in floating point.

The theorem, its assumptions, its proof and what was checked of it: docs/CERTIFICATE.md. In short: if the
factorisation of H + (eps - c) I completes, with c a bound of all rounding errors computed from the diagonal
alone, then lambda_min(H) >= -eps. A failure proves nothing by itself; it points to a vector that may.

For matrices of low rank there is a proof after k << n columns. With k columns eliminated,
H = L1 L1^H + (0 (+) S) but for rounding, so lambda_min(H) >= -(mu + B) where mu bounds -lambda_min(S), here
by Frobenius norms, and B the rounding. The split is additive: no inverse of the leading block enters, and a
remainder that is itself negative is covered. docs/CERTIFICATE.md, section 4.

No shift is used: with one, the remainder of a rank-k matrix would be the shift amplified, not rounding noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from somactl.core.hermitian import SLACK, TILE, Array, HermitianPart, U
from somactl.core.lapack import eliminate, factor_rows, potrf
from somactl.core.verdict import Witness
from somactl.core.witness import UNDERFLOW, axis, prove_negative, quotient_error, schur_direction

MAX_ORDER = 32768
"""The largest n for which the theorem's constants were derived."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is proven of lambda_min, and by which route.

    smallest is the least negativity that counts as such, 2c.
    """

    route: str
    smallest: float
    lower: float | None = None
    witness: Witness | None = None
    finite: bool = True

    def violates(self, eps: float) -> bool:
        return self.witness is not None and self.witness.value < -eps


def rounding_bounds(diagonals: Array, eps: Array | float, charge: float, is_complex: bool) -> Array:
    """c of the theorem, for a factorisation whose shifted diagonal is at most `diagonal + eps`.

    c = (1 + 2^-20) (u (sum_j w_j D_j + max_j D_j + eps) + charge) + 2^-960, D_j = max(fl(d_j + eps), 0),
    w_j = j + 4 for real and 2.8284272 (j + 2) for complex matrices. O(n); infinite or NaN for such input.

    diagonals  shape (n,), or (n, m), a column for each of m matrices; eps of shape (m,) then, as the result
    """
    shifted = np.maximum(diagonals + eps, 0.0)
    weighted = (weights(len(diagonals), is_complex) * shifted.T).T
    # One after the other, so that the sum of a column is the same alone and among others. `sum` adds up in an
    # order that depends on the array's shape.
    total = np.add.accumulate(weighted)[-1]
    bounds: Array = SLACK * (U * (total + np.maximum.reduce(shifted) + eps) + charge) + UNDERFLOW
    return bounds


def rounding_bound(diagonal: Array, eps: float, charge: float, is_complex: bool) -> float:
    """`rounding_bounds` of one matrix."""
    return float(rounding_bounds(diagonal, eps, charge, is_complex))


def smallest_tolerances(diagonals: Array, charge: float, is_complex: bool) -> Array:
    """The least e for which a matrix with lambda_min = 0 is sure to be certified: a hair above 2c."""
    tolerances: Array = 2.0 * (1.0 + 2.0**-10) * rounding_bounds(diagonals, 0.0, charge, is_complex)
    return tolerances


def smallest_tolerance(diagonal: Array, charge: float, is_complex: bool) -> float:
    """`smallest_tolerances` of one matrix."""
    return float(smallest_tolerances(diagonal, charge, is_complex))


def proving_shifts(diagonals: Array, eps: Array, charge: float, is_complex: bool) -> Array:
    """For each column the shift that proves lambda_min >= -eps; NaN if eps is within rounding."""
    c = rounding_bounds(diagonals, eps, charge, is_complex)
    shifts: Array = np.where((c > 0.0) & (c < eps), eps - c, np.nan)
    return shifts


def proving_shift(diagonal: Array, eps: float, charge: float, is_complex: bool) -> float | None:
    """The shift whose completed factorisation proves lambda_min >= -eps; None if eps is within rounding."""
    c = rounding_bound(diagonal, eps, charge, is_complex)
    return eps - c if 0.0 < c < eps else None


def certify(part: HermitianPart, eps: float) -> Bounds:
    """Bound lambda_min of a Hermitian part from below, or from above by a witness, as far as eps demands.

    One factorisation settles a valid matrix (lambda_min >= -2c), two a slightly negative one; where the
    proof of a violation misses, the shift is raised past eps, so that a failure lies beyond doubt.
    """
    smallest = smallest_tolerance(part.diagonal, part.charge, part.is_complex)
    index = int(part.diagonal.argmin())
    negative = bool(part.diagonal[index] < 0.0)
    # A negative diagonal entry is a witness that costs nothing: x is a basis vector.
    best = Bounds("diagonal", smallest, witness=axis(part, index) if negative else None)
    if best.violates(eps):
        return replace(best, finite=part.is_finite())
    if not negative and (lower := low_rank_bound(part, eps)) is not None:
        return Bounds("early-stop", smallest, lower)
    finite = None
    for e, shift in _plan(part, smallest, eps):
        column = factor(part, shift)
        if column == 0:
            return Bounds("cholesky", smallest, -e, best.witness)
        # The direction first: where H was factored in its own memory, looking at H destroys the factor.
        direction = schur_direction(part, column - 1, column - 1) if column > 0 else None
        finite = finite or part.is_finite()
        if not finite:
            return Bounds("", smallest, finite=False)
        found = None if direction is None else prove_negative(part, direction)
        if found is not None and (best.witness is None or found.value < best.witness.value):
            best = Bounds("cholesky", smallest, witness=found)
        if best.violates(eps):
            break
    return replace(best, finite=part.is_finite() if finite is None else finite)


def factor(part: HermitianPart, shift: float) -> int:
    """Factor H + shift I in `part.work`: 0, the 1-based column that failed, or -1 if a NaN or Inf shows."""
    part.load(shift)
    column = potrf(part.work, part.n)
    # LAPACK's success is not believed: its comparisons let a NaN pass.
    if column == 0 and not positive(part.work.diagonal()):
        return -1
    return column


def certify_packed(packed: Array, positions: Array, diagonal: Array, eps: float) -> float | None:
    """-e with lambda_min >= -e proven at the smallest shift, e <= eps, or None; overwrites `packed` (RFP)."""
    is_complex = packed.dtype.kind == "c"
    e = smallest_tolerance(diagonal, 0.0, is_complex)
    shift = proving_shift(diagonal, e, 0.0, is_complex)
    if shift is None or not e <= eps:
        return None
    packed[positions] = diagonal + shift
    failed = factor_rows(packed.reshape(1, -1), len(diagonal), (0,), packed=True)
    return -e if not failed and positive(packed[positions]) else None


def positive(diagonals: Array) -> Any:
    """Whether a factor's diagonal is finite, real and positive: OpenBLAS reports success on NaN and Inf.

    diagonals  shape (..., n), of which the result has the first ones
    """
    real = diagonals.real
    # A NaN fails both. The methods `min` and `max` do the same by way of Python.
    fine = (np.minimum.reduce(real, axis=-1) > 0.0) & (np.maximum.reduce(real, axis=-1) < np.inf)
    return fine & ~diagonals.imag.any(axis=-1) if diagonals.dtype.kind == "c" else fine


def _plan(part: HermitianPart, smallest: float, eps: float) -> Iterator[tuple[float, float]]:
    """Pairs (e, shift) to try in turn: a factorisation that completes at `shift` proves lambda_min >= -e."""
    diagonal, charge, is_complex = part.diagonal, part.charge, part.is_complex
    for e in (smallest, eps) if smallest <= eps else (eps, smallest):
        shift = proving_shift(diagonal, e, charge, is_complex)
        if shift is not None:
            yield e, shift
    c2 = rounding_bound(diagonal, 2.0 * eps, charge, is_complex)
    if not c2 < eps:
        return
    # The failure lemma: a breakdown at eps + c2 can only come from lambda_min < -eps. It says where to look,
    # the witness proves it. The last shift leaves room for the witness's own rounding error.
    blur = 1.01 * quotient_error(part.n, is_complex) * float(np.sum(np.abs(diagonal)))
    for shift in (eps + c2, eps + 2.0 * c2 + blur):
        # Past 2 eps, c grows by less than u (sum_j w_j + 2) e < 2^-22 e for n <= MAX_ORDER: SLACK has room.
        yield (shift + c2) * SLACK, shift


@lru_cache(maxsize=32)
def weights(n: int, is_complex: bool, limit: int | None = None) -> Array:
    """w_1 .. w_n: `j + 4` (real), `2.8284272 (j + 2)` (complex), with j capped at `limit`; read-only.

    An entry of column j is an inner product of length j: j + 1 roundings, or 2j in each part of a complex
    one, whose two parts together weigh sqrt(2). The rest is spare (docs/CERTIFICATE.md, section 3).
    """
    j = np.arange(1.0, n + 1.0)
    if limit is not None:
        np.minimum(j, limit, out=j)
    weighted: Array = 2.8284272 * (j + 2.0) if is_complex else j + 4.0
    weighted.flags.writeable = False
    return weighted


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
    # Anew, and no further than the rank: the probe went beyond it, into pivots that are rounding alone.
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
    # Not `<=`: a NaN is to count as small.
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
    # More negative than rounding explains: left to the route that finds witnesses.
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
