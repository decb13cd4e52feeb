"""Does a matrix hold the invariants of a density matrix? `check` and its two shortcuts.

In this order: finite, square, Hermitian, trace 1, positive semi-definite. Nothing here raises on bad
numbers: what is wrong stands in the verdict. The words are those of docs/CERTIFICATE.md.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from somactl.core.array_input import NotNumbers, plain_array
from somactl.core.certificate import MAX_ORDER, Bounds, certify, certify_packed, concentrated
from somactl.core.draft import Draft
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
from somactl.core.spectrum import factor_spectrum, judge_by_eigenvalues, judge_by_sample, spectrum_of_part
from somactl.core.trace import (
    exact_factor_trace_error,
    exact_trace_error,
    factor_trace_error,
    trace_error,
)
from somactl.core.verdict import Method, Tolerances, Verdict
from somactl.errors import UsageError

U32 = 2.0**-24
"""Unit roundoff of float32."""


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
    given = tolerances or Tolerances()
    with np.errstate(all="ignore"):
        array = _read(matrix)
        if isinstance(array, str):
            return _unusable(given, array)
        if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
            return _unusable(given, f"square: the shape is {array.shape}", array)
        with limited(len(array)):
            return _check_full(array, given, method, spectrum, overwrite)


def check_packed(
    packed: Any, n: int, tolerances: Tolerances | None = None, *, spectrum: bool = False
) -> Verdict:
    """Check a Hermitian matrix in rectangular full packed form; where it is valid without unpacking it.

    packed  shape (n (n + 1) / 2,), float32, float64, complex64 or complex128, never written to: what
            LAPACK's `?trttf` makes of the C-ordered matrix's transpose with transr N, uplo L

    The other arguments, and bad input, as for `check`.
    """
    given = tolerances or Tolerances()
    with np.errstate(all="ignore"):
        array = _read(packed)
        if isinstance(array, str):
            return _unusable(given, array)
        order = int(n) if isinstance(n, int | np.integer) else 0
        if array.ndim != 1 or order < 1 or len(array) != order * (order + 1) // 2:
            shape = f"packed entries of shape {array.shape}"
            return _unusable(given, f"square: {shape} are no matrix of order {n!r}", array)
        with limited(order):
            return _check_packed(array, order, given, spectrum)


def check_factor(factor: Any, tolerances: Tolerances | None = None, *, spectrum: bool = False) -> Verdict:
    """Check rho = F F^H, given F of shape (n, k): positive semi-definite by construction, so proved exactly.

    What is left to check is that F is finite and that the trace, ||F||_F^2, is 1. Bad input as for `check`.
    """
    given = tolerances or Tolerances()
    with np.errstate(all="ignore"):
        array = _read(factor)
        if isinstance(array, str):
            return _unusable(given, array)
        if array.ndim != 2 or not array.size:
            return _unusable(given, f"a factor has two dimensions, not the shape {array.shape}", array)
        working: Array = np.ascontiguousarray(array, dtype=_working_type(array.dtype))
        draft = Draft(len(array), array.dtype.name, given, hermitian_error=0.0, route="factor")
        if not np.isfinite(working).all():
            return draft.not_finite()
        if _is_single(array.dtype):  # an error of u in F is one of 2u in F F^H
            size = float(np.sum(np.square(np.abs(working))))
            draft.widen(psd=2.0 * U32 * size, trace=2.0 * U32 * size)
        error = factor_trace_error(working, draft.tolerances.trace)
        draft.judge_trace(error, lambda: exact_factor_trace_error(working))
        draft.lower = 0.0
        draft.accept("valid", proved=True)
        if spectrum:
            with limited(len(array)):
                draft.spectrum = factor_spectrum(working)
        return draft.verdict()


def _check_full(
    array: Array, tolerances: Tolerances, method: Method, spectrum: bool, overwrite: bool
) -> Verdict:
    part = hermitian_part(array, overwrite=overwrite, threads=threads_allowed())
    draft = Draft(part.n, array.dtype.name, tolerances)
    if not np.isfinite(part.diagonal).all() or (not np.isfinite(part.asymmetry) and not part.is_finite()):
        return draft.not_finite()
    if _is_single(array.dtype):
        size, largest = part.sizes()
        if not np.isfinite(size):
            return draft.not_finite()
        _widen(draft, size, largest, part.diagonal)
    if not draft.judge_hermitian(part.asymmetry) and not part.is_finite():
        return draft.not_finite()
    return _finish(draft, part, method, spectrum)


def _finish(draft: Draft, part: HermitianPart, method: Method, spectrum: bool) -> Verdict:
    """Trace and PSD of a matrix whose Hermitian part has been read; PSD says nothing of an asymmetric one."""
    _judge_trace(draft, part.diagonal)
    if draft.hermitian_error is None or not draft.hermitian_error <= draft.tolerances.hermitian:
        return draft.verdict()
    trusted = _trusted(part.n)
    certifiable = method == "certify" and part.n <= MAX_ORDER
    if not (certifiable and trusted) and not part.is_finite():
        return draft.not_finite()
    draft.blas = describe_blas()
    if certifiable:
        bounds = certify(part, draft.tolerances.psd)
        if not bounds.finite:
            return draft.not_finite()
        draft.judge_psd(bounds, trusted=trusted)
    elif method == "certify":
        draft.undecided(f"the order {part.n} is beyond {MAX_ORDER}")
    elif method == "eigen":
        judge_by_eigenvalues(draft, part)
    else:
        judge_by_sample(draft, part)
    if spectrum:
        draft.spectrum = spectrum_of_part(part)
    return draft.verdict()


def _check_packed(array: Array, n: int, tolerances: Tolerances, spectrum: bool) -> Verdict:
    positions = rfp_diagonal(n)
    entries = array[positions]
    diagonal = entries.real.astype(np.float64)
    draft = Draft(n, array.dtype.name, tolerances)
    if not np.isfinite(entries).all():
        return draft.not_finite()
    if _is_single(array.dtype):
        magnitudes = np.abs(array.astype(_working_type(array.dtype)))
        squares = np.square(magnitudes)
        size = float(np.sqrt(2.0 * np.sum(squares) - np.sum(squares[positions])))
        if not np.isfinite(size):
            return draft.not_finite()
        _widen(draft, size, float(np.max(magnitudes)), diagonal)
    hermitian = draft.judge_hermitian(2.0 * float(np.max(np.abs(entries.imag))))
    # A low rank is worth unpacking for; so are a spectrum, and a BLAS that might pass over a NaN.
    packable = hermitian and not spectrum and n <= MAX_ORDER and _trusted(n)
    if packable and not concentrated(diagonal, array[::17], n):
        scratch: Array = array.astype(_working_type(array.dtype))
        lower = certify_packed(scratch, positions, diagonal, draft.tolerances.psd)
        if lower is not None:
            _judge_trace(draft, diagonal)
            draft.blas = describe_blas()
            draft.judge_psd(Bounds("packed", -lower, lower), trusted=True)
            return draft.verdict()
        del scratch
    return _finish(draft, _unpack(array, n, diagonal), "certify", spectrum)


def _unpack(array: Array, n: int, diagonal: Array) -> HermitianPart:
    working: Array = np.ascontiguousarray(array, dtype=_working_type(array.dtype))
    routine = flapack().ztfttr if working.dtype.kind == "c" else flapack().dtfttr
    full: Array = routine(n, working, transr="N", uplo="L")[0].T
    full.reshape(-1)[:: n + 1] = diagonal
    return from_triangle(full)


def _judge_trace(draft: Draft, diagonal: Array) -> None:
    draft.judge_trace(trace_error(diagonal), lambda: exact_trace_error(diagonal))


def _widen(draft: Draft, frobenius: float, largest: float, diagonal: Array) -> None:
    """Make room for what rounding a state to float32 may have done to its eigenvalues, trace and symmetry.

    Entries that a single-precision program computed apart, rho_ij and rho_ji, are each off by u |rho_ij|.
    """
    trace = U32 * float(np.sum(np.abs(diagonal)))
    draft.widen(psd=U32 * frobenius, trace=trace, hermitian=2.0 * U32 * largest)


def _trusted(n: int) -> bool:
    """Whether the theorem covers the BLAS that factors, in each of the threads that an n x n matrix takes."""
    return blas().conventional and (n <= SINGLE_THREADED_UP_TO or blas_threads_round_to_nearest())


def _read(array: Any) -> Array | str:
    """The array as it can be judged exactly in float64, or why it cannot."""
    try:
        found = plain_array(array)
    except NotNumbers as exc:
        return f"not numeric: it {exc}"
    if found.dtype.itemsize > (16 if found.dtype.kind == "c" else 8):
        return f"not numeric: it has dtype {found.dtype.name}, of which float64 holds but a part"
    return found


def _is_single(dtype: np.dtype[Any]) -> bool:
    return (dtype.kind, dtype.itemsize) in {("f", 4), ("c", 8)}


def _working_type(dtype: np.dtype[Any]) -> type:
    return np.complex128 if dtype.kind == "c" else np.float64


def _unusable(tolerances: Tolerances, reason: str, array: Array | None = None) -> Verdict:
    finite = array is not None and bool(np.isfinite(array).all())
    name = "object" if array is None else array.dtype.name
    draft = Draft(0, name, tolerances, finite=finite, square=False)
    draft.violate(reason)
    return draft.verdict()
