"""In dark mode exactly that is admitted which an invariant refuses otherwise, as it is, with its verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from somactl.core.envelope import encode
from somactl.core.framing import peek
from somactl.core.verdict import Tolerances
from somactl.errors import InputRejected, InvariantViolated
from somactl.operations.admission import Admitted, Policy, admit, readmit
from somactl.operations.commit import verdict_values
from somactl.store.contract import CommitMetadata, Entry
from somactl.store.request import prepare

STATUSES = ("valid", "clampable", "undecided", "violated")


def rotated(values: Any, seed: int, *, hermitian: bool) -> np.ndarray:
    """A matrix with these eigenvalues; complex where `hermitian`."""
    random = np.random.default_rng(seed)
    n = len(values)
    basis = random.normal(size=(n, n)) + (1j * random.normal(size=(n, n)) if hermitian else 0)
    q, _ = np.linalg.qr(basis)
    matrix = (q * np.asarray(values)) @ q.conj().T
    return (matrix + matrix.conj().T) / 2


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """Valid ones, and some that miss one invariant or another by little or by much."""
    n = draw(st.integers(2, 6))
    values = np.array(draw(st.lists(st.floats(0.01, 1.0), min_size=n, max_size=n)))
    values /= values.sum()
    least = draw(st.sampled_from([0.0, -1e-12, -5e-9, -1e-8, -1e-6, -0.1, -1e160]))
    values[0], values[1] = (values[0], values[1]) if not least else (least, values[:2].sum() - least)
    matrix = rotated(values, draw(st.integers(0, 99)), hermitian=draw(st.booleans()))
    with np.errstate(over="ignore", invalid="ignore"):  # it may overflow: that is refused as ever
        matrix = matrix * draw(st.sampled_from([1.0, 1.0, 1.0 + 5e-9, 1.5, -1.0, 1e308]))
    matrix[0, 1] += draw(st.sampled_from([0.0, 0.0, 1e-10, 0.3]))
    return matrix


@settings(max_examples=60, deadline=None)
@given(
    matrix=matrices(),
    on_clampable=st.sampled_from(["clamp", "refuse"]),
    dtype=st.sampled_from([None, "complex64"]),
)
def test_it_admits_what_an_invariant_refuses_and_nothing_else(
    matrix: np.ndarray, on_clampable: Any, dtype: str | None
) -> None:
    light = Policy(on_clampable="refuse", dtype=dtype)
    try:
        proven = admit(matrix, "a", "default", light, 0.0)
    except InvariantViolated as refusal:
        if not (refusal.verdict.finite and refusal.verdict.square):
            with pytest.raises(InputRejected):
                admit(matrix, "a", "default", Policy(dtype=dtype, dark=True), 0.0)
            return
        proven = None
    except InputRejected:  # what cannot be encoded
        with pytest.raises(InputRejected):
            admit(matrix, "a", "default", Policy(dtype=dtype, dark=True), 0.0)
        return
    try:
        found = admit(matrix, "a", "default", Policy(on_clampable=on_clampable, dtype=dtype, dark=True), 0.0)
    except InputRejected:  # rounding to `dtype` overflows
        assert proven is None
        assert dtype is not None
        return
    assert found.data == encode(matrix, key="a", dtype=dtype, timestamp=0.0).data
    assert found.verdict is not None
    assert found.dark is (found.verdict.status != "valid")
    # What float64 refuses may be proven as it is stored: data of float32 have wider tolerances.
    assert found.dark is (proven is None) or (proven is None and dtype is not None)
    assert [move.method for move in found.moves] == (["round"] if found.moves else [])
    _is_taken(found, dark=True)
    if found.dark:
        with pytest.raises(InputRejected):
            _is_taken(found, dark=False)
        with pytest.raises(InvariantViolated):
            readmit(_entry(found), Tolerances(), dark=False)
    assert readmit(_entry(found), Tolerances(), dark=True).data == found.data


def _is_taken(found: Admitted, *, dark: bool) -> None:
    metadata = CommitMetadata(verdicts={found.header.content: verdict_values(found)}, dark=dark)
    request = prepare("default", {"a": found.data}, metadata, None, "x")
    if request.summary is not None and found.dark:
        assert request.summary.psd != "valid"
        assert request.summary.admitted_dark


def _entry(found: Admitted) -> Entry:
    return Entry("a", 1, "i", "x", 0.0, found.data, None, "sqlite")


def test_the_cases_are_of_every_status() -> None:
    seen = {
        admit(matrix, "a", "default", Policy(dark=True), 0.0).verdict.status  # type: ignore[union-attr]
        for matrix in (
            np.eye(2) / 2,
            np.diag([1 + 5e-9, -5e-9]),
            rotated([1 + 1e-8, -1e-8], 3, hermitian=False),
            np.diag([1.5, -0.5]),
        )
    }
    assert seen == {*STATUSES}


@pytest.mark.parametrize(
    "refused",
    [np.array([[np.nan, 0], [0, 1]]), np.array([[np.inf, 0], [0, 1]]), np.ones((2, 3)), np.ones(3)],
)
def test_what_is_no_matrix_of_numbers_is_refused_as_ever(refused: np.ndarray) -> None:
    for normalize in (False, True):
        with pytest.raises(InputRejected):
            admit(refused, "a", "default", Policy(dark=True, normalize=normalize), 0.0)


@pytest.mark.parametrize(("most", "status", "moves"), [(0.5, "valid", ["clamp"]), (0.01, "violated", [])])
def test_what_the_caller_asks_for_is_done_in_the_dark_too(most: float, status: str, moves: list[str]) -> None:
    policy = Policy(clamp=True, max_move=most, dark=True)
    found = admit(np.diag([1.1, -0.1]), "a", "default", policy, 0.0)
    assert found.verdict is not None
    assert (found.verdict.status, [move.method for move in found.moves]) == (status, moves)
    small = admit(np.diag([1 + 5e-9, -5e-9]), "a", "default", policy, 0.0)
    assert [move.method for move in small.moves] == ["clamp"]


def test_a_trace_is_divided_by_where_there_is_one() -> None:
    policy = Policy(normalize=True, dark=True)
    assert not admit(np.eye(2), "a", "default", policy, 0.0).dark
    stored = admit(-np.eye(2), "a", "default", policy, 0.0)
    assert stored.dark
    assert not stored.moves


def test_a_factor_of_another_trace_and_a_kind_without_invariants() -> None:
    factor = admit(np.ones((3, 1)), "a", "default", Policy(dark=True), 0.0, layout="factor")
    assert factor.dark
    assert peek(factor.data).layout == "factor"
    assert not admit(np.ones((2, 3)), "a", "default", Policy(dark=True), 0.0, kind="matrix").dark


def test_numbers_that_are_infinite_are_left_out_of_the_verdict_that_is_kept() -> None:
    found = admit(np.diag([1e308, 1e308]), "a", "default", Policy(dark=True), 0.0)
    kept = verdict_values(found)
    assert kept["dark"] is True
    assert "trace_error" not in kept
    _is_taken(found, dark=True)
