"""The Hermitian part of a matrix, read once, tile by tile, into a form LAPACK can factor.

One pass compares each tile with its mirror image while both are in the cache, copies one of them to the
scratch array and forms the Hermitian part where they differ. A bitwise equal pair excludes NaN, so that no
separate search for NaN is needed on the way to a proof: what is left is Inf, and that cannot get past the
factor's diagonal (docs/CERTIFICATE.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
