"""What the certificate proves is true: every bound it gives is put before exact arithmetic.

Never once may a proof be false, in either direction; and the tests that look for a false proof must be able
to find one, which they show by finding some when the rounding bound is taken away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from somactl.core import certificate
from somactl.core.certificate import rounding_bound, weights
from somactl.core.hermitian import hermitian_part
from somactl.core.invariants import check, check_packed
from somactl.core.lapack import flapack, potrf
from somactl.core.verdict import Tolerances, Verdict
from support.exact import at_least, hadamard

ANY_TRACE = math.inf
OFFSETS = (
    -1e4,
    -100.0,
    -10.0,
    -3.0,
    -2.0,
    -1.1,
    -0.9,
    -0.5,
    -0.1,
    -0.01,
    0.0,
    0.01,
    0.5,
    0.9,
    1.1,
    2.1,
    10.0,
    1e4,
)
"""Where lambda_min is put, in units of the rounding bound c from -eps."""


def unitary(rng: np.random.Generator, n: int, cplx: bool) -> np.ndarray:
    x = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if cplx else 0.0)
    return np.linalg.qr(x)[0]


def with_lowest(rng: np.random.Generator, n: int, lowest: float, cplx: bool, kind: str) -> np.ndarray:
    """A Hermitian matrix of trace about 1, of that lowest eigenvalue up to rounding, exactly Hermitian."""
    values = {
        "full": rng.random(n) + 0.1,
        "low rank": np.where(np.arange(n) < max(1, n // 4), 1.0, 0.0),
        "decades": 10.0 ** -rng.uniform(0, 16, n),
        "pure": np.eye(1, n, n - 1)[0],
    }[kind]
    values = values / values.sum()
    values[0] = lowest
    u = unitary(rng, n, cplx)
    if kind == "decades":  # graded rows as well
        scale = 10.0 ** -rng.uniform(0, 4, n)
        scale[0] = 1.0
        bulk = (u * values) @ u.conj().T
        np.fill_diagonal(bulk, bulk.diagonal().real)
        bulk[0, 1:] = bulk[1:, 0] = 0.0
        bulk = bulk * np.outer(scale, scale)
        bulk[0, 0] = lowest
        return (bulk + bulk.conj().T) / 2
    h = (u * values) @ u.conj().T
    return (h + h.conj().T) / 2


def near_the_limit(
    count: int, sizes: list[int], seed: int, offsets=OFFSETS
) -> Iterator[tuple[np.ndarray, float]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n, cplx = int(rng.choice(sizes)), bool(rng.random() < 0.45)
        eps = float(rng.choice([1e-8, 1e-6, 1e-11, 3e-12, 2.0**-27]))
        kind = str(rng.choice(["full", "low rank", "decades", "pure"]))
        c = rounding_bound(np.full(n, 1.0 / n), eps, 0.0, cplx)
        matrix = with_lowest(rng, n, -eps + float(rng.choice(offsets)) * c, cplx, kind)
        if rng.random() < 0.2:  # asymmetric within the tolerance: judged by its Hermitian part
            noise = rng.standard_normal((n, n)) * float(rng.choice([1e-17, 1e-14, 1e-10]))
            matrix = matrix + noise
        yield matrix, eps


def assert_true(verdict: Verdict, matrix: np.ndarray) -> None:
    """Every claim of the verdict about lambda_min, against the referee."""
    eps = verdict.tolerances.psd
    if verdict.lambda_min_lower is not None:
        assert at_least(matrix, verdict.lambda_min_lower), "a false lower bound"
    if verdict.lambda_min_upper is not None:
        assert not at_least(matrix, np.nextafter(verdict.lambda_min_upper, 1.0)), "a false witness"
    if verdict.status in ("valid", "clampable"):
        assert verdict.rigour == "proved"
        assert verdict.lambda_min_lower is not None
        assert verdict.lambda_min_lower >= -eps
    if verdict.status == "violated":
        assert verdict.lambda_min_upper is not None
        assert verdict.lambda_min_upper < -eps


def packed_of(matrix: np.ndarray) -> np.ndarray:
    lapack = flapack()
    pack = lapack.ztrttf if matrix.dtype.kind == "c" else lapack.dtrttf
    return pack(np.ascontiguousarray(matrix).T, transr="N", uplo="L")[0]


def test_no_proof_is_false_near_the_limit() -> None:
    seen = {"valid": 0, "clampable": 0, "violated": 0, "undecided": 0}
    for matrix, eps in near_the_limit(1500, [1, 2, 3, 4, 5, 7, 8, 11, 13, 16], seed=1):
        verdict = check(matrix, Tolerances(psd=eps, trace=ANY_TRACE))
        assert_true(verdict, matrix)
        seen[verdict.status] += 1
    # At the limit itself nothing can be decided; everywhere else something must be.
    assert min(seen["clampable"], seen["violated"], seen["undecided"]) > 100, seen


def test_no_proof_is_false_for_middling_sizes() -> None:
    for matrix, eps in near_the_limit(60, [24, 33, 48, 64], seed=2):
        assert_true(check(matrix, Tolerances(psd=eps, trace=ANY_TRACE)), matrix)
    for matrix, eps in near_the_limit(3, [129], seed=3):  # more than a tile
        assert_true(check(matrix, Tolerances(psd=eps, trace=ANY_TRACE)), matrix)


def test_no_proof_is_false_from_packed_bytes() -> None:
    for matrix, eps in near_the_limit(400, [1, 2, 3, 4, 5, 8, 9, 14, 15], seed=4):
        hermitian = (matrix + matrix.conj().T) / 2
        np.fill_diagonal(hermitian, hermitian.diagonal().real)
        tolerances = Tolerances(psd=eps, trace=ANY_TRACE)
        verdict = check_packed(packed_of(hermitian), len(hermitian), tolerances)
        assert_true(verdict, hermitian)
        assert verdict.status == check(hermitian, tolerances).status


def test_no_proof_is_false_in_the_matrix_s_own_memory() -> None:
    for matrix, eps in near_the_limit(400, [1, 2, 3, 5, 8, 13], seed=5):
        tolerances = Tolerances(psd=eps, trace=ANY_TRACE)
        verdict = check(matrix.copy(), tolerances, overwrite=True)
        assert_true(verdict, matrix)
        assert verdict.status == check(matrix, tolerances).status


def test_rank_deficient_and_valid_states_are_valid() -> None:
    rng = np.random.default_rng(6)
    for _ in range(300):
        n, cplx = int(rng.integers(1, 20)), bool(rng.integers(2))
        rank = int(rng.integers(1, n + 1))
        x = rng.standard_normal((n, rank)) + (1j * rng.standard_normal((n, rank)) if cplx else 0.0)
        rho = x @ x.conj().T
        rho = (rho + rho.conj().T) / 2
        rho /= np.trace(rho).real
        verdict = check(rho)
        assert (verdict.status, verdict.rigour) == ("valid", "proved"), verdict
        assert verdict.lambda_min_lower is not None
        assert verdict.lambda_min_lower >= -1.01 * 2.0 * rounding_bound(rho.diagonal().real, 0.0, 0.0, cplx)
        assert_true(verdict, rho)


@pytest.mark.parametrize("cplx", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("n", [2, 16, 64, 256, 512])
def test_exactly_known_spectra(n: int, cplx: bool) -> None:
    """lambda_min at -eps to within single units of 2^-50, and far off, where the eigenvalues are integers."""
    exponent, unit = 50, 2.0**-50
    eps = 2.0**-27
    limit = round(eps / unit)
    c = rounding_bound(np.full(n, 1.0 / n), eps, 0.0, cplx) / unit
    rng = np.random.default_rng(n)
    for offset in (
        -1000.0 * c,
        -8.0 * c,
        -2.0 * c,
        -1.0,
        0.0,
        1.0,
        2.2 * c,
        8.0 * c,
        limit - 40.0 * c,
        limit,
    ):
        lowest = -limit + math.floor(offset)
        rank = n if offset < limit else max(1, n // 2)
        spectrum = np.zeros(n, dtype=np.int64)
        spectrum[1:rank] = rng.integers(2**50 // (4 * n), 2**50 // (2 * n), max(0, rank - 1))
        spectrum[0] = lowest
        matrix = hadamard(spectrum.tolist(), exponent, is_complex=cplx, seed=n)
        exact = lowest * unit
        verdict = check(matrix, Tolerances(psd=eps, trace=ANY_TRACE))
        lower, upper = verdict.lambda_min_lower, verdict.lambda_min_upper
        assert lower is None or lower <= exact
        assert upper is None or upper >= exact
        assert verdict.hermitian_error == 0.0
        if exact < -eps:
            assert verdict.status in ("violated", "undecided")
        else:
            assert verdict.status in ("valid", "clampable", "undecided")
        if abs(offset) > 2.1 * c:  # outside the band of some 2c the theorem leaves open, and W's error
            expected = "valid" if lowest >= 0 else "clampable"
            assert verdict.status == ("violated" if offset < 0 and abs(offset) >= 8.0 * c else expected) or (
                offset < 0 and verdict.status == "undecided" and abs(offset) < 8.1 * c
            )


def false_proofs(monkeypatch: pytest.MonkeyPatch, scale: float) -> int:
    """How many violators within a tenth of c are accepted when c is scaled by that factor."""
    genuine = rounding_bound

    def scaled(*arguments) -> float:
        return scale * genuine(*arguments) + 1e-300

    count = 0
    with monkeypatch.context() as patch:
        patch.setattr(certificate, "rounding_bound", scaled)
        for matrix, eps in near_the_limit(1500, [1, 2, 3, 4, 5, 8], seed=7, offsets=(-0.02, -0.01, -0.05)):
            verdict = check(matrix, Tolerances(psd=eps, trace=ANY_TRACE))
            if verdict.status in ("valid", "clampable") and not at_least(matrix, -eps):
                count += 1
    return count


def test_the_harness_would_find_a_false_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    assert false_proofs(monkeypatch, 1.0) == 0
    assert false_proofs(monkeypatch, 0.0) > 5


def test_a_failed_factorisation_alone_is_no_violation() -> None:
    """lambda_min just above -eps, within c: the first factorisations fail, and nothing may be claimed."""
    for matrix, eps in near_the_limit(200, [4, 8, 12], seed=8, offsets=(0.01, 0.1, 0.3)):
        verdict = check(matrix, Tolerances(psd=eps, trace=ANY_TRACE))
        if at_least(matrix, -eps):
            assert verdict.psd_ok is not False


def test_tolerances_within_rounding_are_undecided_but_gross_violations_are_not() -> None:
    rho = np.diag([0.5, 0.5])
    for eps in (0.0, 1e-17, -1.0, math.nan):
        verdict = check(rho, Tolerances(psd=eps))
        assert verdict.status == "undecided", eps
        assert verdict.psd_ok is None
    assert check(np.diag([1.5, -0.5]), Tolerances(psd=1e-17)).psd_ok is False
    bad = with_lowest(np.random.default_rng(0), 30, -0.1, True, "full")
    assert check(bad, Tolerances(psd=1e-17, trace=ANY_TRACE)).psd_ok is False


def test_hostile_scales() -> None:
    """Denormals, graded rows and entries over hundreds of decades: bounds stay true, nothing raises."""
    rng = np.random.default_rng(9)
    for trial in range(300):
        n = int(rng.integers(1, 8))
        x = rng.standard_normal((n, n)) * 10.0 ** rng.uniform(-160, 0, (n, 1))
        h = x @ x.T if trial % 3 else (x + x.T) * 10.0 ** rng.uniform(-300, 0)
        h = (h + h.T) / 2
        if trial % 5 == 0:
            h[np.diag_indices(n)] -= 10.0 ** rng.uniform(-320, -1)
        eps = 10.0 ** rng.uniform(-280, -6)
        assert_claims(check(h, Tolerances(psd=eps, trace=ANY_TRACE)), h)


def assert_claims(verdict: Verdict, matrix: np.ndarray) -> None:
    if verdict.lambda_min_lower is not None:
        assert at_least(matrix, verdict.lambda_min_lower)
    if verdict.lambda_min_upper is not None:
        assert not at_least(matrix, np.nextafter(verdict.lambda_min_upper, 1.0))
    if verdict.psd_ok is True:
        assert at_least(matrix, -verdict.tolerances.psd)
    if verdict.psd_ok is False:
        assert not at_least(matrix, -verdict.tolerances.psd)


def test_one_by_one_at_the_limit() -> None:
    eps = 1e-8
    for value in (-eps, np.nextafter(-eps, -1), np.nextafter(-eps, 0), -0.0, 0.0, 5e-324, -5e-324, 1.0):
        matrix = np.array([[value]])
        assert_claims(check(matrix, Tolerances(psd=eps, trace=ANY_TRACE)), matrix)
    assert check(np.array([[np.nextafter(-eps, -1)]]), Tolerances(trace=ANY_TRACE)).status == "violated"
    assert check(np.array([[-eps]]), Tolerances(trace=ANY_TRACE)).psd_ok is not False


def test_the_witness_proves_it_to_anybody() -> None:
    rng = np.random.default_rng(10)
    for cplx in (False, True):
        rho = with_lowest(rng, 40, -1e-3, cplx, "full")
        verdict = check(rho, Tolerances(trace=ANY_TRACE))
        assert verdict.status == "violated"
        assert verdict.witness is not None
        vector = np.array([complex(*c) if cplx else c for c in verdict.witness.vector])
        assert np.vdot(vector, vector).real == pytest.approx(1.0)
        assert np.vdot(vector, rho @ vector).real <= verdict.witness.value < -1e-8


def test_the_rounding_bound_is_the_published_table() -> None:
    """Flat diagonals of trace 1, and all weight on the last index (docs/CERTIFICATE.md)."""
    for n, flat, worst, cflat, cworst in (
        (64, 4.05e-15, 7.66e-15, 1.08e-14, 2.08e-14),
        (1024, 5.73e-14, 1.14e-13, 1.62e-13, 3.23e-13),
        (4096, 2.28e-13, 4.55e-13, 6.44e-13, 1.29e-12),
    ):
        for cplx, expected in ((False, (flat, worst)), (True, (cflat, cworst))):
            last = np.zeros(n)
            last[-1] = 1.0
            assert rounding_bound(np.full(n, 1 / n), 1e-8, 0.0, cplx) == pytest.approx(expected[0], rel=0.01)
            assert rounding_bound(last, 1e-8, 0.0, cplx) == pytest.approx(expected[1], rel=0.01)


def test_weights_cover_the_roundings_they_stand_for() -> None:
    """w_j u >= kappa m_j u / (1 - 2 m_j u), m_j = j + 1 (real), 2j and kappa = sqrt 2 (complex)."""
    n = 32768
    j = np.arange(1, n + 1)
    u = 2.0**-53
    for cplx, m, kappa in ((False, j + 1, 1.0), (True, 2 * j, math.sqrt(2.0))):
        assert np.all(weights(n, cplx) * (1.0 - 2.0 * m * u) >= kappa * m * (1.0 + 1e-12))


def test_the_blas_in_use_obeys_the_entrywise_bound() -> None:
    """|L L^T - A|_ij <= gamma_{j+1} sum_k |l_ik| |l_jk|, in rationals; and comes close enough to need it."""
    rng = np.random.default_rng(12)
    u, closest = Fraction(1, 2**53), 0.0
    for _ in range(400):
        n = int(rng.integers(1, 9))
        x = rng.standard_normal((n, n)) * 10.0 ** rng.uniform(-3, 0, (n, 1))
        a = (x @ x.T + (x @ x.T).T) / 2
        work = a.copy()
        if potrf(work, n) != 0:
            continue
        rows = [[Fraction(value) for value in row] for row in work.T.tolist()]
        for i in range(n):
            for j in range(i + 1):
                products = [rows[i][k] * rows[j][k] for k in range(j + 1)]
                residual = abs(Fraction(a[i, j]) - sum(products))
                gamma = (j + 2) * u / (1 - (j + 2) * u)  # j counts from 0
                bound = gamma * sum(abs(product) for product in products)
                assert residual <= bound
                closest = max(closest, float(residual / bound))
    assert closest > 0.5


def test_hermitian_part_is_charged_for_its_rounding() -> None:
    rng = np.random.default_rng(11)
    matrix = with_lowest(rng, 12, 0.0, True, "full") + 1e-10 * rng.standard_normal((12, 12))
    part = hermitian_part(matrix)
    assert 0.0 < part.charge < 1e-15
    same = hermitian_part(np.kron(matrix, np.ones((90, 90))), threads=1)
    side_by_side = hermitian_part(np.kron(matrix, np.ones((90, 90))), threads=3)
    assert np.array_equal(np.triu(same.work), np.triu(side_by_side.work))
    assert (same.asymmetry, same.charge) == (side_by_side.asymmetry, pytest.approx(side_by_side.charge))
    exact = hermitian_part((matrix + matrix.conj().T) / 2)
    assert exact.charge == exact.asymmetry == 0.0
