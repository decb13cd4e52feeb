"""Every legacy form, and everything that is none."""

from __future__ import annotations

import base64
import json
import re
import struct
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from somactl.core import legacy_json
from somactl.core.legacy_json import parse_matrix
from somactl.errors import InvalidJson, LimitExceeded
from support.legacy_values import dumped, numpy_form

LEGACY = {
    key: value.decode() for key, value in dumped().items() if re.match("acme:(rho|sketch|note|broken):", key)
}
GOOD = sorted(key for key in LEGACY if key.startswith(("acme:rho:", "acme:sketch:")))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# What the old service wrote.


def test_all_legacy_matrices_are_there() -> None:
    assert len(GOOD) == 18
    assert len(LEGACY) == 21


@pytest.mark.parametrize("key", GOOD)
def test_legacy_value_is_read_bit_for_bit(key: str) -> None:
    text = LEGACY[key]
    value = json.loads(text)
    if isinstance(value, dict):
        raw = base64.b64decode(value["data"], validate=True)
        expected = np.frombuffer(raw, value["dtype"]).reshape(value["shape"])
    else:
        expected = np.array(value, dtype=float)
    for form in (text, text.encode(), json.dumps(text)):
        found = parse_matrix(form)
        assert same_bits(found, expected)
        assert found.flags.writeable
        assert found.flags.c_contiguous


@pytest.mark.parametrize("key", ["acme:note:text", "acme:broken:b64", "acme:broken:ragged"])
def test_legacy_value_without_a_matrix_is_refused(key: str) -> None:
    with pytest.raises(InvalidJson):
        parse_matrix(LEGACY[key])


# Forms that are read.

ELEMENTS = {
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "float32": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "complex128": st.complex_numbers(allow_nan=False, allow_infinity=False),
    "complex64": st.complex_numbers(allow_nan=False, allow_infinity=False, width=64),
}
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(sorted(ELEMENTS)), st.permutations(["__np__", "data", "dtype", "shape"]))
def test_numpy_form_round_trip(data: st.DataObject, dtype: str, order: list[str]) -> None:
    array = data.draw(hnp.arrays(dtype, SHAPES, elements=ELEMENTS[dtype]))
    form = numpy_form(array)
    text = json.dumps({name: form[name] for name in order}, indent=data.draw(st.sampled_from([None, 3])))
    assert same_bits(parse_matrix(text), array)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(hnp.arrays("float64", SHAPES, elements=ELEMENTS["float64"]), st.sampled_from([None, 1]))
def test_nested_lists_round_trip(array: np.ndarray, indent: int | None) -> None:
    text = json.dumps(array.tolist(), indent=indent)
    assert same_bits(parse_matrix(text), array)
    assert same_bits(parse_matrix(json.dumps(json.dumps(text))), array)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_integers_and_floats_may_be_mixed(row: list[float]) -> None:
    assert same_bits(parse_matrix(json.dumps([row])), np.array([[float(x) for x in row]]))


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (">f8", "float64"), (">f4", "float32"), (">c16", "complex128"), ("<f8", "float64"),
        ("=f8", "float64"), ("float16", "float32"), (">f2", "float32"), ("int8", "float64"),
        (">i8", "float64"), ("uint64", "float64"),
    ],
)  # fmt: skip
def test_dtypes_are_converted_exactly(stored: str, read: str) -> None:
    array = np.array([[1, 2, 3], [40, 50, 60]], dtype=stored)
    found = parse_matrix(json.dumps(numpy_form(array, dtype=stored)))
    assert same_bits(found, array.astype(read))


@pytest.mark.parametrize("first", ["__np__", "data", "dtype", "shape"])
def test_the_short_way_is_taken(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an encoder writes never goes through the plain path, whatever the order of the keys."""
    monkeypatch.setattr(legacy_json, "_parse_plainly", None)
    array = np.random.default_rng(0).standard_normal((64, 64))
    whole = numpy_form(array)
    text = json.dumps({first: whole.pop(first)} | whole)
    assert same_bits(parse_matrix(text), array)


def test_escaped_characters_take_the_plain_path() -> None:
    array = np.frombuffer(bytes([0xFF, 0xFF, 0xFE, 0x3F] * 4), "float32").reshape(2, 2)
    text = json.dumps(numpy_form(array))
    assert "/" in text
    assert same_bits(parse_matrix(text.replace("/", "\\/")), array)
    assert same_bits(parse_matrix(text.replace('"data"', '"d\\u0061ta"')), array)


@pytest.mark.parametrize("gap", [10, 4095, 4096, 4097, 5000, 70_000])
def test_blanks_may_stand_anywhere(gap: int) -> None:
    """The short way looks at the head and the tail alone; whatever stands where, the answer is the same."""
    array = np.arange(600.0).reshape(20, 30)
    text = json.dumps(numpy_form(array))
    for mark in ("{", ",", ":", "}"):
        at = -1
        while (at := text.find(mark, at + 1)) >= 0:
            assert same_bits(parse_matrix(text[:at] + " " * gap + text[at:]), array)


def test_integers_above_2_53_that_are_exact() -> None:
    assert parse_matrix("[[9007199254740994, 1152921504606846976, -9007199254740992]]").tolist() == [
        [2.0**53 + 2, 2.0**60, -(2.0**53)]
    ]


def test_threads_do_not_share_a_parser() -> None:
    arrays = [np.random.default_rng(i).standard_normal((40, 40)) for i in range(8)]
    wrong: list[int] = []

    def work(i: int) -> None:
        text = json.dumps(arrays[i].tolist())
        wrong.extend(i for _ in range(20) if not same_bits(parse_matrix(text), arrays[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_kept_parser_survives_errors_whose_traceback_is_kept() -> None:
    kept = []
    for _ in range(3):
        with pytest.raises(InvalidJson) as caught:
            parse_matrix("[[1, 2], [3]]")
        kept.append(caught)
        assert parse_matrix("[[1, 2]]").tolist() == [[1.0, 2.0]]


# What is refused, each with one sentence that names the defect.

SQUARE = np.eye(2)
B64 = base64.b64encode(SQUARE.tobytes()).decode()
NAN = np.array([[1.0, np.nan], [0.0, 1.0]])
INF32 = np.array([[1.0, -np.inf]], dtype="float32")


def form(**changes: Any) -> str:
    return json.dumps(numpy_form(SQUARE, **changes))


REFUSED = {
    "empty": ("", "empty"),
    "blank": (" \n ", "empty"),
    "not json": ("rho", "not strict JSON"),
    "null": ("null", "is null"),
    "true": ("true", "is a boolean"),
    "number": ("3.5", "is a number"),
    "words": ('"plain words"', "not strict JSON"),
    "empty list": ("[]", "empty"),
    "empty row": ("[[]]", "row 0 is empty"),
    "second row empty": ("[[1], []]", "row 1 is empty"),
    "one dimension": ("[1, 2]", "row 0 is a number"),
    "three dimensions": ("[[[1, 0], [2, 0]]]", "row 0, column 0 is a list"),
    "hidden depth": ("[[1, [2]], [3, 4]]", "row 0, column 1 is a list"),
    "hidden empty list": ("[[1, 2, []], [3, 4, 5]]", "row 0, column 2 is a list"),
    "ragged": ("[[1, 2], [3]]", "ragged: row 0 has 2 numbers, row 1 has 1"),
    "ragged that adds up": ("[[1, 2, 3], [4]]", "ragged: row 0 has 3 numbers, row 1 has 1"),
    "mixed": ("[[1, 2], 3]", "row 1 is a number"),
    "mixed that adds up": ("[[1, 2], 3, 4]", "row 1 is a number"),
    "string": ('[[1, "2"]]', "row 0, column 1 is a string"),
    "bracket in a string": ('[[1, "["]]', "row 0, column 1 is a string"),
    "boolean": ("[[1, true]]", "row 0, column 1 is a boolean"),
    "null entry": ("[[null]]", "row 0, column 0 is null"),
    "object entry": ('[[{"a": 1}]]', "row 0, column 0 is an object"),
    "nan token": ("[[1, NaN]]", "NaN at byte 5"),
    "infinity token": ("[[1, -Infinity]]", "Infinity at byte"),
    "overflowing number": ("[[1e400]]", "number"),
    "trailing comma": ("[[1, 2,]]", "not strict JSON"),
    "trailing text": ("[[1]] x", "not strict JSON"),
    "two documents": ("[[1]][[2]]", "not strict JSON"),
    "hex": ("[[0x10]]", "number"),
    "leading zero": ("[[01]]", "number"),
    "single quotes": ("{'__np__': true}", "not strict JSON"),
    "truncated list": ("[[1, 2], [3", "not strict JSON"),
    "truncated form": (form()[:-20], "not strict JSON"),
    "NUL": ("[[1]]\0", "not strict JSON"),
    "depth bomb": ("[" * 100_000, "not strict JSON"),
    "closed depth bomb": ("[" * 100_000 + "]" * 100_000, "deep"),
    "small depth bomb": ("[" * 900 + "1" + "]" * 900, "row 0, column 0 is a list"),
    "object bomb": ('{"a":' * 100_000, "not strict JSON"),
    "inexact integer": ("[[9007199254740993]]", "9007199254740993 is above 2^53"),
    "huge integer": ("[[1" + "0" * 30 + "]]", "not representable in float64"),
    "huge negative integer": ("[[-9223372036854775809]]", "integer"),
    "too often wrapped": (json.dumps(json.dumps(json.dumps("[[1]]"))), "wrapped"),
    "lone surrogate": ("[[1]]\ud800", "surrogate"),
    "escaped lone surrogate": ('"\\ud800"', "not strict JSON"),
    "other object": ('{"rho": [[1]]}', "'rho'"),
    "form in a list": (f"[{form()}]", "row 0 is an object"),
    "empty object": ("{}", "no fields"),
    "extra field": (form(extra=1), "'extra'"),
    "no dtype": (form(dtype=...), "not the fields"),
    "no shape": (form(shape=...), "not the fields"),
    "no data": (form(data=...), "not the fields"),
    "no mark": (form(__np__=...), "not the fields"),
    "mark false": (form(__np__=False), "`__np__` is not true"),
    "mark 1": (form(__np__=1), "`__np__` is not true"),
    "duplicate data": (form()[:-1] + f', "data": "{B64}"}}', "'data' occurs twice"),
    "duplicate shape": (form()[:-1] + ', "shape": [1, 4]}', "'shape' occurs twice"),
    "data list": (form(data=[1]), "`data` is a list"),
    "data number": (form(data=7), "`data` is a number"),
    "data empty": (form(data=""), "`data` is empty"),
    "data marked": (form(data="@"), "not base64"),
    "not base64": (form(data="!" * 43 + "="), "not base64"),
    "url base64": (form(data="_" * 42 + "8="), "not base64"),
    "base64 without padding": (form(data=B64.rstrip("=") + "A" * 1), "`data` holds 33 bytes"),
    "base64 cut": (form(data=B64[:-1]), "not base64"),
    "base64 with a newline": (form(data=B64[:20] + "\n" + B64[21:]), "not base64"),
    "base64 with blanks": (form(data="    " + B64[4:]), "not base64"),
    "base64 with inner padding": (form(data="AA==" + B64[4:]), "not base64"),
    "base64 of three pads": (form(data=B64[:-4] + "A==="), "`data` holds"),
    "base64 stray bits": (form(data=B64[:-2] + "9="), "not base64"),
    "base64 not ascii": (form(data="é" * 21 + "A="), "not base64"),
    "too few bytes": (form(shape=[2, 3]), "`data` holds 32 bytes where shape [2, 3] of float64 takes 48"),
    "too many bytes": (form(shape=[1, 2]), "`data` holds 32 bytes"),
    "10^12 elements": (form(shape=[10**6, 10**6]), "`data` holds 32 bytes"),
    "overflowing product": (form(shape=[2**62, 4]), "`data` holds 32 bytes"),
    "wrapping product": (form(shape=[2**31, 2**33 + 1]), "`data` holds 32 bytes"),
    "shape beyond 64 bits": (form(shape=[2**70, 1]), "something else than integers"),
    "negative size": (form(shape=[-2, -2]), "not positive"),
    "zero size": (form(shape=[0, 4]), "not positive"),
    "float size": (form(shape=[2.0, 2]), "something else than integers"),
    "boolean size": (form(shape=[True, 4]), "something else than integers"),
    "string size": (form(shape=["2", "2"]), "something else than integers"),
    "shape number": (form(shape=4), "`shape` is a number"),
    "shape empty": (form(shape=[]), "shape [] is that of an array"),
    "one size": (form(shape=[4]), "shape [4] is that of an array"),
    "three sizes": (form(shape=[1, 2, 2]), "shape [1, 2, 2] is that of an array"),
    "a hundred sizes": (form(shape=[1] * 100), "100 dimensions"),
    "nan bytes": (json.dumps(numpy_form(NAN)), "NaN or Inf"),
    "inf bytes": (json.dumps(numpy_form(INF32)), "NaN or Inf"),
    "large int64": (json.dumps(numpy_form(np.array([[2**53 + 1]]))), "above 2^53"),
    "largest uint64": (json.dumps(numpy_form(np.array([[2**64 - 1]], "uint64"))), "above 2^53"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refused(case: str) -> None:
    text, defect = REFUSED[case]
    with pytest.raises(InvalidJson) as caught:
        parse_matrix(text)
    assert defect.lower() in caught.value.message.lower()
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.hint


@pytest.mark.parametrize(
    "dtype",
    ["object", "O", "|O", "bool", "|b1", "str", "U8", "<U8", "S8", "V8", "datetime64[ns]", "<M8[s]",
     "longdouble", "float128", "<f16", "f8,f8", "float", "complex", "int", "double", "<<f8", "<float64", "",
     " f8", "f8\0", "FLOAT64", 7, None, ["f8"], {"a": "f8"}, [["a", "f8"]], "x" * 5000],
)  # fmt: skip
def test_dtype_refused(dtype: object) -> None:
    with pytest.raises(InvalidJson, match="dtype"):
        parse_matrix(form(dtype=dtype))


@pytest.mark.parametrize(
    "text", [b"\xff\xfe[[1]]", b'{"data": "\xff"}', b"[[1]]\xc3", "[[1]]".encode("utf-16")]
)
def test_bytes_that_are_no_utf8(text: bytes) -> None:
    with pytest.raises(InvalidJson, match="not strict JSON"):
        parse_matrix(text)


def test_sum_may_overflow_where_no_number_does() -> None:
    array = np.full((2, 2), 1.7e308)
    assert same_bits(parse_matrix(json.dumps(numpy_form(array))), array)
    assert same_bits(parse_matrix(json.dumps(array.tolist())), array)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy_json, "MAX_TEXT_BYTES", 400)
    with pytest.raises(LimitExceeded, match="401 bytes of JSON"):
        parse_matrix(" " * 396 + "[[1]]")
    assert parse_matrix(" " * 395 + "[[1]]").tolist() == [[1.0]]
    monkeypatch.setattr(legacy_json, "MAX_MATRIX_BYTES", 160)
    with pytest.raises(LimitExceeded, match="more than 20"):
        parse_matrix(json.dumps([[0] * 11] * 2, separators=(",", ":")))
    assert parse_matrix(json.dumps([[0] * 10] * 2)).shape == (2, 10)
    with pytest.raises(LimitExceeded, match="168 bytes"):
        parse_matrix(json.dumps(numpy_form(np.zeros((3, 7)))))
    assert parse_matrix(json.dumps(numpy_form(np.zeros((4, 5))))).shape == (4, 5)


def test_counts_of_simdjson_end_at_2_24(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts no more elements; a longer row is measured by its numbers, and so many rows are refused."""
    length = 2**24 + 3
    assert parse_matrix(b"[[" + b"7," * (length - 1) + b"7]]").shape == (1, length)
    monkeypatch.setattr(legacy_json, "_SATURATED", 5)
    with pytest.raises(InvalidJson, match="5 rows or more"):
        parse_matrix(json.dumps([[1.0]] * 5))


def test_memory_of_large_texts_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy_json, "_spare_parsers", [])
    monkeypatch.setattr(legacy_json, "_KEEP_PARSER_BYTES", 10)
    parse_matrix("[[1, 2, 3]]")
    assert legacy_json._spare_parsers == []
    parse_matrix("[[1, 2]]")
    assert len(legacy_json._spare_parsers) == 1


def test_a_hundred_megabytes_are_read() -> None:
    """Within the limits a large value is no attack; an n of 3,500 in base64 takes 130 MB."""
    array = np.zeros((3500, 3500))
    array[17, 4] = 0.25
    assert same_bits(parse_matrix(json.dumps(numpy_form(array)).encode()), array)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=3), st.integers(0, 10_000), st.sampled_from([form(), "[[1.5, -2], [3e3, 4]]"]))
def test_damage_is_refused_or_read_as_json_reads_it(junk: bytes, at: int, text: str) -> None:
    """Any short overwriting either raises InvalidJson or is what a plain JSON reader makes of the bytes."""
    raw = text.encode()
    at %= len(raw)
    raw = raw[:at] + junk + raw[at + len(junk) :]
    try:
        plain = legacy_json._parse_plainly(raw)
    except InvalidJson:
        with pytest.raises(InvalidJson):
            parse_matrix(raw)
        return
    found = parse_matrix(raw)
    assert isinstance(plain, np.ndarray)
    assert same_bits(found, plain)
    value = json.loads(raw)
    if isinstance(value, dict):
        assert found.tobytes() == base64.b64decode(value["data"], validate=True)
        assert list(found.shape) == value["shape"]
    else:
        assert same_bits(found, np.array(value, dtype=float))


def test_every_cut_of_a_form_is_refused() -> None:
    for text in (form(), "[[1.5, -2], [3, 4]]", json.dumps("[[1]]")):
        for size in range(len(text)):
            with pytest.raises(InvalidJson):
                parse_matrix(text[:size])


def test_bytes_are_those_of_struct() -> None:
    text = json.dumps(numpy_form(SQUARE, data=base64.b64encode(struct.pack("<4d", 1, 2, 3, 4)).decode()))
    assert parse_matrix(text).tolist() == [[1.0, 2.0], [3.0, 4.0]]
