"""What the matrix at one site is to be stored as: read, and its kind decided.

The rules are those of `docs/LEGACY_VALUES.md`. Whether a rho holds its invariants, and what is done if it
does not, is for `operations.admission`, as for every other matrix on its way in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from somactl.core import framing
from somactl.core.json_pointer import decode_string
from somactl.core.legacy_json import parse_matrix
from somactl.core.names import KINDS
from somactl.core.projection import trace
from somactl.core.text_encoding import without_mark
from somactl.errors import InputRejected, LimitExceeded, UsageError
from somactl.legacy.values import Site, target_key

TRACE_WINDOW = 0.1
MIRROR_WINDOW = 0.1
MIRROR_SHARE = 0.75
"""What is meant as a density matrix, however badly it is one: `decide_kind`."""

_TILE = 128  # a tile and its mirror image fit into the cache


@dataclass(frozen=True, slots=True)
class Judged:
    """A matrix that was read: what admission needs, and what a plan says of it.

    kind, reason     what it is to be stored as, and why, in words that do not change between runs
    array            two-dimensional, finite; None of an envelope, whose framing and digests are verified
    envelope, header    of an envelope; whom it is addressed to is for admission to compare with `target`
    """

    target: str
    kind: str
    reason: str
    dtype: str
    shape: tuple[int, int]
    array: np.ndarray | None = None
    envelope: bytes | None = None
    header: framing.Header | None = None


def classify(key: str, site: Site, *, kind: str = "auto") -> Judged:
    """Read the matrix at `site` of the value of `key`; `kind` is rho, sketch, matrix or auto.

    Raises InputRejected (InvalidJson, InvalidName, LimitExceeded, an EnvelopeError) naming key and pointer
    where it cannot be migrated whatever its numbers are; UsageError for an unknown kind. Whether a rho is one
    is not asked here.
    """
    if kind not in ("auto", *KINDS):
        raise UsageError(f"kind {kind!r} is none of auto, {', '.join(KINDS)}")
    try:
        if site.defect is not None:
            raise site.defect
        target = target_key(key, site.pointer)
        if site.form == "envelope":
            return _classify_envelope(target, site.text, kind)
        array = parse_matrix(site.text)
    except InputRejected as error:
        raise error.about(_place(key, site.pointer)) from None
    except MemoryError:
        raise LimitExceeded(f"{_place(key, site.pointer)}: the matrix does not fit into memory") from None
    decided, reason = decide_kind(array) if kind == "auto" else (kind, "asked for")
    rows, columns = array.shape
    return Judged(target, decided, reason, array.dtype.name, (rows, columns), array=array)


def decide_kind(array: np.ndarray) -> tuple[str, str]:
    """The kind of a finite matrix for which none was named, and the reason.

    A matrix with fewer rows than columns is a sketch; a square one that is meant as a density matrix is a
    rho, even if it breaks an invariant; every other is a matrix.
    """
    rows, columns = array.shape
    if rows < columns:
        return "sketch", f"{rows} x {columns}: fewer rows than columns"
    if rows > columns:
        return "matrix", f"{rows} x {columns}: more rows than columns"
    total = trace(array)
    if not abs(total - 1.0) <= TRACE_WINDOW:
        return "matrix", f"square, but its trace is {total:.6g}, not within {TRACE_WINDOW} of 1"
    share = _mirrored(array)
    if share < MIRROR_SHARE:
        return "matrix", f"square, trace {total:.6g}, but not Hermitian: {share:.0%} of its entries mirror"
    return "rho", f"square, trace {total:.6g}, {share:.0%} of its entries mirror"


def _mirrored(array: np.ndarray) -> float:
    """The share of entries within MIRROR_WINDOW max|a_jj| of the conjugate of their mirror image.

    No entry of a density matrix exceeds its largest diagonal entry, so that this is its scale; a share
    outlives a few entries that are far off, which no norm of the difference does.
    """
    if len(array) <= _TILE and np.array_equal(array, array.T if array.dtype.kind == "f" else array.conj().T):
        return 1.0
    limit = MIRROR_WINDOW * float(np.abs(array.diagonal()).max())
    close = 0
    starts = range(0, len(array), _TILE)
    with np.errstate(all="ignore"):
        for i, j in ((i, j) for i in starts for j in starts if i <= j):
            upper, lower = array[i : i + _TILE, j : j + _TILE], array[j : j + _TILE, i : i + _TILE]
            mirrored = lower.conj().T
            if np.array_equal(upper, mirrored):  # nearly always, and three passes less
                within = upper.size
            else:
                within = int(np.count_nonzero(np.abs(upper - mirrored) <= limit))
            close += within if i == j else 2 * within
    return close / array.size


def _classify_envelope(target: str, text: bytes, kind: str) -> Judged:
    envelope = text if text.startswith(framing.MAGIC[:4]) else framing.from_text(_unwrapped(text))
    header = framing.verify(envelope)
    decided, reason = (header.kind, "its envelope says so") if kind == "auto" else (kind, "asked for")
    return Judged(target, decided, reason, header.dtype, header.shape, envelope=envelope, header=header)


def _unwrapped(text: bytes) -> str:
    text = without_mark(text).strip()
    while text.startswith(b'"'):
        text = without_mark(decode_string(text).encode("utf-8", "surrogatepass")).strip()
    return text.decode("utf-8", "replace")


def _place(key: str, pointer: str) -> str:
    shown = key if len(key) <= 80 else f"{key[:80]}…"
    return f"key {shown!r} at {pointer!r}" if pointer else f"key {shown!r}"
