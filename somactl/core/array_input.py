"""The one gate for arrays: what is a matrix of numbers, and how it becomes one of the four stored dtypes.

Checks, repairs and envelopes all pass through `plain_array`, so that none of them takes for exact what
another one refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from somactl.core.framing import DTYPES
from somactl.errors import InputRejected, NonFinite, UsageError

Array = NDArray[Any]

_CHUNK = 1 << 20
"""Entries looked at at once, so that temporaries stay small beside the matrix."""

EXACT_INTEGERS = 2**53
"""float64 holds every integer up to here, and beyond only some."""


@dataclass(frozen=True, slots=True)
class Converted:
    """values: C-contiguous, little-endian, one of DTYPES, finite; the errors are those of the rounding."""

    values: Array
    max_error: float = 0.0
    frobenius_error: float = 0.0


class NotNumbers(ValueError):
    """Why something is no array of exact numbers: the end of a sentence that begins with its name."""


def plain_array(array: Any) -> Array:
    """`array` as a plain ndarray of floating-point, complex or integer numbers, not copied, of any shape.

    Raises NotNumbers for what holds no such numbers, for masked arrays, whose mask would be lost, and for an
    integer that float64 does not hold: arithmetic is float64, which would judge another number in its place.
    """
    _check_items(array)
    try:
        found: Array = np.asarray(array)
    except MemoryError:
        raise
    except Exception as exc:  # `__array__` is code of the caller's, which may raise anything
        raise NotNumbers(f"is no array of numbers: {exc}") from None
    if found.dtype.kind not in "fciu":
        raise NotNumbers(f"has dtype {found.dtype}; a matrix has floating-point, complex or integer numbers")
    _check_integers(found)
    return found


def _check_items(item: Any, depth: int = 2) -> None:
    """Refuse what numpy would convert without a word: masks in or around lists, integers beside floats."""
    if isinstance(item, np.ma.MaskedArray):
        raise NotNumbers("is a masked array, whose mask neither an envelope nor a check can keep")
    if isinstance(item, np.ndarray | np.integer):
        _check_integers(np.asarray(item))
    elif isinstance(item, int):
        _check_integer(item)
    elif isinstance(item, list | tuple) and depth:
        for each in item:
            _check_items(each, depth - 1)


def _check_integers(given: Array) -> None:
    if given.dtype.kind not in "iu" or given.dtype.itemsize < 8 or not given.size:
        return
    flat = given.reshape(-1)
    for first in range(0, flat.size, _CHUNK):
        part = flat[first : first + _CHUNK]
        if int(part.max()) > EXACT_INTEGERS or int(part.min()) < -EXACT_INTEGERS:
            for at, value in enumerate(part.tolist(), first):
                _check_integer(value, f" at {_position(at, given.shape)}" if given.ndim else "")


def _check_integer(value: int, where: str = "") -> None:
    if -EXACT_INTEGERS <= value <= EXACT_INTEGERS:
        return
    try:
        exact = int(float(value)) == value
    except OverflowError:
        exact = False
    if not exact:
        raise NotNumbers(f"holds {_short(value)}{where}, which float64 does not hold exactly")


def _short(value: int) -> str:
    return str(value) if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"


def _position(at: int, shape: tuple[int, ...]) -> str:
    return f"row {at // shape[1]}, column {at % shape[1]}" if len(shape) == 2 else f"entry {at}"


def as_matrix(array: ArrayLike, key: str) -> Array:
    """`array` as a 2-D ndarray of numbers, not copied. Raises InputRejected naming `key`."""
    try:
        found = plain_array(array)
    except NotNumbers as exc:
        raise InputRejected(f"{key!r} {exc}", hint="convert it to float64 or complex128") from None
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
            f"{key!r} is complex and cannot be stored as {wanted}", hint=f"use dtype {complex_form}"
        )
    return wanted


def convert(given: Array, target: str, *, exact: bool, key: str) -> Converted:
    """`given` as `target`, with the rounding error; `exact` refuses any.

    `given` has passed `plain_array`. Raises NonFinite for NaN and Inf, given or come by overflow, and
    InputRejected where `exact` is broken.
    """
    source = given.astype(np.float64) if given.dtype.kind in "iu" else given
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
            raise NonFinite(
                f"{key!r} holds {cause or flat[at]} at {_position(at, a.shape)}",
                hint="a matrix holds finite numbers alone; find what computed it",
            )


def _surely_finite(flat: Array) -> bool:
    """Whether the sum is finite: then so is every term. Finite terms may overflow, so False says nothing.

    einsum sums at the speed of memory, without BLAS, whose threads would spin on after it.
    """
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.einsum("i->", flat)))


def _difference(source: Array, values: Array) -> tuple[float, float]:
    """max |source - values| and its Frobenius norm, in the wider dtype, a block of rows at a time."""
    largest, squares = 0.0, 0.0
    step = max(1, _CHUNK // source.shape[1])
    for first in range(0, len(source), step):
        gap = np.abs(source[first : first + step] - values[first : first + step]).astype(np.float64)
        largest = max(largest, float(gap.max()))
        squares += float(np.sum(gap * gap))
    return largest, math.sqrt(squares)
