"""A damaged number is damaged wherever it stands: any damage, at any place, in any form of a value."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from somactl.core.legacy_json import parse_matrix
from somactl.core.number_tokens import MAX_COUNTED, rows_lost, spells_a_number
from somactl.errors import InputRejected
from somactl.legacy.kinds import classify
from somactl.legacy.values import find_matrices

BARE = [
    *("NaN", "nan", "-nan", "NAN", "nan(0x7ff8)", "Infinity", "-Infinity", "inf", "-inf", "+Inf", "1.#QNAN"),
    *("None", "null", "nil", "undefined", "NA", "<NA>", "N/A", "NULL", "masked", "--", "-", "****", "?"),
    *("true", "false", "True", "False"),
    *(".5", "-.5", "1.", "+1", "+.5e3", "00.5", "0x1p-1", "0xff", "0o17", "1_000", "1e"),
    *("3L", "0.5f", "0.5j", "1j", "(0.5+0j)", "0.5+0.25j", "(nan+0j)", "0.5 + 0j", "1.0D+00"),
    *("np.float64(0.5)", "-np.float32(0.5)", "numpy.int64(3)", "np.float64(nan)", "np.complex128(0.5+0j)"),
    *("Decimal('0.5')", "Fraction(1, 2)", "tensor(0.5)", "float('nan')", "mpf('0.5')", "array(0.5)"),
    *("@@", "x", "0.5x", "0.5'", "'0.5'", "0.5\u00b0", "\u221e", "\ufffd", "0.5 0.5"),
]  # fmt: skip
QUOTED = [
    *("0.5", " 0.5 ", "nan", "NaN", "-inf", "Infinity", "(0.5+0j)", "0.25j", "-0.25j", "1e-3", ".5", "+1"),
    *("np.float64(0.5)", "Decimal('0.5')", "1_000", "0,5", "1/2", "3L", "(nan+nanj)", "1.#QNAN", "lost"),
]  # fmt: skip
DAMAGES = [*BARE, *(json.dumps(text) for text in QUOTED)]
UNKNOWN = ("@@", "x", '"lost"', "0.5\u00b0", "\ufffd", "0.5'", "0.5x")
"""No program's way to write a number: only that the others are numbers tells that one was lost there."""


def rows(shape: tuple[int, int], damages: dict[int, str]) -> str:
    """A matrix as lists, with other tokens at some of its entries."""
    columns = shape[1]
    entries = [damages.get(i, repr(0.5 + i)) for i in range(shape[0] * columns)]
    lines = [", ".join(entries[i : i + columns]) for i in range(0, len(entries), columns)]
    return "[" + ", ".join(f"[{line}]" for line in lines) + "]"


def forms(text: str) -> dict[str, bytes]:
    """The same matrix as a value, in a string, in objects, and as the service's write-ahead entry has it."""
    return {
        "value": text.encode(),
        "blanks": f" \n{text}\r\n".encode(),
        "mark": b"\xef\xbb\xbf" + text.encode(),
        "string": json.dumps(text).encode(),
        "twice": json.dumps(json.dumps(text)).encode(),
        "object": b'{"rho": %s}' % text.encode(),
        "behind": b'{"task": "words [[and]] more", "at": [1.0, 2.0], "rho": %s, "z": 1}' % text.encode(),
        "log": b'{"error": "down", "value": {"coordinate": [1.0], "rho": %s}}' % text.encode(),
        "string in object": b'{"rho": %s}' % json.dumps(text).encode(),
    }


def is_rejected(value: bytes, *, discover: bool) -> bool:
    """Whether a matrix is found in `value`, and refused."""
    sites = find_matrices(value, discover=discover).sites
    if not sites:
        return False
    for site in sites:
        try:
            classify("k", site)
        except InputRejected:
            return True
    raise AssertionError(f"read: {value!r}")


SHAPES = [(2, 2), (3, 3), (2, 5), (5, 2), (12, 12), (1, 3)]


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_number_is_found_at_every_place(damage: str) -> None:
    for shape in SHAPES:
        if damage in UNKNOWN and shape[0] == 1:
            continue  # a row that begins with a word is a table's
        size = shape[0] * shape[1]
        for place in {0, 1, shape[1] - 1, shape[1] % size, size // 2, size - 1}:
            text = rows(shape, {place: damage})
            for form, value in forms(text).items():
                assert is_rejected(value, discover=True), (form, value)
                if value.strip(b" \n\r\xef\xbb\xbf").startswith((b"[", b'"')):
                    assert is_rejected(value, discover=False), (form, value)


@settings(max_examples=300)
@given(
    st.sampled_from(SHAPES),
    st.lists(st.tuples(st.integers(0, 143), st.sampled_from(BARE[:60])), min_size=1, max_size=6),
)
def test_several_damaged_numbers_are_found(shape: tuple[int, int], damages: list[tuple[int, str]]) -> None:
    size = shape[0] * shape[1]
    text = rows(shape, {place % size: token for place, token in damages})
    for form, value in forms(text).items():
        assert is_rejected(value, discover=True), (form, value)


@pytest.mark.parametrize(
    "words",
    [
        "[[Category:Physics]] is nice", "[[1]] and [[2]]", "see [[1, 2]] there", "[note] [[draft]]",
        '[["a", 1], ["b", 2]]', '[["x", "y"], [1, 2], [3, 4]]', "[[red, green], [blue, 1]]",
        '[["NA", "EU"], ["US", "AS"]]', "[[None of these], [1]]", '[["", "c1"], ["r1", 3]]',
        '[["2024-01-02", "2024-01-03"]]', '[["10.0.0.1", 80], ["10.0.0.2", 80]]', '[["v1.2.3"]]',
        '[["12:30", 1], ["13:30", 2]]', "[1.0, 2.0, 3.0]", '["0.5", "nan"]', "nan", "None", "np.float64(0.5)",
        "the [[nan]] token", "[nan, nan]", "[[", "[[x", '[["information"], ["nancy"], ["infer"]]',
    ],
)  # fmt: skip
def test_words_stay_words(words: str) -> None:
    if words != "[[":  # what was cut off there cannot be told
        assert not find_matrices(words.encode()).sites
        assert not find_matrices(json.dumps(words).encode()).sites
        assert not find_matrices(json.dumps({"note": words}).encode(), discover=True).sites


@pytest.mark.parametrize("separator", [";", ":", " | ", " ; "])
def test_a_damaged_separator_is_found_at_every_place(separator: str) -> None:
    """Between two numbers or two rows."""
    for shape in [(2, 2), (3, 3), (12, 12)]:
        parts = rows(shape, {}).split(",")
        for place in range(1, len(parts)):
            text = ",".join(parts[:place]) + separator + ",".join(parts[place:])
            for form, value in forms(text).items():
                assert is_rejected(value, discover=True), (form, value)


@pytest.mark.parametrize(
    "call", ["array(", "np.array(", "numpy.matrix(", "masked_array(data=", "torch.tensor("]
)
def test_an_array_as_python_prints_it_is_no_words(call: str) -> None:
    text = f"{call}[[0.5, 0. ],\n       [0. , 0.5]])"
    for value in (text.encode(), json.dumps(text).encode()):
        assert is_rejected(value, discover=False), value
    assert is_rejected(b'{"rho": %s}' % json.dumps(text).encode(), discover=True)
    assert find_matrices(json.dumps(f"{call}[['a', 'b']])").encode()).sites == ()


@pytest.mark.parametrize("text", ["nan", "0.5", "(0.5+0j)", "np.float64(0.5)", "0x1p-1", "\u221e"])
def test_a_string_that_spells_a_number_is_named(text: str) -> None:
    assert spells_a_number(text)
    with pytest.raises(InputRejected, match="only spells one"):
        parse_matrix(json.dumps([[1.0, text]]))


@pytest.mark.parametrize("text", ["", "nancy", "info", "v1", "2024-01-02", "1.2.3", "x1", "half", "1 2"])
def test_other_strings_spell_none(text: str) -> None:
    assert not spells_a_number(text)


def test_integers_as_jsonb_prints_them() -> None:
    exact = [10**20, -(10**22), 2**64, 2**100, 3 * 2**70, 0]
    assert parse_matrix(json.dumps([exact])).tolist() == [[float(i) for i in exact]]
    for inexact in (10**23, 2**64 + 1, 10**20 + 1, -(10**30)):
        with pytest.raises(InputRejected, match=f"the integer {inexact} is above"):
            parse_matrix(json.dumps([[inexact, 0]]))
    for digits in (310, 5000):
        with pytest.raises(InputRejected, match="beyond the range of float64"):
            parse_matrix(f"[[1, {'9' * digits}]]")


def test_no_more_is_counted_than_the_beginning() -> None:
    text = b"[[word," + b"0.5," * MAX_COUNTED
    assert rows_lost(text)[1] <= MAX_COUNTED + 8
    assert np.isfinite(rows_lost(b"[" * (1 << 20))[1])
