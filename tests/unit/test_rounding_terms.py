"""Every term of every bound is needed: each is dropped here, or its worst case met, in exact arithmetic.

`test_certificate.py` looks for false proofs; rounding errors are rarely as large as they may be, so that it
would not miss a single term. Here the errors are as large as the model allows.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from somactl.core import certificate, hermitian, invariants, witness
from somactl.core.certificate import (
    certify,
    certify_packed,
    low_rank_bound,
    rounding_bound,
    smallest_tolerance,
)
from somactl.core.envelope import encode
from somactl.core.hermitian import HermitianPart, hermitian_part
from somactl.core.invariants import check, check_factor, check_packed
from somactl.core.lapack import flapack, rfp_diagonal
from somactl.core.verdict import Tolerances
from somactl.core.witness import prove_negative, quotient_bound
from support.arithmetic import IS_X86, run
from support.exact import at_least

ANY_TRACE = math.inf
U = Fraction(1, 2**53)
BOTH = pytest.mark.parametrize("cplx", [False, True], ids=["real", "complex"])


def symmetric(n: int, cplx: bool, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([n, seed])
    x = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if cplx else 0.0)
    rho = x @ x.conj().T
    rho = (rho + rho.conj().T) / 2
    return rho / np.trace(rho).real


# ---- the charge for the rounding of H


def exact_error_of_forming(matrix: np.ndarray, formed: np.ndarray) -> Fraction:
    """||H_hat - H||_F^2 of the upper triangle that LAPACK is given, mirrored."""
    total = Fraction(0)
    n = len(matrix)
    for i in range(n):
        for j in range(i + 1, n):
            re = (Fraction(matrix[i, j].real) + Fraction(matrix[j, i].real)) / 2
            im = (Fraction(matrix[i, j].imag) - Fraction(matrix[j, i].imag)) / 2
            entry = formed[i, j]
            total += 2 * ((re - Fraction(entry.real)) ** 2 + (im - Fraction(entry.imag)) ** 2)
    return total


@BOTH
def test_the_charge_exceeds_what_forming_the_hermitian_part_costs(cplx: bool) -> None:
    closest = 0.0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        n = int(rng.integers(2, 8))
        scale = [1.0, 1e-100, 1e-160, 1e-200, 1e-300, 1e-308, 2.0**-1070][trial % 7]
        noise = 1.0 if trial % 2 else 1e-9
        matrix = scale * (symmetric(n, cplx, trial) + noise * rng.standard_normal((n, n)))
        part = hermitian_part(matrix)
        error = exact_error_of_forming(matrix, part.work)
        assert error <= Fraction(part.charge) ** 2
        if scale == 1.0:
            closest = max(closest, math.sqrt(error) / part.charge)
    assert closest > 0.2, "the test has lost its power"


def test_the_charge_counts_every_tile_on_both_sides() -> None:
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((300, 300))
    part = hermitian_part(matrix)
    norm = float(np.linalg.norm((matrix + matrix.T) / 2))
    assert part.charge == pytest.approx(2.0**-53 * norm, rel=1e-5, abs=0.0)


@BOTH
@pytest.mark.parametrize("overwrite", [False, True])
def test_every_bound_pays_the_charge(overwrite: bool, cplx: bool) -> None:
    """A factored matrix that is X I above the true one, X = charge: its bounds are the true one's, too."""
    charge = 1e-9
    for lowest in (0.0, -1e-7, -3e-9):
        n = 12
        values = np.full(n, 1.0 / n)
        values[0] = lowest
        rng = np.random.default_rng(n)
        u = np.linalg.qr(rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if cplx else 0.0))[0]
        above = (u * values) @ u.conj().T
        above = (above + above.conj().T) / 2
        for true in (above - charge * np.eye(n), above + charge * np.eye(n)):
            part = hermitian_part(above.copy(), overwrite=overwrite)
            part.charge = charge
            if not overwrite:
                part.source = true  # witnesses are computed from what was given
            bounds = certify(part, 1e-8)
            assert bounds.smallest >= 2.0 * charge
            if bounds.lower is not None:
                assert at_least(true, bounds.lower)
            if bounds.witness is not None:
                assert not at_least(true, np.nextafter(bounds.witness.value, 1.0))


def test_the_early_bound_pays_the_charge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "FROM_ORDER", 2)
    monkeypatch.setattr(certificate, "PROBE", 2)
    monkeypatch.setattr(certificate, "concentrated", lambda *_: True)
    part = hermitian_part(np.full((8, 8), 0.125))
    part.charge = 1e-10
    lower = low_rank_bound(part, 1e-8)
    assert lower is not None
    assert lower <= -1e-10


# ---- underflow


def test_the_rounding_bound_has_room_for_underflow() -> None:
    for diagonal in (np.zeros(3), np.full(3, 5e-324), np.full(3, 1e-300), np.full(3, -1.0)):
        for cplx in (False, True):
            assert rounding_bound(diagonal, 0.0, 0.0, cplx) >= 2.0**-960


def test_denormal_entries_make_no_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PSD matrix of a few units of 2^-1074, whose products with x round to multiples of that."""

    def false_witnesses() -> int:
        rng = np.random.default_rng(25)
        count = 0
        for _ in range(400):
            g = rng.integers(-3, 4, (3, 2))
            matrix = (g @ g.T) * 5e-324
            count += prove_negative(hermitian_part(matrix), rng.standard_normal(3)) is not None
        return count

    assert false_witnesses() == 0
    monkeypatch.setattr(witness, "UNDERFLOW", 0.0)
    assert false_witnesses() > 0, "the test has lost its power"


@pytest.mark.skipif(not IS_X86, reason="the bits that flush to zero are set through glibc's fenv_t of x86-64")
def test_products_that_are_flushed_to_zero_prove_nothing() -> None:
    """63 squares of 1.4e-154, each flushed: their sum, 1.2e-306, puts lambda_min below -eps = -1e-307."""
    found = run("""
import numpy as np
from somactl.core import certificate
from somactl.core.invariants import check, Tolerances
n = 64
matrix = np.diag(np.full(n, 1.1e-295))
matrix[-1, :-1] = matrix[:-1, -1] = 4.5e-302
matrix[-1, -1] = 0.0
flush_to_zero()
given = Tolerances(psd=1e-307, trace=float("inf"))
verdicts = [check(matrix, given).psd_ok]
certificate.UNDERFLOW = 0.0
verdicts.append(check(matrix, given).psd_ok)
print(json.dumps(verdicts))
""")
    assert found[0] is not True
    assert found[1] is True, "the test has lost its power"


# ---- the witness


@BOTH
@pytest.mark.parametrize("n", [1, 2, 5, 40, 1000, 32768])
def test_the_quotient_bound_holds_in_the_worst_case_of_rounding(n: int, cplx: bool) -> None:
    """N, g and q as wrong as any order of summation may make them, against the exact quotient.

    N off by gamma_n + gamma_n (real) or (1 + sqrt 2) gamma_2n (complex) times g; g and q, sums of 2n terms,
    too small by that many factors.
    """

    def gamma(m: int) -> Fraction:
        return m * U / (1 - m * U)

    root_two = Fraction(14142135624, 10**10)
    off = (1 + root_two) * gamma(2 * n) if cplx else 2 * gamma(n)
    terms = 2 * n if cplx else n
    for ratio in (Fraction(1), Fraction(10), Fraction(10**6)):  # g / |N|: how much cancels
        for exact in (Fraction(-1), Fraction(-1, 3), Fraction(-1, 10**9)):
            size = ratio * -exact
            length = Fraction(1)
            bound = quotient_bound(
                float(exact - off * size) * (1.0 - 2.0**-60),
                float(size * (1 - gamma(terms))),
                float(length * (1 - gamma(terms))),
                n,
                cplx,
            )
            assert bound <= 0.0
            assert Fraction(bound) * length >= exact


def test_the_quotient_bound_is_its_formula() -> None:
    u = 2.0**-53
    assert quotient_bound(-1.0, 0.0, 1.0, 1, False) == (-1.0 + 4.0 * u) / (1.0 + 20.0 * u)
    assert quotient_bound(-1.0, 1.0, 2.0, 3, False) < 0.0
    for n in (1, 7, 1000):
        assert witness.quotient_error(n, False) == (1.0 + 2.0**-20) * u * (2.0 * n + 8.0)
        assert witness.quotient_error(n, True) == (1.0 + 2.0**-20) * u * (4.8285 * n + 8.0)
    assert quotient_bound(-(2.0**-961), 0.0, 1.0, 1, False) == 0.0


def test_a_direction_in_which_all_cancels_is_no_witness() -> None:
    """x^T rho x is 0 for a PSD matrix and its null vector, and comes out as rounding noise of either sign."""
    rng = np.random.default_rng(5)
    noise = 0
    for _ in range(100):
        g = rng.integers(-9, 10, (5, 2)).astype(float)
        rho = g @ g.T
        x = np.linalg.svd(g.T)[2][-1]
        noise += bool(x @ (rho @ x) < 0.0)
        assert prove_negative(hermitian_part(rho), x) is None
    assert noise > 10, "the test has lost its power"


def test_adding_the_charge_to_a_witness_rounds_upwards() -> None:
    matrix = np.diag([-0.3, 1.0])
    x = np.array([1.0, 0.1])
    part = hermitian_part(matrix.copy(), overwrite=True)
    bare = prove_negative(hermitian_part(matrix), x)
    assert bare is not None
    rng = np.random.default_rng(4)
    for _ in range(50):
        part.charge = float(rng.uniform(1e-3, 0.1))
        found = prove_negative(part, x)
        assert found is not None
        assert Fraction(found.value) >= Fraction(bare.value) + Fraction(part.charge)


def test_a_diagonal_witness_at_the_tolerance_ends_nothing() -> None:
    """-eps on the diagonal proves no violation; what stands beside it may."""
    eps = 1e-8
    beside = np.array([[-eps, 1e-3], [1e-3, 1.0 + eps]])
    assert check(beside, Tolerances(psd=eps)).status == "violated"
    for share in (0.01, 0.5, 0.75, 0.999):
        within = np.diag([1.0 + share * eps, -share * eps])
        verdict = check(within, Tolerances(psd=eps))
        assert (verdict.status, verdict.rigour) == ("clampable", "proved"), share
        assert verdict.lambda_min_upper == -share * eps


# ---- the packed route


def packed_of(matrix: np.ndarray) -> np.ndarray:
    pack = flapack().ztrttf if matrix.dtype.kind == "c" else flapack().dtrttf
    return pack(np.ascontiguousarray(matrix).T, transr="N", uplo="L")[0]


@BOTH
def test_between_c_and_2c_the_packed_route_gives_way_to_the_full_one(cplx: bool) -> None:
    rho = symmetric(9, cplx)
    diagonal = rho.diagonal().real.copy()
    smallest = smallest_tolerance(diagonal, 0.0, cplx)
    for share in (0.6, 0.8, 0.99):
        eps = share * smallest
        packed = packed_of(rho)
        assert certify_packed(packed.copy(), rfp_diagonal(9), diagonal, eps) is None
        for verdict in (check(rho, Tolerances(psd=eps)), check_packed(packed, 9, Tolerances(psd=eps))):
            assert (verdict.psd_ok, verdict.route) == (True, "cholesky")
            assert verdict.lambda_min_lower == -eps
    assert check_packed(packed_of(rho), 9, Tolerances(psd=smallest)).route == "packed"


# ---- finiteness


def test_an_infinity_that_no_pivot_shows_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """LAPACK stops at a column before the one that holds it, or another part of the check decides first."""
    for n, (i, j) in ((6, (4, 5)), (200, (150, 190))):
        for bad in (np.inf, np.nan):
            for mirrored in (True, False):
                rho = np.diag(np.full(n, 1.0 / n))
                rho[0, 0] = -0.5  # the diagonal alone proves a violation
                rho[i, j] = bad
                rho[j, i] = bad if mirrored else 0.0
                assert check(rho).finite is False
                rho[0, 0], rho[0, 1], rho[1, 0] = 0.1, 0.9, 0.9  # the factorisation stops at column 2
                assert check(rho).finite is False
                assert check(rho, Tolerances(hermitian=math.inf, psd=1.0)).finite is False
                rho[0, 0], rho[0, 1], rho[1, 0] = 0.1, 0.9, 0.1  # not Hermitian either, by more than allowed
                assert check(rho).finite is False
                rho[0, 0], rho[0, 1], rho[1, 0] = 1.7e308, 0.0, 0.0  # no factorisation is tried: c overflows
                assert check(rho).finite is False
    monkeypatch.setattr(invariants, "MAX_ORDER", 3)
    rho = np.diag(np.full(4, 0.25))
    rho[1, 2] = rho[2, 1] = np.inf
    for method in ("certify", "eigen", "sampled"):
        assert check(rho, method=method).finite is False


@pytest.mark.parametrize("position", range(6))
def test_a_packed_infinity_is_looked_for_where_the_packed_route_gives_way(position: int) -> None:
    packed = packed_of(np.diag([0.5, 0.7, -0.2]))
    if not packed[position]:
        packed[position] = np.inf
        assert check_packed(packed, 3).finite is False


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["double", "single"])
def test_what_is_not_finite_is_said_first_and_alone(dtype: str, bad: float, cplx: bool) -> None:
    """Nothing is measured of such a matrix, so that no NaN stands in a verdict."""
    kind = ("complex" if cplx else "float") + {("double", False): "64", ("double", True): "128"}.get(
        (dtype, cplx), "64" if cplx else "32"
    )
    for i, j, mirrored in ((0, 0, True), (3, 3, True), (1, 2, False), (2, 1, False)):
        rho = (2.0 * symmetric(4, cplx)).astype(kind)  # the trace is out as well
        rho[i, j] = bad
        if mirrored:
            rho[j, i] = bad
        for method in ("certify", "eigen", "sampled"):
            verdict = check(rho, Tolerances(hermitian=math.inf), method=method)
            assert (verdict.finite, verdict.status) == (False, "violated")
            assert verdict.reasons == ("finite: an entry is NaN or infinite",)
            assert (verdict.hermitian_error, verdict.trace_error) == (None, None)
        assert check_factor(rho).reasons == ("finite: an entry is NaN or infinite",)
    if dtype == "double":
        packed = packed_of(2.0 * symmetric(4, cplx))
        packed[rfp_diagonal(4)[1]] = bad
        assert check_packed(packed, 4).reasons == ("finite: an entry is NaN or infinite",)


# ---- the codec


@pytest.mark.parametrize("n", [70, 130, 200])
def test_an_imaginary_minus_zero_is_found_in_every_strip(n: int) -> None:
    """Far from the diagonal an entry is compared with its mirror image in one direction only."""
    real = symmetric(n, False).astype("complex128")
    for where in ((1, n - 1), (n - 1, 1), (0, n // 2), (n - 2, n - 1), (n // 2, n - 1), (n - 1, n // 2)):
        for other in (0.0, -0.0):
            matrix = real.copy()
            matrix.imag[where] = -0.0
            matrix.imag[where[::-1]] = other
            assert not hermitian.is_hermitian(matrix)
            assert encode(matrix, key="k").header.layout == "full"


def test_a_part_is_what_these_tests_take_it_for() -> None:
    part = hermitian_part(np.eye(2))
    assert isinstance(part, HermitianPart)
    assert certificate.UNDERFLOW == witness.UNDERFLOW == 2.0**-960
