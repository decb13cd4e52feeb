"""`--method eigen` against exact arithmetic: eigenvalues decide as far as their rounding error lets them."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from somactl.core import spectrum
from somactl.core.certificate import smallest_tolerance
from somactl.core.hermitian import hermitian_part
from somactl.core.invariants import check
from somactl.core.spectrum import eigenvalue_error
from somactl.core.verdict import Tolerances
from support.exact import at_least, hadamard

CASES = 40_000 if os.environ.get("SOMACTL_TEST_NIGHT") else 1_500
ANY = Tolerances(trace=math.inf)
U = 2.0**-53


def indefinite(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A Hermitian matrix of any trace whose lambda_min lies a few roundings from -eps."""
    n, cplx = int(rng.integers(1, 9)), bool(rng.integers(2))
    eps = float(rng.choice([1e-8, 1e-3, 0.5, 1.0, 3.0]))
    values = {
        "negative": -eps * rng.random(n),
        "both": eps * rng.uniform(-1.0, 1.0, n),
        "one": np.full(n, -eps),
        "state": rng.random(n) / n,
    }[str(rng.choice(["negative", "both", "one", "state"]))]
    norm = max(float(np.linalg.norm(values)), eps)
    values[0] = -eps + float(rng.choice([-1, 1])) * 2.0 ** float(rng.uniform(-2, 8)) * U * norm
    x = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if cplx else 0.0)
    u = np.linalg.qr(x)[0]
    h = (u * values) @ u.conj().T
    h = (h + h.conj().T) / 2
    if rng.random() < 0.2:
        h = h + 1e-12 * rng.standard_normal((n, n))
    return h, eps


def wrong_verdicts(cases: int) -> int:
    rng = np.random.default_rng(21)
    wrong = 0
    for _ in range(cases):
        matrix, eps = indefinite(rng)
        verdict = check(matrix, Tolerances(psd=eps, trace=math.inf), method="eigen")
        if verdict.psd_ok is not None and verdict.psd_ok != at_least(matrix, -eps):
            wrong += 1
        if verdict.lambda_min_upper is not None:
            assert not at_least(matrix, np.nextafter(verdict.lambda_min_upper, 9.0))
    return wrong


def test_no_verdict_by_eigenvalues_is_wrong() -> None:
    assert wrong_verdicts(CASES) == 0


def test_a_doubt_taken_from_positive_diagonal_entries_would_be_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        spectrum, "eigenvalue_error", lambda p: smallest_tolerance(p.diagonal, p.charge, p.is_complex)
    )
    assert wrong_verdicts(1_000) > 5


@pytest.mark.parametrize("cplx", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("n", [2, 4, 16, 64, 256])
def test_computed_eigenvalues_stay_within_an_eighth_of_the_doubt(n: int, cplx: bool) -> None:
    """Spectra that are known exactly, of either sign and both."""
    rng = np.random.default_rng(n)
    for trial in range(40 if n < 100 else 4):
        values = rng.integers(-(2**30), 2**30, n)
        if trial % 3 == 1:
            values = -np.abs(values)
        elif trial % 3 == 2:
            values = (2.0 ** rng.uniform(0, 30, n)).astype(np.int64) * rng.choice([-1, 1], n)
        matrix = hadamard(values.tolist(), 30, is_complex=cplx, seed=trial)
        computed = np.linalg.eigvalsh(matrix)
        off = float(np.max(np.abs(computed - np.sort(values) * 2.0**-30)))
        assert off <= eigenvalue_error(hermitian_part(matrix)) / 8.0 + 2.0**-900


def test_a_doubt_as_large_as_the_tolerance_accepts_nothing() -> None:
    """lambda_min in [-2 doubt, 0) is called valid only if 2 doubt fits into eps."""
    rho = np.diag([0.5, 0.5])
    doubt = eigenvalue_error(hermitian_part(rho))
    assert check(rho, Tolerances(psd=2.0 * doubt), method="eigen").status == "valid"
    slightly = np.diag([1.0 + doubt, -0.9 * doubt])
    for share in (0.5, 1.0, 1.5):  # up to doubt below what was computed
        assert check(slightly, Tolerances(psd=share * doubt), method="eigen").psd_ok is not True


@pytest.mark.parametrize("scale", [1e-200, 1e-300, 1e300])
def test_norms_whose_squares_leave_the_range_decide_nothing_wrongly(scale: float) -> None:
    for lowest in (-1.0, -1e-3, 0.0, 1.0):
        matrix = scale * np.array([[1.0 + lowest, 1.0 - lowest], [1.0 - lowest, 1.0 + lowest]]) / 2.0
        for eps in (scale, 1e-3 * scale, 1e-8):
            verdict = check(matrix, Tolerances(psd=eps, trace=math.inf), method="eigen")
            assert verdict.psd_ok in (None, at_least(matrix, -eps))


def test_an_unknown_method_is_refused() -> None:
    from somactl.errors import UsageError

    with pytest.raises(UsageError, match="certify, eigen, sampled"):
        check(np.eye(2) / 2, ANY, method="bogus")  # type: ignore[arg-type]
