"""Frequent Directions: a few rows S that stand for many, with S^H S near A^H A and a bound on how near.

Ghashami, Liberty, Phillips and Woodruff, "Frequent Directions: simple and deterministic matrix sketching",
arXiv 1501.01711. For all rows A ever given, with delta the sum of what the shrinkings took off,

    0 <= A^H A - S^H S <= delta I        and        (ell + 1) delta <= ||A||_F^2 - ||S||_F^2,

hence ||A^H A - S^H S||_2 <= ||A - A_k||_F^2 / (ell + 1 - k) for every k <= ell, in whatever order rows came
and sketches were merged. See `docs/NUMERICS.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from somactl.core.array_input import NotNumbers, plain_array
from somactl.core.lapack import limited
from somactl.core.projection import fix_trace, mirror
from somactl.errors import InputRejected


@dataclass(frozen=True, slots=True)
class Sketch:
    """What Frequent Directions remembers.

    rows       r x d, float64 or complex128, C-order; r <= 2 ell (r <= ell after `shrink`)
    shrinkage  delta: the sum of the squared singular values the shrinkings subtracted
    mass       ||A||_F^2 of all rows ever given
    """

    rows: np.ndarray
    shrinkage: float
    mass: float

    @property
    def dimension(self) -> int:
        return int(self.rows.shape[1])


@dataclass(frozen=True, slots=True)
class ErrorBound:
    """How far the sketch can be from what it stands for, up to rounding: some 1e-15 of `mass`.

    covariance  on ||A^H A - S^H S||_2
    rho         on ||A^H A / tr - S^H S / tr||_2, the spectral norm between the two density matrices
    trace       on the trace norm between them (twice the trace distance)
    """

    covariance: float
    rho: float
    trace: float


def empty(dimension: int, dtype: str = "float64") -> Sketch:
    """The sketch of no rows of `dimension` numbers each; dtype "float64" or "complex128"."""
    if dimension < 1 or dtype not in ("float64", "complex128"):
        raise InputRejected(f"a sketch cannot have rows of {dimension} {dtype} numbers")
    return Sketch(np.zeros((0, dimension), dtype=dtype), 0.0, 0.0)


def update(sketch: Sketch, rows: np.ndarray, ell: int) -> Sketch:
    """The sketch after `rows` (m x d, real or complex, m >= 0) came in, holding at most 2 ell rows.

    Costs O(d ell) amortised for each row: one SVD of 2 ell rows makes room for ell. Raises InputRejected for
    rows of another dimension, of anything but finite numbers, or so large that their squares overflow.
    """
    _check_ell(ell)
    block = _checked(rows, sketch.dimension)
    mass = _mass(block, sketch.mass)
    state = Sketch(sketch.rows, sketch.shrinkage, mass)
    while True:
        room = max(2 * ell - state.rows.shape[0], 0)
        stacked = np.concatenate([state.rows, block[:room]])
        state = Sketch(stacked, state.shrinkage, mass)
        block = block[room:]
        if not len(block) and len(stacked) <= 2 * ell:
            return state
        state = shrink(state, ell)


def merge(a: Sketch, b: Sketch, ell: int) -> Sketch:
    """The sketch of all rows of both, holding at most 2 ell rows; its bounds are those of one long stream."""
    _check_ell(ell)
    if a.dimension != b.dimension:
        raise InputRejected(f"sketches of {a.dimension} and {b.dimension} columns cannot be merged")
    mass = a.mass + b.mass
    if not math.isfinite(mass):
        raise InputRejected("the squares of the rows overflow", hint="scale the rows down")
    both = Sketch(np.concatenate([a.rows, b.rows]), a.shrinkage + b.shrinkage, mass)
    return both if len(both.rows) <= 2 * ell else shrink(both, ell)


def shrink(sketch: Sketch, ell: int) -> Sketch:
    """The same sketch in at most ell rows, orthogonal and in falling order of length.

    The squared singular values lose the (ell + 1)-th of them, so that it and all below become 0: the ell + 1
    largest lose as much each, which is why (ell + 1) delta <= mass lost. Nothing is lost at rank <= ell.
    """
    _check_ell(ell)
    if len(sketch.rows) <= ell:
        return sketch
    try:
        with limited(1):  # threads that wait for each other made so small an SVD 20 times slower
            _, values, directions = np.linalg.svd(sketch.rows, full_matrices=False)
    except np.linalg.LinAlgError:
        raise InputRejected("the singular values of the sketch could not be computed") from None
    cut = float(values[ell]) if ell < len(values) else 0.0
    # sqrt(s^2 - t^2), without squares that would cancel, overflow or vanish.
    lengths = np.sqrt(values[:ell] - cut) * np.sqrt(values[:ell] + cut)
    rows = lengths[:, None] * directions[:ell]
    return Sketch(np.ascontiguousarray(rows[lengths > 0]), sketch.shrinkage + cut**2, sketch.mass)


def to_rho(sketch: Sketch) -> np.ndarray:
    """S^H S / tr(S^H S), d x d: equal to its conjugate transpose bit for bit, trace 1 to the last bit.

    Raises InputRejected where every row is zero, since no state is known then.
    """
    scale = float(np.abs(sketch.rows).max(initial=0.0))
    if scale == 0:
        raise InputRejected("the sketch holds no row other than zero, so it stands for no density matrix")
    rows = sketch.rows / scale
    rho = rows.conj().T @ rows
    rho /= float(np.vdot(rows, rows).real)
    mirror(rho)
    fix_trace(rho)
    return rho


def error_bound(sketch: Sketch) -> ErrorBound:
    """What the shrinkings so far allow, far below the worst case where the spectrum falls off.

    With M = ||A||_F^2, m = ||S||_F^2 and E = A^H A - S^H S, 0 <= E <= delta:
    rho_A - rho_S = E / M - (M - m) / M rho_S, a difference of two PSD matrices of trace (M - m) / M each.
    """
    if sketch.mass == 0:
        return ErrorBound(0.0, 0.0, 0.0)
    left = float(np.vdot(sketch.rows, sketch.rows).real)
    lost = max(sketch.mass - left, 0.0) / sketch.mass
    largest = float(np.linalg.norm(sketch.rows, 2)) ** 2 / left if left > 0 else 1.0
    return ErrorBound(sketch.shrinkage, max(sketch.shrinkage / sketch.mass, lost * largest), 2.0 * lost)


def _check_ell(ell: int) -> None:
    if isinstance(ell, bool) or not isinstance(ell, int) or ell < 1:
        raise InputRejected(f"a sketch of {ell} rows is impossible", hint="ell is a whole number from 1 on")


def _checked(rows: np.ndarray, dimension: int) -> np.ndarray:
    try:
        block = plain_array(rows)
    except NotNumbers as exc:
        raise InputRejected(f"the block of rows {exc}") from None
    if block.ndim != 2 or block.shape[1] != dimension:
        raise InputRejected(f"rows of shape {list(block.shape)} do not fit a sketch of {dimension} columns")
    block = block.astype(np.complex128 if block.dtype.kind == "c" else np.float64, copy=False)
    if not np.isfinite(block).all():
        raise InputRejected("the rows hold NaN or Inf")
    return block


def _mass(block: np.ndarray, before: float) -> float:
    with np.errstate(over="ignore"):
        mass = before + float(np.vdot(block, block).real)
    if not math.isfinite(mass):
        raise InputRejected("the squares of the rows overflow", hint="scale the rows down")
    return mass
