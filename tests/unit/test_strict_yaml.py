"""YAML that is read as it stands there, and all that is refused, by its line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, strategies as st

from somactl.core.strict_yaml import Listing, Mapping, Node, Scalar, YamlError, parse_yaml

SECRET = "hunter2hunter2"


def parse(text: str, deepest: int = 3, most: int = 100) -> Node | None:
    return parse_yaml(text, deepest=deepest, most=most)


def plain(node: Node | None) -> object:
    """The node as Python has it, its lines left out."""
    if isinstance(node, Mapping):
        return {name: plain(value) for name, value in node.fields.items()}
    if isinstance(node, Listing):
        return [plain(item) for item in node.items]
    return node.text if node is not None else None


def test_values_are_the_text_that_stands_there() -> None:
    text = "a: 1e-8\nb: 007\nc: '0x10'\nd: 2027-01-31\ne: no\nf:\n  - {g: [1:30, ~]}\n"
    assert plain(parse(text, deepest=4)) == {
        "a": "1e-8",
        "b": "007",
        "c": "0x10",
        "d": "2027-01-31",
        "e": "no",
        "f": [{"g": ["1:30", "~"]}],
    }


@pytest.mark.parametrize(
    ("text", "quoted", "is_text"),
    [
        ("x", False, True),
        ("1", False, True),
        ("'null'", True, True),
        ('"yes"', True, True),
        ("|\n  no", True, True),
        ("null", False, False),
        ("~", False, False),
        ("Yes", False, False),
        ("off", False, False),
        ("<<", False, False),
    ],
)
def test_what_is_text(text: str, quoted: bool, is_text: bool) -> None:
    node = parse(f"a: {text}\n")
    assert isinstance(node, Mapping)
    value = node.fields["a"]
    assert isinstance(value, Scalar)
    assert (value.quoted, value.is_text, value.line) == (quoted, is_text, 1)


def test_every_node_knows_its_line() -> None:
    root = parse("# a comment\na:\n  - b: 1\n\n    c: 2\n  - d: 3\n")
    assert isinstance(root, Mapping)
    listing = root.fields["a"]
    assert isinstance(listing, Listing)
    lines = [
        (item.line, [v.line for v in item.fields.values()])
        for item in listing.items
        if isinstance(item, Mapping)
    ]
    assert (root.line, listing.line, lines) == (2, 3, [(3, [3, 5]), (6, [6])])


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "---\n...\n", "\n\n"])
def test_a_document_of_comments_is_none(text: str) -> None:
    assert parse(text) is None


DEFECTS = [
    ("a: 1\nb: 2\na: 3\n", "twice", 3, "a"),
    ("a: {b: 1, b: 2}\n", "twice", 1, "b"),
    ("a: 1\n'a': 3\n", "twice", 2, "a"),
    ("a: &x 1\nb: *x\n", "value", 2, "b"),
    ("a: [1, *x]\n", "value", 1, "a"),
    ("a: !!int 1\n", "value", 1, "a"),
    ("a: !!python/object/apply:os.system [ls]\n", "value", 1, "a"),
    ("!x\na: 1\n", "value", 1, None),
    ("*x\n", "value", 1, None),
    ("a:\n  b:\n    c:\n      d: 1\n", "value", 4, "c"),
    ("a: [[[1]]]\n", "value", 1, "a"),
    ("[" * 60_000, "value", 1, None),
    ("{a: " * 60_000, "value", 1, "a"),
    ("? [a]\n: 1\n", "name", 1, None),
    ("? {a: 1}\n: 1\n", "name", 1, None),
    ("a: 1\n!x b: 1\n", "name", 2, None),
    ("a: 1\n---\nb: 1\n", "documents", 2, None),
    ("a: 1\n...\n---\n...\n", "documents", 3, None),
    (f"a: '{SECRET}\n", "syntax", 2, None),
    (f"a: 1\nb: c: {SECRET}\n", "syntax", 2, None),
    (f"a: {SECRET}\x00\n", "syntax", 0, None),
    (f"a: {SECRET}\ud800\n", "syntax", 0, None),
    (f"a: @{SECRET}\n", "syntax", 1, None),
    ("[" + "a," * 100 + "]", "size", 1, None),
]


@pytest.mark.parametrize(("text", "problem", "line", "field"), DEFECTS, ids=range(len(DEFECTS)))
def test_what_is_refused(text: str, problem: str, line: int, field: str | None) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert (caught.value.problem, caught.value.line, caught.value.field) == (problem, line, field)
    assert SECRET not in str(caught.value)


def test_as_deep_and_as_many_as_allowed() -> None:
    assert plain(parse("[[[1]]]")) == [[["1"]]]
    assert plain(parse("[[1, 2], 3]", most=5)) == [["1", "2"], "3"]
    with pytest.raises(YamlError, match="more values"):
        parse("[[1, 2], 3]", most=4)


def test_a_billion_laughs_are_none() -> None:
    lines = [
        "a: &a [x, x]",
        *(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    with pytest.raises(YamlError, match="aliases"):
        parse("\n".join(lines))


@pytest.mark.parametrize(
    ("text", "problem", "line", "field"),
    [("b: 1\na: 1\nx: 1\n", "unknown", 3, "x"), ("\nb: 1\n", "missing", 2, "a")],
)
def test_other_fields(text: str, problem: str, line: int, field: str) -> None:
    root = parse(text)
    assert isinstance(root, Mapping)
    with pytest.raises(YamlError) as caught:
        root.refuse_other_fields(("a",), ("b",))
    assert (caught.value.problem, caught.value.line, caught.value.field) == (problem, line, field)


@given(st.text(max_size=200))
def test_any_text_is_a_document_or_refused(text: str) -> None:
    with contextlib.suppress(YamlError):
        parse(text)
