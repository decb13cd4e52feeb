"""Which BLAS factors, whether the theorem covers it, and how many threads it may use.

numpy and scipy each bring an OpenBLAS, and the idle threads of one spin against the working threads of
the other: at n = 512 that turned 7 ms into 23 ms. While a check runs, numpy's is held to one thread and
scipy's to one at n <= 256, where starting a thread costs more than it brings. The limits are process-wide
settings of the two libraries, so overlapping checks share one account of them: the first to come notes
what it finds, checks that run side by side divide the threads among them, and the last to leave puts
everything back.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

from somactl.core.lapack import fblas, flapack

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


class _Threads:
    """The shared account of the process-wide thread limits."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._wishes: list[bool] = []
        self._found: list[tuple[Any, int]] = []

    def enter(self, single: bool) -> None:
        with self._lock:
            if not self._wishes:
                pools = [c for c in (blas().controller, *blas().others) if c is not None]
                self._found = [(c, c.get_num_threads() or 1) for c in pools]
                for controller, threads in self._found:
                    if controller is not blas().controller and threads != 1:
                        controller.set_num_threads(1)
            self._wishes.append(single)
            self._apply()

    def leave(self, single: bool) -> None:
        with self._lock:
            self._wishes.remove(single)
            if self._wishes:
                self._apply()
                return
            for controller, threads in self._found:
                if controller.get_num_threads() != threads:
                    controller.set_num_threads(threads)

    def _apply(self) -> None:
        for controller, threads in self._found:
            if controller is blas().controller:
                share = 1 if all(self._wishes) else max(1, threads // len(self._wishes))
                if controller.get_num_threads() != share:
                    controller.set_num_threads(share)


_threads = _Threads()


@contextmanager
def limited(n: int) -> Iterator[None]:
    """Hold the BLAS libraries to what an n x n check can use, and restore what was set before.

    Safe from several threads at once. Code of other threads that computes through numpy's BLAS meanwhile
    runs single-threaded, and a limit it sets meanwhile is overwritten when the last check leaves.
    """
    single = n <= SINGLE_THREADED_UP_TO
    _threads.enter(single)
    try:
        yield
    finally:
        _threads.leave(single)
