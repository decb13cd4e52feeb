"""A vector that proves a matrix has a negative eigenvalue, checked with a rigorous rounding-error bound.

For any x != 0, lambda_min(H) <= x^H rho x / x^H x with H the Hermitian part of rho. The bound below holds
whatever x is and wherever it came from: a wrong x proves nothing, it cannot prove something false.
Formulas: docs/CERTIFICATE.md, section 5.
"""

from __future__ import annotations

import numpy as np

from somactl.core.hermitian import SLACK, Array, HermitianPart, U
from somactl.core.lapack import solve_adjoint
from somactl.core.verdict import Witness

UNDERFLOW = 2.0**-960
"""More than all underflows of one check can add up to."""


def quotient_error(n: int, is_complex: bool) -> float:
    """The factor of |x|^T |rho| |x| in the rounding error of x^H rho x, for any order of summation."""
    return SLACK * U * ((4.8285 if is_complex else 2.0) * n + 8.0)


def prove_negative(part: HermitianPart, vector: Array) -> Witness | None:
    """The proven upper bound of lambda_min that x = `vector` (shape (n,)) gives, if it is below 0.

    With y = fl(rho x), N = Re fl(x^H y), q = fl(x^H x) and g = |x|^T |rho| |x|: x^H rho x <= N + E with
    E = (1 + 2^-20) u (K n + 8) g + 2^-960, K = 2 (real), 4.8285 (complex), and x^H x <= q (1 + (4n + 16) u).
    """
    n = part.n
    scale = float(np.max(np.abs(vector)))
    if not (0.0 < scale < np.inf):
        return None
    x = vector / scale
    x /= np.sqrt(float(np.sum(np.square(np.abs(x)))))
    magnitude = np.abs(x)
    product = np.empty(n, part.work.dtype)
    sizes = np.empty(n)
    for block, rows in part.rows():
        # einsum, not @: its sums are plain ones whatever BLAS numpy brings
        product[block] = np.einsum("ij,j->i", rows, x)
        sizes[block] = np.einsum("ij,j->i", np.abs(rows), magnitude)
    numerator = float(np.sum(x.real * product.real) + np.sum(x.imag * product.imag))
    length = float(np.sum(np.square(x.real)) + np.sum(np.square(x.imag)))
    value = quotient_bound(numerator, float(np.sum(magnitude * sizes)), length, n, part.is_complex)
    if part.in_place:  # what was multiplied is the rounded Hermitian part
        value += part.charge
        value += 2.0 * U * abs(value)
    return witness(value, x) if value < 0.0 else None


def quotient_bound(numerator: float, size: float, length: float, n: int, is_complex: bool) -> float:
    """An upper bound of x^H rho x / x^H x where it is negative; else 0.0.

    numerator, size, length: N, g and q, each as rounded as any order of summation may leave it.
    """
    numerator += quotient_error(n, is_complex) * size + UNDERFLOW
    numerator += 4.0 * U * abs(numerator)
    if not numerator < 0.0:
        return 0.0
    return numerator / (length * (1.0 + (4 * n + 16) * U))


def schur_direction(part: HermitianPart, k: int, row: int) -> Array:
    """The x, shape (n,), with x^H H x = S_ii, the Schur complement after k columns at i = `row`.

    x = -L11^-H l^H on the first k entries and 1 at i, with the factor's leading block L11 and row l. Where a
    factorisation failed, i = k is the column that failed and S_ii its pivot.
    """
    x = np.zeros(part.n, part.work.dtype)
    x[row] = 1.0
    if k:
        head = -part.work[:k, row].conj()
        solve_adjoint(part.work, k, head)
        x[:k] = head
    return x.conj()  # LAPACK saw the transpose, hence the conjugate


def axis(part: HermitianPart, index: int) -> Witness:
    """The unit vector of a negative diagonal entry: its quotient is that entry, exactly."""
    x = np.zeros(part.n, part.work.dtype)
    x[index] = 1.0
    return witness(float(part.diagonal[index]), x)


def witness(value: float, x: Array) -> Witness:
    if x.dtype.kind == "c":
        return Witness(value, tuple((float(c.real), float(c.imag)) for c in x.tolist()))
    return Witness(value, tuple(x.tolist()))
