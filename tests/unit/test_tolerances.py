"""At the very edge of a tolerance, and what single precision widens them to."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from somactl.core.draft import exact_factor_trace_error, factor_trace_error, trace_error
from somactl.core.invariants import check, check_factor, check_packed
from somactl.core.lapack import rfp_diagonal
from somactl.core.verdict import Tolerances, Verdict

U32 = 2.0**-24
WIDE = {"psd": 1.0, "hermitian": 1.0}


def packed_diagonal(values: np.ndarray) -> np.ndarray:
    n = len(values)
    packed = np.zeros(n * (n + 1) // 2, dtype=values.dtype)
    packed[rfp_diagonal(n)] = values
    return packed


def by_trace(diagonal: np.ndarray, tolerance: float) -> list[Verdict]:
    given = Tolerances(trace=tolerance, **WIDE)
    return [
        check(np.diag(diagonal), given),
        check(np.diag(diagonal).astype(complex), given),
        check(np.diag(diagonal), given, method="eigen"),
        check_packed(packed_diagonal(diagonal), len(diagonal), given),
    ]


# ---- the trace


@pytest.mark.parametrize("tolerance", [0.0, 1e-300, 1e-12, 1e-8, 0.1, 0.5, 1.0])
def test_the_trace_is_judged_before_it_is_rounded(tolerance: float) -> None:
    """Beyond or within by less than half a unit in the last place of what the verdict shows."""
    crumb = max(tolerance * 2.0**-60, 5e-324)
    for sign in (1.0, -1.0):
        for rest, beyond in ((0.0, False), (sign * crumb, True), (-sign * crumb, tolerance == 0.0)):
            diagonal = np.array([1.0, sign * tolerance, rest])
            for verdict in by_trace(diagonal, tolerance):
                assert verdict.trace_error == abs(float(sum(map(Fraction, diagonal.tolist())) - 1))
                assert ("trace" in "".join(verdict.reasons)) is beyond, (diagonal, verdict)


def test_sums_at_the_tolerance_against_rationals() -> None:
    rng = np.random.default_rng(22)
    at_the_edge = 0
    for _ in range(300):
        diagonal = rng.random(int(rng.integers(1, 30))) * 10.0 ** rng.uniform(-12, 0, 1)
        diagonal[0] += 1.0 - math.fsum(diagonal)
        exact = abs(sum(map(Fraction, diagonal.tolist())) - 1)
        rounded = float(exact)
        assert trace_error(diagonal) == rounded
        for tolerance in (rounded, np.nextafter(rounded, 0.0), np.nextafter(rounded, 1.0)):
            verdict = check(np.diag(diagonal), Tolerances(trace=float(tolerance), **WIDE))
            expected = exact <= Fraction(float(tolerance))
            assert ("trace" not in "".join(verdict.reasons)) is expected
            at_the_edge += tolerance == rounded and exact != Fraction(rounded)
    assert at_the_edge == 0 or at_the_edge > 10


def test_partial_sums_that_overflow_are_not_the_sum() -> None:
    large = np.array([1e308, 1e308, 1.0, -1e308, -1e308])
    assert trace_error(large) == 0.0
    assert trace_error(np.array([1e308, 1e308])) == math.inf
    assert "trace" not in check(np.diag(large)).reasons[0]


def test_a_factor_s_trace_is_judged_before_it_is_rounded() -> None:
    rng = np.random.default_rng(23)
    seen = {True: 0, False: 0}
    for trial in range(300):
        rows, columns, cplx = int(rng.integers(1, 9)), int(rng.integers(1, 9)), bool(trial % 2)
        factor = rng.standard_normal((rows, columns)) + (1j * rng.standard_normal((rows, columns)) * cplx)
        factor /= np.linalg.norm(factor)
        factor[0, 0] *= 10.0 ** -rng.uniform(0, 200)  # its square may underflow
        factor = np.ascontiguousarray(factor if cplx else factor.real)
        parts = factor.view(np.float64).reshape(-1).tolist()
        exact = abs(sum(Fraction(x) ** 2 for x in parts) - 1)
        assert exact_factor_trace_error(factor) == exact
        for tolerance in (float(exact), float(np.nextafter(float(exact), 0.0))):
            assert factor_trace_error(factor, tolerance) == float(exact)
            holds = check_factor(factor, Tolerances(trace=tolerance)).valid
            assert holds is (exact <= Fraction(tolerance))
            seen[holds] += 1
    assert min(seen.values()) > 100


def test_squares_that_underflow_or_overflow_count() -> None:
    tiny = np.array([[1.0], [1e-200]])
    assert not check_factor(tiny, Tolerances(trace=0.0)).valid
    assert check_factor(tiny, Tolerances(trace=5e-324)).valid
    assert check_factor(np.array([[1e200]])).status == "violated"
    denormal = np.array([[5e-324, 1.0]])
    assert exact_factor_trace_error(denormal) == Fraction(5e-324) ** 2


def test_sums_of_many_squares_of_long_mantissas_are_exact() -> None:
    ones = (2.0**53 - 1.0) * 2.0**-59
    factor = np.full((1, 5000), ones)
    assert exact_factor_trace_error(factor) == abs(5000 * Fraction(ones) ** 2 - 1)


# ---- single precision


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision_widens_all_three(dtype: str) -> None:
    """max(given, u ||rho||_F), max(given, u sum |rho_ii|), max(given, 2 u max |rho_ij|)."""
    rng = np.random.default_rng(24)
    for n in (1, 2, 7, 130):
        x = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if dtype == "complex64" else 0.0)
        rho = x @ x.conj().T
        rho = (rho / np.trace(rho).real).astype(dtype)
        wide = np.abs(rho.astype(complex))
        expected = Tolerances(
            psd=U32 * float(np.linalg.norm(wide)),
            trace=U32 * float(np.abs(rho.diagonal()).sum(dtype=float)),
            hermitian=2.0 * U32 * float(wide.max()),
        )
        for given in (Tolerances(0.0, 0.0, 0.0), Tolerances(1e-3, 1e-3, 1e-3)):
            for method in ("certify", "eigen", "sampled"):
                found = check(rho, given, method=method).tolerances
                for name in ("psd", "trace", "hermitian"):
                    wanted = max(getattr(given, name), getattr(expected, name))
                    assert getattr(found, name) == pytest.approx(wanted, rel=1e-6, abs=0.0), name
        same = check(rho.astype("complex128"), Tolerances(0.0, 0.0, 0.0)).tolerances
        assert same == Tolerances(0.0, 0.0, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_what_a_single_precision_program_computes_is_symmetric_enough(dtype: str) -> None:
    """One value, rounded up on one side of the diagonal and down on the other."""
    rng = np.random.default_rng(25)
    for scale in (1.0, 0.3):
        pure = np.full((2, 2), 0.5) if scale == 1.0 else np.array([[0.7, 0.4], [0.4, 0.3]])
        rho = pure.astype(dtype)
        rho[0, 1] = np.nextafter(rho[0, 1].real, np.float32(1))
        verdict = check(rho)
        assert verdict.hermitian_error is not None
        assert 1e-8 < verdict.hermitian_error <= verdict.tolerances.hermitian
        assert verdict.status in ("valid", "clampable")
        assert check(rho.astype("complex128")).status == "violated"
        rho[0, 1] += np.float32(rng.choice([-1, 1]) * 4.0 * verdict.tolerances.hermitian)
        assert check(rho).status == "violated"


def test_a_packed_imaginary_diagonal_is_judged_by_the_widened_tolerance() -> None:
    packed = packed_diagonal(np.array([0.9, 0.1], dtype="complex64"))
    for size, expected in ((0.9 * U32 * 0.9, "valid"), (1.1 * U32 * 0.9, "violated")):
        packed[rfp_diagonal(2)[1]] = 0.1 + 1j * size
        verdict = check_packed(packed, 2)
        assert verdict.status == expected
        assert verdict.tolerances.hermitian == 2.0 * U32 * float(np.abs(np.complex64(0.9)))


def test_rounding_makes_singular_states_clampable_as_the_page_says() -> None:
    """docs/NUMERICS.md: never at full rank, about every second time with one zero eigenvalue, else always."""
    rng = np.random.default_rng(26)
    n, states = 16, 40

    def clampable(rank: int) -> int:
        count = 0
        for _ in range(states):
            x = rng.standard_normal((n, rank))
            rho = x @ x.T / np.sum(x * x)
            status = check(((rho + rho.T) / 2).astype("float32")).status
            assert status in ("valid", "clampable")
            count += status == "clampable"
        return count

    assert clampable(1) == clampable(n // 2) == states
    assert states / 5 < clampable(n - 1) < 4 * states / 5
