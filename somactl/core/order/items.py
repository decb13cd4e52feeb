"""The items of an order that were read so far, in order, and every defect by its place."""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from somactl.core.names import validate_key
from somactl.errors import InputRejected, InvalidName, LimitExceeded

MAX_ITEMS: Final = 1_000_000
MAX_DEFECTS: Final = 20
"""How many defects an error carries in full; it counts the rest."""

Form = Literal["text", "list", "ndjson", "message"]

SPLIT_HINT = "issue the order in parts, each of them a ranking of its own"
_SHORT_KEY = 256  # so many characters never take more bytes than a key may have


class Item(msgspec.Struct, frozen=True, gc=False):
    """One key to prune: the version at which it was ranked, where that is known, and its line, from 1.

    Line 0: there was no text.
    """

    key: str
    version: int | None
    line: int


class DefectError(Exception):
    """Something wrong with one item or field; what follows it can still be read."""

    def __init__(self, defect: str, message: str) -> None:
        super().__init__(message)
        self.defect = defect


class BrokenError(Exception):
    """Text that is no JSON, or nests where an order does not: what follows has no known place any more."""

    defect = "syntax"


class OrderItems:
    """What was read so far: the items in order, and what is wrong with the others."""

    def __init__(self, form: Form) -> None:
        self.items: list[Item] = []
        self._form = form
        self._by_line = form in ("text", "ndjson")
        self._number = 0
        self._places: dict[str, int] = {}
        self._defects: list[dict[str, Any]] = []
        self._count = 0
        self._only_names = True

    def add(self, key: str, version: int | None, line: int) -> None:
        """The next item. Raises LimitExceeded; whatever else is wrong with it is noted."""
        number = self._next()
        # What is printable has no control characters and no surrogates; validate_key has the last word.
        if not (key.isprintable() and 0 < len(key) <= _SHORT_KEY):
            try:
                validate_key(key)
            except InvalidName as error:
                self.note(line, "name", error.message, number)
                return
        place = line if self._by_line else number
        first = self._places.setdefault(key, place)
        if first != place:
            unit = "line" if self._by_line else "item"
            self.note(line, "duplicate", f"key {key!r} stands in {unit} {first} already", number)
            return
        self.items.append(Item(key, version, line))

    def reject(self, line: int, error: DefectError | BrokenError) -> None:
        """The next item could not be read. Raises LimitExceeded."""
        self.note(line, error.defect, str(error), self._next())

    def _next(self) -> int:
        self._number += 1
        if self._number > MAX_ITEMS:
            raise LimitExceeded(f"the order has more than {MAX_ITEMS} items", hint=SPLIT_HINT)
        return self._number

    def note(self, line: int, defect: str, message: str, number: int | None = None) -> None:
        """A defect of item `number`, or of the text itself."""
        self._count += 1
        self._only_names = self._only_names and defect == "name"
        if len(self._defects) < MAX_DEFECTS:
            numbered = {} if self._by_line or number is None else {"item": number}
            self._defects.append({"line": line, **numbered, "defect": defect, "message": shortened(message)})

    def refuse_defects(self) -> None:
        """Raises InvalidName or InputRejected, with all that is wrong, if anything is."""
        if not self._count:
            return
        shown = [f"{self._at(defect)}: {defect['message']}" for defect in self._defects[:5]]
        rest = f"; and {self._count - len(shown)} more" if self._count > len(shown) else ""
        many = "a defect" if self._count == 1 else f"{self._count} defects"
        raise (InvalidName if self._only_names else InputRejected)(
            f"the order has {many}: {'; '.join(shown)}{rest}",
            hint="nothing of it was accepted: have it corrected where it is made",
            defect_count=self._count,
            defects=self._defects,
        )

    def _at(self, defect: dict[str, Any]) -> str:
        return place_of(self._form if "item" in defect else "text", defect["line"], defect.get("item", 0))


def place_of(form: Form, line: int, number: int) -> str:
    """`line 7`, or `item 5 (line 7)`, or `item 5` of what was never a text (line 0)."""
    if form in ("text", "ndjson"):
        return f"line {line}"
    return f"item {number} (line {line})" if line else f"item {number}"


def shortened(message: str) -> str:
    return message if len(message) <= 300 else f"{message[:200]} ... {message[-80:]}"


_SPACE = re.compile(r"[ \t\r\n]*")


def past_space(text: str, pos: int) -> int:
    match = _SPACE.match(text, pos)
    return match.end() if match else pos
