"""The nearest density matrix, and two simpler repairs, each saying how far it moved the matrix.

The set of density matrices of one size is convex, so the nearest one in Frobenius norm exists and is
unique. The formulas, their sources and their bounds stand in `docs/NUMERICS.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from somactl.core.array_input import NotNumbers, plain_array
from somactl.core.lapack import flapack, limited
from somactl.errors import InputRejected

_EIGENVALUE_NOISE = 2.0**-51
"""What computed eigenvalues of a density matrix may miss by; below the 2c of the certificate at every n."""

Repair = Literal["clip", "nearest", "normalize"]


@dataclass(frozen=True, slots=True)
class Projection:
    """A repaired matrix.

    matrix  C-order; dtype as asked for, float64 or complex128 by default
    moved   Frobenius distance from the given matrix to `matrix` as it stands there, rounding included
    method  what was done
    """

    matrix: np.ndarray
    moved: float
    method: Repair


def clip(matrix: np.ndarray, dtype: str | None = None) -> Projection:
    """Negative eigenvalues of the Hermitian part set to 0, the rest divided by their sum.

    Keeps the ratios of the positive eigenvalues; `nearest` moves less. Raises InputRejected for what is no
    square matrix of finite numbers, and where no eigenvalue is positive. `dtype` as for `nearest`.
    """
    given, hermitian = _checked(matrix)
    with limited(len(given)):
        values, vectors = _eigh(hermitian, vectors=True)
    total = _sum(values[values > 0])
    if not 0 < total < math.inf:
        raise InputRejected(
            f"the positive eigenvalues of the matrix sum to {total:.6g}, by which they cannot be divided",
            hint="restore an earlier version; no projection can tell what was meant",
        )
    return _projection(given, np.maximum(values, 0.0) / total, vectors, dtype, "clip")


def nearest(matrix: np.ndarray, dtype: str | None = None) -> Projection:
    """The density matrix nearest to `matrix` (n x n, real or complex, any trace) in Frobenius norm.

    Smolin, Gambetta and Smith, arXiv 1106.5458: with the eigenvalues of the Hermitian part in falling order,
    subtract one number theta from all and set those below it to 0, so that they sum to 1. Their fast
    algorithm assumes trace 1; theta as computed here (Held, Wolfe and Crowder 1974) does not.

    Without `dtype` the result is float64 or complex128. "float32" or "complex64" asks for a result that is
    a density matrix *after* rounding: where rounding made an eigenvalue negative, the least multiple of
    the identity that helps is mixed in, some n * 6e-8 * ||rho|| of it. A complex matrix cannot become real.

    The result equals its conjugate transpose bit for bit, and its trace is 1 to the last bit of its
    largest diagonal entry. Raises InputRejected for what is no square matrix of finite numbers.
    """
    given, hermitian = _checked(matrix)
    with limited(len(given)):
        values, vectors = _eigh(hermitian, vectors=True)
    return _projection(given, _onto_simplex(values), vectors, dtype, "nearest")


def normalize(matrix: np.ndarray) -> Projection:
    """`matrix` divided by the real part of its trace; nothing else is repaired, asymmetry included.

    A matrix that equals its conjugate transpose bit for bit still does so afterwards. Raises InputRejected
    for what is no square matrix of finite numbers, for a trace that is not positive, and for one so small
    that the division overflows.
    """
    given, _ = _checked(matrix)
    total = _trace_above_zero(given)
    with np.errstate(over="ignore"):
        # Through a real view: a complex division by t + 0i would change the signs of zeros.
        scaled = (given.view(np.float64) / total).view(given.dtype)
    if not np.isfinite(scaled).all():
        raise InputRejected(f"the trace {total:.3g} is too small to divide by: the result overflows")
    fix_trace(scaled)
    return Projection(scaled, _distance(given, scaled), "normalize")


def trace(matrix: np.ndarray) -> float:
    """The real part of the trace, summed exactly and then rounded; inf where the sum overflows."""
    return _sum(np.diagonal(matrix).real)


def mirror(matrix: np.ndarray) -> None:
    """Make `matrix` equal its conjugate transpose, in place, from its lower triangle.

    Bit for bit as the `hermitian` layout wants it: imaginary zeros are +0.0 on both sides of the diagonal.
    """
    upper = ~np.tri(matrix.shape[0], dtype=bool)
    np.copyto(matrix, matrix.conj().T.copy(), where=upper)
    if np.iscomplexobj(matrix):
        matrix.imag += 0.0  # -0.0 + 0.0 is +0.0
        np.einsum("ii->i", matrix).imag[...] = 0.0


def fix_trace(matrix: np.ndarray) -> None:
    """Bring a trace that is 1 up to rounding as near to 1 as floats allow, in place.

    The rest goes to the largest diagonal entry, which it changes least, relatively.
    """
    diagonal = np.einsum("ii->i", matrix).real
    at = int(diagonal.argmax())
    rest = math.fsum([1.0, *(-diagonal.astype(np.float64)).tolist()])
    diagonal[at] = float(diagonal[at]) + rest


def _checked(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`matrix` in double precision, and its Hermitian part."""
    try:
        given = plain_array(matrix)
    except NotNumbers as exc:
        raise InputRejected(f"the matrix {exc}") from None
    if given.ndim != 2 or given.shape[0] != given.shape[1] or given.size == 0:
        raise InputRejected(f"an array of shape {list(given.shape)} is no square matrix")
    given = given.astype(np.complex128 if given.dtype.kind == "c" else np.float64, order="C")
    if not np.isfinite(given).all():
        raise InputRejected(
            "the matrix holds NaN or Inf, from which no density matrix is nearest",
            hint="restore an earlier version",
        )
    return given, given / 2 + given.conj().T / 2


def _sum(values: np.ndarray) -> float:
    try:
        return math.fsum(values.tolist())
    except OverflowError:
        return math.inf


def _trace_above_zero(matrix: np.ndarray) -> float:
    total = trace(matrix)
    if 0 < total < math.inf:
        return total
    raise InputRejected(
        f"the trace is {total:.6g}, and only a positive finite one can be normalised to 1",
        hint="check the sign and the source of the matrix",
    )


def _eigh(hermitian: np.ndarray, *, vectors: bool) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and on request eigenvectors of a Hermitian matrix, which is overwritten.

    By scipy's LAPACK, as the certificate, so that the threads of two OpenBLAS do not spin against each other.
    """
    lapack = flapack()
    solve = lapack.zheevd if np.iscomplexobj(hermitian) else lapack.dsyevd
    values, found, info = solve(np.asfortranarray(hermitian), compute_v=vectors, lower=1, overwrite_a=1)
    if info != 0:
        raise InputRejected("the eigenvalues of the matrix could not be computed: LAPACK did not converge")
    if not np.isfinite(values).all():
        raise InputRejected("the eigenvalues of the matrix overflow", hint="check the scale of its numbers")
    return values, found


def _onto_simplex(values: np.ndarray) -> np.ndarray:
    """The nearest point with entries >= 0 and sum 1, for `values` ascending: max(values - theta, 0)."""
    falling = values[::-1]
    # Relative to the largest value, so that sums neither overflow nor lose what lies between values.
    gaps = falling[0] - falling
    count = np.arange(1, gaps.size + 1)
    with np.errstate(over="ignore", invalid="ignore"):
        # The k-th largest stays where it would be above 0 if exactly the k largest were kept.
        kept = count * gaps - np.cumsum(gaps) < 1.0
    k = int(np.flatnonzero(kept)[-1]) + 1
    share = (1.0 + math.fsum(gaps[:k])) / k
    result = np.zeros_like(values)
    result[values.size - k :] = np.maximum(share - gaps[:k], 0.0)[::-1]
    return result


def _projection(
    given: np.ndarray, values: np.ndarray, vectors: np.ndarray, dtype: str | None, method: Repair
) -> Projection:
    """The density matrix of these eigenvalues (>= 0, sum 1) and eigenvectors, in `dtype`."""
    positive = values > 0
    half = vectors[:, positive] * np.sqrt(values[positive])
    with limited(len(given)):
        matrix = half @ half.conj().T
    matrix /= trace(matrix)
    mirror(matrix)
    fix_trace(matrix)
    target = _target(matrix, dtype)
    if target.itemsize < matrix.itemsize:
        matrix = _rounded(matrix, target)
    return Projection(matrix, _distance(given, matrix), method)


def _target(matrix: np.ndarray, dtype: str | None) -> np.dtype[Any]:
    if dtype is None:
        return matrix.dtype
    names = ("complex128", "complex64") if np.iscomplexobj(matrix) else ("float64", "float32")
    if dtype not in names:
        raise InputRejected(
            f"a {matrix.dtype} matrix cannot be projected to {dtype}", hint=f"use {' or '.join(names)}"
        )
    return np.dtype(dtype)


def _rounded(matrix: np.ndarray, target: np.dtype[Any]) -> np.ndarray:
    """A density matrix of single precision near `matrix`.

    Rounding moves eigenvalues by up to 2^-24 ||rho||_F; mixing in the identity moves them back up. The
    share starts at what was measured and doubles, since the mixture is rounded anew. This ends: the
    mixture tends to I / n, which survives rounding.
    """
    n = matrix.shape[0]
    identity = np.eye(n)
    share = 0.0
    while True:
        result: np.ndarray = ((matrix + share * identity) / (1.0 + n * share)).astype(target)
        mirror(result)
        fix_trace(result)
        with limited(n):
            smallest = float(_eigh(result.astype(matrix.dtype), vectors=False)[0][0])
        if smallest >= -_EIGENVALUE_NOISE:
            return result
        share = max(2.0 * share, -1.5 * smallest)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b||_F, scaled so that squares neither overflow nor vanish."""
    with np.errstate(over="ignore"):
        difference = np.abs(a - b)
    largest = float(difference.max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(difference / largest))
