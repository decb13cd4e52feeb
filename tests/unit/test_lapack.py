"""The way in to LAPACK: cheap to load, right, free of the GIL, and considerate with threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from somactl.core import lapack
from somactl.core.invariants import check
from somactl.core.lapack import (
    blas,
    describe_blas,
    eliminate,
    factor_rows,
    flapack,
    limited,
    potrf,
    solve_adjoint,
)

BOTH = pytest.mark.parametrize("cplx", [False, True], ids=["real", "complex"])


def positive(n: int, cplx: bool) -> np.ndarray:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if cplx else 0.0)
    a = x @ x.conj().T
    return (a + a.conj().T) / 2


def pools() -> dict[str, int]:
    return {
        c.filepath: c.get_num_threads()
        for c in ThreadpoolController().lib_controllers
        if c.user_api == "blas"
    }


def test_loading_lapack_does_not_load_scipy() -> None:
    code = (
        "import sys; from somactl.core.lapack import flapack, fblas; flapack().dpotrf; fblas().dtrsm;"
        "print([m for m in sys.modules if m.startswith('scipy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@BOTH
@pytest.mark.parametrize("n", [1, 2, 7, 150])
def test_potrf_factors_the_transpose(n: int, cplx: bool) -> None:
    a = positive(n, cplx)
    work = a.copy()
    assert potrf(work, n) == 0
    lower = np.tril(work.T)
    assert lower @ lower.conj().T == pytest.approx(a.T)
    assert np.array_equal(np.tril(work, -1), np.tril(a, -1))  # the other triangle is not touched


@BOTH
def test_potrf_names_the_failing_column(cplx: bool) -> None:
    a = positive(9, cplx)
    a[5, 5] = -1.0
    assert potrf(a, 9) == 6


@BOTH
def test_eliminate_leaves_the_schur_complement(cplx: bool) -> None:
    n, k = 40, 13
    a = positive(n, cplx)
    work = a.copy()
    assert potrf(work, k) == 0
    eliminate(work, k)
    w = a.T
    schur = w[k:, k:] - w[k:, :k] @ np.linalg.solve(w[:k, :k], w[:k, k:])
    assert np.tril(work.T[k:, k:]) == pytest.approx(np.tril(schur), abs=1e-10)
    assert np.array_equal(np.tril(work, -1), np.tril(a, -1))


@BOTH
def test_solve_adjoint(cplx: bool) -> None:
    work = positive(20, cplx)
    potrf(work, 20)
    vector = np.arange(1.0, 12.0).astype(work.dtype)
    solved = vector.copy()
    solve_adjoint(work, 11, solved)
    assert np.tril(work.T[:11, :11]).conj().T @ solved == pytest.approx(vector)


@BOTH
@pytest.mark.parametrize("n", [1, 2, 5, 8, 60, 61])
def test_packed_rows_are_factored_as_the_wrapper_does(n: int, cplx: bool) -> None:
    letter = "z" if cplx else "d"
    packed = getattr(flapack(), letter + "trttf")(positive(n, cplx).T, transr="N", uplo="L")[0]
    expected = getattr(flapack(), letter + "pftrf")(n, packed.copy(), transr="N", uplo="L")[0]
    assert factor_rows(packed.reshape(1, -1), n, [0], packed=True) == []
    assert np.array_equal(packed, expected)


def test_lapack_reports_success_on_nan() -> None:
    """The trap that makes the factor's diagonal worth looking at."""
    a = positive(30, False)
    a[4, 20] = a[20, 4] = np.nan
    info = potrf(a, 30)
    assert info != 0 or not np.isfinite(a.diagonal()).all()


def test_factoring_lets_other_threads_run() -> None:
    """f2py's own wrapper holds the GIL from start to end."""
    work = positive(1200, False)
    counter, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counter[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        advanced = 0
        for _ in range(50):
            scratch = work.copy()
            before = counter[0]
            potrf(scratch, 1200)
            advanced = max(advanced, counter[0] - before)
            if advanced > 1000:
                break
    finally:
        stop.set()
        thread.join()
    assert advanced > 1000


def test_the_blas_is_identified() -> None:
    found = blas()
    assert found.conventional, found
    assert found.name.startswith(("openblas", "reference"))
    assert describe_blas().startswith(found.name)


def test_what_is_reference_blas() -> None:
    assert lapack._is_reference("/usr/lib/x86_64-linux-gnu/blas/libblas.so.3.11.0")
    assert lapack._is_reference("/usr/lib/x86_64-linux-gnu/lapack/liblapack.so.3")
    for path in (
        "/opt/mkl/libmkl_rt.so",
        "/usr/lib/atlas/libblas.so.3",
        "/usr/lib/blis-pthread/libblas.so.4",
    ):
        assert not lapack._is_reference(path)


def test_threads_are_limited_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pools()
    ours = blas().controller
    assert ours is not None
    with limited(256):
        assert set(pools().values()) == {1}
    assert pools() == before
    with limited(257):
        now = pools()
        assert now[ours.filepath] == before[ours.filepath]
        assert all(count == 1 for path, count in now.items() if path != ours.filepath)
        with limited(64):  # a second check, in another thread say: the two share
            assert pools()[ours.filepath] == max(1, before[ours.filepath] // 2)
        assert pools()[ours.filepath] == before[ours.filepath]
    assert pools() == before

    def explode(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("somactl.core.invariants.certify", explode)
    with pytest.raises(RuntimeError):
        check(np.eye(2) / 2)
    assert pools() == before


def test_checks_in_many_threads_agree_and_restore_the_limits() -> None:
    blas()  # whose library is loaded by now
    before = pools()
    rng = np.random.default_rng(0)

    def one(n: int) -> str:
        x = np.random.default_rng(n).standard_normal((n, n))
        a = x @ x.T
        a = (a + a.T) / 2
        return check(a / np.trace(a)).status

    with ThreadPoolExecutor(4) as threads:
        statuses = list(threads.map(one, rng.integers(2, 400, 60).tolist()))
    assert statuses == ["valid"] * 60
    assert pools() == before


def test_a_limit_holds_whichever_thread_asks_for_it() -> None:
    """threadpoolctl may hear the first thread alone, which here is another one that goes on living."""
    controller = blas().controller
    if controller is None:
        pytest.skip("the BLAS here cannot be told how many threads to use")
    found = controller.get_num_threads()
    asked, over = threading.Event(), threading.Event()

    def first() -> None:
        getattr(controller, "clear_controlling_thread", lambda force: None)(force=True)
        controller.set_num_threads(2)
        asked.set()
        over.wait()

    thread = threading.Thread(target=first)
    thread.start()
    try:
        asked.wait()
        with limited(64):
            assert controller.get_num_threads() == 1
        assert controller.get_num_threads() == 2
        lapack.share_threads(2)
        assert controller.get_num_threads() == 1
    finally:
        over.set()
        thread.join()
        lapack._allow(controller, found)
