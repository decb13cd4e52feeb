"""Orders in their four forms, and everything that is none."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, strategies as st

from somactl.core import order as order_module
from somactl.core.names import validate_key
from somactl.core.order import Item, Order, parse_order, validate_order_id
from somactl.errors import InputRejected, InvalidName, LimitExceeded
from somactl.package_data import data_file

MESSAGE: dict[str, Any] = {
    "order_id": "prune-2026-01-31:7",
    "issued_at": "2026-01-31T12:00:00Z",
    "expires_at": 1769864400,
    "issuer": "manager-1",
    "sequence": 7,
    "namespace": "acme",
    "keys": ["acme:(9.0, 14.0, 43.0):data", {"key": "b", "version": 4}],
}


def message(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (MESSAGE | changes).items() if value is not ...}


def parse(text: str | bytes | dict[str, Any] | list[Any]) -> Order:
    if isinstance(text, dict | list):
        text = json.dumps(text)
    return parse_order(text.encode() if isinstance(text, str) else text)


def refusal(text: str | bytes | dict[str, Any] | list[Any]) -> InputRejected:
    with pytest.raises(InputRejected) as caught:
        parse(text)
    return caught.value


def defects(text: str | bytes | dict[str, Any] | list[Any]) -> list[tuple[Any, ...]]:
    """(line, item if the form counts items, kind of defect) for each."""
    found = refusal(text).facts["defects"]
    return [(d["line"], *([d["item"]] if "item" in d else []), d["defect"]) for d in found]


def keys(order: Order) -> list[str]:
    return [item.key for item in order.items]


# The forms.


@pytest.mark.parametrize(
    ("text", "form", "items"),
    [
        ("b\na\n", "text", [Item("b", None, 1), Item("a", None, 2)]),
        ("# ranked\n\n  # by age\nb\n\na", "text", [Item("b", None, 4), Item("a", None, 6)]),
        ("12\nnull\n", "text", [Item("12", None, 1), Item("null", None, 2)]),
        ('["b", "a"]', "list", [Item("b", None, 1), Item("a", None, 1)]),
        ('\n[\n "b",\n {"version": 3,\n "key": "a"}\n]\n', "list", [Item("b", None, 3), Item("a", 3, 4)]),
        ('"b"\n\n {"key": "a", "version": 3} \r\n', "ndjson", [Item("b", None, 1), Item("a", 3, 3)]),
        ('{"key": "a", "version": 3}', "ndjson", [Item("a", 3, 1)]),
        ('{"version": 3, "key": "a"}\n"b"', "ndjson", [Item("a", 3, 1), Item("b", None, 2)]),
        (json.dumps(message(keys=["b", "a"])), "message", [Item("b", None, 1), Item("a", None, 1)]),
        (json.dumps(message(keys=["b"]), indent=1), "message", [Item("b", None, 9)]),
    ],
)
def test_the_content_tells_the_form(text: str, form: str, items: list[Item]) -> None:
    order = parse(text)
    assert order.form == form
    assert list(order.items) == items
    assert parse(b"\xef\xbb\xbf" + text.encode()) == order


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ("acme:(9.0, 14.0, 43.0):data", "acme:(9.0, 14.0, 43.0):data"),
        ("a # b", "a # b"),
        ('a"b', 'a"b'),
        ("a\\nb", "a\\nb"),
        ("a\u2028b", "a\u2028b"),
        (r"\#a", "#a"),
        (r"\[a]", "[a]"),
        (r"\{a}", "{a}"),
        (r"\"a\"", '"a\\"'),
        (r"\\a", r"\a"),
        ("\\ a", " a"),
        ("\\a ", "a "),
        ("\\\u00a0a", "\u00a0a"),
        ("\\\ufeffa", "\ufeffa"),
    ],
)
def test_plain_text_needs_a_backslash_for_a_few_keys_only(row: str, key: str) -> None:
    for text in (f"first\n{row}\nlast", f"first\r\n{row}\r\nlast\r\n"):
        assert keys(parse(text)) == ["first", key, "last"]
    assert keys(parse(row)) == [key]


@pytest.mark.parametrize(
    ("row", "defect"),
    [
        (" a", "blank"),
        ("a ", "blank"),
        ("a\t", "blank"),
        ("\u00a0a", "blank"),
        ("\u00a0", "blank"),
        ("\ufeffa", "blank"),
        ("a\r", "blank"),
        ("[a", "escape"),
        ('{"key": "a", "version": 1}', "escape"),
        ('"a"', "escape"),
        (r"\a", "escape"),
        (r"\server\share", "escape"),
        ("\\", "name"),
        ("a\x00b", "name"),
        ("a\x85b", "name"),
        ("a\tb", "name"),
        ("a" * 1025, "name"),
        ("é" * 513, "name"),
        ("first", "duplicate"),
    ],
)
def test_plain_text_refuses_what_could_mean_two_things(row: str, defect: str) -> None:
    assert defects(f"first\n{row}\r\nlast" if row != "a\r" else "first\na\r\r\nlast") == [(2, defect)]


# Defects.


def test_all_defects_are_told_and_nothing_is_accepted() -> None:
    error = refusal("a\nb\na\n b\nc\na\n")
    assert error.facts["defect_count"] == 3
    assert [d["line"] for d in error.facts["defects"]] == [3, 4, 6]
    assert "line 3: key 'a' stands in line 1 already" in error.message
    assert "line 6: key 'a' stands in line 1 already" in error.message
    assert type(error) is InputRejected


def test_names_alone_are_an_invalid_name() -> None:
    error = refusal(["a", "b\n", ""])
    assert isinstance(error, InvalidName)
    assert "item 2 (line 1): key 'b\\n' contains the control character U+000A" in error.message


def test_many_defects_are_counted_and_the_first_are_shown() -> None:
    error = refusal("\n".join(f" {n}" for n in range(1000)))
    assert error.facts["defect_count"] == 1000
    assert [d["line"] for d in error.facts["defects"]] == list(range(1, order_module.MAX_DEFECTS + 1))
    assert "and 995 more" in error.message
    assert len(error.message) < 3000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a", 1, "b", true, null, 1.5, "a"]',
         [(1, 2, "type"), (1, 4, "type"), (1, 5, "type"), (1, 6, "type"), (1, 7, "duplicate")]),
        ('["a",\n{"key": "a", "version": 1}]', [(2, 2, "duplicate")]),
        ('[{"key": "a"}]', [(1, 1, "field")]),
        ('[{"version": 1}]', [(1, 1, "field")]),
        ('[{}]', [(1, 1, "field")]),
        ('[{"key": 1, "version": 1}]', [(1, 1, "type")]),
        ('[{"key": "a", "version": 0}]', [(1, 1, "type")]),
        ('[{"key": "a", "version": -1}]', [(1, 1, "type")]),
        ('[{"key": "a", "version": 1.0}]', [(1, 1, "type")]),
        ('[{"key": "a", "version": "1"}]', [(1, 1, "type")]),
        ('[{"key": "a", "version": true}]', [(1, 1, "type")]),
        ('[{"key": "a", "version": null}]', [(1, 1, "type")]),
        ('[{"key": "a", "version": 9223372036854775808}]', [(1, 1, "type")]),
        ('[{"key": "a", "version": ' + "9" * 5000 + "}]", [(1, 1, "type")]),
        ('[{"key": "a", "version": 1, "score": 2}, {"key": "b"}]', [(1, 1, "field"), (1, 2, "field")]),
        ('[{"key": "a", "version": 1, "version": 1}]', [(1, 1, "field")]),
        ('[{"key": "a", "key": "b", "version": 1}]', [(1, 1, "field")]),
        ('[{"key": "a", "version": 1, "key": "a"}]', [(1, 1, "field")]),
        ('["a"', [(1, "syntax")]),
        ('["a" "b"]', [(1, "syntax")]),
        ('["a",]', [(1, "syntax")]),
        ('["a"] ["b"]', [(1, "syntax")]),
        ('[["a"]]', [(1, "syntax")]),
        ('[{"key": ["a"], "version": 1}]', [(1, "syntax")]),
        ('[NaN]', [(1, "syntax")]),
        ('[{"key": "a", "version": -Infinity}]', [(1, "syntax")]),
        ("['a']", [(1, "syntax")]),
        ('["a\nb"]', [(1, "syntax")]),
        ('["a", "\\x"]', [(1, "syntax")]),
        ('["\\ud800"]', [(1, 1, "name")]),
        ('[01]', [(1, 1, "type"), (1, "syntax")]),
        ('["a"\n,\n1,\nnul]', [(3, 2, "type"), (4, "syntax")]),
        ('"a"\nb\n"c" "d"\n"a"', [(2, "type"), (3, "syntax"), (4, "duplicate")]),
        ('{"key": "a",\n"version": 1}', [(1, "syntax"), (2, "syntax")]),
        ('"a"\n["b"]\n{"order_id": "x"}\n7', [(2, "type"), (3, "field"), (4, "type")]),
        (json.dumps(MESSAGE) + "\n" + json.dumps(MESSAGE), [(2, "syntax")]),
    ],
)  # fmt: skip
def test_json_is_read_strictly(text: str, expected: list[tuple[Any, ...]]) -> None:
    assert defects(text) == expected


@pytest.mark.parametrize(
    "text", ["", "\n \n", "# nothing today\n", "[]", " [ ] ", json.dumps(message(keys=[])), "\ufeff"]
)
def test_an_empty_order_is_an_error_of_its_own(text: str) -> None:
    error = refusal(text)
    assert "the order is empty" in error.message
    assert "defects" not in error.facts


def test_what_is_no_utf8_is_told_by_line() -> None:
    assert defects(b"a\n\xff\nb\n\xc3(\n") == [(2, "encoding"), (4, "encoding")]
    assert defects(b'["a",\n"\xed\xa0\x80"]') == [(2, "encoding")]
    assert "UTF-16" in refusal("a\nb\n".encode("utf-16")).message


# The message.


def test_a_message_carries_its_fields() -> None:
    order = parse(MESSAGE)
    assert order.form == "message"
    assert order.issued_at == 1769860800.0
    assert order.expires_at == 1769864400.0
    assert (order.order_id, order.issuer, order.sequence, order.namespace) == (
        "prune-2026-01-31:7", "manager-1", 7, "acme",
    )  # fmt: skip
    assert order.items == (Item("acme:(9.0, 14.0, 43.0):data", None, 1), Item("b", 4, 1))
    assert order.place(1) == "item 2 (line 1)"
    assert parse("a\n\nb").place(1) == "line 3"


GOOD: list[dict[str, Any]] = [
    {},
    {"order_id": "x"},
    {"order_id": "x" * 120},
    {"issued_at": 0, "expires_at": 253402300799},
    {"issued_at": 1769860800.25},
    {"issued_at": "2026-01-31T12:00:00.123456789+05:30"},
    {"issued_at": "2024-02-29T00:00:00-00:00"},
    {"issued_at": "1970-01-01T00:00:00Z", "expires_at": "9999-12-31T23:59:59Z"},
    {"issuer": "Köln: manager № 1"},
    {"issuer": "x" * 256},
    {"sequence": 0},
    {"sequence": 2**63 - 1},
    {"namespace": "A.b_c-1"},
    {"namespace": "x" * 64},
    {"keys": ["a"]},
    {"keys": [" a ", "#", "[", "\u2028", "\U0001f600"]},
    {"keys": ["x" * 1024, {"key": "y" * 1024, "version": 2**63 - 1}]},
]
BAD: list[dict[str, Any]] = [
    *({name: ...} for name in MESSAGE),
    *({name: None} for name in MESSAGE),
    *({name: value} for name in MESSAGE for value in (True, [], {}, [1])),
    {"extra": 1},
    {"version": 1},
    *({"order_id": value} for value in ("", "x" * 121, "a/0001", "a b", "é", "a\n", 7)),
    *({"issued_at": value} for value in (-1, 253402300800, 1769860800000, "", "1769860800", "2026-01-31")),
    *(
        {"issued_at": value}
        for value in (
            "2026-01-31T12:00:00", "2026-01-31 12:00:00Z", "2026-01-31t12:00:00z", "2026-01-31T12:00Z",
            "2026-01-31T24:00:00Z", "2026-01-31T12:60:00Z", "2026-01-31T12:00:60Z", "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z", "2026-01-32T12:00:00Z", "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+5:30",
            "2026-01-31T12:00:00+0530", "2026-01-31T12:00:00+24:00", "2026-01-31T12:00:00.1234567890Z",
            "2026-01-31T12:00:00Z\n", " 2026-01-31T12:00:00Z", "1969-12-31T23:59:59Z",
            "\uff12026-01-31T12:00:00Z",
        )
    ),
    *({"issuer": value} for value in ("", "x" * 257, "a\nb", "a\n", "a\x7f", "\ud800", 7)),
    *({"sequence": value} for value in (-1, 2**63, 10**30, 1.5, "7")),
    *({"namespace": value} for value in ("", "x" * 65, "a b", "a/b", "a\n", 7)),
    *({"keys": value} for value in ("a", 1, ["a", "a"], [1], [None], [True], [["a"]], [{}], [""], ["a\n"])),
    *({"keys": [value]} for value in ("x" * 1025, "a\x00", "a\x9f", "\ud800", {"key": "a"}, {"version": 1})),
    *({"keys": [{"key": "a", "version": value}]} for value in (0, -1, 1.5, "1", None, True, 2**63, 10**30)),
    *({"keys": [{"key": value, "version": 1}]} for value in ("", "a\n", 1, None, "x" * 1025)),
    {"keys": [{"key": "a", "version": 1, "score": 1}]},
    {"keys": [{"key": "a", "version": 1}, {"key": "a", "version": 1}]},
]  # fmt: skip
BEYOND_THE_SCHEMA: list[dict[str, Any]] = [
    {"keys": ["a", {"key": "a", "version": 1}]},
    {"keys": [{"key": "a", "version": 1}, {"key": "a", "version": 2}]},
    {"keys": ["é" * 513]},
    {"keys": [{"key": "a", "version": 1.0}]},
    {"sequence": 7.0},
    {"issued_at": "2026-02-30T12:00:00Z"},
    {"issued_at": "2025-02-29T12:00:00Z"},
    {"issued_at": "1970-01-01T00:00:00+00:01"},
    {"issued_at": 1769864400},
    {"issued_at": "2026-01-31T13:00:00.000Z"},
]


def accepted_by_schema(changes: dict[str, Any]) -> bool:
    schema = json.loads(data_file("schemas", "prune.order.json").read_text())
    # As it arrives: a validator sees what a JSON parser made of the text.
    return bool(jsonschema.Draft202012Validator(schema).is_valid(json.loads(json.dumps(message(**changes)))))


@pytest.mark.parametrize("changes", GOOD, ids=repr)
def test_schema_and_parser_accept(changes: dict[str, Any]) -> None:
    assert accepted_by_schema(changes)
    for indent in (None, 2):
        assert parse(json.dumps(message(**changes), indent=indent)).form == "message"


@pytest.mark.parametrize("changes", BAD, ids=lambda changes: repr(changes)[:60])
def test_schema_and_parser_refuse(changes: dict[str, Any]) -> None:
    assert not accepted_by_schema(changes)
    refusal(message(**changes))


@pytest.mark.parametrize("changes", BEYOND_THE_SCHEMA, ids=lambda changes: repr(changes)[:60])
def test_the_parser_knows_what_a_schema_cannot_say(changes: dict[str, Any]) -> None:
    assert accepted_by_schema(changes)
    refusal(message(**changes))


def test_a_message_is_told_all_that_is_wrong_with_it() -> None:
    text = json.dumps(message(order_id="a/b", sequence=-1, issuer=..., extra=1, keys=["a", 2, "a"]), indent=0)
    assert defects(text) == [
        (2, "name"), (5, "type"), (9, 2, "type"), (10, 3, "duplicate"), (12, "field"), (13, "field"),
    ]  # fmt: skip
    assert "the message lacks issuer" in refusal(message(issuer=...)).message


@pytest.mark.parametrize("name", [*MESSAGE, "extra"])
def test_a_field_stands_once(name: str) -> None:
    text = json.dumps(MESSAGE)
    twice = f'{text[:-1]}, "{name}": {json.dumps(MESSAGE.get(name))}}}'
    if name == "keys":
        assert defects(twice) == [(1, "syntax")]
    else:
        assert defects(twice) == [(1, "field")]


def test_no_order_id_leaves_no_room_for_a_batch_number() -> None:
    assert validate_order_id("x" * 120) == "x" * 120
    for wrong in ("x" * 121, "a/1", "", "a\n", "x" * 10**6):
        with pytest.raises(InvalidName) as caught:
            validate_order_id(wrong)
        assert len(caught.value.message) < 500


# Properties.

any_key = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=40
) | st.sampled_from(
    ["#", " a", "a ", "\\", "\\\\", '"', "[1]", '{"key": "a", "version": 1}', "\ufeff", "\u00a0", "é" * 512]
)
any_version = st.none() | st.integers(1, 2**63 - 1)
any_items = st.lists(st.tuples(any_key, any_version), min_size=1, max_size=30, unique_by=lambda pair: pair[0])
Pairs = list[tuple[str, int | None]]


def as_json(pairs: Pairs) -> list[Any]:
    return [key if version is None else {"key": key, "version": version} for key, version in pairs]


def escaped(key: str) -> str:
    special = key[0] in '#\\[{"\ufeff' or key != key.strip()
    return "\\" + key if special else key


def pairs_of(order: Order) -> Pairs:
    return [(item.key, item.version) for item in order.items]


@given(any_items, st.sampled_from(["\n", "\r\n"]))
def test_plain_text_round_trips(pairs: Pairs, newline: str) -> None:
    text = newline.join(escaped(key) for key, _ in pairs)
    order = parse(text)
    assert order.form == "text"
    assert pairs_of(order) == [(key, None) for key, _ in pairs]
    assert [item.line for item in order.items] == list(range(1, len(pairs) + 1))


@given(any_items, st.sampled_from([None, 0, 2]), st.booleans())
def test_lists_round_trip(pairs: Pairs, indent: int | None, ascii_only: bool) -> None:
    order = parse(json.dumps(as_json(pairs), indent=indent, ensure_ascii=ascii_only))
    assert order.form == "list"
    assert pairs_of(order) == pairs


@given(any_items, st.sampled_from(["\n", "\r\n", " \n\n"]), st.booleans())
def test_ndjson_round_trips(pairs: Pairs, newline: str, ascii_only: bool) -> None:
    order = parse(newline.join(json.dumps(item, ensure_ascii=ascii_only) for item in as_json(pairs)))
    assert order.form == "ndjson"
    assert pairs_of(order) == pairs


@given(any_items, st.sampled_from([None, 0, 2]), st.permutations(list(MESSAGE)))
def test_messages_round_trip(pairs: Pairs, indent: int | None, names: list[str]) -> None:
    fields = message(keys=as_json(pairs))
    order = parse(json.dumps({name: fields[name] for name in names}, indent=indent))
    assert order.form == "message"
    assert pairs_of(order) == pairs
    assert order.digest == parse(fields).digest


@given(any_items)
def test_the_digest_is_of_the_content(pairs: Pairs) -> None:
    bare = [key for key, _ in pairs]
    text, listed, lines = (
        parse("\n\n".join(map(escaped, bare)) + "\n# end"),
        parse(json.dumps(bare, indent=3)),
        parse("\n".join(map(json.dumps, bare))),
    )
    assert text.digest == listed.digest == lines.digest
    spelt = parse([{"key": key, "version": 1} for key in bare])
    assert spelt.digest != text.digest
    assert parse(message(keys=bare)).digest != text.digest


@given(any_items.filter(lambda pairs: len(pairs) > 1), st.data())
def test_the_digest_tells_a_changed_order(pairs: Pairs, data: st.DataObject) -> None:
    whole = parse(as_json(pairs)).digest
    at = data.draw(st.integers(0, len(pairs) - 1))
    key, version = pairs[at]
    other = [*pairs[:at], (key[:-1] + ("y" if key[-1] == "x" else "x"), version), *pairs[at + 1 :]]
    if len({key for key, _ in other}) == len(other):
        assert parse(as_json(other)).digest != whole
    newer = 1 if version is None else version % (2**63 - 1) + 1
    assert parse(as_json([*pairs[:at], (key, newer), *pairs[at + 1 :]])).digest != whole
    assert parse(as_json(pairs[:at] + pairs[at + 1 :])).digest != whole
    assert parse(as_json(pairs[1:] + pairs[:1])).digest != whole


@pytest.mark.parametrize(
    "changes",
    [
        {"order_id": "other"},
        {"issued_at": "2026-01-31T12:00:00.5Z"},
        {"expires_at": 1769864401},
        {"issuer": "manager-2"},
        {"sequence": 8},
        {"namespace": "acme2"},
    ],
)
def test_the_digest_covers_the_fields_of_a_message(changes: dict[str, Any]) -> None:
    assert parse(message(**changes)).digest != parse(MESSAGE).digest


def test_the_digest_does_not_depend_on_how_a_time_is_written() -> None:
    same = ["2026-01-31T12:00:00Z", "2026-01-31T14:30:00.000+02:30", 1769860800, 1769860800.0]
    assert {parse(message(issued_at=time)).digest for time in same} == {parse(MESSAGE).digest}
    assert (
        parse(message(issued_at=0)).digest
        == parse(json.dumps(message(issued_at=...))[:-1] + ', "issued_at": -0.0}').digest
    )


def test_the_digest_is_frozen() -> None:
    """Stores remember it: it must not change from one release to the next."""
    assert parse("b\na\n").digest == "e63ff3715419341934e7246e0b9639d0d913a1fbf6b5fa4ce49123b16883ecf7"
    assert parse(MESSAGE).digest == "ee5b923eef007373dea8db4d236ecd529527124fb27d174242b9c8946e477cda"


@given(st.text(max_size=300) | st.text("ab\x00\x7f\x85\ud800é \u2028", max_size=5))
@example("x" * 256)
@example("\U0001f600" * 256)
@example("\U0001f600" * 257)
def test_a_key_is_what_names_say_it_is(key: str) -> None:
    try:
        validate_key(key)
    except InvalidName:
        assert defects(json.dumps([key])) == [(1, 1, "name")]
    else:
        assert keys(parse(json.dumps([key]))) == [key]


@given(any_key, st.integers(-(10**19), 10**19))
def test_the_short_way_reads_what_the_long_way_does(key: str, version: int) -> None:
    usual = json.dumps([{"key": key, "version": version}])
    unusual = json.dumps([{"version": version, "key": key}])
    if 1 <= version < 2**63:
        assert pairs_of(parse(usual)) == pairs_of(parse(unusual)) == [(key, version)]
    else:
        assert defects(usual) == defects(unusual) == [(1, 1, "type")]


pieces = st.sampled_from(
    ['"', "[", "]", "{", "}", ",", ":", "\\", "#", "\n", "\r", " ", '"key"', '"version"', "a", "1", "-",
     "1e999", "NaN", "null", "true", "\ufeff", "\x00", "é", '"a"', '{"key": "a", "version": 1}', '"keys"',
     "\\ud800",
     *(json.dumps({name: value})[1:-1] for name, value in MESSAGE.items())]
)  # fmt: skip


@given(st.binary(max_size=200) | st.lists(pieces, max_size=40).map(lambda parts: "".join(parts).encode()))
def test_any_bytes_are_an_order_or_are_refused(data: bytes) -> None:
    try:
        order = parse_order(data)
    except InputRejected:
        return
    assert order.items
    assert len(set(keys(order))) == len(order.items)
    for item in order.items:
        validate_key(item.key)


@given(st.data())
def test_a_damaged_message_is_an_order_or_is_refused(data: st.DataObject) -> None:
    text = bytearray(json.dumps(MESSAGE).encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(InputRejected):
        assert parse_order(bytes(text)).items


# Size.

TEN_MB = 10_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"[" * TEN_MB,
        b'{"a":' * (TEN_MB // 5),
        b'{"keys":' + b"[" * TEN_MB,
        b'[{"key":' * (TEN_MB // 8),
        b'{"key": "a", "version": ' + b"[" * TEN_MB,
        b"a" * TEN_MB,
        b'"' + b"a" * TEN_MB,
        b'"' + b"a" * TEN_MB + b'"',
        b'["' + b"\\" * TEN_MB + b'"]',
        b'["' + b"\\ud800" * (TEN_MB // 6) + b'"]',
        b"[" + b"1" * TEN_MB + b"]",
        b"[1." + b"1" * TEN_MB + b"]",
        b"[1e" + b"1" * TEN_MB + b"]",
        b"[" + b"\n" * TEN_MB + b"1]",
        b"\\" * TEN_MB,
        b" " * TEN_MB + b"[",
        b'{"' + b"a" * TEN_MB + b'": 1}',
        b'{"order_id": "' + b"a" * TEN_MB + b'"}',
        b"\xff" * TEN_MB,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_hostile_text_is_refused_shortly(data: bytes) -> None:
    assert len(refusal(data).message) < 1000


def test_a_million_items_and_not_one_more() -> None:
    rows = [f"acme:({n}.0, 14.0, 43.0):data" for n in range(order_module.MAX_ITEMS)]
    text = "\n".join(rows)
    order = parse(text)
    assert len(order.items) == order_module.MAX_ITEMS
    assert order.items[-1] == Item(rows[-1], None, order_module.MAX_ITEMS)
    with pytest.raises(LimitExceeded, match="more than 1000000 items"):
        parse(text + "\none more")


def test_limits_hold_for_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("somactl.core.order.items.MAX_ITEMS", 2)
    for good in ("a\nb", '["a", "b"]', '"a"\n"b"', json.dumps(message(keys=["a", "b"]))):
        assert len(parse(good).items) == 2
    for bad in ("a\nb\nc", '["a", "b", "c", no json', '"a"\n"b"\n"c"', json.dumps(message(keys=[1, 2, 3]))):
        with pytest.raises(LimitExceeded, match="more than 2 items"):
            parse(bad)


def test_lines_and_bytes_are_limited_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("somactl.core.order.parsing.MAX_LINES", 3)
    assert keys(parse("a\n\n\n")) == ["a"]
    for text in ("a\n\n\n\n", '"a"\n\n\n\n'):
        with pytest.raises(LimitExceeded, match="more than 3 lines"):
            parse(text)
    assert keys(parse('[\n\n\n\n"a"]')) == ["a"]
    monkeypatch.setattr("somactl.core.order.parsing.MAX_TEXT_BYTES", 5)
    assert keys(parse("abcde")) == ["abcde"]
    with pytest.raises(LimitExceeded, match="6 bytes"):
        parse("abcdef")
