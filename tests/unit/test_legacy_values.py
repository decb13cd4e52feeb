"""What looks like a matrix, what it is taken for, and that nothing in a value can hide or break anything."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from somactl.core import framing
from somactl.core.envelope import serialize_matrix
from somactl.core.json_pointer import format_pointer
from somactl.errors import (
    BadBase64,
    DigestMismatch,
    InputRejected,
    InvalidJson,
    InvalidName,
    LimitExceeded,
    Truncated,
    UsageError,
)
from somactl.legacy import values as legacy_values
from somactl.legacy.json_edit import Reference, replace_node
from somactl.legacy.kinds import classify
from somactl.legacy.values import Discovery, Site, find_matrices, target_key
from support.legacy_values import numpy_form

RHO = np.diag([0.75, 0.25])
FORM = json.dumps(numpy_form(RHO)).encode()
LISTS = b"[[0.75, 0.0], [0.0, 0.25]]"
ENVELOPE = serialize_matrix(RHO, key="k")
BASE64 = framing.to_text(ENVELOPE).encode()


def quoted(text: bytes) -> bytes:
    return json.dumps(text.decode()).encode()


def only(found: Discovery) -> Site:
    (site,) = found.sites
    return site


def matrix_of(site: Site, key: str = "k") -> np.ndarray:
    judged = classify(key, site)
    assert judged.array is not None
    return judged.array


# Whole values.


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (FORM, "numpy"),
        (b" \n" + FORM + b"\t", "numpy"),
        (LISTS, "lists"),
        (b"[ [1, 2],\n [3, 4] ]", "lists"),
        (quoted(FORM), "string"),
        (quoted(quoted(LISTS)), "string"),
        (quoted(b" " + LISTS), "string"),
        (b'"\\u005b[1]]"', "string"),
        (ENVELOPE, "envelope"),
        (BASE64, "envelope"),
        (BASE64 + b"\n", "envelope"),
        (quoted(BASE64), "envelope"),
    ],
)
def test_whole_values_are_recognised_and_read(value: bytes, form: str) -> None:
    for found in (
        find_matrices(value),
        find_matrices(value, discover=True),
        find_matrices(value, pointers=[""]),
    ):
        site = only(found)
        assert (site.pointer, site.form, site.defect) == ("", form, None)
        judged = classify("k", site)
        assert judged.target == "k"
        if form == "envelope":
            assert judged.envelope == ENVELOPE
            assert judged.header == framing.verify(ENVELOPE)
        else:
            assert judged.array is not None


@pytest.mark.parametrize("order", ["ndts", "dtsn", "dnts", "tsnd", "sdnt", "dsnt"])
@pytest.mark.parametrize("n", [2, 60])
def test_the_keys_of_the_numpy_form_stand_in_any_order(order: str, n: int) -> None:
    whole = numpy_form(np.eye(n) / n)
    names = {"n": "__np__", "d": "data", "t": "dtype", "s": "shape"}
    for indent in (None, 2):
        text = json.dumps({names[c]: whole[names[c]] for c in order}, indent=indent).encode()
        assert only(find_matrices(text)) == Site("", "numpy", text)
        assert find_matrices(b'{"a": 1, "m": ' + text + b"}").sites == ()
        embedded = b'{"a": 1, "m": ' + text + b', "z": [{}]}'
        assert only(find_matrices(embedded, discover=True)) == Site("/m", "numpy", text)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{}", "an object without `__np__`"),
        (b'{"a": {"__np__": true}}', "an object without `__np__`"),
        (b'{"a": "__np__"}', "an object without `__np__`"),
        (b'{"\\u005f_np_": 1}', "an object without `__np__`"),
        (b"[]", "a list without rows of numbers"),
        (b"[47.0, 31.0, 34.0]", "a list without rows of numbers"),
        (b'[["a", "b"], ["c", "d"]]', "a list without rows of numbers"),
        (b'[["2024-01-01", 1], ["2024-01-02", 2]]', "a list without rows of numbers"),
        (b"[[{}]]", "a list without rows of numbers"),
        (b'[[1, {"a": 2}]]', "a list without rows of numbers"),
        (b"[1, [2, 3]]", "a list without rows of numbers"),
        (b'"plain words, not JSON"', "text"),
        (b"plain words, not JSON", "text that is not JSON"),
        (b"[[2024-01-01]] met Bob", "text that is not JSON"),
        (b'"[[2024-01-01]] met Bob"', "text"),
        (b'"Hello" he said', "text"),
        (b'"\\"Hello\\" he said"', "text"),
        (b'"{not JSON}"', "text"),
        (b"12", "a number, a boolean or null"),
        (b"null", "a number, a boolean or null"),
        (b"NaN", "a number, a boolean or null"),
        (b"\x80\x04\x95\x00\x00", "binary data"),
        (b"\xff\xfe words", "text that is not JSON"),
        (b"{'python': 'repr'}", "an object without `__np__`"),
        (Reference("k", 1, "00").encode(), "a reference to a migrated matrix"),
        (quoted(b'{"rho": ' + FORM + b"}"), "text that holds more than a matrix, where no pointer leads"),
    ],
)
def test_what_is_no_matrix_is_left_alone_and_said(value: bytes, reason: str) -> None:
    assert find_matrices(value) == Discovery((), reason)


BROKEN = {
    b'{"__np__": true}': InvalidJson,
    b'{"__np__": false, "data": ""}': InvalidJson,
    b'{"\\u005f_n\\u0070__": true}': InvalidJson,
    json.dumps(numpy_form(RHO, extra=1)).encode(): InvalidJson,
    json.dumps(numpy_form(RHO, shape=[10**6, 10**6])).encode(): InvalidJson,
    json.dumps(numpy_form(RHO, shape=[-2, -2])).encode(): InvalidJson,
    json.dumps(numpy_form(RHO, dtype="object")).encode(): InvalidJson,
    json.dumps(numpy_form(RHO, data="AAAA")).encode(): InvalidJson,
    json.dumps(numpy_form(RHO, data="*" * 44)).encode(): InvalidJson,
    FORM[:-1]: InvalidJson,
    FORM[:40]: InvalidJson,
    b"x" + FORM: InvalidJson,
    FORM + FORM: InvalidJson,
    FORM[:-1] + b', "shape": [2, 2]}': InvalidJson,
    FORM.replace(b"true", b"\xff"): InvalidJson,
    b"[[1, 0], [0]]": InvalidJson,
    b"[[1, 0], []]": InvalidJson,
    b"[[], [1]]": InvalidJson,
    b"[[]]": InvalidJson,
    b"[[1, 0], null]": InvalidJson,
    b'[[1, "0"], [0, 1]]': InvalidJson,
    b'[["1", "0"], ["0", "1"]]': InvalidJson,
    b'[["nan", 0], [0, 1]]': InvalidJson,
    b"[[true, false], [false, true]]": InvalidJson,
    b"[[null, 1], [1, 0]]": InvalidJson,
    b"[[NaN, 0], [0, 1]]": InvalidJson,
    b"[[0, 1], [1, Infinity]]": InvalidJson,
    b"[[0, 1], [1, 1e999]]": InvalidJson,
    b"[[9007199254740993, 0], [0, 1]]": InvalidJson,
    b"[[[1, 0], [0, 0]], [[0, 0], [0, 0]]]": InvalidJson,
    b"[[1, 0], [0, 1]": InvalidJson,
    b"[[1, 0], [0, 1],": InvalidJson,
    b"[[1, 0], [0, 1]] ]": InvalidJson,
    b"[" * 100_000: InvalidJson,
    b"[" * 100_000 + b"]" * 100_000: InvalidJson,
    b'{"__np__":' * 100_000 + b"1" + b"}" * 100_000: InputRejected,
    quoted(FORM[:-1]): InvalidJson,
    quoted(FORM)[:-1]: InvalidJson,
    quoted(b"[[1], [2, 3]]"): InvalidJson,
    quoted(quoted(quoted(LISTS))): InvalidJson,
    quoted(b'{"__np__": true, "\\ud800": 1}'): InvalidJson,
    ENVELOPE[:-1]: Truncated,
    ENVELOPE[:-1] + b"\x01": DigestMismatch,
    ENVELOPE[:4]: Truncated,
    ENVELOPE.replace(b"\r\n", b"\n", 1): InputRejected,
    BASE64[:-1]: BadBase64,
    quoted(BASE64 + b"*"): BadBase64,
    quoted(BASE64[:40]): InputRejected,
}


@pytest.mark.parametrize("value", BROKEN, ids=[f"{i}-{v[:24]!r}" for i, v in enumerate(BROKEN)])
def test_what_should_have_been_a_matrix_is_rejected(value: bytes) -> None:
    site = only(find_matrices(value))
    assert site.pointer == ""
    with pytest.raises(BROKEN[value]) as caught:
        classify("acme:k", site)
    assert caught.value.message.startswith("key 'acme:k': ")
    assert only(find_matrices(value, discover=True))[:3] == site[:3]


# Nodes inside a value.


def test_discovery_finds_every_form_at_any_depth() -> None:
    sites = {"/a": FORM, "/b/0/c": LISTS, "/s": quoted(LISTS), "/e": quoted(BASE64), "/x~1y~0/": b"[[1]]"}
    text = (
        b'{"n": NaN, "a": %s, "b": [{"c": %s}, [1, 2]], "s": %s, "big": 1e999, "e": %s, "x/y~": {"": %s}}'
        % tuple(sites.values())
    )
    found = find_matrices(text, discover=True)
    assert {site.pointer: site.text for site in found.sites} == sites
    assert [site.form for site in found.sites] == ["numpy", "lists", "string", "envelope", "lists"]
    assert all(classify("K", site).target == f"K#{site.pointer}" for site in found.sites)
    for pointer in sites:
        assert only(find_matrices(text, pointers=[pointer])) == found.sites[list(sites).index(pointer)]
    assert find_matrices(text, pointers=list(sites)) == found
    assert find_matrices(text).sites == ()


def test_a_bad_node_hides_no_good_one() -> None:
    bad = [value for value in BROKEN if value[:2] in (b"[[", b'{"', b'"[') and is_json(value)]
    assert len(bad) > 25
    text = b'{"bad": [' + b", ".join(bad) + b'], "good": ' + FORM + b"}"
    *rejected, good = find_matrices(text, discover=True).sites
    assert len(rejected) == len(bad)
    for site in rejected:
        with pytest.raises(InputRejected, match=re.escape(f"key 'K' at {site.pointer!r}: ")):
            classify("K", site)
    assert good.pointer == "/good"
    assert np.array_equal(matrix_of(good), RHO)


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def test_sites_do_not_stand_inside_each_other() -> None:
    array = b'{"a": [[[1, 0], [0, 1]], [[1, 0], [0, 1]]]}'
    assert [site.pointer for site in find_matrices(array, discover=True).sites] == ["/a"]
    assert [site.pointer for site in find_matrices(array, pointers=["/a/1", "/a/0"]).sites] == [
        "/a/0",
        "/a/1",
    ]
    assert [site.pointer for site in find_matrices(array, pointers=["/a/1", "/a"]).sites] == ["/a"]
    numpy = b'{"a": {"__np__": true, "rho": [[1]]}, "b": [[1]]}'
    assert [site.pointer for site in find_matrices(numpy, discover=True).sites] == ["/a", "/b"]
    held = b'{"a": [[1, {"rho": [[1]]}]]}'
    assert [site.pointer for site in find_matrices(held, discover=True).sites] == ["/a/0/1/rho"]


@pytest.mark.parametrize(
    ("text", "ambiguous", "fine"),
    [
        (b'{"a": [[1]], "b": [[1]], "a": 0}', ["/a"], ["/b"]),
        (b'{"a": 0, "b": [[1]], "a": [[1]]}', ["/a"], ["/b"]),
        (b'{"a": {"x": [[1]]}, "a": {}, "b": [{"__np__": 0}]}', ["/a/x"], ["/b/0"]),
        (b'[{"a": [{"c": [[1]], "c~": 1, "c~": 1}], "d": 0, "d": 0}, [[1]]]', [], ["/0/a/0/c", "/1"]),
        (b'{"~/": [[1]], "~\\/": 0, "b": [[1]]}', ["/~0~1"], ["/b"]),
    ],
)
def test_a_node_on_whose_way_a_key_occurs_twice_is_rejected(
    text: bytes, ambiguous: list[str], fine: list[str]
) -> None:
    for found in (find_matrices(text, discover=True), find_matrices(text, pointers=ambiguous + fine)):
        assert sorted({s.pointer for s in found.sites if s.defect}) == ambiguous
        assert [s.pointer for s in found.sites if not s.defect] == fine
        for site in found.sites:
            if site.defect:
                with pytest.raises(InvalidJson, match="occurs twice"):
                    classify("k", site)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1}', "nothing stands at the pointer"),
        (b'{"rho": [1, 2]}', "a list without rows of numbers"),
        (b'{"rho": {"a": [[1]]}}', "an object without `__np__`"),
        (b'{"rho": ' + Reference("k", 1, "d").encode() + b"}", "a reference to a migrated matrix"),
        (b"words", "text that is not JSON"),
        (ENVELOPE, "binary data"),
    ],
)
def test_a_pointer_that_leads_to_no_matrix(text: bytes, reason: str) -> None:
    assert find_matrices(text, pointers=["/rho"]) == Discovery((), reason)


def test_a_malformed_pointer_is_the_operators_error() -> None:
    with pytest.raises(UsageError, match="no JSON Pointer"):
        find_matrices(b"{}", pointers=["rho"])


@pytest.mark.parametrize(
    "text", [b"[[0.5, 0], [0, 0.5]] garbage", b" [[1],[2]]x", b"[[1e3, NaN], [2, 3], [4 and words"]
)
@pytest.mark.parametrize("discover", [False, True])
def test_two_whole_rows_of_numbers_before_words_are_rejected_wherever_one_looks(
    text: bytes, discover: bool
) -> None:
    site = only(find_matrices(text, discover=discover))
    assert (site.pointer, site.form) == ("", "unreadable")
    assert find_matrices(quoted(text), discover=discover).reason == "text"


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": ' + FORM + b', "b": }',
        b'{"a": [[1, 0], [0, 1]], "b"',
        b'{"a": ' + FORM + b', "b": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"a": ' + FORM + b', "b": "\xff"}',
    ],
)
def test_a_matrix_in_a_text_that_is_not_json_is_rejected_as_a_whole(text: bytes) -> None:
    for found in (find_matrices(text, discover=True), find_matrices(text, pointers=["/a"])):
        site = only(found)
        assert (site.pointer, site.form, site.text) == ("", "unreadable", text)
        with pytest.raises((InvalidJson, LimitExceeded), match="key 'k': "):
            classify("k", site)


def test_a_value_too_deep_for_its_pointer_is_rejected_and_not_called_words() -> None:
    deep = b'{"a":' * 2000 + b"1" + b"}" * 2000
    with pytest.raises(LimitExceeded, match=r"key 'k': .*nested deeper"):
        classify("k", only(find_matrices(deep, pointers=["/a/a"])))
    # Nothing in it can be a matrix, so that it is not even scanned.
    assert find_matrices(deep, discover=True).sites == ()


def test_a_value_with_too_many_sites_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy_values, "MAX_SITES", 5)
    assert len(find_matrices(b'{"a": [{}, %s]}' % b",".join([b"[[1]]"] * 5), discover=True).sites) == 5
    site = only(find_matrices(b'{"a": [{}, %s]}' % b",".join([b"[[1]]"] * 6), discover=True))
    with pytest.raises(LimitExceeded, match="more than 5 nodes"):
        classify("k", site)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.data())
def test_no_bytes_make_it_fail_otherwise(data: st.DataObject) -> None:
    """Whatever is cut out of, put into or repeated in a value: sites and rejections, nothing else."""
    start = data.draw(st.sampled_from([*BROKEN, FORM, quoted(FORM), ENVELOPE, BASE64, LISTS]))[:3000]
    embedded = b'{"a": [1, {"rho": ' + start + b'}], "rho": ' + LISTS + b"}"
    value = data.draw(st.sampled_from([start, embedded]))
    for _ in range(data.draw(st.integers(0, 4))):
        at, size = data.draw(st.integers(0, len(value))), data.draw(st.integers(0, 3))
        piece = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"[", b"[[", b'"', b"\\", b"{", b"]", b"}", b"9" * 400])
        )
        value = value[:at] + piece + value[at + size :]
    for found in (
        find_matrices(value),
        find_matrices(value, discover=True),
        find_matrices(value, pointers=["/a/1/rho", "/rho"]),
    ):
        assert bool(found.sites) != bool(found.reason)
        for site in found.sites:
            assert site.text in value
            try:
                kept = classify("k", site).kind in ("rho", "sketch", "matrix")
            except InputRejected as error:
                kept = error.message.startswith("key 'k'")
            else:
                if site.pointer:
                    rest = find_matrices(replace_node(value, site.pointer, b"0"), discover=True)
                    kept = kept and site.pointer not in {other.pointer for other in rest.sites}
            assert kept


# Against a plain recursion over the parsed value.

ENTRIES = st.integers(0, 9) | st.sampled_from(
    [0.5, None, True, float("nan"), "1", "x", "[[1]]", "__np__", '"[[1]]"']
)
KEYS = st.sampled_from(["a", "b/", "__np__", "0", "é"])
TREES = st.recursive(
    ENTRIES | st.lists(st.lists(ENTRIES, max_size=3), max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def begins_rows(value: Any, depth: int = 0) -> bool:
    if isinstance(value, list):
        return begins_rows(value[0], depth + 1) if value else depth >= 1
    lost = value is None or isinstance(value, int | float) or value == "1"
    return lost and depth >= 2


def has_object(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(has_object, value)))


def expected_pointers(value: Any, pointer: str = "") -> list[str]:
    if isinstance(value, str):
        return [pointer] if "[[1]]" in value else []
    is_rows = isinstance(value, list) and begins_rows(value) and not has_object(value)
    if is_rows or (isinstance(value, dict) and "__np__" in value):
        return [pointer]
    if not isinstance(value, dict | list):
        return []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [p for k, v in items for p in expected_pointers(v, pointer + format_pointer([str(k)]))]


@settings(derandomize=True, max_examples=500, deadline=None)
@given(TREES, st.sampled_from([None, 1]), st.booleans())
def test_discovery_finds_what_a_recursion_finds(tree: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(tree, indent=indent, ensure_ascii=ascii_only).encode()
    assert [site.pointer for site in find_matrices(text, discover=True).sites] == expected_pointers(tree)


# Where it goes.


def test_targets() -> None:
    assert target_key("acme:rho:0", "") == "acme:rho:0"
    assert target_key("acme:(1.0, 2.0):data", "/value/rho") == "acme:(1.0, 2.0):data#/value/rho"
    assert target_key("k", "/" + "a" * 1021) == "k#/" + "a" * 1021
    for key, pointer in (
        ("k", "/" + "a" * 1022),
        ("é" * 510, "/rho"),
        ("", ""),
        ("k\n", ""),
        ("k", "/\ud800"),
    ):
        with pytest.raises(InvalidName):
            target_key(key, pointer)


def test_a_pointer_that_no_key_can_hold_is_rejected_and_can_be_shown() -> None:
    deep = b'{"ab":' * 600 + b"[[1]]" + b"}" * 600
    lone = b'{"\\ud800": {"rho": [[1]]}, "rho": [[1]]}'
    long = b'{"%s": [[1]]}' % (b"x" * 100_000)
    for text, count in ((deep, 1), (lone, 2), (long, 1)):
        sites = find_matrices(text, discover=True).sites
        assert len(sites) == count
        assert len(sites[0].pointer.encode()) < 100
        with pytest.raises(InvalidName):
            classify("k", sites[0])
    assert classify("k", find_matrices(lone, discover=True).sites[1]).target == "k#/rho"
    with pytest.raises(InvalidName, match=r"key 'a.*…' at '/rho': "):
        classify("a" * 1020, only(find_matrices(b'{"rho": [[1]]}', discover=True)))
