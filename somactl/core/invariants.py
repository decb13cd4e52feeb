"""Does a matrix hold the invariants of a density matrix? `check` and its two shortcuts.

They walk the list of `verdict.INVARIANTS`. Nothing here raises on bad numbers: what is wrong stands in the
verdict. The words are those of docs/CERTIFICATE.md.

A matrix lies whole, packed or as a factor. The invariants ask each of them the same questions; how PSD is
decided depends on how the matrix lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar, get_args

import numpy as np

from somactl.core.array_input import NotNumbers, plain_array
from somactl.core.certificate import MAX_ORDER, Bounds, certify, certify_packed, concentrated
from somactl.core.draft import (
    Draft,
    NotFinite,
    exact_factor_trace_error,
    exact_trace_error,
    factor_trace_error,
    trace_error,
)
from somactl.core.hermitian import Array, HermitianPart, from_triangle, hermitian_part
from somactl.core.lapack import (
    SINGLE_THREADED_UP_TO,
    blas,
    blas_threads_round_to_nearest,
    describe_blas,
    flapack,
    limited,
    rfp_diagonal,
    threads_allowed,
)
from somactl.core.spectrum import (
    factor_spectrum,
    hermitian_matrix,
    judge_by_eigenvalues,
    judge_by_sample,
    spectrum_of_part,
)
from somactl.core.verdict import INVARIANTS, Method, Tolerances, Verdict
from somactl.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sizes:
    """What rounding to float32 costs in proportion to: the Frobenius norm bounds what it does to eigenvalues,
    the sum of the diagonal's magnitudes to the trace, the largest entry to the symmetry."""

    norm: float
    diagonal: float
    largest: float


class Subject:
    """A matrix under a check; n is its order, dtype the numpy name of the type of its entries.

    misshapen     why it is no square matrix of numbers; empty if it is
    asymmetry     max |rho - rho^H|
    constructed   the errors of those invariants that hold by construction, by name
    route         how PSD is decided, where that is known beforehand
    """

    n: int = 0
    dtype: str = "object"
    misshapen: str = ""
    asymmetry: float = 0.0
    constructed: ClassVar[Mapping[str, float]] = {}
    route: ClassVar[str] = ""
    diagonal: Array

    def finite(self, draft: Draft) -> Sizes | None:
        """Of float32 data the sizes, else None. Raises NotFinite where a look at the entries shows it."""
        raise NotImplementedError

    def require_finite(self) -> None:
        """Raises NotFinite unless every entry is finite. For what is finite as far as `finite` looked."""

    def trace_error(self, tolerance: float) -> float:
        """|tr rho - 1|, rounded correctly where that may decide."""
        return trace_error(self.diagonal)

    def exact_trace_error(self) -> Fraction:
        return exact_trace_error(self.diagonal)

    def judge_psd(self, draft: Draft) -> None:
        """Decide PSD of a matrix that is Hermitian within its tolerance. Raises NotFinite."""
        raise NotImplementedError

    def entries(self) -> Array:
        """The whole matrix, n x n, in float64 or complex128; made anew, so it costs its size in memory."""
        raise NotImplementedError


class Misshapen(Subject):
    """What is no square matrix of numbers, and why."""

    def __init__(self, reason: str, array: Array | None = None) -> None:
        self.misshapen, self._array = reason, array
        if array is not None:
            self.dtype = array.dtype.name

    def finite(self, draft: Draft) -> None:
        draft.finite = self._array is not None and bool(np.isfinite(self._array).all())


class FullMatrix(Subject):
    """A matrix whose Hermitian part has been read."""

    def __init__(self, part: HermitianPart, dtype: np.dtype[Any], method: Method, spectrum: bool) -> None:
        self.n, self.dtype, self.asymmetry = part.n, name_of(dtype), part.asymmetry
        self.diagonal = part.diagonal
        self._part, self._single = part, is_single(dtype)
        self._method, self._spectrum = method, spectrum

    def finite(self, draft: Draft) -> Sizes | None:
        if not np.isfinite(self.diagonal).all():
            raise NotFinite
        if not np.isfinite(self.asymmetry):
            self.require_finite()
        if not self._single:
            return None
        norm, largest = self._part.sizes()
        if not np.isfinite(norm):
            raise NotFinite
        return Sizes(norm, float(np.sum(np.abs(self.diagonal))), largest)

    def require_finite(self) -> None:
        if not self._part.is_finite():
            raise NotFinite

    def judge_psd(self, draft: Draft) -> None:
        trusted = is_trusted(self.n)
        certifiable = self._method == "certify" and self.n <= MAX_ORDER
        if not (certifiable and trusted):
            self.require_finite()
        draft.blas = describe_blas()
        if certifiable:
            bounds = certify(self._part, draft.tolerances.psd)
            if not bounds.finite:
                raise NotFinite
            draft.judge_psd(bounds, trusted=trusted)
        elif self._method == "certify":
            draft.undecided(f"the order {self.n} is beyond {MAX_ORDER}")
        elif self._method == "eigen":
            judge_by_eigenvalues(draft, self._part)
        else:
            judge_by_sample(draft, self._part)
        if self._spectrum:
            draft.spectrum = spectrum_of_part(self._part)

    def entries(self) -> Array:
        return hermitian_matrix(self._part)


class PackedMatrix(Subject):
    """A Hermitian matrix in rectangular full packed form; where it is valid it is never unpacked."""

    def __init__(self, array: Array, n: int, spectrum: bool) -> None:
        self.n, self.dtype = n, name_of(array.dtype)
        self._array, self._spectrum = array, spectrum
        self._positions = rfp_diagonal(n)
        self._on_diagonal = array[self._positions]
        self.diagonal = self._on_diagonal.real.astype(np.float64)
        if array.dtype.kind == "c":
            self.asymmetry = 2.0 * float(np.max(np.abs(self._on_diagonal.imag)))

    def finite(self, draft: Draft) -> Sizes | None:
        if not np.isfinite(self._on_diagonal).all():
            raise NotFinite
        if not is_single(self._array.dtype):
            return None
        magnitudes = np.abs(self._array.astype(working_type(self._array.dtype)))
        squares = np.square(magnitudes)
        norm = float(np.sqrt(2.0 * np.sum(squares) - np.sum(squares[self._positions])))
        if not np.isfinite(norm):
            raise NotFinite
        return Sizes(norm, float(np.sum(np.abs(self.diagonal))), float(np.max(magnitudes)))

    def judge_psd(self, draft: Draft) -> None:
        lower = self._proof(draft.tolerances.psd)
        if lower is None:
            self._unpacked(self._spectrum).judge_psd(draft)
            return
        draft.blas = describe_blas()
        draft.judge_psd(Bounds("packed", -lower, lower), trusted=True)

    def _proof(self, eps: float) -> float | None:
        """A proven lower bound of lambda_min, at least -eps; None where unpacking may bring one sooner."""
        # A low rank is worth unpacking for; so are a spectrum, and a BLAS that might pass over a NaN.
        packable = not self._spectrum and self.n <= MAX_ORDER and is_trusted(self.n)
        if not packable or concentrated(self.diagonal, self._array[::17], self.n):
            return None
        scratch: Array = self._array.astype(working_type(self._array.dtype))
        return certify_packed(scratch, self._positions, self.diagonal, eps)

    def _unpacked(self, spectrum: bool) -> FullMatrix:
        dtype = self._array.dtype
        working: Array = np.ascontiguousarray(self._array, dtype=working_type(dtype))
        routine = flapack().ztfttr if working.dtype.kind == "c" else flapack().dtfttr
        full: Array = routine(self.n, working, transr="N", uplo="L")[0].T
        full.reshape(-1)[:: self.n + 1] = self.diagonal
        return FullMatrix(from_triangle(full), dtype, "certify", spectrum)

    def entries(self) -> Array:
        return self._unpacked(False).entries()


class Factor(Subject):
    """rho = F F^H, given F (n x k): Hermitian and PSD by construction."""

    constructed: ClassVar[Mapping[str, float]] = {"hermitian": 0.0}
    route = "factor"

    def __init__(self, array: Array, spectrum: bool) -> None:
        self.n, self.dtype = len(array), name_of(array.dtype)
        self._single, self._spectrum = is_single(array.dtype), spectrum
        self._factor: Array = np.ascontiguousarray(array, dtype=working_type(array.dtype))

    def finite(self, draft: Draft) -> Sizes | None:
        if not np.isfinite(self._factor).all():
            raise NotFinite
        if not self._single:
            return None
        size = 2.0 * float(
            np.sum(np.square(np.abs(self._factor)))
        )  # an error of u in F is one of 2u in F F^H
        return Sizes(size, size, 0.0)

    def trace_error(self, tolerance: float) -> float:
        return factor_trace_error(self._factor, tolerance)

    def exact_trace_error(self) -> Fraction:
        return exact_factor_trace_error(self._factor)

    def judge_psd(self, draft: Draft) -> None:
        draft.lower = 0.0
        draft.accept("valid", proved=True)
        if self._spectrum:
            with limited(self.n):
                draft.spectrum = factor_spectrum(self._factor)

    def entries(self) -> Array:
        product: Array = self._factor @ self._factor.conj().T
        return product


def read(array: Any) -> Array | str:
    """The array as it can be judged exactly in float64, or why it cannot."""
    try:
        found = plain_array(array)
    except NotNumbers as exc:
        return f"not numeric: it {exc}"
    if found.dtype.itemsize > (16 if found.dtype.kind == "c" else 8):
        return f"not numeric: it has dtype {found.dtype.name}, of which float64 holds but a part"
    return found


def is_trusted(n: int) -> bool:
    """Whether the theorem covers the BLAS that factors, in each of the threads that an n x n matrix takes."""
    return blas().conventional and (n <= SINGLE_THREADED_UP_TO or blas_threads_round_to_nearest())


@lru_cache(maxsize=64)
def name_of(dtype: np.dtype[Any]) -> str:
    """`dtype.name`, which numpy puts together anew each time."""
    return dtype.name


def is_single(dtype: np.dtype[Any]) -> bool:
    return (dtype.kind, dtype.itemsize) in {("f", 4), ("c", 8)}


def working_type(dtype: np.dtype[Any]) -> type:
    return np.complex128 if dtype.kind == "c" else np.float64


def check(
    matrix: Any,
    tolerances: Tolerances | None = None,
    *,
    method: Method = "certify",
    spectrum: bool = False,
    overwrite: bool = False,
) -> Verdict:
    """Check an n x n matrix, real or complex, of any memory layout.

    method     certify: a proof (docs/CERTIFICATE.md); eigen: eigenvalues, computed, not proved;
               sampled: randomised Lanczos, which may prove a violation and never accepts
    spectrum   add eigenvalues, rank, purity and entropy; costs an eigendecomposition
    overwrite  the caller gives up the array's contents, which saves the scratch copy; C-ordered, writeable
               float64 and complex128 only, others are copied all the same

    float32 and complex64 data widen the tolerances to what their rounding may cost; all arithmetic is
    float64. Bad input gives a verdict, never an exception: what is no square array of numbers, and what
    float64 would not hold as it is given (masked arrays, integers beyond 2^53, long doubles).
    """
    if method not in get_args(Method):
        raise UsageError(f"method {method!r} is none of {', '.join(get_args(Method))}")
    with np.errstate(all="ignore"):
        array = read(matrix)
        if isinstance(array, str):
            return _walk(Misshapen(array), tolerances)
        if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
            return _walk(Misshapen(f"square: the shape is {array.shape}", array), tolerances)
        with limited(len(array)):
            part = hermitian_part(array, overwrite=overwrite, threads=threads_allowed())
            return _walk(FullMatrix(part, array.dtype, method, spectrum), tolerances)


def check_packed(
    packed: Any, n: int, tolerances: Tolerances | None = None, *, spectrum: bool = False
) -> Verdict:
    """Check a Hermitian matrix in rectangular full packed form; where it is valid without unpacking it.

    packed  shape (n (n + 1) / 2,), float32, float64, complex64 or complex128, never written to: what
            LAPACK's `?trttf` makes of the C-ordered matrix's transpose with transr N, uplo L

    The other arguments, and bad input, as for `check`.
    """
    with np.errstate(all="ignore"):
        array = read(packed)
        if isinstance(array, str):
            return _walk(Misshapen(array), tolerances)
        order = int(n) if isinstance(n, (int, np.integer)) else 0
        if array.ndim != 1 or order < 1 or len(array) != order * (order + 1) // 2:
            shape = f"packed entries of shape {array.shape}"
            return _walk(Misshapen(f"square: {shape} are no matrix of order {n!r}", array), tolerances)
        with limited(order):
            return _walk(PackedMatrix(array, order, spectrum), tolerances)


def check_factor(factor: Any, tolerances: Tolerances | None = None, *, spectrum: bool = False) -> Verdict:
    """Check rho = F F^H, given F of shape (n, k): positive semi-definite by construction, so proved exactly.

    What is left to check is that F is finite and that the trace, ||F||_F^2, is 1. Bad input as for `check`.
    """
    with np.errstate(all="ignore"):
        array = read(factor)
        if isinstance(array, str):
            return _walk(Misshapen(array), tolerances)
        if array.ndim != 2 or not array.size:
            reason = f"a factor has two dimensions, not the shape {array.shape}"
            return _walk(Misshapen(reason, array), tolerances)
        return _walk(Factor(array, spectrum), tolerances)


def _walk(subject: Subject, tolerances: Tolerances | None) -> Verdict:
    """Weigh one invariant after the other; one that says nothing without another is left out with it."""
    constructed = subject.constructed
    draft = Draft(
        subject.n, subject.dtype, tolerances or Tolerances(), errors={**constructed}, route=subject.route
    )
    try:
        for invariant in INVARIANTS:
            if invariant.name not in constructed and draft.broken.isdisjoint(invariant.needs):
                invariant.judged(subject, draft)
    except NotFinite:
        draft.finite = False
        draft.violate("finite", "finite: an entry is NaN or infinite")
    return draft.verdict()
