"""The header of a .npy file: the Python literal of a dict with three entries, read by a grammar of its own.

The format: numpy.lib.format, NEP 1. numpy hands this text to Python's parser, which takes anything that
nests, and warns, tokenises and tries again where it is damaged; a matrix needs none of that. What is read is
what numpy reads of files that numpy wrote, Python 2's (`(3L, 3L)`) among them.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

MAX_BYTES = 10_000
"""What numpy itself trusts its header parser with."""
MAX_DEPTH = 16
"""Brackets that may be open at once; a structured dtype, which is refused by name, nests no deeper."""

_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_NAMES = frozenset({"descr", "fortran_order", "shape"})
_WORDS = {"True": True, "False": False, "None": None}
_token = re.compile(
    r"\s*+(?:(?P<mark>[][(){},:])|[uU]?(?P<text>'[^'\\\n]*+'|\"[^\"\\\n]*+\")"
    r"|(?P<number>[-+]?[0-9]{1,20})[lL]?(?![0-9A-Za-z_.])|(?P<word>[A-Za-z]{1,8})(?![0-9A-Za-z_]))"
).match


class NpyHeader(NamedTuple):
    """start: where the numbers begin; descr: as it stands there, for the reader of dtypes to judge."""

    start: int
    descr: object
    shape: tuple[int, ...]
    fortran: bool


def read_npy_header(data: bytes) -> NpyHeader:
    """The header of an npy file, or of its beginning. Raises ValueError with what is wrong with it."""
    version = (data[6], data[7]) if len(data) > 8 else (0, 0)
    width = _LENGTH_BYTES.get(version)
    if width is None:
        raise ValueError("is damaged or of a format after 3.0")
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if start > len(data) or start - 8 - width > MAX_BYTES:
        raise ValueError("is damaged")
    try:
        text = data[8 + width : start].decode("utf-8" if version == (3, 0) else "latin1")
    except UnicodeDecodeError:
        raise ValueError("is damaged") from None
    fields = _Reader(text).whole()
    if not isinstance(fields, dict) or set(fields) != _NAMES:
        raise ValueError("is damaged")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if type(shape) is not tuple or type(fortran) is not bool or len(shape) > 64:
        raise ValueError("is damaged")
    if any(type(size) is not int for size in shape):
        raise ValueError("is damaged")
    return NpyHeader(start, fields["descr"], shape, fortran)


class _Reader:
    """Literals of dicts, lists, tuples, strings, integers and the three words, one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def whole(self) -> Any:
        """The one value that the text consists of."""
        value = self._value(0)
        if self._text[self._at :].strip():
            raise ValueError("is damaged")
        return value

    def _next(self) -> re.Match[str]:
        match = _token(self._text, self._at)
        if match is None:
            raise ValueError("is damaged")
        self._at = match.end()
        return match

    def _value(self, depth: int) -> Any:
        token = self._next()
        if token["text"] is not None:
            return token["text"][1:-1]
        if token["number"] is not None:
            return int(token["number"])
        if token["word"] is not None and token["word"] in _WORDS:
            return _WORDS[token["word"]]
        if depth == MAX_DEPTH:
            raise ValueError("is damaged")
        if token["mark"] == "{":
            return self._members(depth + 1)
        if token["mark"] == "[":
            return self._items("]", depth + 1)
        if token["mark"] == "(":
            return self._tuple(depth + 1)
        raise ValueError("is damaged")

    def _ends(self, closer: str) -> bool:
        """Whether a container ends here, its mark then passed."""
        match = _token(self._text, self._at)
        if match is None or match["mark"] != closer:
            return False
        self._at = match.end()
        return True

    def _expect(self, mark: str) -> None:
        if self._next()["mark"] != mark:
            raise ValueError("is damaged")

    def _items(self, closer: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not self._ends(closer):
            items.append(self._value(depth))
            if self._ends(closer):
                break
            self._expect(",")
        return items

    def _tuple(self, depth: int) -> Any:
        """`(3)` is no tuple, `(3,)` is one."""
        items = self._items(")", depth)
        commas = self._text[: self._at - 1].rstrip().endswith(",")
        return items[0] if len(items) == 1 and not commas else tuple(items)

    def _members(self, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not self._ends("}"):
            name = self._next()["text"]
            self._expect(":")
            if name is None or name[1:-1] in members:
                raise ValueError("is damaged")
            members[name[1:-1]] = self._value(depth)
            if self._ends("}"):
                break
            self._expect(",")
        return members
