"""`check` and its shortcuts: each invariant, each trap, each kind of input."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest

from somactl.core import hermitian, invariants, lapack
from somactl.core.draft import factor_trace_error, trace_error
from somactl.core.invariants import check, check_factor, check_packed
from somactl.core.lapack import flapack, rfp_diagonal
from somactl.core.verdict import Tolerances, Verdict

BOTH = pytest.mark.parametrize("cplx", [False, True], ids=["real", "complex"])
METHODS = ("certify", "eigen", "sampled")


def state(n: int, rank: int | None = None, *, cplx: bool = False, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    k = rank or n
    x = rng.standard_normal((n, k)) + (1j * rng.standard_normal((n, k)) if cplx else 0.0)
    rho = x @ x.conj().T
    rho = (rho + rho.conj().T) / 2
    rho /= np.trace(rho).real
    rho[0, 0] += 1.0 - math.fsum(rho.diagonal().real)
    return rho


def with_lowest(n: int, lowest: float, *, cplx: bool = False) -> np.ndarray:
    rng = np.random.default_rng(n)
    u = np.linalg.qr(rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if cplx else 0.0))[0]
    values = rng.random(n) + 0.5
    values[0] = lowest
    values[1:] *= (1.0 - lowest) / values[1:].sum()
    rho = (u * values) @ u.conj().T
    return (rho + rho.conj().T) / 2


def packed_of(matrix: np.ndarray) -> np.ndarray:
    names = {"d": "dtrttf", "f": "strttf", "D": "ztrttf", "F": "ctrttf"}
    pack = getattr(flapack(), names[matrix.dtype.char])
    return pack(np.ascontiguousarray(matrix).T, transr="N", uplo="L")[0]


def summary(verdict: Verdict) -> tuple[str, str]:
    return verdict.status, verdict.rigour


# ---- what a verdict says


@BOTH
@pytest.mark.parametrize("n", [1, 2, 3, 64, 129, 300])
def test_a_state_is_valid(n: int, cplx: bool) -> None:
    rho = state(n, cplx=cplx)
    verdict = check(rho)
    assert summary(verdict) == ("valid", "proved")
    assert verdict.valid
    assert verdict.psd_ok is True
    assert verdict.reasons == ()
    assert (verdict.n, verdict.dtype, verdict.finite, verdict.square) == (n, rho.dtype.name, True, True)
    assert verdict.hermitian_error == 0.0
    assert verdict.trace_error is not None
    assert verdict.trace_error < 1e-15
    assert verdict.lambda_min_lower is not None
    assert -1e-12 < verdict.lambda_min_lower < 0.0
    assert verdict.lambda_min_upper is None
    assert verdict.route == "cholesky"
    assert "thread" in verdict.blas


@BOTH
def test_slightly_negative_is_clampable(cplx: bool) -> None:
    verdict = check(with_lowest(50, -4e-9, cplx=cplx))
    assert summary(verdict) == ("clampable", "proved")
    assert verdict.psd_ok is True
    assert verdict.lambda_min_lower == -1e-8
    assert verdict.lambda_min_upper is not None
    assert -4.1e-9 < verdict.lambda_min_upper < 0.0
    assert "slightly negative" in verdict.reasons[0]


@BOTH
@pytest.mark.parametrize("lowest", [-2e-8, -1e-4, -0.3])
def test_negative_is_violated_with_a_witness(lowest: float, cplx: bool) -> None:
    verdict = check(with_lowest(50, lowest, cplx=cplx))
    assert summary(verdict) == ("violated", "proved")
    assert verdict.psd_ok is False
    assert verdict.witness is not None
    assert verdict.witness.value == verdict.lambda_min_upper
    assert lowest <= verdict.witness.value < -1e-8


def test_a_negative_diagonal_entry_is_its_own_witness() -> None:
    verdict = check(np.diag([1.25, -0.25]))
    assert (verdict.route, verdict.lambda_min_upper) == ("diagonal", -0.25)
    assert verdict.witness is not None
    assert verdict.witness.vector == (0.0, 1.0)


def test_the_trace_is_out() -> None:
    verdict = check(1.01 * state(10))
    assert summary(verdict) == ("violated", "proved")
    assert verdict.psd_ok is True  # and says so all the same
    assert verdict.trace_error == pytest.approx(0.01)
    assert verdict.reasons[0].startswith("trace")


def test_the_trace_is_summed_exactly() -> None:
    diagonal = np.array([1e16, 1.0, -1e16])
    assert trace_error(diagonal) == 0.0
    assert trace_error(np.full(10, 0.1)) == abs(float(10 * Fraction(0.1) - 1))
    assert trace_error(np.array([1e308, 1e308])) == math.inf


@BOTH
def test_asymmetry_beyond_tolerance_is_violated(cplx: bool) -> None:
    rho = state(200, cplx=cplx)
    rho[150, 3] += 2e-8
    verdict = check(rho)
    assert summary(verdict) == ("violated", "proved")
    assert verdict.hermitian_error == pytest.approx(2e-8)
    assert verdict.psd_ok is None  # positivity of what is not Hermitian means nothing
    assert verdict.reasons[0].startswith("hermitian")


@BOTH
@pytest.mark.parametrize("overwrite", [False, True])
def test_asymmetry_within_tolerance_is_judged_by_the_hermitian_part(overwrite: bool, cplx: bool) -> None:
    """2e-9 an entry: charged to the bound as a whole it would exceed eps and leave this undecided."""
    rng = np.random.default_rng(1)
    noise = rng.choice([-1e-9, 1e-9], (300, 300))
    noise -= noise.T
    assert np.linalg.norm(noise) / 2 > 1e-8
    verdict = check(state(300, cplx=cplx) + noise, overwrite=overwrite)
    assert summary(verdict) == ("valid", "proved")
    assert verdict.hermitian_error == pytest.approx(4e-9, rel=1e-3)
    assert check(with_lowest(300, -2e-8, cplx=cplx) + noise, overwrite=overwrite).status == "violated"
    assert check(with_lowest(300, -2e-9, cplx=cplx) + noise, overwrite=overwrite).status == "clampable"


def test_reasons_come_in_order_and_all() -> None:
    rho = 2.0 * np.diag([1.5, -0.5])
    assert [reason.split(":")[0] for reason in check(rho).reasons] == ["trace", "psd"]


def test_a_verdict_is_plain_values() -> None:
    from dataclasses import asdict

    for cplx in (False, True):
        for rho in (state(5, cplx=cplx), with_lowest(20, -0.1, cplx=cplx)):
            for method in METHODS:
                json.dumps(asdict(check(rho, method=method, spectrum=True)), allow_nan=False)


# ---- traps


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_infinite_or_undefined_gets_through(bad: float, cplx: bool, overwrite: bool) -> None:
    """LAPACK reports success on NaN, and reads one triangle: every position, mirrored or not."""
    n = 6
    for i in range(n):
        for j in range(n):
            for mirrored in (False, True):
                rho = state(n, cplx=cplx, seed=7)
                rho[i, j] = bad
                if mirrored:
                    rho[j, i] = bad
                for method in METHODS:
                    verdict = check(rho.copy(), method=method, overwrite=overwrite)
                    assert (verdict.status, verdict.finite) == ("violated", False), (i, j, mirrored, method)


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nor_in_a_large_matrix(bad: float, cplx: bool) -> None:
    for rank in (300, 2):
        for i, j in ((0, 0), (0, 299), (299, 0), (150, 140), (299, 299), (128, 127)):
            for mirrored in (False, True):
                rho = state(300, rank, cplx=cplx)
                rho[i, j] = bad
                if mirrored:
                    rho[j, i] = bad
                assert check(rho).finite is False


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_imaginary_diagonals_cannot_hide(bad: float) -> None:
    """LAPACK ignores a finite one; a NaN there leaks into the factor or not, as it happens."""
    for i in range(4):
        rho = state(4, cplx=True)
        rho.imag[i, i] = bad
        assert check(rho).finite is False
        assert check_packed(packed_of(rho), 4).finite is False


def test_a_finite_imaginary_diagonal_is_asymmetry() -> None:
    for size, expected in ((3e-9, "valid"), (7e-9, "violated")):
        rho = state(5, cplx=True)
        rho.imag[2, 2] = size
        for verdict in (check(rho), check(rho.copy(), overwrite=True), check_packed(packed_of(rho), 5)):
            assert verdict.status == expected
            assert verdict.hermitian_error == pytest.approx(2 * size)


def test_one_triangle_reads() -> None:
    """Either triangle of this alone makes a valid state."""
    rho = np.eye(150) / 150
    rho[140, 10] = 1e-3
    assert np.linalg.cholesky(rho).shape == np.linalg.cholesky(rho.T).shape == (150, 150)
    assert check(rho).status == "violated"
    assert check(rho.T).status == "violated"


def test_infinite_entries_on_both_sides_never_reach_an_eigensolver() -> None:
    rho = state(80)
    rho[3, 70] = rho[70, 3] = np.inf
    for method in METHODS:
        assert check(rho, method=method).finite is False


def test_overflow_is_no_proof() -> None:
    rho = np.full((4, 4), 1e308)
    rho[0, 3] = -1e308
    verdict = check(rho, Tolerances(hermitian=math.inf, trace=math.inf))
    assert verdict.status != "valid"
    assert check(np.full((3, 3), 1.7e308)).status == "violated"


def test_float32_storage_breaks_psd_and_widens_the_tolerance() -> None:
    """n = 64, rank 1: rounding to float32 alone makes lambda_min < -1e-8."""
    worst, matrix = 0.0, np.zeros((1, 1))
    for seed in range(40):
        rho = state(64, 1, seed=seed).astype(np.float32)
        lowest = float(np.linalg.eigvalsh(rho.astype(np.float64))[0])
        if lowest < worst:
            worst, matrix = lowest, rho
    assert worst < -1e-8
    verdict = check(matrix)
    assert verdict.dtype == "float32"
    assert summary(verdict) == ("clampable", "proved")
    assert verdict.tolerances.psd == pytest.approx(2.0**-24, rel=1e-3)  # u32 * ||rho||_F, and rank 1
    largest = float(np.abs(matrix).max())
    assert verdict.tolerances.hermitian == max(1e-8, 2.0**-23 * largest)
    assert check(matrix.astype(np.float64), Tolerances(trace=1.0)).status == "violated"
    packed = check_packed(packed_of(matrix), 64)
    assert packed.status == "clampable"
    assert packed.tolerances.psd == pytest.approx(verdict.tolerances.psd, rel=1e-12)
    assert packed.tolerances.hermitian == verdict.tolerances.hermitian
    assert packed.dtype == "float32"


def test_float32_storage_breaks_the_trace_and_widens_the_tolerance() -> None:
    matrices = [state(64, seed=seed).astype(np.float32) for seed in range(40)]
    matrix = max(matrices, key=lambda m: trace_error(m.diagonal().astype(np.float64)))
    verdict = check(matrix, Tolerances(trace=1e-9))
    assert verdict.trace_error is not None
    assert verdict.trace_error > 1e-9
    assert verdict.tolerances.trace == pytest.approx(2.0**-24, rel=1e-3)
    assert verdict.psd_ok is True
    assert verdict.status in ("valid", "clampable")


def test_lanczos_never_accepts() -> None:
    for rho in (state(1), state(10), state(200), state(200, 3), with_lowest(100, -1e-9)):
        verdict = check(rho, method="sampled")
        assert summary(verdict) == ("undecided", "computed")
        assert verdict.psd_ok is None
    found = check(with_lowest(100, -0.1), method="sampled")
    assert summary(found) == ("violated", "proved")
    assert found.witness is not None
    # A violation a hundred times eps in a corner that few steps do not reach: missed, but never passed.
    missed = check(with_lowest(1500, -1e-6), method="sampled")
    assert missed.status in ("undecided", "violated")
    assert missed.psd_ok is not True


@BOTH
def test_eigenvalues_compute_and_do_not_prove(cplx: bool) -> None:
    assert summary(check(state(40, cplx=cplx), method="eigen")) == ("valid", "computed")
    assert summary(check(state(40, 2, cplx=cplx), method="eigen")) == ("valid", "computed")
    assert summary(check(with_lowest(40, -3e-9, cplx=cplx), method="eigen")) == ("clampable", "computed")
    assert summary(check(with_lowest(40, -3e-8, cplx=cplx), method="eigen")) == ("violated", "proved")
    assert check(np.diag([0.5, 0.5 + 1e-8, -1e-8]), method="eigen").status == "undecided"


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_blas_proves_nothing_positive(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "blas", lambda: lapack.Blas("mystery", False, None, ()))
    verdict = check(state(30), method=method)
    assert verdict.rigour == "computed"
    assert verdict.lambda_min_lower is None
    packed = check_packed(packed_of(state(30)), 30)
    assert summary(packed) == ("valid", "computed")
    assert packed.lambda_min_lower is None
    assert summary(check(with_lowest(30, -0.1), method=method)) == (
        "violated",
        "proved",
    )  # a witness needs none


def test_beyond_the_theorem_s_order_nothing_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "MAX_ORDER", 20)
    assert check(state(20)).status == "valid"
    for verdict in (check(state(21)), check_packed(packed_of(state(21)), 21)):
        assert summary(verdict) == ("undecided", "computed")
    rho = state(21)
    rho[3, 4] = rho[4, 3] = np.inf
    assert check(rho).finite is False


# ---- every form of input


@BOTH
@pytest.mark.parametrize("lowest", [None, -4e-9, -3e-8])
@pytest.mark.parametrize("n", [5, 6, 140, 530, 531])
def test_all_routes_agree(n: int, lowest: float | None, cplx: bool) -> None:
    rho = state(n, cplx=cplx) if lowest is None else with_lowest(n, lowest, cplx=cplx)
    expected = {None: "valid", -4e-9: "clampable", -3e-8: "violated"}[lowest]
    before = rho.copy()
    big = np.zeros((2 * n, 2 * n), rho.dtype)
    big[::2, ::2] = rho
    frozen = rho.copy()
    frozen.setflags(write=False)
    verdicts = [
        check(rho),
        check(frozen),
        check(frozen, overwrite=True),
        check(np.asfortranarray(rho)),
        check(np.asfortranarray(rho), overwrite=True),
        check(big[::2, ::2]),
        check(rho.astype(rho.dtype.newbyteorder(">"))),
        check(rho.copy(), overwrite=True),
        check_packed(packed_of(rho), n),
        check(rho, method="eigen"),
    ]
    assert [v.status for v in verdicts] == [expected] * len(verdicts)
    assert np.array_equal(rho, before)
    assert np.array_equal(frozen, before)


def test_packed_bytes_are_read_only_and_stay_so() -> None:
    for rho in (state(70), with_lowest(70, -3e-9), with_lowest(70, -1e-3)):
        packed = packed_of(rho)
        packed.setflags(write=False)
        before = packed.copy()
        check_packed(packed, 70)
        assert np.array_equal(packed, before)


def test_packed_routes() -> None:
    assert check_packed(packed_of(state(600)), 600).route == "packed"
    assert check_packed(packed_of(state(600, 9)), 600).route == "early-stop"
    asymmetric = check_packed(packed_of(1.1 * state(9)), 9)
    assert asymmetric.status == "violated"
    assert asymmetric.reasons[0].startswith("trace")


@BOTH
def test_every_packed_entry_must_be_finite(cplx: bool) -> None:
    for n in (4, 5):
        packed = packed_of(state(n, cplx=cplx))
        for position in range(len(packed)):
            for bad in (np.nan, np.inf, -np.inf):
                broken = packed.copy()
                broken[position] = bad
                verdict = check_packed(broken, n)
                assert (verdict.status, verdict.finite) == ("violated", False)


@pytest.mark.parametrize(
    "matrix",
    [
        np.ones((2, 3)),
        np.ones(4),
        np.ones((2, 2, 2)),
        np.empty((0, 0)),
        np.float64(1.0),
        [[1.0, 2.0], [3.0]],
        [["a", "b"], ["c", "d"]],
        np.array([[None, 1], [1, 0]], dtype=object),
        np.eye(2, dtype=bool),
        np.eye(2, dtype=np.longdouble),
        "rho",
        None,
        {},
    ],
    ids=repr,
)
def test_what_is_no_matrix_is_violated_and_never_raises(matrix: object) -> None:
    verdict = check(matrix)
    assert summary(verdict) == ("violated", "proved")
    assert len(verdict.reasons) == 1


def test_wrong_packed_lengths_and_factors() -> None:
    assert check_packed(np.ones(4), 3).status == "violated"
    assert check_packed(np.ones(0), 0).status == "violated"
    assert check_packed(np.ones((2, 3)), 3).status == "violated"
    assert check_packed(np.array(["a"]), 1).status == "violated"
    assert check_factor(np.ones(3)).status == "violated"
    assert check_factor(np.ones((0, 3))).status == "violated"
    assert check_factor(np.array([["a"]])).status == "violated"


def test_integers_and_half_floats_are_matrices_too() -> None:
    for dtype in (np.int64, np.uint8, np.float16):
        assert check(np.diag([1, 0, 0]).astype(dtype)).status == "valid"
    assert check([[0.5, 0.5], [0.5, 0.5]]).status == "valid"


# ---- factors


@BOTH
@pytest.mark.parametrize("shape", [(1, 1), (5, 2), (2, 5), (300, 40)])
def test_a_factor_is_positive_by_construction(shape: tuple[int, int], cplx: bool) -> None:
    rng = np.random.default_rng(3)
    factor = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if cplx else 0.0)
    factor /= np.linalg.norm(factor)
    for form in (factor, np.asfortranarray(factor), factor[::-1]):
        verdict = check_factor(form, spectrum=True)
        assert summary(verdict) == ("valid", "proved")
        assert (verdict.n, verdict.lambda_min_lower, verdict.route) == (shape[0], 0.0, "factor")
        assert verdict.spectrum is not None
        assert len(verdict.spectrum.eigenvalues) == shape[0]
        assert verdict.spectrum.rank == min(shape)
    assert check_factor(1.1 * factor).status == "violated"
    factor[0, 0] = np.nan
    assert check_factor(factor).finite is False


def test_a_float32_factor_widens_the_trace_by_twice_its_roundoff() -> None:
    rng = np.random.default_rng(4)
    factor = rng.standard_normal((200, 7))
    verdict = check_factor((factor / np.linalg.norm(factor)).astype(np.float32), Tolerances(trace=1e-12))
    assert verdict.status == "valid"
    assert verdict.tolerances.trace == pytest.approx(2.0**-23, rel=1e-3)


def test_a_factor_s_trace_is_exact_where_rounding_could_decide() -> None:
    rng = np.random.default_rng(5)
    for cplx in (False, True):
        factor = rng.standard_normal((20, 11)) + (1j * rng.standard_normal((20, 11)) if cplx else 0.0)
        factor /= np.linalg.norm(factor)
        parts = factor.view(np.float64).reshape(-1).tolist()
        exact = abs(sum(Fraction(x) ** 2 for x in parts) - 1)
        assert factor_trace_error(factor, float(exact)) == float(exact)
        assert factor_trace_error(factor, 1e-8) == pytest.approx(float(exact), abs=1e-14)


# ---- spectrum


def test_spectrum_on_request() -> None:
    rho = np.diag([0.5, 0.25, 0.25, 0.0])
    for method in METHODS:
        spectrum = check(rho, method=method, spectrum=True).spectrum
        assert spectrum is not None
        assert spectrum.eigenvalues == pytest.approx((0.0, 0.25, 0.25, 0.5))
        assert (spectrum.rank, spectrum.purity) == (3, pytest.approx(0.375))
        assert spectrum.entropy == pytest.approx(1.5 * math.log(2.0))
    assert check(rho).spectrum is None
    assert check_packed(packed_of(rho), 4, spectrum=True).spectrum == check(rho, spectrum=True).spectrum
    pure = check(np.diag([0.0, 1.0]), spectrum=True).spectrum
    assert pure is not None
    assert pure.entropy == 0.0


def test_rfp_positions_name_the_diagonal() -> None:
    for n in range(1, 30):
        packed = packed_of(np.diag(np.arange(1.0, n + 1.0)))
        assert np.array_equal(packed[rfp_diagonal(n)], np.arange(1.0, n + 1.0))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_threads_read_the_same_hermitian_part(
    asymmetric: bool, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hermitian, "PARALLEL_FROM", 1)
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((450, 450)) + 1j * rng.standard_normal((450, 450))
    matrix = matrix + matrix.conj().T
    if asymmetric:
        matrix[[3, 300, 449], [440, 20, 0]] += 1e-9
    one, two = (
        hermitian.hermitian_part(matrix.copy(), overwrite=overwrite, threads=threads) for threads in (1, 2)
    )
    upper = np.triu_indices(450)
    assert np.array_equal(one.work[upper], two.work[upper])
    assert (one.asymmetry, one.charge > 0) == (two.asymmetry, asymmetric)
    assert two.charge == pytest.approx(one.charge)
