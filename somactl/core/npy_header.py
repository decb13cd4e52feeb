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
_CLOSERS = {"{": "}", "[": "]", "(": ")"}
_DAMAGED = "is damaged"
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
        raise ValueError(_DAMAGED)
    try:
        text = data[8 + width : start].decode("utf-8" if version == (3, 0) else "latin1")
    except UnicodeDecodeError:
        raise ValueError(_DAMAGED) from None
    fields, end = _value(text, _next(text, 0), 0)
    if text[end:].strip() or not isinstance(fields, dict) or set(fields) != _NAMES:
        raise ValueError(_DAMAGED)
    shape, fortran = fields["shape"], fields["fortran_order"]
    if type(shape) is not tuple or type(fortran) is not bool or len(shape) > 64:
        raise ValueError(_DAMAGED)
    if any(type(size) is not int for size in shape):
        raise ValueError(_DAMAGED)
    return NpyHeader(start, fields["descr"], shape, fortran)


def _next(text: str, at: int) -> re.Match[str]:
    token = _token(text, at)
    if token is None:
        raise ValueError(_DAMAGED)
    return token


def _value(text: str, token: re.Match[str], depth: int) -> tuple[Any, int]:
    """The literal that begins with `token`, and where it ends."""
    if token["text"] is not None:
        return token["text"][1:-1], token.end()
    if token["number"] is not None:
        return int(token["number"]), token.end()
    if token["word"] in _WORDS:
        return _WORDS[token["word"]], token.end()
    if token["mark"] not in _CLOSERS or depth == MAX_DEPTH:
        raise ValueError(_DAMAGED)
    return _container(text, token.end(), token["mark"], depth + 1)


def _container(text: str, at: int, opener: str, depth: int) -> tuple[Any, int]:
    """The dict, list or tuple whose mark has been passed, and where it ends; `(3)` is no tuple, `(3,)` is."""
    items: list[Any] = []
    names: list[str] = []
    comma = True
    while (token := _next(text, at))["mark"] != _CLOSERS[opener]:
        if opener == "{":
            colon = _next(text, token.end())
            if token["text"] is None or token["text"][1:-1] in names or colon["mark"] != ":":
                raise ValueError(_DAMAGED)
            names.append(token["text"][1:-1])
            token = _next(text, colon.end())
        item, at = _value(text, token, depth)
        items.append(item)
        behind = _next(text, at)
        comma = behind["mark"] == ","
        if comma:
            at = behind.end()
        elif behind["mark"] != _CLOSERS[opener]:
            raise ValueError(_DAMAGED)
    if opener == "(":
        return items[0] if len(items) == 1 and not comma else tuple(items), token.end()
    return dict(zip(names, items, strict=True)) if opener == "{" else items, token.end()
