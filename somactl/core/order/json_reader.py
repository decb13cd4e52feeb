"""JSON read value by value: an order nests at a few known places, and anywhere else nothing may open."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from somactl.core.order.found import BrokenError

_SPACE = re.compile(r"[ \t\r\n]*")


def past_space(text: str, pos: int) -> int:
    match = _SPACE.match(text, pos)
    return match.end() if match else pos


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
