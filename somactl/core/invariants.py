"""Does a matrix hold the invariants of a density matrix? `check` and its two shortcuts.

They walk the list of `invariant_list`. Nothing here raises on bad numbers: what is wrong stands in the
verdict. The words are those of docs/CERTIFICATE.md.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from somactl.core.draft import Draft, NotFinite
from somactl.core.hermitian import hermitian_part
from somactl.core.invariant_list import INVARIANTS
from somactl.core.lapack import limited, threads_allowed
from somactl.core.subject import Factor, FullMatrix, Misshapen, PackedMatrix, Subject, read
from somactl.core.verdict import Method, Tolerances, Verdict
from somactl.errors import UsageError


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
        order = int(n) if isinstance(n, int | np.integer) else 0
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
