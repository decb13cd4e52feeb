"""LAPACK and BLAS without `import scipy.linalg`, which takes some 250 ms and pulls in most of scipy.

scipy's wrappers are two extension modules that depend on nothing else in scipy. Loading them from their
files takes a few milliseconds; where a scipy lays its files out otherwise we pay for the import.

f2py's wrappers hold the GIL while they work and copy whatever is not a whole Fortran array. The routines
below call the same machine code through the pointers f2py publishes (`_cpointer`): worker threads then
factor side by side, and a block of a larger array is factored where it stands.

Convention: `work` is a C-contiguous n x n array of float64 or complex128. LAPACK, which counts columns
first, sees its transpose W = work.T, so that "the lower triangle of W" is the upper one of `work`, and a
Hermitian matrix is seen as its conjugate, which has the same spectrum.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_ARGUMENT: dict[str, Any] = {"c": c_char_p, "i": ctypes.POINTER(c_int), "p": c_void_p}
_SIGNATURES = {
    "potrf": "cipii",
    "pftrf": "ccipi",
    "trsm": "cccciippipi",
    "herk": "cciippippi",
    "trsv": "ccci" + "pipi",
}


@cache
def flapack() -> ModuleType:
    """scipy's f2py wrappers of LAPACK: `dpotrf`, `dpftrf`, `dtrttf`, `dtfttr`, ... and the z-forms."""
    return _load("_flapack", "lapack")


@cache
def fblas() -> ModuleType:
    """scipy's f2py wrappers of BLAS."""
    return _load("_fblas", "blas")


def _load(extension: str, public: str) -> ModuleType:
    package = importlib.util.find_spec("scipy")
    for location in (package.submodule_search_locations or []) if package else []:
        for suffix in EXTENSION_SUFFIXES:
            path = os.path.join(location, "linalg", extension + suffix)
            if os.path.exists(path):
                loader = ExtensionFileLoader(extension, path)
                spec = importlib.util.spec_from_file_location(extension, path, loader=loader)
                assert spec is not None
                try:
                    module = importlib.util.module_from_spec(spec)
                    loader.exec_module(module)
                except ImportError:  # Windows: only scipy's own start-up code finds its libraries
                    continue
                return module
    return importlib.import_module(f"scipy.linalg.{public}")


@cache
def _routine(name: str, letter: str) -> Callable[..., None]:
    """The machine code of one routine; each character argument takes its hidden length at the end."""
    real = {"herk": "syrk"}.get(name, name) if letter == "d" else name
    module = flapack() if name in {"potrf", "pftrf"} else fblas()
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = c_void_p, [ctypes.py_object, c_char_p]
    pointer = address(getattr(module, letter + real)._cpointer, None)
    signature = _SIGNATURES[name]
    lengths = [c_size_t] * signature.count("c")
    return ctypes.CFUNCTYPE(None, *(_ARGUMENT[kind] for kind in signature), *lengths)(pointer)


def _letter(array: Array) -> str:
    return "z" if array.dtype.kind == "c" else "d"


def _at(work: Array, row: int, column: int) -> int:
    """Address of W[row, column]."""
    return int(work.ctypes.data + (row + column * work.shape[0]) * work.itemsize)


def potrf(work: Array, order: int) -> int:
    """Factor W = L L^H in its leading block of that order, in place; only the lower triangle is touched.

    Returns LAPACK's info: 0, or the 1-based column whose pivot was not positive. A NaN may go unnoticed;
    it then stands on the factor's diagonal.
    """
    info = c_int()
    lda = byref(c_int(work.shape[0]))
    _routine("potrf", _letter(work))(b"L", byref(c_int(order)), _at(work, 0, 0), lda, byref(info), 1)
    return int(info.value)


def pftrf(packed: Array, n: int) -> int:
    """Factor a Hermitian matrix in RFP form (transr N, uplo L) in place; info as for `potrf`."""
    info = c_int()
    _routine("pftrf", _letter(packed))(b"N", b"L", byref(c_int(n)), packed.ctypes.data, byref(info), 1, 1)
    return info.value


def eliminate(work: Array, k: int) -> None:
    """Given the leading k x k factor L11 in W, form L21 = W21 L11^-H and S = W22 - L21 L21^H in place.

    Only the lower triangle of S is written. Conventional arithmetic: one triangular solve, one rank-k update.
    """
    letter = _letter(work)
    n = work.shape[0]
    lda, order, rest = byref(c_int(n)), byref(c_int(k)), byref(c_int(n - k))
    one, minus = (ctypes.c_double * 2)(1.0, 0.0), (ctypes.c_double * 2)(-1.0, 0.0)
    l11, l21, s = _at(work, 0, 0), _at(work, k, 0), _at(work, k, k)
    _routine("trsm", letter)(b"R", b"L", b"C", b"N", rest, order, one, l11, lda, l21, lda, 1, 1, 1, 1)
    trans = b"N"
    _routine("herk", letter)(b"L", trans, rest, order, minus, l21, lda, one, s, lda, 1, 1)


def solve_adjoint(work: Array, k: int, vector: Array) -> None:
    """vector := L11^-H vector, L11 the leading k x k factor in W; `vector` is contiguous, of W's type."""
    lda, one = byref(c_int(work.shape[0])), byref(c_int(1))
    data = vector.ctypes.data
    _routine("trsv", _letter(work))(
        b"L", b"C", b"N", byref(c_int(k)), _at(work, 0, 0), lda, data, one, 1, 1, 1
    )


def rfp_diagonal(n: int) -> Array:
    """Positions of the n diagonal entries in an RFP array (transr N, uplo L), shape (n,), int64.

    LAPACK Working Note 199: with m = (n + 1) // 2 columns of n + (n even) rows, the first m entries stand
    on the array's diagonal (one row down for even n), the others on the diagonal of the folded triangle.
    """
    import numpy as np

    first, rows, below = (n + 1) // 2, n + 1 - n % 2, 1 - n % 2
    j = np.arange(n, dtype=np.int64)
    head = j[:first] * (rows + 1) + below
    fold = j[: n - first] * (rows + 1) + (rows if n % 2 else 0)
    return np.concatenate([head, fold])
