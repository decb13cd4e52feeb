"""The bounds as computed are the bounds as published, term by term, in rationals (docs/CERTIFICATE.md)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from somactl.core import certificate
from somactl.core.certificate import _bound, certify, factor, positive, proving_shift, rounding_bound, weights
from somactl.core.hermitian import HermitianPart, hermitian_part
from somactl.core.invariants import check
from somactl.core.verdict import Tolerances
from support.exact import hadamard

BOTH = pytest.mark.parametrize("cplx", [False, True], ids=["real", "complex"])
U = Fraction(1, 2**53)
SLACK = 1 + Fraction(1, 2**20)
TIGHT = 1 + Fraction(1, 2**17)
ROOT_EIGHT = Fraction(2.8284272)


def weight(j: int, cplx: bool) -> Fraction:
    return ROOT_EIGHT * (j + 2) if cplx else Fraction(j + 4)


def exact_c(diagonal: np.ndarray, eps: float, charge: float, cplx: bool) -> Fraction:
    d = [max(Fraction(float(np.float64(x) + eps)), Fraction(0)) for x in diagonal]
    total = sum((weight(j, cplx) * x for j, x in enumerate(d, 1)), Fraction(0))
    return U * (total + max(d) + Fraction(eps)) + Fraction(charge)


@BOTH
def test_the_rounding_bound_is_its_formula(cplx: bool) -> None:
    rng = np.random.default_rng(1)
    for trial in range(200):
        n = int(rng.integers(1, 12))
        diagonal = rng.uniform(-1.0, 1.0, n) * 10.0 ** -rng.uniform(0, 9, 1)
        eps = float(rng.choice([0.0, 1e-8, 0.5, 3.0]))
        charge = float(rng.choice([0.0, 1e-17, 1e-12]))
        exact = exact_c(diagonal, eps, charge, cplx)
        computed = Fraction(rounding_bound(diagonal, eps, charge, cplx))
        assert exact <= computed <= exact * TIGHT + Fraction(2.0**-959), trial


def test_weights_stop_growing_at_the_limit() -> None:
    assert weights(6, False, limit=3).tolist() == [5.0, 6.0, 7.0, 7.0, 7.0, 7.0]
    assert weights(4, True, limit=2) == pytest.approx([2.8284272 * 3, *[2.8284272 * 4] * 3], rel=1e-15)


def test_the_proving_shift_keeps_c_below_the_tolerance() -> None:
    diagonal = np.full(4, 0.25)
    c = rounding_bound(diagonal, 1e-8, 0.0, False)
    assert proving_shift(diagonal, 1e-8, 0.0, False) == 1e-8 - c
    assert proving_shift(diagonal, 0.9 * c, 0.0, False) is None
    assert proving_shift(diagonal, 0.0, 0.0, False) is None
    for hopeless in (np.inf, np.nan):
        assert proving_shift(np.array([hopeless, 0.5]), 1e-8, 0.0, False) is None


def test_a_factor_s_diagonal_is_finite_real_and_positive() -> None:
    assert positive(np.array([1.0, 5e-324]))
    assert positive(np.array([1.0 + 0j, 2.0]))
    for bad in (0.0, -0.0, -1.0, np.inf, -np.inf, np.nan):
        for where in (0, 1):
            diagonal = np.array([1.0, 1.0])
            diagonal[where] = bad
            assert not positive(diagonal)
            assert not positive(diagonal.astype(complex))
    assert not positive(np.array([1.0 + 1e-300j, 1.0]))


@BOTH
def test_a_factorisation_of_what_is_not_finite_never_completes(cplx: bool) -> None:
    for n in (3, 40):
        for i, j in ((0, 0), (n - 1, n - 1), (0, 1), (1, n - 1)):
            for bad in (np.nan, np.inf):
                matrix = np.eye(n, dtype=complex if cplx else float)
                matrix[i, j] = matrix[j, i] = bad
                with np.errstate(all="ignore"):
                    part = hermitian_part(matrix)
                    assert factor(part, 1.0) != 0


@BOTH
def test_a_shift_past_the_tolerance_proves_no_more_than_it_does(cplx: bool) -> None:
    """lambda_min, known exactly, below -eps by up to 4c: what completes there is no proof of -eps."""
    n, unit, eps = 8, 2.0**-52, 2.0**-27
    c = rounding_bound(np.full(n, 1.0 / n), eps, 0.0, cplx) / unit
    spectrum = [0] + [2**52 // n] * (n - 1)
    bounded = 0
    for offset in np.linspace(0.2, 4.0, 20):
        spectrum[0] = -round(eps / unit) - max(1, round(offset * c))
        matrix = hadamard(spectrum, 52, is_complex=cplx, seed=3)
        bounds = certify(hermitian_part(matrix), eps)
        exact = spectrum[0] * unit
        if bounds.lower is not None:
            assert bounds.lower <= exact
            bounded += 1
        verdict = check(matrix, Tolerances(psd=eps, trace=1.0))
        assert verdict.psd_ok is not True
    assert bounded > 0, "the test has lost its power"


# ---- the early bound


def remainder(k: int, s: np.ndarray, head: np.ndarray, charge: float, row: float = 0.0) -> HermitianPart:
    """A matrix after k columns: L11 = I / 2^15, S = `s`, every entry of the rows below L11 `row`."""
    n = k + len(s)
    work = np.zeros((n, n), s.dtype)
    work[np.diag_indices(k)] = 2.0**-15
    work[:k, k:] = row
    work[k:, k:] = np.triu(s)
    return HermitianPart(np.eye(n, dtype=s.dtype), work, head, 0.0, charge, damaged=0)


def exact_early(part: HermitianPart, k: int) -> tuple[Fraction, Fraction]:
    """(mu, B) without the slack; the norms, which are irrational, from below."""
    n, cplx = part.n, part.is_complex
    s = part.work[k:, k:]
    low = [Fraction(float(x)) for x in s.diagonal().real]
    off = Fraction(float(np.sqrt(2.0) * np.linalg.norm(np.triu(s, 1))) * (1.0 - 2.0**-40))
    norm = Fraction(float(np.sqrt(2.0 * np.linalg.norm(np.triu(s, 1)) ** 2 + np.sum(s.diagonal().real ** 2))))
    norm *= 1 - Fraction(1, 2**40)
    total = Fraction(0)
    for i in range(n):
        t = max(Fraction(float(part.diagonal[i])), Fraction(0))
        t += 2 * max(-low[i - k], Fraction(0)) if i >= k else 0
        total += weight(min(i + 1, k + 1), cplx) * t
    bound = U * (total + (2 * k + 4 if cplx else k + 4) * norm) + Fraction(part.charge)
    return max(Fraction(0), min(norm, off - min(low))), bound


@BOTH
def test_the_early_bound_is_its_formula(cplx: bool) -> None:
    rng = np.random.default_rng(2)
    for trial in range(60):
        k, rest = int(rng.integers(1, 5)), int(rng.integers(1, 6))
        s = rng.standard_normal((rest, rest)) + (1j * rng.standard_normal((rest, rest)) if cplx else 0.0)
        s = (s + s.conj().T) * 10.0 ** -rng.uniform(0, 12)
        np.fill_diagonal(s, np.abs(s.diagonal().real) * (rng.random() < 0.7))
        part = remainder(k, s, rng.random(k + rest), float(rng.choice([0.0, 1e-14])))
        mu, bound = exact_early(part, k)
        lower = _bound(part, k, np.inf)
        assert lower is not None
        assert mu + bound <= Fraction(-lower) <= (mu + bound) * TIGHT + Fraction(2.0**-490), trial


@BOTH
def test_the_early_bound_counts_a_negative_remainder_twice(cplx: bool) -> None:
    """-S_ii near 2^32 B, in a direction of length 2^32: all that is 2^-20 of B and more must be counted."""
    k, rest = 1, 60
    charge = 2.0**-30
    s = np.diag(np.full(rest, -(2.0**30) * 2.0**2 * charge)).astype(complex if cplx else float)
    part = remainder(k, s, np.full(k + rest, 1e-3), charge, row=2.0)
    mu, bound = exact_early(part, k)
    lower = _bound(part, k, np.inf)
    assert lower is not None
    assert Fraction(-lower) >= mu + bound


@pytest.mark.parametrize("bad", [np.inf, np.nan, -(0.125**0.5), 0.0])
def test_a_pivot_that_is_not_finite_and_positive_stops_the_early_proof(
    bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever LAPACK's info says, as OpenBLAS's does of NaN."""
    monkeypatch.setattr(certificate, "concentrated", lambda *_: True)
    monkeypatch.setattr(certificate, "PROBE", 2)
    genuine, calls = certificate.potrf, []

    def tampered(work: np.ndarray, order: int) -> int:
        info = genuine(work, order)
        calls.append(order)
        if len(calls) % 2 == 0:  # the probe is the first
            work[0, 0] = bad
        return info

    rho = np.full((8, 8), 0.125)
    assert certificate.low_rank_bound(hermitian_part(rho), 1e-8) is not None
    monkeypatch.setattr(certificate, "potrf", tampered)
    with np.errstate(all="ignore"):
        assert certificate.low_rank_bound(hermitian_part(rho), 1e-8) is None
    assert len(calls) == 2


def test_a_tolerance_that_is_no_number_accepts_nothing() -> None:
    assert check(np.eye(2) / 2, Tolerances(psd=np.nan)).status == "undecided"
    for tolerances in (Tolerances(trace=np.nan), Tolerances(hermitian=np.nan)):
        assert check(np.eye(2) / 2, tolerances).status == "violated"
