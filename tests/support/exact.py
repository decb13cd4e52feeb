"""The referee: decides about the eigenvalues of a stored matrix in exact or ball arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from flint import acb, arb, ctx, fmpq

Array = np.ndarray[Any, np.dtype[Any]]


def at_least(matrix: Array, bound: float) -> bool:
    """Whether lambda_min of the Hermitian part of `matrix` (n x n, any float type) is >= bound, exactly.

    An LDL^H decomposition of H - bound I in ball arithmetic: all pivots positive, or one negative. Where a
    ball keeps straddling zero, in rational arithmetic, with pivoting among equals.
    """
    real, imaginary = _hermitian(matrix, bound)
    for precision in (192, 768):
        verdict = _balls(real, imaginary, precision)
        if verdict is not None:
            return verdict
    return _rationals(real, imaginary)


def _hermitian(matrix: Array, bound: float) -> tuple[list[list[Fraction]], list[list[Fraction]]]:
    n = len(matrix)
    re = [[Fraction(float(v)) for v in row] for row in matrix.real.astype(np.float64)]
    im = [[Fraction(float(v)) for v in row] for row in np.asarray(matrix.imag, dtype=np.float64)]
    real = [
        [(re[i][j] + re[j][i]) / 2 - (Fraction(bound) if i == j else 0) for j in range(n)] for i in range(n)
    ]
    return real, [[(im[i][j] - im[j][i]) / 2 for j in range(n)] for i in range(n)]


def _q(value: Fraction) -> fmpq:
    return fmpq(value.numerator, value.denominator)


def _balls(real: list[list[Fraction]], imaginary: list[list[Fraction]], precision: int) -> bool | None:
    """True: positive definite; False: a negative pivot; None: this precision cannot tell."""
    previous, ctx.prec = ctx.prec, precision
    try:
        n = len(real)
        is_complex = any(any(row) for row in imaginary)
        rows: list[list[Any]] = [
            [
                acb(arb(_q(real[i][j])), arb(_q(imaginary[i][j]))) if is_complex else arb(_q(real[i][j]))
                for j in range(i + 1)
            ]
            for i in range(n)
        ]
        for k in range(n):
            pivot = rows[k][k].real if is_complex else rows[k][k]
            if pivot < 0:
                return False
            if not pivot > 0:
                return None
            column = [rows[i][k] for i in range(k + 1, n)]
            scaled = [entry / pivot for entry in column]
            for i in range(k + 1, n):
                row, factor = rows[i], scaled[i - k - 1]
                for j in range(k + 1, i + 1):
                    other = column[j - k - 1]
                    row[j] -= factor * (other.conjugate() if is_complex else other)
        return True
    finally:
        ctx.prec = previous


def _rationals(real: list[list[Fraction]], imaginary: list[list[Fraction]]) -> bool:
    """Exact: a zero pivot of a semi-definite matrix has a zero row."""
    n = len(real)
    re = [[_q(v) for v in row] for row in real]
    im = [[_q(v) for v in row] for row in imaginary]
    for k in range(n):
        pivot = re[k][k]
        if pivot < 0:
            return False
        if pivot == 0:
            if any(re[i][k] != 0 or im[i][k] != 0 for i in range(k + 1, n)):
                return False
            continue
        for i in range(k + 1, n):
            a, b = re[i][k] / pivot, im[i][k] / pivot
            for j in range(k + 1, i + 1):
                c, d = re[j][k], im[j][k]
                re[i][j] -= a * c + b * d
                im[i][j] -= b * c - a * d
    return True


def hadamard(spectrum: list[int], exponent: int, *, is_complex: bool, seed: int) -> Array:
    """A matrix with exactly the eigenvalues `spectrum[i] * 2^-exponent`, n = len(spectrum) a power of two.

    H = (1/n) W diag(spectrum) W^H with W a (complex: Gaussian-integer) Hadamard matrix, in integers, then
    conjugated by a random permutation and random units. Every entry is checked to be exact in float64.
    """
    n = len(spectrum)
    sylvester = np.array([[1, 1], [1, -1]], dtype=np.int64)
    fourier = np.array([[1, 1, 1, 1], [1, 1j, -1, -1j], [1, -1, 1, -1], [1, -1j, -1, 1j]])
    w: Array = np.ones((1, 1), dtype=np.int64)
    while len(w) < n:
        w = np.kron(w, fourier if is_complex and 4 * len(w) <= n else sylvester)
    rng = np.random.default_rng(seed)
    signs = rng.choice([1, -1, 1j, -1j] if is_complex else [1, -1], size=n)
    w = (signs[:, None] * w)[rng.permutation(n)]
    diagonal = np.array(spectrum, dtype=np.int64)
    wr, wi = w.real.astype(np.int64), w.imag.astype(np.int64)
    real = (wr * diagonal) @ wr.T + (wi * diagonal) @ wi.T
    imag = (wi * diagonal) @ wr.T - (wr * diagonal) @ wi.T
    assert max(np.abs(real).max(), np.abs(imag).max()) < 2**53
    scale = 2.0**-exponent / n
    exact = real * scale + 1j * (imag * scale)
    return np.ascontiguousarray(exact if is_complex else exact.real)
