"""A node is replaced, and every other byte stays."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from somactl.core.json_pointer import format_pointer, locate
from somactl.errors import InvalidJson, LimitExceeded, UsageError
from somactl.legacy.json_edit import Reference, node_bytes, read_reference, replace_node, replace_nodes
from unit.test_json_pointer import json_texts, nodes

REFERENCE = Reference("acme:(1.0, 2.0):data#/rho", 3, "00ff" * 8)


def edited(tree: Any, names: tuple[str, ...], replacement: Any) -> Any:
    if not names:
        return replacement
    tree = deepcopy(tree)
    at = tree
    for name in names[:-1]:
        at = at[name] if isinstance(at, dict) else at[int(name)]
    at[names[-1] if isinstance(at, dict) else int(names[-1])] = replacement
    return tree


@settings(derandomize=True, max_examples=400, deadline=None)
@given(json_texts(), json_texts(), st.data())
def test_replacing_equals_editing_the_parsed_tree(text: bytes, new: bytes, data: st.DataObject) -> None:
    tree = json.loads(text)
    names = data.draw(st.sampled_from([names for names, _ in nodes(tree)]))
    pointer = format_pointer(names)
    result = replace_node(text, pointer, new)
    assert repr(json.loads(result)) == repr(edited(tree, names, json.loads(new)))
    start, end, _ = locate(text, [pointer])[pointer]
    assert result[:start] == text[:start]
    assert result[len(result) - (len(text) - end) :] == text[end:]
    assert replace_node(result, pointer, node_bytes(text, pointer)) == text or new != new.strip()


@settings(derandomize=True, max_examples=200, deadline=None)
@given(json_texts(), st.data())
def test_several_nodes_at_once_as_one_after_the_other(text: bytes, data: st.DataObject) -> None:
    tree = json.loads(text)
    leaves = [format_pointer(names) for names, value in nodes(tree) if not isinstance(value, dict | list)]
    chosen = data.draw(st.lists(st.sampled_from(leaves), unique=True)) if leaves else []
    one_by_one = text
    for i, pointer in enumerate(chosen):
        one_by_one = replace_node(one_by_one, pointer, b"[%d]" % i)
    assert replace_nodes(text, {pointer: b"[%d]" % i for i, pointer in enumerate(chosen)}) == one_by_one


def test_all_that_json_does_not_fix_stays() -> None:
    text = b' {"b" :1.50e0, "a":[ 1,{"rho" : [[1]] }],\n"c":"\\u00e9\xc3\xa9", "n": NaN, "z": 123456789012 } '
    new = replace_node(text, "/a/1/rho", REFERENCE.encode())
    assert new == text.replace(b"[[1]]", REFERENCE.encode())
    assert node_bytes(text, "") == text.strip()
    assert replace_node(text, "", b"0") == b" 0 "


@pytest.mark.parametrize(
    ("text", "pointer", "message"),
    [
        (b'{"a": 1}', "/b", "nothing stands at '/b'"),
        (b'{"a": 1, "a": 2}', "/a", "the key 'a' occurs twice"),
        (b'{"a": {"b": 1}, "a": {}}', "/a/b", "the key 'a' occurs twice"),
        (b'{"a": 1, "b": }', "/a", "not strict JSON"),
        (b'{"a": 1} x', "/a", "not strict JSON"),
        (b"", "", "the text is empty"),
    ],
)
def test_what_is_not_certain_is_refused(text: bytes, pointer: str, message: str) -> None:
    with pytest.raises(InvalidJson, match=message):
        node_bytes(text, pointer)
    with pytest.raises(InvalidJson, match=message):
        replace_node(text, pointer, b"0")


def test_replacements_are_refused_that_would_damage_the_value() -> None:
    with pytest.raises(InvalidJson, match="not strict JSON"):
        replace_node(b'{"a": 1}', "/a", b'1, "b": 2')
    with pytest.raises(InvalidJson, match="one stands in the other"):
        replace_nodes(b'{"a": {"b": 1}}', {"/a/b": b"0", "/a": b"0"})
    with pytest.raises(UsageError):
        replace_node(b'{"a": 1}', "a", b"0")
    with pytest.raises(LimitExceeded):
        replace_node(b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}", "/a", b"0")


# References.


@settings(derandomize=True, deadline=None)
@given(
    st.text(max_size=300).filter(lambda key: key.isprintable()),
    st.integers(1, 2**62),
    st.text("0f", max_size=32),
)
def test_references_are_read_as_they_are_written(key: str, version: int, digest: str) -> None:
    reference = Reference(key, version, digest)
    assert read_reference(reference.encode()) == reference
    assert reference.encode().isascii()


def test_a_reference_is_read_in_any_order_of_its_keys() -> None:
    text = b'{ "__somactl__" : {"version": 3, "digest": "ab", "key": "k"} }'
    assert read_reference(text) == Reference("k", 3, "ab")


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"[]", b'{"__somactl__": 1}', b'{"__somactl__": {"key": "k", "version": 1}}',
        b'{"__somactl__": {"key": "k", "version": true, "digest": "d"}}',
        b'{"__somactl__": {"key": "k", "version": "1", "digest": "d"}}',
        b'{"__somactl__": {"key": ["k"], "version": 1, "digest": "d"}}',
        b'{"__somactl__": {"key": "k", "version": 1, "digest": "d", "more": 0}}',
        b'{"__somactl__": {"key": "k", "version": 1, "digest": "d"}, "more": 0}',
        b'{"__somactl__": {"key": "j", "key": "k", "version": 1, "digest": "d"}}',
        b'{"__somactl__": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        b'{"__somactl__": ' + b"[" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_reference(text: bytes) -> None:
    assert read_reference(text) is None
