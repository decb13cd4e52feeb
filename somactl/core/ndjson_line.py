"""One line of NDJSON that hands in a value: `{"key": "...", "value": ...}`, in either order, and no more.

Nothing is parsed that the value consists of: its bytes stay as they stood, and whether they are JSON is for
others to say. A line with a third member, or with one of the two twice, is none: which value was meant cannot
be told.
"""

from __future__ import annotations

import re

import msgspec

MAX_DEPTH = 1024
"""Brackets of a value that are counted: `core.json_pointer` reads no text that nests deeper."""
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_KEY_FIRST = re.compile(
    rb'\s*+\{\s*+"key"\s*+:\s*+(' + _STRING + rb')\s*+,\s*+"value"\s*+:\s*+', re.DOTALL
).match
_VALUE_FIRST = re.compile(rb'\s*+\{\s*+"value"\s*+:\s*+').match
_KEY_LAST = re.compile(rb',\s*+"key"\s*+:\s*+(' + _STRING + rb")\s*+\}\s*+\Z", re.DOTALL).search
_LONGEST_KEY = 64 << 10
_OUTSIDE_BRACKETS = rb'[^"\[\]{}]'
_FLAT = rb"\[" + _OUTSIDE_BRACKETS + rb"*+\]"
# Up to the next bracket behind strings, numbers and rows of numbers, which are most of a matrix.
_BRACKET = re.compile(
    rb"(?:" + _OUTSIDE_BRACKETS + rb"++|" + _STRING + rb"|" + _FLAT + rb")*+([\[\]{}])", re.DOTALL
).match
_SCALAR = re.compile(_STRING + rb'|[^\s,"\[\]{}]++', re.DOTALL).match


def split(line: bytes) -> tuple[str, bytes]:
    """Key and value of a line, the value's bytes as they stand. Raises ValueError saying what the line is.

    Of a value that is broken it is only known that no more members stand behind it; the rest is for `core`.
    """
    line = line.strip()
    if not line.endswith(b"}"):
        raise ValueError(_FORM)
    first = _KEY_FIRST(line)
    if first is not None:
        key, value = first[1], line[first.end() : -1].rstrip()
        end = _end_of(value)
    else:
        begin = _VALUE_FIRST(line)
        last = _KEY_LAST(line, max(len(line) - _LONGEST_KEY, begin.end())) if begin else None
        if begin is None or last is None:
            raise ValueError(_FORM)
        key, value = last[1], line[begin.end() : last.start()].rstrip()
        end = _end_of(value)
        if end is None:  # then the key may be one inside of the value
            raise ValueError(_FORM)
    if not value or (end is not None and end != len(value)):
        raise ValueError(_FORM)
    return _key_of(key), value


def _end_of(value: bytes) -> int | None:
    """Where the string, number, list or object ends that `value` begins with; None where it does not.

    0 where nothing of these begins. Brackets are counted, whichever they are: no more is needed to tell one
    value from two, nor to be linear in the text at any depth.
    """
    if not value.startswith((b"[", b"{")):
        scalar = _SCALAR(value)
        return None if value.startswith(b'"') and scalar is None else scalar.end() if scalar else 0
    depth = at = 0
    while True:
        bracket = _BRACKET(value, at)
        if bracket is None:
            return None
        depth += 1 if bracket[1] in b"[{" else -1
        at = bracket.end()
        if not depth:
            return at
        if depth > MAX_DEPTH:  # nothing that nests deeper is read, so it matters not where it ends
            return None


_FORM = 'is not {"key": "...", "value": ...} and nothing more'


def _key_of(text: bytes) -> str:
    try:
        return msgspec.json.decode(text, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ValueError(f"has a key that is no text ({str(exc)[:100]})") from None
