"""The scanner accepts what JSON is and finds each node where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from somactl.core import json_pointer
from somactl.core.json_pointer import MAX_DEPTH, format_pointer, locate, parse_pointer, scan
from somactl.errors import InvalidJson, LimitExceeded, UsageError

NAMES = st.text(max_size=4) | st.sampled_from(["", "a", "~", "/", "~1", "0", "__np__", '"', "é", "\ud800"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@st.composite
def json_texts(draw: st.DrawFn) -> bytes:
    value = draw(VALUES)
    dumped = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 0, 3])))
    try:
        return dumped.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value).encode("ascii")


def nodes(value: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield names, value
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else ((str(i), v) for i, v in enumerate(value))
        for name, inner in items:
            yield from nodes(inner, (*names, name))


def is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode("utf-8"))
    except ValueError:
        return False
    return True


def scans(text: bytes) -> bool:
    try:
        scan(text, lambda *_: None)
    except InvalidJson:
        return False
    return True


@settings(derandomize=True, max_examples=300, deadline=None)
@given(json_texts())
def test_every_node_is_found_where_it_stands(text: bytes) -> None:
    everything = dict(nodes(json.loads(text)))
    spans = locate(text, [format_pointer(names) for names in everything])
    assert len(spans) == len(everything)
    for names, value in everything.items():
        start, end, twice = spans[format_pointer(names)]
        assert twice is None
        assert text[start:end] == text[start:end].strip()
        assert repr(json.loads(text[start:end])) == repr(value)  # repr: NaN equals itself


@settings(derandomize=True, max_examples=300, deadline=None)
@given(json_texts(), st.data())
def test_one_pointer_finds_what_all_find(text: bytes, data: st.DataObject) -> None:
    """What is taken in one bite on the way depends on what was asked for; the answer must not."""
    pointers = [format_pointer(names) for names, _ in nodes(json.loads(text))]
    chosen = data.draw(st.sampled_from(pointers))
    assert locate(text, [chosen]) == {chosen: locate(text, pointers)[chosen]}


@settings(derandomize=True, max_examples=600, deadline=None)
@given(json_texts(), st.data())
def test_it_accepts_what_json_accepts(text: bytes, data: st.DataObject) -> None:
    pieces = st.sampled_from([bytes([c]) for c in b'{}[]",:\\0-+.eEtunNI /\n\x00\x1f\x7f\x80\xc3\xed\xff'])
    mutated = text
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated)))
        mutated = (
            mutated[:at] + data.draw(pieces | st.just(b"")) + mutated[at + data.draw(st.integers(0, 2)) :]
        )
    assert scans(mutated) == is_json(mutated)


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"[", b'"', b"[1,]", b"[,1]", b'{"a":1,}', b'{"a"}', b"{1:2}", b"[1}", b'{"a":1]',
        b"[}", b"{]", b"01", b"-", b"1.", b".5", b"1e", b"+1", b"nan", b"-NaN", b"truex", b"1 2", b"[] []",
        b"'a'", b'"\\x"', b'"\\u12"', b'"\n"', b'"\x80"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xff"',
        b'"\xf4\x90\x80\x80"', b"1\xef\xbb\xbf", b"[1\x0b]", b"[1 2]", b'["a" "b"]', b'{"a" 1}', b"{,}",
        b"[[1],]", b'{"\xff":1}', b"Infinit", b"--Infinity", b"]", b"\x0b",
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(text: bytes) -> None:
    assert not is_json(text)
    with pytest.raises(InvalidJson, match="not strict JSON"):
        scan(text, lambda *_: None)


@pytest.mark.parametrize("size", [10, 4095, 4096, 4097, 20_000])
@pytest.mark.parametrize(
    "inside", [b"", b"\n", b"\x1f", b"\x7f", b"\\n", b"\\q", b"\xc3\xa9", b"\xff", b"\\"]
)
def test_long_strings_are_checked_as_short_ones_are(size: int, inside: bytes) -> None:
    for text in (
        b'"' + b"a" * size + inside + b"a" * size + b'"',
        b'["' + b"a" * size + inside + b'", 1]',
        b'{"' + inside + b"a" * size + b'": 1}',
    ):
        assert scans(text) == is_json(text)


def test_a_depth_bomb_is_refused_and_what_is_just_deep_is_not() -> None:
    scan(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, lambda *_: None)
    for bomb in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000):
        with pytest.raises(LimitExceeded, match=f"nested deeper than {MAX_DEPTH}"):
            scan(bomb, lambda *_: None)


def test_too_many_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_pointer, "MAX_NODES", 100)
    scan(b"[" + b"{}," * 98 + b"{}]", lambda *_: None)
    with pytest.raises(LimitExceeded, match="more than 100 nodes"):
        scan(b"[" + b"{}," * 99 + b"{}]", lambda *_: None)
    scan(b"[" + b"1," * 1000 + b"1]", lambda *_: None)  # taken in one bite


# Pointers.

RFC_6901 = {
    "": None, "/foo": ["bar", "baz"], "/foo/0": "bar", "/": 0, "/a~1b": 1, "/c%d": 2, "/e^f": 3, "/g|h": 4,
    "/i\\j": 5, '/k"l': 6, "/ ": 7, "/m~0n": 8,
}  # fmt: skip
RFC_6901_TEXT = rb"""{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5,
    "k\"l": 6, " ": 7, "m~n": 8}"""


def test_the_examples_of_the_standard() -> None:
    spans = locate(RFC_6901_TEXT, RFC_6901)
    assert list(spans) == ["", "/foo", "/foo/0", *list(RFC_6901)[3:]]
    for pointer, value in RFC_6901.items():
        found = json.loads(RFC_6901_TEXT[spans[pointer].start : spans[pointer].end])
        assert found == (value if pointer else json.loads(RFC_6901_TEXT))


@settings(derandomize=True, deadline=None)
@given(st.lists(st.text(max_size=5)))
def test_pointers_are_read_as_they_are_written(names: list[str]) -> None:
    assert parse_pointer(format_pointer(names)) == tuple(names)


@pytest.mark.parametrize("pointer", ["rho", "#/rho", "/a~", "/a~2b", " /a"])
def test_what_is_no_pointer_is_refused(pointer: str) -> None:
    with pytest.raises(UsageError, match="no JSON Pointer"):
        locate(b"{}", [pointer])


@pytest.mark.parametrize(
    "pointer", ["/a/2", "/a/-", "/a/01", "/a/+1", "/a/x", "/a/0/0", "/b/c", "/c", "/b/0"]
)
def test_what_is_not_there_is_not_found(pointer: str) -> None:
    assert locate(b'{"a": [1, 2], "b": {}, "d": [{"x": 1}]}', [pointer]) == {}


@pytest.mark.parametrize(
    ("text", "pointer", "twice"),
    [
        (b'{"a": 1, "a": 2}', "/a", "a"),
        (b'{"a": 1, "\\u0061": 2}', "/a", "a"),
        (b'{"a": {"b": 1}, "a": 7}', "/a/b", "a"),
        (b'{"a": 7, "a": {"b": 1}}', "/a/b", "a"),
        (b'{"a": {"b": 1, "c": 0, "b": 2}}', "/a/b", "b"),
        (b'[{"x": [{"y": 0}], "x": 1}]', "/0/x/0/y", "x"),
        (b'{"a": {"b": 1}, "c": 1, "c": 2}', "/a/b", None),
        (b'{"a": {"b": {"c": 1, "c": 2}}}', "/a/b", None),
        (b'{"a": 1, "A": 2}', "/a", None),
    ],
)
def test_a_key_that_occurs_twice_on_the_way_is_told(text: bytes, pointer: str, twice: str | None) -> None:
    assert locate(text, [pointer])[pointer].twice == twice
