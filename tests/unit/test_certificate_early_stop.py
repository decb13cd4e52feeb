"""The proof after a few columns: its bound is true, it agrees with the full route, it gives up in time."""

from __future__ import annotations

import numpy as np
import pytest

from somactl.core import certificate
from somactl.core.certificate import certify, low_rank_bound
from somactl.core.hermitian import from_triangle, hermitian_part
from somactl.core.invariants import check
from somactl.core.verdict import Tolerances
from support.exact import at_least


@pytest.fixture
def at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try the early stop on the small matrices that the referee can judge."""
    monkeypatch.setattr(certificate, "FROM_ORDER", 2)
    monkeypatch.setattr(certificate, "PROBE", 2)
    monkeypatch.setattr(certificate, "concentrated", lambda *_: True)


def low_rank(rng: np.random.Generator, n: int, rank: int, cplx: bool) -> np.ndarray:
    x = rng.standard_normal((n, rank)) + (1j * rng.standard_normal((n, rank)) if cplx else 0.0)
    rho = x @ x.conj().T
    rho = (rho + rho.conj().T) / 2
    return rho / np.trace(rho).real


def negative_part(rng: np.random.Generator, n: int, size: float, cplx: bool) -> np.ndarray:
    v = rng.standard_normal((n, 1)) + (1j * rng.standard_normal((n, 1)) if cplx else 0.0)
    v /= np.linalg.norm(v)
    part = -size * (v @ v.conj().T)
    return (part + part.conj().T) / 2


@pytest.mark.usefixtures("at_any_size")
def test_its_bound_is_true() -> None:
    rng = np.random.default_rng(1)
    proofs = {True: 0, False: 0}
    for _ in range(1500):
        n, cplx = int(rng.integers(4, 20)), bool(rng.integers(2))
        rho = low_rank(rng, n, int(rng.integers(1, n // 2 + 1)), cplx)
        eps = float(rng.choice([1e-8, 1e-10, 1e-12, 2e-14, 1e-14, 5e-15]))
        size = eps * float(rng.choice([0.0, 0.001, 0.01, 0.05, 0.3, 0.99, 1.0, 1.01, 2.0]))
        rho = rho + negative_part(rng, n, size, cplx)
        if rng.random() < 0.2:
            rho = rho + 1e-13 * rng.standard_normal((n, n))
        lower = low_rank_bound(hermitian_part(rho), eps)
        if lower is not None:
            assert lower >= -eps
            assert at_least(rho, lower)
            proofs[size > 0.0] += 1
    assert proofs[False] > 30
    assert proofs[True] > 10


@pytest.mark.usefixtures("at_any_size")
def test_squares_that_underflow_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rho = np.zeros((8, 8))
    rho[0, 0] = 1e-200
    rho[1, 2] = rho[2, 1] = 1e-210  # lambda_min = -1e-210; its square is 0 in float64
    eps = 1e-213
    assert low_rank_bound(hermitian_part(rho), eps) is None
    monkeypatch.setattr(certificate, "NORM_UNDERFLOW", 0.0)
    assert low_rank_bound(hermitian_part(rho), eps) is not None, "the test has lost its power"


@pytest.mark.usefixtures("at_any_size")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nothing_but_finite_entries_get_through(bad: float) -> None:
    rng = np.random.default_rng(2)
    for i in range(10):
        for j in range(i, 10):
            rho = low_rank(rng, 10, 2, False)
            rho[i, j] = rho[j, i] = bad
            with np.errstate(all="ignore"):
                part = hermitian_part(rho)
                assert low_rank_bound(part, 1e-8) is None


@pytest.mark.parametrize("cplx", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("rank", [1, 8, 60, 100])
def test_low_rank_states_stop_early(rank: int, cplx: bool) -> None:
    rho = low_rank(np.random.default_rng(rank), 640, rank, cplx)
    verdict = check(rho)
    assert (verdict.status, verdict.rigour, verdict.route) == ("valid", "proved", "early-stop")
    assert check(rho.copy(), overwrite=True).route == "early-stop"


def test_it_gives_up_on_what_it_cannot_prove() -> None:
    rng = np.random.default_rng(3)
    n = 520
    first_zero = np.zeros((n, n))
    first_zero[-1, -1] = 1.0  # a pure state whose first pivot is zero
    full = low_rank(rng, n, n, False)
    spread = low_rank(rng, n, n // 2, False)
    for rho in (first_zero, full, spread):
        verdict = check(rho)
        assert (verdict.status, verdict.rigour, verdict.route) == ("valid", "proved", "cholesky")


@pytest.mark.parametrize("cplx", [False, True], ids=["real", "complex"])
def test_it_agrees_with_the_full_route(cplx: bool) -> None:
    """A negative part that the full route sees is not passed over."""
    rng = np.random.default_rng(4)
    n = 520
    base = low_rank(rng, n, 6, cplx)
    for size, expected in ((0.0, "valid"), (1e-10, "clampable"), (5e-9, "clampable"), (3e-8, "violated")):
        for where in ("spread", "axis"):
            if where == "axis":
                part = np.zeros((n, n), base.dtype)
                part[-1, -1] = -size - base[-1, -1].real
            else:
                part = negative_part(rng, n, size, cplx)
            rho = base + part
            if where == "axis":
                rho[-1, :-1] = rho[:-1, -1] = 0.0
            verdict = check(rho, Tolerances(trace=1.0))
            assert verdict.status == expected, (size, where, verdict)


def test_the_probe_does_no_harm() -> None:
    """After giving up, the full route works on what the probe has overwritten."""
    rng = np.random.default_rng(5)
    n = 530
    u = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = np.r_[1.0, np.full(n - 1, 1e-4)]  # concentrated, but of full rank
    rho = (u * (values / values.sum())) @ u.T
    rho = (rho + rho.T) / 2
    for source, overwrite in ((rho, False), (rho.copy(), True)):
        part = hermitian_part(source, overwrite=overwrite)
        assert low_rank_bound(part, 1e-8) is None
        assert part.damaged
        bounds = certify(part, 1e-8)
        assert bounds.route == "cholesky"
        assert bounds.lower == -bounds.smallest
    assert from_triangle(np.triu(rho)).work == pytest.approx(rho, abs=0)
