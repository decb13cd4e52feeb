"""One value at random: nothing raises, and two parsers that share nothing agree on what is accepted."""

from __future__ import annotations

import gc
import json
import math
from dataclasses import fields
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from migration.forms import density, numpy_form, text, wrapped
from somactl.core.envelope import deserialize_matrix
from somactl.core.json_pointer import parse_pointer
from somactl.core.verdict import Tolerances
from somactl.errors import InputRejected, SchemaMismatch
from somactl.legacy import examine as examine_module
from somactl.legacy.examine import Examined, difference, examine, examine_each
from somactl.legacy.independent_parser import SecondReading
from somactl.legacy.json_edit import Reference, replace_nodes
from somactl.legacy.request import MigrationRequest, MigrationWire, Selection
from somactl.legacy.source.contract import Value
from somactl.operations.admission import Policy

EVERYTHING = Selection(discover=True, kind="matrix")

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**60), 2**60),
    st.sampled_from([0, -0.0, 5e-324, 2**53, 2**53 + 1, 1e308, True, None, "0.5", float("nan")]),
)
rows = st.integers(1, 3).flatmap(
    lambda n: st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=1, max_size=3)
)
arrays = st.builds(
    lambda n, m, dtype, seed: (np.random.default_rng(seed).standard_normal((n, m)) * 100).astype(dtype),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["<f8", "<f4", "<f2", "<c16", "<c8", "<i4", "<u1", ">f8"]),
    st.integers(0, 99),
)
forms = arrays.map(lambda array: numpy_form(array, dtype=array.dtype.str))
broken = st.builds(
    lambda form, name, value: {**form, name: value},
    forms,
    st.sampled_from(["data", "dtype", "shape", "__np__", "more"]),
    st.sampled_from([None, True, "", "AAAA", "object", [0, 1], [1, 1], [-1], [2**70, 1], {}, 1.5]),
)
strings = st.one_of(st.text(max_size=5), rows.map(json.dumps), forms.map(json.dumps))
leaves = st.one_of(numbers, strings, rows, forms, broken)
names = st.text(st.sampled_from('a/~#0 "\\\n\u00e9\U0001f600'), max_size=3)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


def looked_at(data: bytes, selection: Selection = EVERYTHING) -> Examined:
    return examine(Value("K", "text", data), "default", selection, Policy())


@settings(max_examples=400)
@given(values, st.booleans())
@example({"a": [[1, 2**53 + 1]], "b": [[1.0]]}, True)
@example([[[1.0]], [[2.0]]], False)
def test_what_is_accepted_reads_the_same_by_other_means(value: Any, compact: bool) -> None:
    data = json.dumps(value, separators=(",", ":") if compact else None).encode()
    found = looked_at(data)
    assert found.rows
    for row in found.rows:
        assert row.outcome in ("migrate", "rejected", "not-a-matrix")
        if row.outcome == "migrate":
            stored = deserialize_matrix(found.puts[row.target].data).array
            assert difference(stored, SecondReading(data).at(row.pointer), row.moves) is None
            assert np.isfinite(stored).all()
            assert row.target == ("K" if not row.pointer else f"K#{row.pointer}")


@settings(max_examples=100)
@given(st.lists(values, max_size=6), st.sampled_from([1, 40, 200, 1 << 20]))
def test_values_that_are_examined_together_are_examined_as_each_alone(several: list[Any], size: int) -> None:
    given_ = [Value(f"K{i}", "text", json.dumps(value).encode()) for i, value in enumerate(several)]
    given_[1:1] = [Value("gone", "gone"), Value("other", "other", detail="a Redis hash")]
    with mock.patch.object(examine_module, "_TOGETHER_BYTES", size):
        together = list(examine_each(given_, "default", EVERYTHING, Policy()))
    alone = [examine(value, "default", EVERYTHING, Policy()) for value in given_]
    assert [each.rows for each in together] == [each.rows for each in alone]
    assert [list(each.puts) for each in together] == [list(each.puts) for each in alone]


def test_what_was_examined_is_free_as_soon_as_nobody_uses_it() -> None:
    """Left to the garbage collector, the values of many batches would stay in memory for a while."""
    data = text({"a": numpy_form(density(8)), "b": [[1.0, 2.0], [3.0, 4.0]], "c": [[1, 2**53 + 1]]})
    looked_at(data)  # what is loaded and remembered once
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            looked_at(data)
        assert gc.collect() < 20
    finally:
        gc.enable()


@settings(max_examples=400)
@given(values)
def test_a_reference_changes_its_node_and_nothing_else(value: Any) -> None:
    data = json.dumps(value).encode()
    sites = {
        row.pointer: row.target for row in looked_at(data).rows if row.outcome == "migrate" and row.pointer
    }
    left = json.loads(
        replace_nodes(data, {p: Reference(target, 1, "0").encode() for p, target in sites.items()})
    )
    wanted = json.loads(data)
    for pointer, target in sites.items():
        *way, last = parse_pointer(pointer)
        node = wanted
        for name in way:
            node = node[int(name)] if isinstance(node, list) else node[name]
        node[int(last) if isinstance(node, list) else last] = {
            "__somactl__": {"key": target, "version": 1, "digest": "0"}
        }
    assert same_json(left, wanted)


def same_json(a: Any, b: Any) -> bool:
    """Equal, NaN with NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_json, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[name], b[name]) for name in a)
    return bool(a == b)


SEEDS = [
    text(numpy_form(density(2))),
    text({"rho": density(2).tolist(), "x": [1, {"y": numpy_form(density(2))}]}),
    wrapped(text(numpy_form(density(2)))),
    b"[[0.5, 0], [0, 0.5]]",
]


@settings(max_examples=600)
@given(
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(["cut", "set", "double", "drop"]), st.integers(0, 255)),
        max_size=4,
    ),
    st.booleans(),
)
def test_damaged_bytes_end_in_a_row_and_never_in_an_error(
    seed: bytes, damages: list[tuple[float, str, int]], discover: bool
) -> None:
    data = seed
    for place, what, byte in damages:
        at = int(place * len(data))
        data = {
            "cut": data[:at],
            "set": data[:at] + bytes([byte]) + data[at + 1 :],
            "double": data[:at] + data[at : at + byte] + data[at:],
            "drop": data[:at] + data[at + 1 + byte // 16 :],
        }[what]
    found = looked_at(data, Selection(discover=discover))
    assert found.rows
    for row in found.rows:
        if row.outcome == "migrate":
            stored = deserialize_matrix(found.puts[row.target].data).array
            assert difference(stored, SecondReading(data).at(row.pointer), row.moves) is None
        else:
            assert row.reason


@given(st.binary(max_size=200), st.booleans())
def test_bytes_at_random_end_in_a_row(data: bytes, discover: bool) -> None:
    assert looked_at(data, Selection(discover=discover)).rows


@given(
    st.builds(
        MigrationRequest,
        st.none() | st.text(max_size=5),
        st.builds(
            Selection,
            st.lists(st.sampled_from(["", "/a", "/ä/0", "/~0~1"])).map(tuple),
            st.booleans(),
            st.sampled_from(["auto", "rho", "sketch", "matrix"]),
        ),
        st.builds(
            Policy,
            on_clampable=st.sampled_from(["clamp", "refuse"]),
            clamp=st.booleans(),
            max_move=st.floats(0, 1e9),
            normalize=st.booleans(),
            readdress=st.booleans(),
        ),
    )
)
def test_a_request_survives_the_way_through_a_plan(asked: MigrationRequest) -> None:
    assert MigrationRequest.from_wire(json.loads(json.dumps(asked.to_wire()))) == asked


def test_what_is_not_asked_for_is_not_on_the_wire_and_so_changes_no_id() -> None:
    """The very bytes of format 1: saved plans and journals hold them."""
    assert MigrationRequest().to_wire() == {"format": 1}
    asked = MigrationRequest("a*", Selection(("/rho",), kind="rho"), Policy(clamp=True, max_move=1e-3))
    wire = {"match": "a*", "pointers": ["/rho"], "kind": "rho", "clamp": True, "max_move": 1e-3}
    assert asked.to_wire() == {"format": 1, **wire}
    assert MigrationRequest().id_for("redis://host/0", "default") == "ff1d5c750ea2"
    assert asked.id_for("redis://host/0", "default") == "00acff960caf"


def test_every_part_of_a_request_is_on_the_wire_or_is_no_migrations_to_ask_for() -> None:
    """A new field of a policy must be decided upon here."""
    no_migrations = {"kind", "dtype", "layout", "compression", "change_kind", "tolerances"}
    no_migrations |= {"dark"}  # the mode in which a run is made is no part of what is asked for
    asked = {each.name for each in (*fields(Selection), *fields(Policy))} - no_migrations | {"kind", "match"}
    asked |= {f"{each.name}_tolerance" for each in fields(Tolerances)}
    assert set(MigrationWire.__struct_fields__) == asked


def test_a_request_of_a_newer_somactl_is_refused() -> None:
    for newer in ({"format": 2}, {"format": 1, "later": True}):
        with pytest.raises(SchemaMismatch, match="newer somactl"):
            MigrationRequest.from_wire(newer)
    with pytest.raises(InputRejected, match="not told as"):
        MigrationRequest.from_wire({"format": 1, "kind": "unheard-of"})
