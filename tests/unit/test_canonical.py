"""The canonical form of JSON: the examples of RFC 8785, and what must hold of every value."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, strategies as st

from somactl.core.canonical import RepeatedMember, canonical, number_text, read

# Appendix B of RFC 8785: the bits of a float64 and what stands for it.
NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_are_written_as_the_standard_says(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert number_text(number) == text


def test_members_are_ordered_by_utf16() -> None:
    """The example of section 3.2.3: a face, of two code units, sorts before a letter of one."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\x80", "\xf6"]
    expected = ["\r", "1", "\x80", "\xf6", "\u20ac", "\U0001f600", "\ufb33"]
    written = canonical(dict.fromkeys(names, 1)).decode()
    assert list(json.loads(written)) == expected


def test_strings_are_escaped_where_they_must_be() -> None:
    """The example of section 3.2.2."""
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": '\u20ac$\x0f\nA\'B"\\\\"/',
        "literals": [None, True, False],
    }
    assert canonical(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


@given(JSON)
def test_it_reads_back_as_the_same_value_and_is_its_own_canonical_form(value: Any) -> None:
    written = canonical(value)
    back = read(written.decode())
    assert back == value
    assert canonical(back) == written


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 2**53 + 1, 10**400, "\ud800", {"\udfff": 1}])
def test_what_json_cannot_say_exactly_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"no float64|surrogates"):
        canonical([value])


@pytest.mark.parametrize(
    "text", ['{"a": 1, "b": {"c": 1, "c": 1}}', '[{"": 1, "x": 2, "": 1}]', '{"\\u0061": 1, "a": 1}']
)
def test_a_member_that_stands_twice_is_refused_at_any_depth(text: str) -> None:
    with pytest.raises(RepeatedMember):
        read(text)


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", "", "{", "[1] 2", "01", "1e", "[1,]"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no number|Expecting|Extra|delimiter|trailing"):
        read(text)


def test_a_number_of_a_thousand_digits_is_refused_and_not_rounded_to_infinity() -> None:
    with pytest.raises(ValueError, match="no float64"):
        canonical(read("9" * 1000))
