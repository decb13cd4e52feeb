"""Frequent Directions: the bounds of the paper, in whatever order rows come and sketches merge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from somactl.core.hermitian import is_hermitian
from somactl.core.invariants import check
from somactl.core.projection import trace
from somactl.core.sketch import Sketch, empty, error_bound, merge, shrink, to_rho, update
from somactl.errors import InputRejected

EPS = np.finfo(float).eps


def stream(seed: int, m: int, d: int, cplx: bool, decay: float) -> np.ndarray:
    """m x d rows whose singular values fall like decay^i, under rotations at random."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((m, d)) + (1j * rng.standard_normal((m, d)) if cplx else 0.0)
    return a * decay ** np.arange(d) @ np.linalg.qr(rng.standard_normal((d, d)))[0]


def gram(a: np.ndarray) -> np.ndarray:
    return a.conj().T @ a


def assert_bounds(a: np.ndarray, sketch: Sketch, ell: int) -> None:
    """Both sides of 0 <= A^H A - S^H S <= delta, and the two bounds of the paper with ell + 1 for ell."""
    mass = np.linalg.norm(a) ** 2
    slack = 4 * max(16, len(a)) * EPS * mass  # each entry of a Gram matrix sums len(a) products
    gap = np.linalg.eigvalsh(gram(a) - gram(sketch.rows))
    assert sketch.mass == pytest.approx(mass, rel=1e-12)
    assert gap[0] >= -slack
    assert gap[-1] <= sketch.shrinkage + slack
    assert error_bound(sketch).covariance == sketch.shrinkage
    assert (ell + 1) * sketch.shrinkage <= mass - np.linalg.norm(sketch.rows) ** 2 + slack
    tails = mass - np.cumsum(np.linalg.svd(a, compute_uv=False) ** 2)
    assert sketch.shrinkage <= mass / (ell + 1) + slack
    for k in range(1, min(ell, len(tails)) + 1):
        assert sketch.shrinkage <= tails[k - 1] / (ell + 1 - k) + slack


STREAMS = st.builds(
    stream,
    st.integers(0, 10**6),
    st.integers(1, 120),
    st.integers(1, 24),
    st.booleans(),
    st.sampled_from([1.0, 0.9, 0.5]),
)


@settings(derandomize=True, max_examples=120, deadline=None)
@given(STREAMS, st.integers(1, 30), st.lists(st.integers(0, 50), max_size=8))
def test_bounds_hold_however_the_rows_are_cut(a: np.ndarray, ell: int, cuts: list[int]) -> None:
    sketch = empty(a.shape[1], str(a.dtype))
    for block in np.split(a, sorted(min(cut, len(a)) for cut in cuts)):
        sketch = update(sketch, block, ell)
        assert len(sketch.rows) <= 2 * ell
    assert_bounds(a, sketch, ell)
    small = shrink(sketch, ell)
    assert len(small.rows) <= ell
    assert_bounds(a, small, ell)
    assert small.rows.dtype == a.dtype


@settings(derandomize=True, max_examples=80, deadline=None)
@given(STREAMS, st.integers(1, 20), st.integers(1, 6), st.randoms(use_true_random=False))
def test_merged_sketches_keep_the_bounds(a: np.ndarray, ell: int, parts: int, random: object) -> None:
    sketches = [update(empty(a.shape[1]), part, ell) for part in np.array_split(a, parts)]
    random.shuffle(sketches)  # type: ignore[attr-defined]
    while len(sketches) > 1:
        at = random.randrange(len(sketches) - 1)  # type: ignore[attr-defined]
        sketches[at : at + 2] = [merge(sketches[at], sketches[at + 1], ell)]
    assert len(sketches[0].rows) <= 2 * ell
    assert_bounds(a, sketches[0], ell)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(STREAMS, st.integers(1, 20))
def test_the_density_matrix_is_as_near_as_the_bound_says(a: np.ndarray, ell: int) -> None:
    sketch = shrink(update(empty(a.shape[1], str(a.dtype)), a, ell), ell)
    if not len(sketch.rows):  # every direction weighed the same and was shrunk away
        assert error_bound(sketch).trace == pytest.approx(2.0)
        return
    rho = to_rho(sketch)
    assert is_hermitian(rho)
    assert abs(trace(rho) - 1) <= EPS
    assert check(rho).status == "valid"
    gap = np.linalg.eigvalsh(gram(a) / np.linalg.norm(a) ** 2 - rho)
    bound = error_bound(sketch)
    assert np.abs(gap).max() <= bound.rho + 64 * EPS
    assert np.abs(gap).sum() <= bound.trace + 64 * EPS * len(rho)
    assert bound.rho <= bound.trace <= 2 + 64 * EPS


@pytest.mark.parametrize("cplx", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_nothing_is_lost_where_the_rank_fits(cplx: bool, rank: int) -> None:
    rng = np.random.default_rng(rank)
    a = rng.standard_normal((500, rank)) @ (rng.standard_normal((rank, 40)) + (1j if cplx else 0.0))
    sketch = shrink(update(empty(40), a, 8), 8)
    mass = np.linalg.norm(a) ** 2
    assert len(sketch.rows) <= 8
    assert sketch.shrinkage <= 1e-25 * mass
    assert np.abs(gram(a) - gram(sketch.rows)).max() <= 200 * EPS * mass


def test_a_shrinking_takes_off_what_it_says() -> None:
    """Singular values 5, 4, 3, 2 at ell = 2: 9 is taken off each square, and 7 + 9 + 9 + 4 in all is lost."""
    sketch = shrink(Sketch(np.diag([2.0, 5.0, 3.0, 4.0]), 1.0, 54.0), 2)
    assert sketch.shrinkage == pytest.approx(10.0, rel=1e-15)
    assert sketch.mass == 54.0
    np.testing.assert_allclose(gram(sketch.rows), np.diag([0, 16, 0, 7]), atol=1e-13)


def test_equal_directions_shrink_to_nothing() -> None:
    sketch = shrink(update(empty(6), np.eye(6), 3), 3)
    assert sketch.rows.shape == (0, 6)
    assert sketch.shrinkage == pytest.approx(1.0)
    bound = error_bound(sketch)
    assert (bound.rho, bound.trace) == (1.0, 2.0)
    with pytest.raises(InputRejected, match="no row other than zero"):
        to_rho(sketch)


def test_zero_rows_and_no_rows() -> None:
    start = empty(4)
    nothing = update(start, np.zeros((0, 4)), 2)
    assert nothing.rows.shape == (0, 4)
    zeros = update(start, np.zeros((50, 4)), 2)
    assert len(zeros.rows) <= 4
    assert (zeros.mass, zeros.shrinkage) == (0.0, 0.0)
    assert error_bound(zeros).covariance == error_bound(zeros).rho == error_bound(zeros).trace == 0.0
    for sketch in (nothing, zeros):
        with pytest.raises(InputRejected, match="no row other than zero"):
            to_rho(sketch)
    a = stream(1, 30, 4, False, 1.0)
    mixed = update(start, np.vstack([a[:10], np.zeros((7, 4)), a[10:]]), 2)
    assert_bounds(a, mixed, 2)


def test_fewer_rows_than_ell_are_kept_as_they_are() -> None:
    a = stream(2, 7, 5, True, 1.0)
    sketch = update(empty(5), a, 4)
    assert sketch.rows.tobytes() == a.tobytes()
    assert sketch.rows.dtype == np.complex128
    assert shrink(sketch, 7) is sketch


def test_ell_may_change() -> None:
    """A smaller ell later on is honoured; the bound is then that of the smallest."""
    a = stream(3, 200, 20, False, 0.9)
    sketch = update(update(empty(20), a[:100], 12), a[100:], 3)
    assert len(sketch.rows) <= 6
    assert_bounds(a, sketch, 3)


def test_state_is_not_shared() -> None:
    a = stream(4, 3, 5, False, 1.0)
    before = update(empty(5), a, 2)
    kept = before.rows.copy()
    update(before, a, 2)
    a[:] = 0
    assert (before.rows == kept).all()


def test_extreme_scales() -> None:
    a = stream(5, 12, 4, True, 1.0)
    for scale in (1e-160, 1e150):
        sketch = update(empty(4), a * scale, 2)
        np.testing.assert_allclose(to_rho(sketch), to_rho(update(empty(4), a, 2)), atol=1e-12)
    with pytest.raises(InputRejected, match="overflow"):
        update(empty(4), a * 1e200, 2)
    large = update(empty(4), np.full((1, 4), 6e153), 2)
    with pytest.raises(InputRejected, match="overflow"):
        update(large, np.full((100, 4), 6e153), 2)
    with pytest.raises(InputRejected, match="overflow"):
        merge(Sketch(a, 0.0, 1e308), Sketch(a, 0.0, 1e308), 2)


@pytest.mark.parametrize(
    ("rows", "defect"),
    [
        (np.ones(4), "shape [4]"),
        (np.ones((2, 3)), "shape [2, 3]"),
        (np.ones((1, 2, 4)), "shape [1, 2, 4]"),
        (np.array([["1"] * 4]), "dtype"),
        (np.array([[True] * 4]), "dtype bool"),
        (np.array([[None] * 4]), "dtype object"),
        (np.array([[1.0, np.nan, 0, 0]]), "NaN or Inf"),
        (np.array([[1.0, complex(0, np.inf), 0, 0]]), "NaN or Inf"),
    ],
)
def test_rows_refused(rows: np.ndarray, defect: str) -> None:
    with pytest.raises(InputRejected) as caught:
        update(empty(4), rows, 2)
    assert defect in caught.value.message


@pytest.mark.parametrize("ell", [0, -1, 2.0, True, "3"])
def test_ell_refused(ell: int) -> None:
    for call in (lambda: update(empty(4), np.ones((1, 4)), ell), lambda: merge(empty(4), empty(4), ell)):
        with pytest.raises(InputRejected, match="sketch of"):
            call()
    with pytest.raises(InputRejected, match="sketch of"):
        shrink(empty(4), ell)


def test_lapack_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError

    monkeypatch.setattr(np.linalg, "svd", fail)
    with pytest.raises(InputRejected, match="singular values"):
        shrink(Sketch(np.eye(3), 0.0, 3.0), 2)


def test_other_refusals() -> None:
    with pytest.raises(InputRejected, match="4 and 5 columns"):
        merge(empty(4), empty(5), 2)
    for dimension, dtype in ((0, "float64"), (-3, "float64"), (4, "float32")):
        with pytest.raises(InputRejected, match="cannot have rows"):
            empty(dimension, dtype)
