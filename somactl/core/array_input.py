"""What an array must be to go into an envelope, and how it becomes one of the four stored dtypes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from somactl.core.header import DTYPES
from somactl.errors import InputRejected, NonFinite, UsageError

Array = NDArray[Any]

_CHUNK = 1 << 20
"""Entries looked at at once, so that temporaries stay small beside the matrix."""


@dataclass(frozen=True, slots=True)
class Converted:
    """values: C-contiguous, little-endian, one of DTYPES, finite; the errors are those of the rounding."""

    values: Array
    max_error: float = 0.0
    frobenius_error: float = 0.0


def as_matrix(array: ArrayLike, key: str) -> Array:
    """`array` as a 2-D ndarray of numbers, not copied. Raises InputRejected naming `key`."""
    if isinstance(array, np.ma.MaskedArray):
        raise InputRejected(f"{key!r} is a masked array, whose mask an envelope cannot hold")
    try:
        found = np.asarray(array)
    except (ValueError, TypeError, OverflowError) as exc:
        raise InputRejected(f"{key!r} is no array of numbers: {exc}") from None
    if found.dtype.kind not in "fciu":
        raise InputRejected(
            f"{key!r} has dtype {found.dtype}; a matrix has floating-point, complex or integer numbers",
            hint="convert it to float64 or complex128",
        )
    if found.ndim != 2:
        raise InputRejected(f"{key!r} has {found.ndim} dimensions; a matrix has 2")
    if 0 in found.shape:
        raise InputRejected(f"{key!r} is empty: its shape is {found.shape[0]} x {found.shape[1]}")
    return found


def target_dtype(given: np.dtype[Any], wanted: str | None, key: str) -> str:
    """The stored dtype. Raises UsageError for a name that is none, InputRejected for complex as real."""
    if wanted is None:
        if given.kind == "c":
            return "complex64" if given.itemsize == 8 else "complex128"
        return "float32" if given.kind == "f" and given.itemsize <= 4 else "float64"
    if wanted not in DTYPES:
        raise UsageError(f"dtype {wanted!r} is none of {', '.join(DTYPES)}")
    if given.kind == "c" and not wanted.startswith("complex"):
        complex_form = "complex64" if wanted == "float32" else "complex128"
        raise InputRejected(
            f"{key!r} is complex and cannot be stored as {wanted}",
            hint=f"use dtype {complex_form}",
        )
    return wanted


def convert(given: Array, target: str, *, exact: bool, key: str) -> Converted:
    """`given` as `target`, with the rounding error; `exact` refuses any.

    Raises NonFinite for NaN and Inf, given or come by overflow, and InputRejected for an integer that
    float64 does not hold, or where `exact` is broken.
    """
    source = _exact_integers(given, key) if given.dtype.kind in "iu" else given
    wanted = np.dtype(target).newbyteorder("<")
    if np.can_cast(source.dtype, wanted, casting="safe"):
        values = np.asarray(source, dtype=wanted, order="C")
        check_finite(values, key)
        return Converted(values)
    check_finite(source, key)
    with np.errstate(over="ignore", under="ignore"):
        values = source.astype(wanted, order="C")
    check_finite(values, key, cause=f"beyond the range of {target}")
    largest, frobenius = _difference(source, values)
    if exact and largest:
        raise InputRejected(
            f"{key!r} has dtype {given.dtype}, which {target} does not hold exactly",
            hint=f"ask for dtype {target} to have it rounded; the rounding error is reported",
        )
    return Converted(values, largest, frobenius)


def check_finite(a: Array, key: str, *, cause: str | None = None) -> None:
    """Raises NonFinite, naming the first NaN or Inf."""
    flat = (a if a.flags.c_contiguous else np.ascontiguousarray(a)).reshape(-1)
    if _surely_finite(flat):
        return
    for first in range(0, flat.size, _CHUNK):
        finite = np.isfinite(flat[first : first + _CHUNK])
        if not finite.all():
            at = first + int(finite.argmin())
            where = f"entry {at}" if a.ndim == 1 else f"row {at // a.shape[1]}, column {at % a.shape[1]}"
            raise NonFinite(
                f"{key!r} holds {cause or flat[at]} at {where}",
                hint="a matrix holds finite numbers alone; find what computed it",
            )


def _surely_finite(flat: Array) -> bool:
    """Whether the sum is finite: then so is every term. Finite terms may overflow, so False says nothing.

    einsum sums at the speed of memory, without BLAS, whose threads would spin on after it.
    """
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.einsum("i->", flat)))


def _exact_integers(given: Array, key: str) -> Array:
    values = given.astype(np.float64)
    if given.dtype.itemsize < 8:
        return values
    # float64 of the largest integers is 2**63 or 2**64, which do not go back.
    limit = math.ldexp(1.0, np.iinfo(given.dtype).bits - (given.dtype.kind == "i"))
    with np.errstate(invalid="ignore"):
        exact = (values < limit) & (values.astype(given.dtype) == given)
    if not exact.all():
        row, column = np.unravel_index(int(exact.argmin()), given.shape)
        raise InputRejected(
            f"{key!r} holds {given[row, column]} at row {row}, column {column}, "
            "which float64 does not hold exactly"
        )
    return values


def _difference(source: Array, values: Array) -> tuple[float, float]:
    """max |source - values| and its Frobenius norm, in the wider dtype, a block of rows at a time."""
    largest, squares = 0.0, 0.0
    step = max(1, _CHUNK // source.shape[1])
    for first in range(0, len(source), step):
        gap = np.abs(source[first : first + step] - values[first : first + step]).astype(np.float64)
        largest = max(largest, float(gap.max()))
        squares += float(np.sum(gap * gap))
    return largest, math.sqrt(squares)
