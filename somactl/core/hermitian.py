"""The Hermitian part of a matrix, read once, tile by tile, into a form LAPACK can factor.

One pass compares each tile with its mirror image while both are in the cache, copies one of them to the
scratch array and forms the Hermitian part where they differ. A bitwise equal pair excludes NaN, so that no
separate search for NaN is needed on the way to a proof: what is left is Inf, and that cannot get past the
factor's diagonal (docs/CERTIFICATE.md).

The `hermitian` payload is half of a Hermitian matrix in LAPACK's rectangular full packed order (RFP).

Gustavson, Wasniewski, Dongarra, Langou, "Rectangular Full Packed Format for Cholesky's Algorithm"
(ACM TOMS 37(2), 2010; LAPACK Working Note 199). `docs/ENVELOPE.md` has the index formulas. The payload
is what `dtrttf`/`ztrttf` with TRANSR='N', UPLO='L' make of the transpose of a C-ordered array, so
`dpftrf`/`zpftrf` factor it as it stands. It is written here in numpy instead: because the array is
Hermitian, every run of the payload can be copied from a run of a *row*, where LAPACK must walk down
columns, and reading a value needs no LAPACK at all.

Only bits are copied. An entry that is not stored is restored from its mirror image (`_mirror_plane`); an
array has this layout only where that gives back every bit (`is_hermitian`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

U = 2.0**-53
"""Unit roundoff of float64."""
SLACK = 1.0 + 2.0**-20
"""Covers the second-order terms and the rounding of every bound that is computed in float64 itself."""

TILE = 128  # two tiles and their mask fit into the second-level cache
PARALLEL_FROM = 4096  # below, starting the threads costs more than they bring
_PAD = 1  # a tile's rows must not be a power of two apart, or its columns share one cache set


@dataclass(slots=True)
class HermitianPart:
    """H = (rho + rho^H) / 2 of an n x n matrix, and the scratch array `work` in which it is factored.

    source     rho as it was given: any strides, float16/32/64, complex64/128 or integer
    work       n x n, C order, float64 or complex128; `load` writes its upper triangle; may be `source` itself
    diagonal   Re rho_jj, float64, exact
    asymmetry  max |rho - rho^H|; not finite where an entry is not
    charge     bound of the 2-norm by which the H in `work` differs from the exact one; 0 if rho is Hermitian
    threads    how many may read the matrix side by side
    damaged    order of the leading block of `work` that a factorisation has overwritten since it was read
    """

    source: Array
    work: Array
    diagonal: Array
    asymmetry: float
    charge: float
    threads: int = 1
    damaged: int = 0

    @property
    def n(self) -> int:
        return int(self.work.shape[0])

    @property
    def is_complex(self) -> bool:
        return self.work.dtype.kind == "c"

    @property
    def in_place(self) -> bool:
        return self.work is self.source

    def load(self, shift: float, leading: int | None = None) -> None:
        """Put H + shift I into the upper triangle of `work`; the caller may destroy the block `leading`."""
        if self.damaged and self.in_place:
            _mirror(self.work, self.damaged)
        elif self.damaged:
            _fold(self.source, self.work, self.damaged, self.threads)
        self.work.reshape(-1)[:: self.n + 1] = self.diagonal + shift
        self.damaged = self.n if leading is None else leading

    def rows(self) -> Iterator[tuple[slice, Array]]:
        """rho in blocks of whole rows, in float64 or complex128 (H instead of rho if factored in place)."""
        if self.in_place and self.damaged:
            self.load(0.0, leading=0)
        for i in range(0, self.n, TILE):
            block = slice(i, min(i + TILE, self.n))
            yield block, np.asarray(self.source[block], dtype=self.work.dtype)

    def is_finite(self) -> bool:
        return all(bool(np.isfinite(block).all()) for _, block in self.rows())

    def sizes(self) -> tuple[float, float]:
        """||rho||_F, rounded, and max |rho_ij|; not finite where rho is not or its squares overflow."""
        squares = largest = 0.0
        for _, block in self.rows():
            magnitudes = np.abs(block)
            squares += float(np.sum(np.square(magnitudes)))
            largest = float(np.maximum(largest, np.max(magnitudes)))
        return float(np.sqrt(squares)), largest


def hermitian_part(source: Array, *, overwrite: bool = False, threads: int = 1) -> HermitianPart:
    """Read a square matrix of a numeric type; with `overwrite` in its own memory where its layout permits."""
    dtype = np.dtype(np.complex128 if source.dtype.kind == "c" else np.float64)
    usable = (
        source.dtype == dtype
        and source.flags.c_contiguous
        and source.flags.writeable
        and source.flags.aligned
    )
    work = source if overwrite and usable else np.empty(source.shape, dtype)
    diagonal = source.diagonal().real.astype(np.float64)
    asymmetry, squares = _fold(source, work, source.shape[0], threads)
    n = source.shape[0]
    # Halving a rounded sum errs by u|h| an entry. n 2^-510 is what squares that underflow may hide; u times
    # that is far more than the halves themselves may lose, 2^-1022 each with flush to zero.
    charge = SLACK * U * (float(np.sqrt(squares)) + n * 2.0**-510) if asymmetry else 0.0
    return HermitianPart(source, work, diagonal, asymmetry, charge, threads)


def from_triangle(work: Array) -> HermitianPart:
    """Take over a C-contiguous array whose upper triangle alone is filled, with a real diagonal."""
    diagonal = work.diagonal().real.copy()
    for i in range(0, work.shape[0], TILE):
        for j in range(i, work.shape[0], TILE):
            tile = work[i : i + TILE, j : j + TILE]
            if i == j:
                tile = np.triu(tile, 1)
                work[i : i + TILE, i : i + TILE] = tile + tile.conj().T
            else:
                np.conjugate(tile.T, out=work[j : j + TILE, i : i + TILE])
    part = HermitianPart(work, work, diagonal, 0.0, 0.0)
    part.load(0.0, leading=0)  # the tiles on the diagonal were summed with their mirror images' zeros
    return part


def _fold(source: Array, work: Array, order: int, threads: int) -> tuple[float, float]:
    """Write the leading block of H to the upper triangle of `work`, to both triangles if that is `source`.

    Returns max |rho - rho^H| and the sum of squares of the entries that had to be rounded.
    """
    starts = range(0, order, TILE)
    if threads < 2 or order < PARALLEL_FROM:
        return _fold_bands(source, work, order, starts)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        bands = (starts[first::threads] for first in range(threads))
        done = list(pool.map(lambda band: _fold_bands(source, work, order, band), bands))
    return float(np.max([found[0] for found in done])), sum(found[1] for found in done)


def _fold_bands(source: Array, work: Array, order: int, starts: Iterable[int]) -> tuple[float, float]:
    """`_fold` for the tiles on and right of the diagonal in the bands of rows that begin at `starts`."""
    asymmetry = squares = 0.0
    in_place = work is source
    convert, is_complex = source.dtype != work.dtype, work.dtype.kind == "c"
    edge = min(TILE, order)
    padded = np.empty((edge, edge + _PAD), work.dtype)
    equal = np.empty((edge, edge), np.bool_)
    tiles = ((row, column) for row in starts for column in range(row, order, TILE))
    for i, j in tiles:
        height, width = min(TILE, order - i), min(TILE, order - j)
        upper = source[i : i + height, j : j + width]
        if convert:
            upper = upper.astype(work.dtype)
        lower = padded[:width, :height]
        # Unsafe by numpy's rules alone: the gate for arrays admits no integer that float64 does not hold.
        np.copyto(lower, source[j : j + width, i : i + height], casting="unsafe")
        if is_complex:
            np.conjugate(lower, out=lower)
        mask = equal[:height, :width]
        np.equal(upper, lower.T, out=mask)
        if mask.all():
            if not in_place:
                work[i : i + height, j : j + width] = upper
            continue
        with np.errstate(all="ignore"):  # a thread does not inherit the caller's
            asymmetry = float(np.maximum(asymmetry, np.max(np.abs(upper - lower.T))))
            mean = upper + lower.T
            mean *= 0.5
            squares += (1.0 if i == j else 2.0) * float(np.sum(np.square(np.abs(mean))))
        work[i : i + height, j : j + width] = mean
        if in_place:
            np.conjugate(mean.T, out=work[j : j + width, i : i + height])
    return asymmetry, squares


def _mirror(work: Array, order: int) -> None:
    """Restore the upper triangle of the leading block, but its diagonal, from the lower one."""
    for i in range(0, order, TILE):
        for j in range(i, order, TILE):
            rows, columns = slice(i, min(i + TILE, order)), slice(j, min(j + TILE, order))
            if i == j:
                tile = np.tril(work[rows, columns], -1)
                work[rows, columns] = tile + tile.conj().T
            else:
                np.conjugate(work[columns, rows].T, out=work[rows, columns])


_STRIP_BYTES = 512 * 1024
# Rows of a power-of-two length put a whole column into one set of the cache. Strips are copied to a
# buffer whose rows are one cache line longer before they are read by columns: 6 times faster at n = 1024.
_PAD_BYTES = 64
# Up to this order one gather by known places takes a third of the time that copying many short runs does.
_GATHERED_UP_TO = 128


def packed_size(n: int) -> int:
    """Number of stored entries of an n x n matrix."""
    return n * (n + 1) // 2


def is_hermitian(a: Array) -> bool:
    """Whether the C-contiguous n x n array is restored bit for bit from its `hermitian` payload.

    Real: `a[i, j]` and `a[j, i]` have the same bits. Complex: the real parts have the same bits, the
    imaginary parts differ in the sign alone, and every imaginary zero (so the diagonal's too) is +0.0.
    """
    if a.dtype.kind == "c":
        return _is_mirrored(a.real, conjugate=False) and _is_mirrored(a.imag, conjugate=True)
    return _is_mirrored(a, conjugate=False)


def _is_mirrored(plane: Array, *, conjugate: bool) -> bool:
    bits = np.dtype(f"i{plane.itemsize}")
    n = len(plane)
    if n <= _GATHERED_UP_TO and not conjugate:
        given = _as(bits, plane)
        return bool((given == given.T).all())
    negative_zero = np.iinfo(bits).min
    for first, last in _strips(n, plane.itemsize):
        rows = plane[first:last, first:]
        strip = _padded(rows.shape, plane.dtype)
        _mirror_plane(rows, strip, conjugate=conjugate)
        if not np.array_equal(_as(bits, plane[first:, first:last]), _as(bits, strip).T):
            return False
        if conjugate and np.any(_as(bits, rows) == negative_zero):
            return False
    return True


def _mirror_plane(plane: Array, out: Array, *, conjugate: bool) -> None:
    """What stands on the other side of the diagonal, transposed.

    An imaginary part changes its sign unless it is +0.0: the imaginary zeros of real-valued complex
    matrices, as of `(m + m.conj().T) / 2`, are +0.0 on both sides of the diagonal. The sign is a bit, so that
    neither a rounding mode nor flushing to zero has a say in what is read.
    """
    if not conjugate:
        out[...] = plane
        return
    bits = np.dtype(f"i{plane.itemsize}")
    sign = np.iinfo(bits).min
    mirrored = _as(bits, out)
    np.bitwise_xor(_as(bits, plane), sign, out=mirrored)
    zeros = mirrored == sign
    if zeros.any():
        mirrored[zeros] = 0


def pack(a: Array) -> Array:
    """The payload of an array for which `is_hermitian` holds: 1-D, n (n + 1) / 2 entries."""
    n = len(a)
    if n <= _GATHERED_UP_TO:
        return a.reshape(-1).take(_places(n)[0])
    return _pack_runs(a)


def _pack_runs(a: Array) -> Array:
    n = len(a)
    shift, rows = _geometry(n)
    rectangle = np.empty((rows, n + shift), dtype=a.dtype)
    lower = a[rows - 1 + shift :, rows:]
    for first, last in _strips(rows, a.itemsize):
        rectangle[first:last, first + shift :] = a[first:last, first:]
        rectangle[first:last, : first + shift] = lower[first:last, : first + shift]
        _copy_below_diagonal(
            rectangle[first:last, first + shift : last + shift],
            lower[first:last, first + shift : last + shift],
        )
    return rectangle.reshape(-1)


def unpack(payload: Array, n: int) -> Array:
    """The n x n array whose `hermitian` payload this is. Exact: no entry is rounded."""
    if n > _GATHERED_UP_TO:
        return _unpack_runs(payload, n)
    a = payload.take(_places(n)[1]).reshape(n, n)
    if a.dtype.kind == "c":
        imaginary = _as(np.dtype(f"i{a.imag.itemsize}"), a.imag)
        sign = np.iinfo(imaginary.dtype).min
        np.bitwise_xor(imaginary, sign, out=imaginary, where=_places(n)[2] & (imaginary != 0))
    return a


@lru_cache(maxsize=8)
def _places(n: int) -> tuple[Array, Array, Array]:
    """Where each entry of the payload is read from the array, and each of the array from the payload.

    The third is true for the entries of the array that are mirror images of what is stored.
    """
    at = np.arange(n * n).reshape(n, n)
    mirrored = np.tri(n, k=-1, dtype=bool)
    rows = _geometry(n)[1]
    mirrored[rows:, rows:] = mirrored[rows:, rows:].T
    places = _pack_runs(at), _unpack_runs(np.arange(packed_size(n)), n).reshape(-1), mirrored
    for each in places:
        each.flags.writeable = False
    return places


def _unpack_runs(payload: Array, n: int) -> Array:
    shift, rows = _geometry(n)
    rectangle = payload.reshape(rows, n + shift)
    a = np.empty((n, n), dtype=payload.dtype)
    lower = a[rows - 1 + shift :, rows:]
    for first, last in _strips(rows, a.itemsize):
        a[first:last, first:] = rectangle[first:last, first + shift :]
        lower[first:last, : first + shift] = rectangle[first:last, : first + shift]
        _copy_below_diagonal(
            lower[first:last, first + shift : last + shift],
            rectangle[first:last, first + shift : last + shift],
        )
    _fill_below_diagonal(a, rows)
    corner = a[rows:, rows:].T
    _fill_below_diagonal(corner, len(corner))
    return a


def diagonal(payload: Array, n: int) -> Array:
    """The n diagonal entries, in order, out of the payload."""
    shift, rows = _geometry(n)
    rectangle = payload.reshape(rows, n + shift)
    upper = np.arange(rows)
    low = np.arange(n - rows)
    return np.concatenate((rectangle[upper, upper + shift], rectangle[low + 1 - shift, low]))


def _geometry(n: int) -> tuple[int, int]:
    """(shift, rows): the payload is a C-ordered rows x (n + shift) rectangle, shift 1 for even n."""
    return 1 - n % 2, (n + 1) // 2


def _strips(length: int, itemsize: int) -> Iterator[tuple[int, int]]:
    """Cut [0, length) so that a strip of that many rows stays in a core's own cache."""
    step = max(16, min(64, _STRIP_BYTES // (itemsize * max(1, length)) & ~7))
    for first in range(0, length, step):
        yield first, min(first + step, length)


def _padded(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    rows, columns = shape
    return np.empty((rows, columns + _PAD_BYTES // dtype.itemsize), dtype=dtype)[:, :columns]


def _as(bits: np.dtype[Any], a: Array) -> Array:
    """The same bits as integers, of which -0.0 differs from +0.0."""
    return a.view(bits)


def _copy_below_diagonal(target: Array, source: Array) -> None:
    """Copy the strictly lower triangle; `source` or `target` may lack columns at its right edge."""
    columns = min(target.shape[1], source.shape[1])
    mask = _below_diagonal(len(target), columns)
    np.copyto(target[:, :columns], source[: len(target), :columns], where=mask)


@lru_cache(maxsize=64)
def _below_diagonal(rows: int, columns: int) -> Array:
    """True below the diagonal. No strip is more than 64 high, so the masks kept are a few hundred KB at most;
    for a small matrix, making them anew took as long as all the copying."""
    mask = np.tri(rows, columns, -1, dtype=bool)
    mask.flags.writeable = False
    return mask


def _fill_below_diagonal(a: Array, columns: int) -> None:
    """Restore `a[i, j]`, i > j, of the first `columns` columns from the entries right of the diagonal."""
    for first, last in _strips(columns, a.itemsize):
        rows = a[first:last, first:]
        size = last - first
        strip = _padded(rows.shape, a.dtype)
        _mirror_plane(rows.real, strip.real, conjugate=False)
        if a.dtype.kind == "c":
            # What is not yet written is mirrored along, and thrown away.
            np.copyto(rows[:, :size], 0, where=_below_diagonal(size, size))
            _mirror_plane(rows.imag, strip.imag, conjugate=True)
        _copy_below_diagonal(a[first:last, first:last], strip[:, :size].T)
        a[last:, first:last] = strip[:, size:].T
