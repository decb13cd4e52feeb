"""An order as JSON: a list, NDJSON, or a `prune.order` message.

JSON is read value by value, because an order nests at a few known places only: whatever else opens a list
or an object is refused where it opens, before it costs memory, and each item knows its line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from somactl.core.names import validate_namespace
from somactl.core.order.items import BrokenError, DefectError, OrderItems, past_space, shortened
from somactl.core.rfc3339 import MAX_TIME, from_rfc3339
from somactl.errors import InvalidName

MAX_INTEGER = 2**63 - 1


def read_list(text: str, found: OrderItems) -> dict[str, Any]:
    reader = Reader(text)
    try:
        read_items(reader, found)
        reader.end()
    except BrokenError as error:
        found.note(reader.line, error.defect, str(error))
    return {}


def read_ndjson(text: str, found: OrderItems) -> dict[str, Any]:
    for line, row in enumerate(text.split("\n"), 1):
        reader = Reader(row, line)
        first = reader.peek()
        if not first:
            continue
        try:
            if first not in '{"':
                raise DefectError("type", "no JSON string or object; plain text would begin with a # line")
            _read_item(reader, found, line)
            reader.end()
        except (DefectError, BrokenError) as error:
            found.reject(line, error)
    return {}


def read_items(reader: Reader, found: OrderItems) -> None:
    for _ in reader.elements():
        reader.peek()
        _read_item(reader, found, reader.line)


def _read_item(reader: Reader, found: OrderItems, line: int) -> None:
    try:
        key, version = reader.usual_item() or _item(reader)
    except DefectError as error:
        found.reject(line, error)
    else:
        found.add(key, version, line)


def _item(reader: Reader) -> tuple[str, int | None]:
    if reader.peek() != "{":
        value = reader.scalar()
        if isinstance(value, str):
            return value, None
        raise DefectError("type", f"{kind_of(value)} is neither a key nor {{key, version}}")
    fields: dict[str, object] = {}
    wrong: DefectError | None = None
    for name in reader.members():
        if name in fields or name not in ("key", "version"):
            wrong = wrong or wrong_field(name, name in fields)
        fields[name] = reader.scalar()
    if wrong is not None:
        raise wrong
    for name in ("key", "version"):
        if name not in fields:
            raise DefectError("field", f"`{name}` is missing; a key without a version is a plain string")
    return string(fields["key"], "key"), whole(fields["version"], "version", 1)


def wrong_field(name: str, twice: bool) -> DefectError:
    what = "stands twice" if twice else "is unknown"
    return DefectError("field", f"the field {shortened(repr(name))} {what}")


def kind_of(value: object) -> str:
    return (
        "a string"
        if isinstance(value, str)
        else "a number"
        if type(value) in (int, float)
        else json.dumps(value)
    )


def string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise DefectError("type", f"`{name}` is {kind_of(value)}, not a string")
    return value


def whole(value: object, name: str, least: int) -> int:
    if type(value) is not int or not least <= value <= MAX_INTEGER:
        raise DefectError("type", f"`{name}` is not a whole number from {least} to 2^63 - 1")
    return value


_ORDER_ID = re.compile(r"[A-Za-z0-9._:-]{1,120}\Z")
_ISSUER = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}\Z")


def validate_order_id(order_id: str) -> str:
    """`[A-Za-z0-9._:-]{1,120}`: a commit id that leaves room for `/` and the number of a batch.

    Raises InvalidName.
    """
    if not _ORDER_ID.match(order_id):
        raise InvalidName(
            f"order id {shortened(repr(order_id))} is not 1-120 characters of letters, digits and . _ : -",
            hint="choose another id; the slash is kept for the numbers of batches",
        )
    return order_id


def read_message(text: str, found: OrderItems) -> dict[str, Any]:
    reader = Reader(text)
    fields: dict[str, Any] = {}
    seen: set[str] = set()
    try:
        for name in reader.members():
            _read_field(reader, found, name, seen, fields)
            seen.add(name)
        reader.end()
    except BrokenError as error:
        found.note(reader.line, error.defect, str(error))
        return fields
    missing = [name for name in (*FIELDS, "keys") if name not in seen]
    if missing:
        found.note(reader.line, "field", f"the message lacks {', '.join(missing)}")
    issued, expires = fields.get("issued_at"), fields.get("expires_at")
    if issued is not None and expires is not None and expires <= issued:
        found.note(reader.line, "time", "the order expires before it was issued, or at that moment")
    return fields


def _read_field(reader: Reader, found: OrderItems, name: str, seen: set[str], fields: dict[str, Any]) -> None:
    reader.peek()
    line = reader.line
    if name == "keys" and name not in seen:
        read_items(reader, found)
        return
    value = reader.scalar()
    try:
        if name in seen or name not in FIELDS:
            raise wrong_field(name, name in seen)
        fields[name] = FIELDS[name](value, name)
    except DefectError as error:
        found.note(line, error.defect, str(error))
    except InvalidName as error:
        found.note(line, "name", error.message)


def _issuer(value: object, name: str) -> str:
    if not _ISSUER.match(string(value, name)):
        raise DefectError("name", f"`{name}` is not 1-256 characters without control characters")
    return str(value)


def _time(value: object, name: str) -> float:
    seconds = from_rfc3339(value) if isinstance(value, str) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_TIME:
        what = f"`{name}` is neither seconds since 1970 nor RFC 3339 such as 2026-01-31T12:00:00Z"
        raise DefectError("time", what)
    return float(seconds) + 0.0  # there is no -0.0


FIELDS: dict[str, Callable[[object, str], object]] = {
    "order_id": lambda value, name: validate_order_id(string(value, name)),
    "issued_at": _time,
    "expires_at": _time,
    "issuer": _issuer,
    "sequence": lambda value, name: whole(value, name, 0),
    "namespace": lambda value, name: validate_namespace(string(value, name)),
}


class Reader:
    """JSON at one place after another. Raises BrokenError where it is not what the caller reads next."""

    def __init__(self, text: str, line: int = 1) -> None:
        self._text = text
        self._pos = 0
        self._line = line
        self._counted = 0

    @property
    def line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._pos)
        self._counted = self._pos
        return self._line

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        self._pos = past_space(self._text, self._pos)
        return self._text[self._pos : self._pos + 1]

    def expect(self, character: str) -> None:
        if self.peek() != character:
            raise self._broken(f"`{character}` is missing")
        self._pos += 1

    def end(self) -> None:
        if self.peek():
            raise self._broken("something follows its end")

    def scalar(self) -> object:
        """A string, number, true, false or null; an integer of too many digits is Infinity."""
        if self.peek() in ("[", "{"):
            raise self._broken("a list or an object where an order has none")
        try:
            value, self._pos = _JSON.raw_decode(self._text, self._pos)
        except json.JSONDecodeError as error:
            self._pos = error.pos
            raise self._broken(error.msg[0].lower() + error.msg[1:].removesuffix(" at")) from None
        except ValueError as error:  # NaN or Infinity
            raise self._broken(str(error)) from None
        return value

    def usual_item(self) -> tuple[str, int | None] | None:
        """An item in its usual form, read at once; None where it takes a closer look."""
        match = _USUAL_ITEM.match(self._text, self._pos)
        if match is None:
            return None
        self._pos = match.end()
        text, key, version = match.groups()
        return (key, int(version)) if text is None else (text, None)

    def elements(self) -> Iterator[None]:
        """Stops before each element of a list, which the caller reads."""
        self.expect("[")
        if self.peek() != "]":
            yield
            while self.peek() == ",":
                self._pos += 1
                yield
        self.expect("]")

    def members(self) -> Iterator[str]:
        """The name of each field of an object; the caller reads its value."""
        self.expect("{")
        if self.peek() != "}":
            yield self._name()
            while self.peek() == ",":
                self._pos += 1
                yield self._name()
        self.expect("}")

    def _name(self) -> str:
        if self.peek() != '"':
            raise self._broken("a field name is missing")
        name = self.scalar()
        self.expect(":")
        return str(name)

    def _broken(self, what: str) -> BrokenError:
        column = self._pos - self._text.rfind("\n", 0, self._pos)
        return BrokenError(f"not the JSON of an order: {what}, at column {column}")


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= 20 else math.inf


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


_JSON = json.JSONDecoder(parse_int=_integer, parse_constant=_no_constant)
_USUAL_ITEM = re.compile(
    r'"([^"\\\x00-\x1f]*)"|\{ "key" : "([^"\\\x00-\x1f]*)" , "version" : ([1-9][0-9]{0,17}) \}'.replace(
        " ", r"[ \t\r\n]*"
    )
)
