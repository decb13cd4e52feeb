"""Proofs of many matrices of one order, type and layout, which lie in the rows of one array.

What depends on the order alone is done once, what numpy does for many rows is done at once, and each row is
factored by one call of LAPACK. The numbers are those of the check of one matrix, bit for bit: the same
functions make them, from operands in the same order. Only what is valid beyond doubt is proven here; no row
is condemned (docs/CERTIFICATE.md, section 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from math import nan
from typing import Any, NamedTuple

import numpy as np

from somactl.core.certificate import positive, proving_shifts, smallest_tolerances
from somactl.core.draft import Draft, NotFinite, trace_errors
from somactl.core.hermitian import Array, HermitianPart, packed_size
from somactl.core.invariants import FullMatrix, PackedMatrix, is_single, working_type
from somactl.core.lapack import factor_rows, rfp_diagonal
from somactl.core.verdict import Tolerances

ALIGNMENT = 16
"""Of each row, in bytes: what malloc gives a matrix of its own. Kernels for older processors add up in an
order that depends on it."""


class Proof(NamedTuple):
    """What is proven of one matrix: |tr rho - 1|, a lower bound of lambda_min, and by which tolerances."""

    trace_error: float
    lower: float
    tolerances: Tolerances


class Form:
    """What the matrices of a stack have in common: order, type (numpy's name), layout full or hermitian.

    packed     whether the layout is hermitian
    stored     the type of an entry in an envelope
    entries    how many are stored of a matrix, and row_bytes how long they are
    diagonal   where among them the diagonal stands, shape (n,)
    """

    def __init__(self, n: int, dtype: str, layout: str) -> None:
        self.n, self.dtype, self.packed = n, dtype, layout == "hermitian"
        self.stored: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
        self.entries = packed_size(n) if self.packed else n * n
        self.row_bytes = self.entries * self.stored.itemsize
        self.diagonal: Array = rfp_diagonal(n) if self.packed else np.arange(n) * (n + 1)


def prove(payloads: Sequence[Any], form: Form, tolerances: Tolerances) -> list[Proof | None]:
    """A proof for each payload of `form.row_bytes` bytes; None where the matrix needs a closer look.

    To be called with the BLAS limits of the order in force. What it returns is true where the theorem covers
    the BLAS, and the calling thread rounds to nearest.
    """
    with np.errstate(all="ignore"):
        given = _rows(payloads, form)
        rows: Array = np.ascontiguousarray(given, dtype=working_type(form.stored))
        on_diagonal = rows.take(form.diagonal, axis=1)
        diagonal: Array = np.ascontiguousarray(on_diagonal.real)
        limits = [tolerances]
        if is_single(form.stored):
            limits = [_widened(*each, form, tolerances) for each in zip(given, rows, diagonal, strict=True)]
        errors = trace_errors(diagonal)
        e, shifts = _shifts(diagonal, form)
        candidates = _within(errors, e, limits) & _plain(rows, on_diagonal, form) & ~np.isnan(shifts)
        proven = _factored(rows, diagonal + shifts[:, None], candidates, form)
    proofs = map(Proof, errors.tolist(), (-e).tolist(), limits if len(limits) > 1 else repeat(limits[0]))
    return [proof if fine else None for fine, proof in zip(proven.tolist(), proofs, strict=True)]


def _rows(payloads: Sequence[Any], form: Form) -> Array:
    """A copy of the payloads, one in each row, which is a little longer where ALIGNMENT asks for it."""
    padding = bytes(-form.row_bytes % ALIGNMENT)
    pieces = [piece for payload in payloads for piece in (payload, padding)] if padding else payloads
    flat = np.frombuffer(bytearray().join(pieces), dtype=form.stored)
    return flat.reshape(len(payloads), -1)


def _square(row: Array, form: Form) -> Array:
    square: Array = row[..., : form.entries].reshape(*row.shape[:-1], form.n, form.n)
    return square


def _widened(given: Array, row: Array, diagonal: Array, form: Form, tolerances: Tolerances) -> Tolerances:
    """The tolerances of one matrix in single precision."""
    draft = Draft(form.n, form.dtype, tolerances)
    try:
        if form.packed:
            sizes = PackedMatrix(given[: form.entries], form.n, False).finite(draft)
        else:
            part = HermitianPart(_square(given, form), _square(row, form), diagonal, 0.0, 0.0)
            sizes = FullMatrix(part, given.dtype, "certify", False).finite(draft)
    except NotFinite:
        return Tolerances(nan, nan, nan)
    assert sizes is not None
    draft.widen(sizes)
    return draft.tolerances


def _shifts(diagonal: Array, form: Form) -> tuple[Array, Array]:
    """For each row e, and the shift whose completed factorisation proves lambda_min >= -e; NaN for none."""
    is_complex = form.stored.kind == "c"
    e = smallest_tolerances(diagonal.T, 0.0, is_complex)
    return e, proving_shifts(diagonal.T, e, 0.0, is_complex)


def _plain(rows: Array, on_diagonal: Array, form: Form) -> Array:
    """Whether each row is its own mirror image, and its diagonal has nothing that another route would see."""
    if not form.packed:
        square = _square(rows, form)
        mirrored = square.transpose(0, 2, 1)
        equal = np.all(square == np.conjugate(mirrored), axis=(1, 2))
        return np.asarray(equal & (on_diagonal.real.min(axis=1) >= 0.0))
    if rows.dtype.kind != "c":
        return np.ones(len(rows), bool)
    bits = np.ascontiguousarray(on_diagonal.imag).view(np.int64)
    return np.asarray(np.all(bits == 0, axis=1))  # those of +0.0


def _within(trace_errors: Array, e: Array, limits: Sequence[Tolerances]) -> Array:
    """Which rows have every error below its tolerance. One that equals it is weighed before it was rounded.

    limits  those of each row, or of all
    """
    psd, trace, hermitian = np.array([(each.psd, each.trace, each.hermitian) for each in limits]).T
    # An infinity or a NaN on the diagonal makes the trace's error so, which is below nothing.
    return np.asarray((trace_errors < trace) & (e <= psd) & (hermitian >= 0.0))


def _factored(rows: Array, shifted: Array, candidates: Array, form: Form) -> Array:
    """Which candidates' factorisations complete with that diagonal, and leave a sound one in the factor."""
    positions = form.diagonal
    rows[:, positions] = shifted
    failed = factor_rows(rows, form.n, np.flatnonzero(candidates).tolist(), packed=form.packed)
    proven: Array = candidates & positive(rows.take(positions, axis=1))
    proven[failed] = False
    return proven
