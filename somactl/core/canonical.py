"""JSON in the canonical form of RFC 8785 (JCS): for one value one sequence of bytes, whatever wrote it.

Members in the order of their names' UTF-16 code units, no blanks, UTF-8, only `"`, `\\` and control
characters escaped, and numbers as ECMAScript's `Number::toString` writes them: the fewest digits that give
the same float64 again. msgspec and `json` each write numbers in their own way (1.0 and 1e-08 for what is 1
and 1e-8 here), and a digest must not change with a release of either; so it is written out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

EXACT = 2**53
"""Up to here every integer is a float64; larger ones are read as the nearest float64, as JCS has it."""


class RepeatedMember(ValueError):
    """An object names this member twice, of which JSON parsers keep whichever they like."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the member {name!r} stands twice in one object")


def read(text: str) -> Any:
    """The tree of a JSON text, of which `canonical` gives the canonical form.

    Raises ValueError for what is no JSON, NaN and Infinity, and RepeatedMember; RecursionError where it is
    nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_members, parse_int=_integer, parse_constant=_refuse)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise RepeatedMember(next(name for name, count in counts.items() if count > 1))
    return members


def _integer(digits: str) -> float:
    as_float = float(digits)
    return int(digits) if abs(as_float) <= EXACT else as_float


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def canonical(value: Any) -> bytes:
    """The JSON of a tree of dicts with strings as keys, lists, strings, numbers, booleans and None.

    Raises ValueError for what has none: NaN, infinities, integers that no float64 equals, lone surrogates.
    """
    return "".join(_parts(value)).encode()


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for number, name in enumerate(sorted(value, key=_utf16)):
            yield f"{',' if number else ''}{_text(name)}:"
            yield from _parts(value[name])
        yield "}"
    elif isinstance(value, list):
        yield "["
        for number, item in enumerate(value):
            yield "," if number else ""
            yield from _parts(item)
        yield "]"
    elif isinstance(value, str):
        yield _text(value)
    elif value is None or isinstance(value, bool):
        yield {None: "null", True: "true", False: "false"}[value]
    else:
        yield number_text(value)


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def number_text(number: float) -> str:
    """A number as ECMAScript writes it (ECMA-262, Number::toString; RFC 8785, 3.2.2.3).

    Raises ValueError where it is no float64 or not finite.
    """
    as_float = _float(number)
    if as_float == 0:
        return "0"
    sign = "-" if as_float < 0 else ""
    digits, point = _digits(abs(as_float))
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


def _float(number: float) -> float:
    try:
        as_float = float(number)
    except OverflowError:
        as_float = float("inf")
    if as_float != number or as_float in (float("inf"), float("-inf")):
        raise ValueError(f"no float64 equals {number}")
    return as_float


def _digits(number: float) -> tuple[str, int]:
    """The fewest decimal digits d and the exponent p of a positive number 0.d * 10^p."""
    _, digits, exponent = Decimal(repr(number)).as_tuple()
    text = "".join(map(str, digits))
    assert isinstance(exponent, int)  # the number is finite
    return text.rstrip("0"), len(text) + exponent
