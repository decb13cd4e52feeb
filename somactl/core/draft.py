"""`Draft`: a verdict under construction, each measurement compared with its tolerance as it comes in.

The trace is summed exactly: shown rounded, compared before it is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from somactl.core.certificate import Bounds
from somactl.core.hermitian import Array, U
from somactl.core.lapack import NOT_TO_NEAREST, rounds_to_nearest
from somactl.core.verdict import (
    ERROR_FIELDS,
    TOLERATED,
    Invariant,
    Rigour,
    Spectrum,
    Status,
    Tolerances,
    Verdict,
    Witness,
)

if TYPE_CHECKING:
    from somactl.core.invariants import Sizes, Subject

Exact = Callable[[], Fraction]
"""The exact value of an error, for the one case in which its rounded value cannot decide."""

_SCALES = (2.0**10, 2.0**-34)
"""2^9 times the largest entry, and 2^9 times what the first one leaves of it."""
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


def trace_errors(diagonals: Array) -> Array:
    """`trace_error` of each row, to the last bit. At most 510 columns.

    An entry of at most 2 is cut in two by adding and taking away a power of two. The parts of one size are
    multiples of one unit, and few enough to add up exactly in any order: the sum of both is rounded. A row
    of which something is left over, as may be of entries below 2^-34, is added up by `fsum`.

    Rump, Ogita and Oishi, "Accurate Floating-Point Summation, Part I" (SIAM J. Sci. Comput. 31, 2008): for
    2^9 max |p| <= s, each q = fl(fl(s + p) - s) is a multiple of 2^-53 s, and p - q exact, at most 2^-53 s.
    """
    high = (diagonals + _SCALES[0]) - _SCALES[0]
    rest = diagonals - high
    low = (rest + _SCALES[1]) - _SCALES[1]
    errors: Array = np.abs((high.sum(axis=1) - 1.0) + low.sum(axis=1))
    simple = (np.abs(diagonals).max(axis=1) <= 2.0) & (rest == low).all(axis=1)  # not so with a NaN
    for row in np.flatnonzero(~simple).tolist():
        errors[row] = trace_error(diagonals[row])
    return errors


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


class NotFinite(Exception):
    """A check came upon a NaN or an infinity among the entries."""


@dataclass(slots=True)
class Draft:
    """The fields of `Verdict` known so far.

    proved  whether the present status has been proved
    errors  what was by the name of the invariant
    broken  the names of the invariants that do not hold
    """

    n: int
    dtype: str
    tolerances: Tolerances
    status: Status = "valid"
    proved: bool = False
    reasons: list[str] = field(default_factory=list)
    finite: bool = True
    square: bool = True
    psd_ok: bool | None = None
    errors: dict[str, float] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    lower: float | None = None
    witness: Witness | None = None
    route: str = ""
    blas: str = ""
    spectrum: Spectrum | None = None

    def widen(self, sizes: Sizes) -> None:
        """Tolerances below what the rounding of the stored data may cost would condemn good data."""
        wider: dict[str, Any] = {
            each.name: max(getattr(self.tolerances, each.name), each.rounding(sizes))
            for each in TOLERATED
            if each.rounding is not None
        }
        self.tolerances = replace(self.tolerances, **wider)

    def violate(self, name: str, reason: str, *, proved: bool = True) -> None:
        """The invariant called `name` does not hold."""
        self.proved = proved or (self.status == "violated" and self.proved)
        self.status = "violated"
        self.reasons.append(reason)
        self.broken.add(name)

    def measure(self, invariant: Invariant, subject: Subject) -> bool:
        """Measure the subject's error and compare it with the tolerance; whether the invariant holds."""
        assert invariant.measure is not None
        tolerance: float = getattr(self.tolerances, invariant.name)
        error = self.errors[invariant.name] = invariant.measure(subject, tolerance)
        exact = invariant.exact
        if within(error, tolerance, None if exact is None else lambda: exact(subject)):
            return True
        self.violate(invariant.name, f"{invariant.name}: {invariant.symbol} is {_beyond(error, tolerance)}")
        return False

    def judge_psd(self, bounds: Bounds, *, trusted: bool) -> None:
        """Weigh the bounds of lambda_min.

        trusted: the lower bound rests on a BLAS that the theorem covers. A witness needs no BLAS.
        """
        eps = self.tolerances.psd
        self.route, self.witness = bounds.route, bounds.witness
        self.lower = bounds.lower if trusted else None
        upper = bounds.witness.value if bounds.witness else None
        if upper is not None and upper < -eps:
            self.psd_ok = False
            self.violate("psd", f"psd: a witness proves lambda_min <= {upper:.3g}, below -{eps:.3g}")
        elif bounds.lower is None or not bounds.lower >= -eps:  # a NaN tolerance accepts nothing
            self.undecided(f"neither lambda_min >= -{eps:.3g} nor the contrary could be proved")
        elif upper is None or bounds.lower >= -bounds.smallest:
            self.accept("valid", proved=trusted)
        else:
            reason = f"psd: slightly negative, {bounds.lower:.3g} <= lambda_min <= {upper:.3g}"
            self.accept("clampable", reason, proved=trusted)

    def _disprove(self) -> None:
        """Take back every proof: all of them count roundings to nearest."""
        self.proved, self.lower, self.witness = False, None, None
        self.blas = ", ".join(filter(None, (self.blas, NOT_TO_NEAREST)))

    def accept(self, status: Status, reason: str = "", *, proved: bool) -> None:
        """psd holds within its tolerance; the status follows unless another invariant is out already."""
        self.psd_ok = True
        if reason:
            self.reasons.append(reason)
        if self.status == "valid":
            self.status, self.proved = status, proved

    def undecided(self, reason: str) -> None:
        self.reasons.append(f"psd: undecided, {reason}")
        if self.status == "valid":
            self.status = "undecided"

    def verdict(self) -> Verdict:
        if not rounds_to_nearest():
            self._disprove()
        rigour: Rigour = "proved" if self.proved else "computed"
        errors: dict[str, Any] = {field: self.errors.get(name) for name, field in ERROR_FIELDS.items()}
        return Verdict(
            status=self.status,
            rigour=rigour,
            reasons=tuple(self.reasons),
            n=self.n,
            dtype=self.dtype,
            finite=self.finite,
            square=self.square,
            psd_ok=self.psd_ok,
            lambda_min_lower=self.lower,
            lambda_min_upper=self.witness.value if self.witness else None,
            tolerances=self.tolerances,
            route=self.route,
            blas=self.blas,
            witness=self.witness,
            spectrum=self.spectrum,
            **errors,
        )


def _beyond(error: float, tolerance: float) -> str:
    """`A, more than B`, in as many digits as it takes to tell them apart."""
    for digits in (3, 6, 17):
        texts = [f"{number:.{digits}g}" for number in (error, tolerance)]
        if texts[0] != texts[1]:
            break
    else:
        texts[0] += " once rounded"
    return f"{texts[0]}, more than {texts[1]}"
