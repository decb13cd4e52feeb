"""The nearest density matrix: it is one, it is the nearest, and what was moved is told truly."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from somactl.core import projection
from somactl.core.hermitian import is_hermitian
from somactl.core.invariants import check
from somactl.core.projection import Projection, clip, nearest, normalize, trace
from somactl.errors import InputRejected

REPAIRS: dict[str, Callable[[np.ndarray], Projection]] = {"clip": clip, "nearest": nearest}
EPS = np.finfo(float).eps


def hermitian(seed: int, n: int, cplx: bool, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if cplx else 0.0)
    return scale * (a + a.conj().T) / (2 * n)


def state(seed: int, n: int, cplx: bool, rank: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    k = rank or n
    a = rng.standard_normal((n, k)) + (1j * rng.standard_normal((n, k)) if cplx else 0.0)
    rho = a @ a.conj().T
    return rho / np.trace(rho).real


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b))


def assert_density_matrix(rho: np.ndarray) -> None:
    assert rho.flags.c_contiguous
    assert is_hermitian(rho)
    largest = float(np.diagonal(rho).real.max())
    rest = math.fsum([1.0, *(-np.diagonal(rho).real.astype(float)).tolist()])
    assert abs(rest) <= 0.5001 * np.spacing(rho.real.dtype.type(largest))
    verdict = check(rho)
    assert verdict.status == "valid", verdict


MATRICES = st.builds(
    hermitian,
    st.integers(0, 10**6),
    st.integers(1, 24),
    st.booleans(),
    st.sampled_from([1e-6, 0.1, 1.0, 30.0]),
)


@pytest.mark.parametrize("method", sorted(REPAIRS))
@settings(derandomize=True, max_examples=80, deadline=None)
@given(matrix=MATRICES, shift=st.sampled_from([0.0, 1.0, 0.01]))
def test_the_result_is_a_density_matrix(method: str, matrix: np.ndarray, shift: float) -> None:
    matrix = matrix + shift * np.eye(len(matrix))
    if np.linalg.eigvalsh(matrix)[-1] <= 0:
        return
    found = REPAIRS[method](matrix)
    assert found.method == method
    assert found.matrix.dtype == matrix.dtype
    assert_density_matrix(found.matrix)
    assert found.moved == pytest.approx(distance(matrix, found.matrix), rel=1e-12, abs=1e-300)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(MATRICES)
def test_nearest_never_moves_farther_than_clip(matrix: np.ndarray) -> None:
    if np.linalg.eigvalsh(matrix)[-1] <= 1e-12:
        return
    assert nearest(matrix).moved <= clip(matrix).moved + 8 * EPS * len(matrix)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(MATRICES, st.integers(0, 10**6))
def test_no_other_density_matrix_is_nearer(matrix: np.ndarray, seed: int) -> None:
    """Random states, and states between them and the projection, where a better one would have to be."""
    found = nearest(matrix)
    n, cplx = len(matrix), np.iscomplexobj(matrix)
    slack = 16 * EPS * (1 + np.linalg.norm(matrix))
    for i in range(4):
        other = state(seed + i, n, cplx, rank=1 + i % n)
        for share in (1.0, 0.1, 1e-3, 1e-6):
            between = found.matrix + share * (other - found.matrix)
            assert found.moved <= distance(matrix, between) + slack
        # What characterises the projection onto a convex set: no direction into it descends.
        descent = np.vdot(matrix - found.matrix, other - found.matrix).real
        assert descent <= slack * (1 + np.linalg.norm(matrix))


def brute_force(values: np.ndarray) -> np.ndarray:
    """The nearest point of the simplex, by trying every set of entries that stay above 0."""
    best, least = values, math.inf
    for mask in range(1, 1 << len(values)):
        kept = np.array([mask >> i & 1 for i in range(len(values))], dtype=bool)
        point = np.zeros_like(values)
        point[kept] = values[kept] + (1 - values[kept].sum()) / kept.sum()
        if (point >= 0).all() and (moved := float(np.linalg.norm(point - values))) < least:
            best, least = point, moved
    return best


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=7))
def test_eigenvalues_go_to_the_nearest_point_of_the_simplex(values: list[float]) -> None:
    given_values = np.array(values)
    found = np.diagonal(nearest(np.diag(given_values)).matrix)
    np.testing.assert_allclose(found, brute_force(given_values), atol=1e-14)


def test_the_worked_example_of_the_paper() -> None:
    """Smolin, Gambetta and Smith, figure 1: eigenvalues 3/5, 1/2, 7/20, 1/10, -11/20."""
    found = nearest(np.diag([3 / 5, 1 / 2, 7 / 20, 1 / 10, -11 / 20]))
    np.testing.assert_allclose(np.diagonal(found.matrix), [9 / 20, 7 / 20, 1 / 5, 0, 0], atol=1e-15)


@pytest.mark.parametrize("method", sorted(REPAIRS))
@settings(derandomize=True, max_examples=50, deadline=None)
@given(matrix=MATRICES)
def test_idempotent(method: str, matrix: np.ndarray) -> None:
    if np.linalg.eigvalsh(matrix)[-1] <= 1e-12:
        return
    once = REPAIRS[method](matrix)
    twice = REPAIRS[method](once.matrix)
    assert twice.moved <= 8 * EPS * len(matrix)


@pytest.mark.parametrize("method", sorted(REPAIRS))
@pytest.mark.parametrize("cplx", [False, True])
@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 1), (16, 16), (64, 3), (200, 200), (200, 1)])
def test_a_density_matrix_stays_where_it_is(method: str, cplx: bool, n: int, rank: int) -> None:
    rho = state(n + rank, n, cplx, rank)
    assert REPAIRS[method](rho).moved <= 40 * EPS


def test_a_slightly_negative_matrix_moves_about_as_far_as_it_is_negative() -> None:
    vectors = np.linalg.qr(np.random.default_rng(3).standard_normal((32, 32)))[0]
    values = np.r_[np.full(31, (1 + 5e-10) / 31), -5e-10]
    matrix = (vectors * values) @ vectors.T
    assert 5e-10 <= nearest(matrix).moved <= 5.2e-10
    assert 5e-10 <= clip(matrix).moved <= 5.2e-10


@pytest.mark.parametrize("method", sorted(REPAIRS))
def test_asymmetry_is_repaired_and_counted(method: str) -> None:
    rho = state(1, 6, True)
    asymmetric = rho.copy()
    asymmetric[1, 4] += 2e-3
    asymmetric[2, 2] += 1e-3j
    found = REPAIRS[method](asymmetric)
    assert_density_matrix(found.matrix)
    assert found.moved == pytest.approx(distance(asymmetric, found.matrix), rel=1e-12)
    assert found.moved >= 1e-3


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 1), (16, 16), (64, 1), (64, 7), (64, 64), (150, 10)])
def test_a_single_precision_result_is_valid_as_rounded(dtype: str, n: int, rank: int) -> None:
    rho = state(n * rank, n, dtype == "complex64", rank)
    found = nearest(rho, dtype)
    assert found.matrix.dtype == dtype
    assert_density_matrix(found.matrix)
    assert np.linalg.eigvalsh(found.matrix.astype(complex))[0] >= -1e-15
    assert found.moved == pytest.approx(distance(rho, found.matrix), rel=1e-12)
    assert found.moved <= 4 * n**0.5 * 2.0**-24


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64])
def test_what_single_precision_holds_exactly_is_not_moved(n: int) -> None:
    """Computed eigenvalues of such a singular matrix may come out as -1e-17; that is no reason to move it."""
    for rho in (np.full((n, n), 1 / n), np.eye(n) / n, np.diag(np.r_[1.0, np.zeros(n - 1)])):
        assert nearest(rho, "float32").moved <= 2.0**-24


def test_plain_rounding_to_single_precision_would_break_it() -> None:
    """What the mixing is for: rounding alone leaves eigenvalues near -1e-8."""
    rho = state(64, 64, False, 1)
    assert np.linalg.eigvalsh(rho.astype("float32").astype(float))[0] < -1e-9


def test_the_input_is_left_alone_and_may_be_of_any_order() -> None:
    rho = np.asfortranarray(hermitian(5, 8, True))
    before = rho.copy()
    for repair in (clip, nearest):
        assert repair(rho).matrix.tobytes() == repair(np.ascontiguousarray(rho)).matrix.tobytes()
    assert (rho == before).all()
    integers = np.array([[2, 1], [1, 2]])
    np.testing.assert_allclose(normalize(integers).matrix, [[0.5, 0.25], [0.25, 0.5]], rtol=0)
    assert nearest(np.array([[1, 0], [0, 0]])).moved == 0


# normalize


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans(), st.floats(1e-200, 1e200))
def test_normalize_makes_the_trace_one(seed: int, n: int, cplx: bool, scale: float) -> None:
    rho = state(seed, n, cplx)
    found = normalize(scale * rho)
    assert abs(trace(found.matrix) - 1) <= EPS
    np.testing.assert_allclose(found.matrix, rho, atol=4 * EPS)
    assert found.method == "normalize"


@pytest.mark.parametrize("cplx", [False, True])
def test_normalize_keeps_symmetry_bit_for_bit(cplx: bool) -> None:
    rho = nearest(state(2, 9, cplx)).matrix
    rho[3, 5] = rho[5, 3] = -0.001
    assert is_hermitian(rho)
    found = normalize(3.7 * rho if not cplx else (3.7 * rho.view(float)).view(complex))
    assert is_hermitian(found.matrix)
    assert check(found.matrix).trace_error is not None
    assert check(normalize(1.01 * nearest(rho).matrix).matrix).status == "valid"


def test_normalize_repairs_nothing_else() -> None:
    asymmetric = np.array([[1.0, 0.5], [0.25, 1.0]])
    found = normalize(asymmetric)
    assert found.matrix.tolist() == [[0.5, 0.25], [0.125, 0.5]]
    assert found.moved == distance(asymmetric, found.matrix)
    assert check(found.matrix).status == "violated"


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), -np.eye(3), np.diag([1.0, -1.0]), 1j * np.eye(2)])
def test_normalize_refuses_a_trace_that_is_not_positive(matrix: np.ndarray) -> None:
    with pytest.raises(InputRejected, match="trace"):
        normalize(matrix)


def test_extreme_scales() -> None:
    with pytest.raises(InputRejected, match="overflow"):
        normalize(np.array([[1e-300, 1e300], [1e300, 0.0]]))
    with pytest.raises(InputRejected, match="trace"):
        normalize(np.full((2, 2), 1.7e308))
    assert_density_matrix(nearest(np.diag([1e300, -1e300, 3.0])).matrix)
    assert_density_matrix(nearest(np.diag([-1e300, -1e300, -1e300])).matrix)
    assert_density_matrix(clip(np.diag([1e-300, 0.0])).matrix)
    assert nearest(np.diag([1e300, 0.0])).moved == 1e300
    with pytest.raises(InputRejected, match="positive eigenvalues"):
        clip(np.diag([1.7e308, 1.7e308]))


def test_lapack_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputRejected, match="eigenvalues of the matrix overflow"):
        nearest(np.full((3, 3), 1.7e308))
    broken = SimpleNamespace(dsyevd=lambda a, **_: (np.diagonal(a), a, 3))
    monkeypatch.setattr(projection, "flapack", lambda: broken)
    with pytest.raises(InputRejected, match="did not converge"):
        nearest(np.eye(2))


# What is refused


@pytest.mark.parametrize("repair", [clip, nearest, normalize])
@pytest.mark.parametrize(
    ("matrix", "defect"),
    [
        (np.ones(3), "shape [3]"),
        (np.ones((2, 3)), "shape [2, 3]"),
        (np.ones((2, 2, 2)), "shape [2, 2, 2]"),
        (np.ones((0, 0)), "shape [0, 0]"),
        (np.float64(1), "shape []"),
        (np.array([["1"]]), "dtype"),
        (np.array([[None]]), "dtype object"),
        (np.array([[True]]), "dtype bool"),
        (np.array([[np.nan]]), "NaN or Inf"),
        (np.array([[1.0, np.inf], [np.inf, 1.0]]), "NaN or Inf"),
        (np.array([[1.0, 0], [0, complex(0, np.nan)]]), "NaN or Inf"),
    ],
)
def test_refused(repair: Callable[[np.ndarray], Projection], matrix: np.ndarray, defect: str) -> None:
    with pytest.raises(InputRejected) as caught:
        repair(matrix)
    assert defect in caught.value.message


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), -np.eye(2)])
def test_clip_needs_a_positive_eigenvalue(matrix: np.ndarray) -> None:
    with pytest.raises(InputRejected, match="positive eigenvalues"):
        clip(matrix)
    assert_density_matrix(nearest(matrix).matrix)


@pytest.mark.parametrize(
    ("matrix", "dtype"), [(np.eye(2), "int64"), (1j * np.eye(2), "float32"), (np.eye(2), "complex64")]
)
def test_dtype_refused(matrix: np.ndarray, dtype: str) -> None:
    with pytest.raises(InputRejected, match=dtype):
        nearest(matrix, dtype)
