"""LAPACK and BLAS without `import scipy.linalg`, which takes some 250 ms and pulls in most of scipy.

scipy's wrappers are two extension modules that depend on nothing else in scipy. Loading them from their
files takes a few milliseconds; where a scipy lays its files out otherwise we pay for the import.

f2py's wrappers hold the GIL while they work and copy whatever is not a whole Fortran array. The routines
below call the same machine code through the pointers f2py publishes (`_cpointer`): worker threads then
factor side by side, and a block of a larger array is factored where it stands.

Convention: `work` is a C-contiguous n x n array of float64 or complex128. LAPACK, which counts columns
first, sees its transpose W = work.T, so that "the lower triangle of W" is the upper one of `work`, and a
Hermitian matrix is seen as its conjugate, which has the same spectrum.

numpy and scipy each bring an OpenBLAS, and the idle threads of one spin against the working threads of
the other: at n = 512 that turned 7 ms into 23 ms. While a check runs, numpy's is held to one thread and
scipy's to one at n <= 256, where starting a thread costs more than it brings. The limits are process-wide
settings of the two libraries, so overlapping checks share one account of them: the first to come notes
what it finds, checks that run side by side divide the threads among them, and the last to leave puts
everything back.

Every proof assumes that arithmetic rounds to nearest (docs/CERTIFICATE.md, A1). The rounding mode is a
register of each thread's processor state, which any library may change (`fesetround`, a solver for
intervals) and a new thread inherits. So the calling thread is asked at every check, which takes a fraction
of a microsecond, and the threads of BLAS, which live as long as the process, once. Flushing denormal
numbers to zero is another bit of that register; the bounds have room for it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

HELD_UP_TO = 32
"""The largest n whose rows are factored without letting go of the GIL: that takes longer than the work."""

_ARGUMENT: dict[str, Any] = {"c": c_char_p, "i": ctypes.POINTER(c_int), "p": c_void_p}
_SIGNATURES = {
    "potrf": "cipii",
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
def _address(name: str, letter: str) -> int:
    real = {"herk": "syrk"}.get(name, name) if letter == "d" else name
    module = flapack() if name in {"potrf", "pftrf"} else fblas()
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = c_void_p, [ctypes.py_object, c_char_p]
    return int(address(getattr(module, letter + real)._cpointer, None))


@cache
def _routine(name: str, letter: str) -> Callable[..., None]:
    """The machine code of one routine; each character argument takes its hidden length at the end."""
    signature = _SIGNATURES[name]
    lengths = [c_size_t] * signature.count("c")
    prototype = ctypes.CFUNCTYPE(None, *(_ARGUMENT[kind] for kind in signature), *lengths)
    return prototype(_address(name, letter))


@cache
def _untyped(name: str, letter: str, held: bool) -> Callable[..., None]:
    """The same for arguments that are objects of ctypes already, with the GIL `held` or without it."""
    return (ctypes.PYFUNCTYPE if held else ctypes.CFUNCTYPE)(None)(_address(name, letter))


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


def factor_rows(rows: Array, n: int, which: Iterable[int], *, packed: bool) -> list[int]:
    """Factor the Hermitian matrices in those rows in place; those that LAPACK could not.

    rows    C-contiguous, float64 or complex128; a row may be longer than its matrix
    packed  a row holds a matrix in RFP form (transr N, uplo L), for `?pftrf`; else it is a C-ordered n x n
            one, which is factored as `potrf` does it
    """
    info, at, length = c_int(), c_void_p(), c_size_t(1)
    order = byref(c_int(n))
    arguments: tuple[Any, ...] = (c_char_p(b"L"), order, at, order, byref(info), length)
    if packed:
        arguments = (c_char_p(b"N"), c_char_p(b"L"), order, at, byref(info), length, length)
    call = _untyped("pftrf" if packed else "potrf", _letter(rows), n <= HELD_UP_TO)
    first, step = rows.ctypes.data, rows.strides[0]
    failed = []
    for row in which:
        at.value = first + row * step
        call(*arguments)
        if info.value:
            failed.append(row)
    return failed


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


@lru_cache(maxsize=32)
def rfp_diagonal(n: int) -> Array:
    """Positions of the n diagonal entries in an RFP array (transr N, uplo L), shape (n,), int64, read-only.

    LAPACK Working Note 199: with m = (n + 1) // 2 columns of n + (n even) rows, the first m entries stand
    on the array's diagonal (one row down for even n), the others on the diagonal of the folded triangle.
    """
    import numpy as np

    first, rows, below = (n + 1) // 2, n + 1 - n % 2, 1 - n % 2
    j = np.arange(n, dtype=np.int64)
    head = j[:first] * (rows + 1) + below
    fold = j[: n - first] * (rows + 1) + (rows if n % 2 else 0)
    positions = np.concatenate([head, fold])
    positions.flags.writeable = False
    return positions


SINGLE_THREADED_UP_TO = 256


@dataclass(frozen=True, slots=True)
class Blas:
    """The library behind scipy's LAPACK (`None` where it could not be told) and the others beside it."""

    name: str
    conventional: bool
    controller: Any
    others: tuple[Any, ...]


@cache
def blas() -> Blas:
    """Identify the BLAS that factors: by the file its symbols come from, else by elimination."""
    from threadpoolctl import ThreadpoolController

    files = {_file_of(flapack().__file__, "dpotrf"), _file_of(fblas().__file__, "dtrsm")}
    pools = [c for c in ThreadpoolController().lib_controllers if c.user_api == "blas"]
    ours = [c for c in pools if os.path.realpath(c.filepath) in files]
    if not ours and files == {None}:
        ours = pools if len(pools) == 1 else [c for c in pools if "scipy" in c.filepath.lower()]
    others = tuple(c for c in pools if c not in ours)
    if len(ours) == 1 and len(files) == 1:
        found = ours[0]
        architecture = getattr(found, "architecture", None)
        words = (found.internal_api, found.version, architecture)
        return Blas(" ".join(str(w) for w in words if w), found.internal_api == "openblas", found, others)
    if None not in files and all(_is_reference(str(file)) for file in files):
        return Blas("reference", True, None, others)
    return Blas("unknown", False, None, others)


def describe_blas() -> str:
    """The BLAS that factors, e.g. `openblas 0.3.30 SkylakeX, 2 threads`."""
    found, threads = blas(), threads_allowed()
    if found.controller is None:
        return found.name
    return f"{found.name}, {threads} thread{'s' if threads != 1 else ''}"


def threads_allowed() -> int:
    """How many threads the BLAS that factors may use at present, hence a check altogether; 1 if unknown."""
    controller = blas().controller
    return 1 if controller is None else int(controller.get_num_threads() or 1)


class _Info(ctypes.Structure):
    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _file_of(extension: str | None, routine: str) -> str | None:
    """The library where the linker finds `routine` for that extension module; None if it cannot tell."""
    if extension is None or os.name == "nt" or not hasattr(ctypes.CDLL(None), "dladdr"):
        return None
    library = ctypes.CDLL(extension)
    for symbol in (f"scipy_{routine}_", f"{routine}_", f"scipy_{routine}", routine):
        if hasattr(library, symbol):
            info = _Info()
            address = ctypes.cast(getattr(library, symbol), ctypes.c_void_p)
            if ctypes.CDLL(None).dladdr(address, ctypes.byref(info)) and info.file:
                return os.path.realpath(os.fsdecode(info.file))
    return None


def _is_reference(path: str) -> bool:
    """Whether that is Netlib's own, as Debian files it: `blas/libblas.so.3`, `lapack/liblapack.so.3`."""
    return re.search(r"/(blas|lapack)/lib\1\.so[.\d]*$", path) is not None


def _allow(controller: Any, threads: int) -> None:
    """Hold one BLAS library to so many threads, whichever thread asks.

    threadpoolctl 3.7 and later hear none but the first thread that ever asked, for as long as it lives. Every
    other one would factor small matrices on all cores, which takes ten times as long.
    """
    clear = getattr(controller, "clear_controlling_thread", lambda force: None)
    clear(force=True)
    controller.set_num_threads(threads)
    clear(force=True)


@cache
def _pools() -> tuple[Any, ...]:
    return tuple(c for c in (blas().controller, *blas().others) if c is not None)


class _Threads:
    """The shared account of the process-wide thread limits."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._wishes: list[bool] = []
        self._found: list[tuple[Any, int]] = []
        self._set: list[int] = []

    def enter(self, single: bool) -> None:
        with self._lock:
            if not self._wishes:
                self._found = [(c, c.get_num_threads() or 1) for c in _pools()]
                self._set = [threads for _, threads in self._found]
            self._wishes.append(single)
            self._apply()

    def leave(self, single: bool) -> None:
        with self._lock:
            self._wishes.remove(single)
            self._apply()

    def _apply(self) -> None:
        ours, wishes = blas().controller, self._wishes
        for index, (controller, threads) in enumerate(self._found):
            wanted = threads if not wishes else 1
            if controller is ours and not all(wishes):
                wanted = max(1, threads // len(wishes))
            # Each question to a library takes a microsecond: what was set is remembered.
            if self._set[index] != wanted:
                _allow(controller, wanted)
                self._set[index] = wanted


_threads = _Threads()


@contextmanager
def limited(n: int) -> Iterator[None]:
    """Hold the BLAS libraries to what an n x n check can use, and restore what was set before.

    Safe from several threads at once. Code of other threads that computes through numpy's BLAS meanwhile
    runs single-threaded, and a limit it sets meanwhile is overwritten when the last check leaves, unless
    that finds nothing to restore.
    """
    single = n <= SINGLE_THREADED_UP_TO
    _threads.enter(single)
    try:
        yield
    finally:
        _threads.leave(single)


def share_threads(parts: int) -> None:
    """Hold this process, one of `parts` that compute side by side, to its share of the machine's threads."""
    controller = blas().controller
    if controller is not None:
        _allow(controller, max(1, threads_allowed() // parts))


NOT_TO_NEAREST = "arithmetic does not round to nearest"

# Variables, since a compiler would add constants up in its own rounding mode.
_one, _half_ulp, _more = 1.0, 2.0**-53, 1.5 * 2.0**-53


def rounds_to_nearest() -> bool:
    """Whether this thread rounds to nearest, ties to even; each other mode fails one of the sums."""
    return _one + _half_ulp == _one and -_one - _half_ulp == -_one and _one + _more > _one


@cache
def blas_threads_round_to_nearest() -> bool:
    """The same sums as inner products of a matrix product that is large enough to occupy every thread."""
    terms = np.zeros((64, 513), order="F")
    terms[:2, 0::3] = [[_one], [_half_ulp]]
    terms[:2, 1::3] = [[-_one], [-_half_ulp]]
    terms[:2, 2::3] = [[_one], [_more]]
    sums = fblas().dgemm(1.0, np.ones((513, 64), order="F"), terms)
    expected = [_one, -_one, _one + 2.0 * _half_ulp] * 171
    return bool(np.all(sums == expected))
