"""One gate for arrays: what is no matrix of exact numbers is refused by every function that takes one.

The rule: `check`, `check_packed` and `check_factor` answer with a verdict that says why and raise nothing;
`encode`, the repairs and the sketch raise InputRejected.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from somactl.core import hermitian, projection
from somactl.core.envelope import deserialize_matrix, encode
from somactl.core.invariants import check, check_factor, check_packed
from somactl.core.sketch import empty, update
from somactl.core.verdict import Verdict
from somactl.errors import InputRejected

BIG = 2**53 + 1


class Unwilling:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("needs a gradient")


class Subclass(np.ndarray):
    """Like np.matrix: what it makes of a product or an index is its own affair."""

    def __mul__(self, other: Any) -> Any:
        raise AssertionError("a plain array was wanted")


def recursive() -> list[Any]:
    rows: list[Any] = []
    rows.append(rows)
    return rows


def structured(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, dtype=[("re", "f8"), ("im", "f8")])


def filled(dtype: Any) -> Callable[[tuple[int, ...]], np.ndarray]:
    return lambda shape: np.zeros(shape, dtype=dtype)


def integers(value: int, dtype: str) -> Callable[[tuple[int, ...]], np.ndarray]:
    def make(shape: tuple[int, ...]) -> np.ndarray:
        array = np.zeros(shape, dtype=dtype)
        array.reshape(-1)[-1] = value
        return array

    return make


def listed(*entries: Any) -> Callable[[tuple[int, ...]], Any]:
    """Lists that begin with these entries, in the nesting of that shape."""

    def make(shape: tuple[int, ...]) -> Any:
        flat = [*entries, *[0.5] * (int(np.prod(shape)) - len(entries))]
        if len(shape) == 1:
            return flat
        return [flat[i : i + shape[1]] for i in range(0, len(flat), shape[1])]

    return make


REFUSED: dict[str, Callable[[tuple[int, ...]], Any]] = {
    "masked": lambda shape: np.ma.masked_equal(np.full(shape, 0.5), 0.5),
    "masked nowhere": lambda shape: np.ma.masked_array(np.full(shape, 0.5)),
    "a masked constant in a list": listed(np.ma.masked),
    "masked rows in a list": lambda shape: (
        [np.ma.masked_array(np.full(shape[1:], 0.5), mask=True)] * shape[0]
    ),
    "int64": integers(BIG, "i8"),
    "negative int64": integers(-BIG, "i8"),
    "largest int64": integers(2**63 - 1, "i8"),
    "uint64": integers(BIG, "u8"),
    "largest uint64": integers(2**64 - 1, "u8"),
    "big-endian int64": integers(BIG, ">i8"),
    "an integer beside floats": listed(BIG, 0.5),
    "a numpy integer beside floats": listed(np.int64(BIG), 0.5),
    "integers of both signs": listed(2**63 + 1, -1),
    "an integer beyond 64 bits": listed(2**70 + 1),
    "an integer beyond float64": listed(10**400),
    "bool": filled(bool),
    "object": filled(object),
    "decimals": listed(decimal.Decimal("0.5")),
    "None": listed(None),
    "text": filled("U3"),
    "bytes": filled("S3"),
    "numbers as text": listed("0.5", "0.5"),
    "structured": structured,
    "dates": filled("M8[s]"),
    "durations": filled("m8[s]"),
    "void": filled("V8"),
    "ragged": lambda shape: [[0.5, 0.5], [0.5]],
    "ragged deeper": lambda shape: [[[0.5], [0.5, 1.0]], [[0.5], [0.5]]],
    "recursive": lambda shape: recursive(),
    "None itself": lambda shape: None,
    "a text": lambda shape: "rho",
    "a set": lambda shape: {0.5},
    "a mapping": lambda shape: {"a": 0.5},
    "an object that refuses": lambda shape: Unwilling(),
}

MISSHAPEN: dict[str, Any] = {
    "0-d": np.float64(1.0),
    "a number": 1.0,
    "3-d": np.full((2, 2, 2), 0.5),
    "empty": np.zeros((0, 0)),
    "empty list": [],
    "empty rows": [[], []],
}

ACCEPTED: dict[str, Any] = {
    "float16": np.diag([0.5, 0.5]).astype("f2"),
    "float32": np.diag([0.5, 0.5]).astype("f4"),
    "complex64": np.diag([0.5, 0.5]).astype("c8"),
    "big-endian": np.diag([0.5, 0.5]).astype(">f8"),
    "big-endian complex": np.diag([0.5, 0.5]).astype(">c16"),
    "int8": np.diag([1, 0]).astype("i1"),
    "uint64": np.diag([1, 0]).astype("u8"),
    "lists": [[0.5, 0.0], [0.0, 0.5]],
    "integers in lists": [[1, 0], [0, 0]],
    "booleans beside floats": [[True, 0.0], [0.0, 0.0]],
    "tuples of rows": (np.array([0.5, 0.0]), np.array([0.0, 0.5])),
    "complex lists": [[0.5, 0.1j], [-0.1j, 0.5]],
    "subclass": np.diag([0.5, 0.5]).view(Subclass),
    "memoryview": memoryview(np.diag([0.5, 0.5])),
    "strided": np.kron(np.diag([0.5, 0.5]), np.ones((2, 2)))[::2, ::2],
    "reversed": np.diag([0.25, 0.75])[::-1, ::-1],
    "broadcast": np.broadcast_to(np.float64(0.5), (2, 2)),
    "Fortran": np.asfortranarray(np.diag([0.5, 0.5])),
}

CHECKS: dict[str, tuple[tuple[int, ...], Callable[[Any], Verdict]]] = {
    "check": ((2, 2), check),
    "check, eigen": ((2, 2), lambda a: check(a, method="eigen", spectrum=True)),
    "check, sampled": ((2, 2), lambda a: check(a, method="sampled")),
    "check, overwrite": ((2, 2), lambda a: check(a, overwrite=True)),
    "check_factor": ((2, 2), check_factor),
    "check_packed": ((3,), lambda a: check_packed(a, 2)),
}

TAKERS: dict[str, Callable[[Any], Any]] = {
    "encode": lambda a: encode(a, key="k", kind="matrix"),
    "nearest": projection.nearest,
    "clip": projection.clip,
    "normalize": projection.normalize,
    "sketch": lambda a: update(empty(2), a, 2),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_check_answers_what_is_no_matrix_with_a_verdict(kind: str) -> None:
    for name, (shape, judge) in CHECKS.items():
        verdict = judge(REFUSED[kind](shape))
        assert (verdict.status, verdict.rigour) == ("violated", "proved"), name
        assert (verdict.square, verdict.n, verdict.psd_ok) == (False, 0, None), name
        assert len(verdict.reasons) == 1, name


@pytest.mark.parametrize("kind", REFUSED)
def test_whatever_else_takes_an_array_refuses_it(kind: str) -> None:
    for take in TAKERS.values():
        with pytest.raises(InputRejected):
            take(REFUSED[kind]((2, 2)))


@pytest.mark.parametrize("kind", MISSHAPEN)
def test_other_shapes_are_no_matrix(kind: str) -> None:
    for name, (_, judge) in CHECKS.items():
        verdict = judge(MISSHAPEN[kind])
        assert (verdict.status, verdict.square, len(verdict.reasons)) == ("violated", False, 1), name
    with pytest.raises(InputRejected):
        encode(MISSHAPEN[kind], key="k")


@pytest.mark.parametrize("n", [0, -1, 1, 3, 10**30, 2.0, "2", None])
def test_an_order_that_does_not_fit_gives_a_verdict(n: Any) -> None:
    assert check_packed(np.full(3, 0.5), n).status == "violated"
    assert check_packed([0.5, 0.5, 0.0], np.int8(2)).status == "valid"  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ACCEPTED)
def test_every_exact_form_of_a_matrix_is_judged_and_stored(kind: str) -> None:
    matrix = ACCEPTED[kind]
    before = np.array(matrix)
    assert check(matrix).status == "valid"
    assert check(matrix, method="eigen").status == "valid"
    stored = deserialize_matrix(encode(matrix, key="k").data).array
    assert np.array_equal(stored, before)
    assert np.array_equal(np.asarray(matrix), before)
    assert np.array_equal(projection.nearest(matrix).matrix.shape, (2, 2))


def test_integers_that_float64_holds_are_exact_however_large() -> None:
    large = np.diag([2**62, 2**60 + 2**20])
    assert check(large).trace_error == float(2**62 + 2**60 + 2**20 - 1)
    assert np.array_equal(deserialize_matrix(encode(large, key="k").data).array, large.astype(float))
    assert check([[2.0**53, 0.5], [0.5, 2**53]]).finite


def test_the_first_inexact_integer_is_named() -> None:
    array = np.zeros((3, 4), dtype=np.int64)
    array[1, 2] = BIG
    with pytest.raises(InputRejected, match=f"holds {BIG} at row 1, column 2, which float64 does not hold"):
        encode(array, key="k", kind="matrix")
    assert f"{BIG} at row 1, column 2" in check_factor(array).reasons[0]


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="a long double is a float64 here")
def test_a_check_refuses_long_doubles_of_which_float64_holds_a_part() -> None:
    for dtype in (np.longdouble, np.clongdouble):
        assert "not numeric" in check(np.eye(2, dtype=dtype) / 3).reasons[0]


@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
@pytest.mark.parametrize("n", [2, 3, 64, 65, 129, 200])
def test_decoding_computes_on_nothing_it_has_not_written(
    n: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh memory full of signalling NaNs: no bit of the result and no warning comes of it."""
    rng = np.random.default_rng(n)
    m = rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))
    matrix = (m + m.conj().T).astype(dtype)
    matrix.imag[1, 0] = matrix.imag[0, 1] = 0.0
    data = encode(matrix, key="k").data
    genuine = np.empty
    word = {"complex128": 0x7FF0000000000001, "complex64": 0x7F800001}[dtype]

    def poisoned(*args: Any, **kwargs: Any) -> np.ndarray:
        memory = genuine(*args, **kwargs)
        if memory.dtype == dtype:
            memory.view(f"u{memory.itemsize // 2}")[...] = word
        return memory

    hermitian._places.cache_clear()
    monkeypatch.setattr(hermitian.np, "empty", poisoned)
    with np.errstate(all="raise"):
        assert deserialize_matrix(data).array.tobytes() == matrix.tobytes()
        assert encode(matrix, key="k").data == data
