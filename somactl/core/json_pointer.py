"""Where the nodes of a JSON text begin and end, and RFC 6901 pointers to them.

The text is checked from its first byte to its last and no value is built: `scan` goes through it with a
few regular expressions that take strings, numbers, and lists and objects of them in one bite, and keeps one
frame for each open bracket. So its time is linear in the text, its memory in the depth and the keys of
the open objects, and bytes that are not touched stay what they were.

The grammar is that of RFC 8259 in UTF-8, and the tokens NaN, Infinity and -Infinity, which Python's `json`
writes: a value beside which one stands is not to blame for it. Numbers of any size and escapes of lone
surrogates belong to the grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from somactl.core.number_tokens import damaged_token
from somactl.core.text_encoding import BOM
from somactl.errors import InvalidJson, LimitExceeded, UsageError

MAX_DEPTH = 1024
"""Brackets that may be open at once; simdjson, which reads the matrices, stops here too."""

MAX_NODES = 2_000_000
"""Nodes of one text, what is taken in one bite counting as one: seconds of scanning, some 200 MB of keys."""

_LONG = 4096  # from here on a string is checked as an array of bytes first

_BLANK = rb"[ \t\r\n]*+"
_ATOM = rb"(?:-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+|true|false|null|NaN|-?+Infinity)"
_ESCAPE = rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_UTF8 = (
    rb"[\xc2-\xdf][\x80-\xbf]"
    rb"|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
_TEXT = rb'"(?:[ !#-\[\]-\x7f]++|' + _ESCAPE + rb"|" + _UTF8 + rb')*+"'
# Bounded, so that a bite which fails at its end has not gone through megabytes in vain.
_SHORT_TEXT = rb'"(?:[ !#-\[\]-\x7f]{1,128}+|' + _ESCAPE + rb"|" + _UTF8 + rb'){0,48}+"'
_SHORT_KEY = rb'"(?:[ !#-\[\]-\x7f]{1,128}+|' + _UTF8 + rb'){0,48}+"'

_space = re.compile(_BLANK).match
_scalar = re.compile(_SHORT_TEXT + rb"|" + _ATOM).match
_string = re.compile(_TEXT).match
_open = re.compile(rb"([\[{])" + _BLANK + rb"([\]}])?+").match
_key = re.compile(rb"(" + _TEXT + rb")" + _BLANK + rb":" + _BLANK).match
_next = re.compile(_BLANK + rb"([,\]}])" + _BLANK).match

Bite: TypeAlias = Callable[[bytes, int], "re.Match[bytes] | None"]


def bite(but_text: bytes | None = None, but_key: bytes | None = None, *, with_objects: bool = True) -> Bite:
    """What `scan` takes at once: a short string, a number, a list or object of such, a list in an object.

    Regular expressions of strings, opening quote included, that a list or object so taken must not hold, and
    of keys that such an object must not have.
    """
    text = (rb"(?!" + but_text + rb")" if but_text else b"") + _SHORT_TEXT
    key = (rb"(?!" + but_key + rb")" if but_key else b"") + _SHORT_KEY
    flat = rb"\[" + _several(rb"(?:" + _ATOM + rb"|" + text + rb")") + rb"\]"
    member = key + _BLANK + rb":" + _BLANK + rb"(?:" + _ATOM + rb"|" + text + rb"|" + flat + rb")"
    objects = rb"|\{" + _several(member) + rb"\}" if with_objects else b""
    return re.compile(_SHORT_TEXT + rb"|" + _ATOM + rb"|" + flat + objects).match


def _several(item: bytes) -> bytes:
    return _BLANK + item + rb"(?:" + _BLANK + rb"," + _BLANK + item + rb")*+" + _BLANK


_any_bite = bite()
_list_bite = bite(with_objects=False)


@dataclass(slots=True)
class Container:
    """An object or a list while it is scanned.

    keys          those of an object so far; None for a list
    twice         those that stand there more than once
    holds_object  whether an object stands in it, at any depth
    """

    start: int
    closer: bytes
    keys: set[str] | None
    twice: set[str] = field(default_factory=set)
    holds_object: bool = False
    count: int = 0


Visit: TypeAlias = Callable[[list[str], int, int, "Container | None"], None]


class Span(NamedTuple):
    """Where a node stands: text[start:end]. `twice`: a key on its way that its object has more than once."""

    start: int
    end: int
    twice: str | None = None


def parse_pointer(pointer: str) -> tuple[str, ...]:
    """The names a pointer goes through; () for "", the whole. Raises UsageError for what is no pointer."""
    if pointer and not pointer.startswith("/"):
        raise UsageError(f"{pointer!r} is no JSON Pointer", hint=f"a pointer begins with '/': '/{pointer}'")
    if re.search(r"~(?![01])", pointer):
        raise UsageError(f"{pointer!r} is no JSON Pointer", hint="in a name, '~0' is '~' and '~1' is '/'")
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in pointer.split("/")[1:])


def format_pointer(names: Iterable[str]) -> str:
    """The pointer that goes through `names`."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)


def locate(text: bytes, pointers: Iterable[str]) -> dict[str, Span]:
    """Where the nodes stand that `pointers` name; what is not there is not in the result.

    The whole text is checked. Raises UsageError for a malformed pointer, InvalidJson where the text is not
    JSON, LimitExceeded where it is too deep or has too many nodes.
    """
    wanted = {parse_pointer(pointer): pointer for pointer in pointers}
    above = {names[:depth] for names in wanted for depth in range(len(names))}
    depths = {len(names) for names in wanted}
    found: dict[tuple[str, ...], Span] = {}

    def visit(path: list[str], start: int, end: int, container: Container | None) -> None:
        if len(path) in depths and (names := tuple(path)) in wanted:
            found[names] = Span(start, end)
        if container is not None and container.twice and (names := tuple(path)) in above:
            depth = len(names)
            for inner, span in found.items():
                if len(inner) > depth and inner[:depth] == names and inner[depth] in container.twice:
                    found[inner] = span._replace(twice=inner[depth])

    deepest = max(depths, default=0) - 1
    lists = {names[:i] for names in wanted for i, name in enumerate(names) if name.isdigit()}

    def take(path: list[str]) -> Bite:
        if len(path) > deepest or (names := tuple(path)) not in above:
            return _any_bite
        return _scalar if names in lists else _list_bite

    scan(text, visit, take)
    return {wanted[names]: span for names, span in sorted(found.items(), key=lambda item: item[1].start)}


def scan(text: bytes, visit: Visit, take: Callable[[list[str]], Bite] | None = None) -> None:
    """Check `text` and call `visit(path, start, end, container)` for each node, after the nodes inside it.

    `path` is the scanner's own list: copy what is kept. `take(path)` is what the node there may be taken with
    in one bite; so taken, it is visited without a container, and what is in it is not visited at all.

    Raises InvalidJson naming the first byte that is out of place; LimitExceeded beyond MAX_DEPTH and
    MAX_NODES.
    """
    path: list[str] = []
    opened: list[Container] = []
    bites = _any_bite
    budget = MAX_NODES
    at = _end(_space(text, len(BOM) if text.startswith(BOM) else 0))
    while True:
        budget -= 1
        if budget < 0:
            raise LimitExceeded(f"the JSON has more than {MAX_NODES} nodes", hint=_SPLIT)
        if take is not None:
            bites = take(path)
        first = text[at : at + 1]
        match = bites(text, at)
        if match is not None:
            end = match.end()
            visit(path, at, end, None)
        elif first == b'"':
            end = _string_end(text, at)
            visit(path, at, end, None)
        else:
            match = _open(text, at)
            if match is None:
                raise _defect(text, at)
            container = Container(at, b"}", set()) if first == b"{" else Container(at, b"]", None)
            if match[2] is None:
                if len(opened) == MAX_DEPTH:
                    raise LimitExceeded(f"the JSON is nested deeper than {MAX_DEPTH} brackets", hint=_SPLIT)
                opened.append(container)
                path.append("0")
                at = match.end()
                if container.keys is not None:
                    at, path[-1] = _member(text, at, container)
                continue
            if match[2] != container.closer:
                raise _defect(text, match.start(2))
            end = match.end()
            visit(path, at, end, container)
        if first == b"{" and opened:
            opened[-1].holds_object = True
        while opened:
            container = opened[-1]
            match = _next(text, end)
            if match is None:
                raise _defect(text, _end(_space(text, end)))
            if match[1] == b",":
                at = match.end()
                if container.keys is None:
                    container.count += 1
                    path[-1] = str(container.count)
                else:
                    at, path[-1] = _member(text, at, container)
                break
            if match[1] != container.closer:
                raise _defect(text, match.start(1))
            end = match.end(1)
            opened.pop()
            path.pop()
            if opened and (container.keys is not None or container.holds_object):
                opened[-1].holds_object = True
            visit(path, container.start, end, container)
        else:
            end = _end(_space(text, end))
            if end != len(text):
                raise _defect(text, end)
            return


def repeated_member(text: bytes) -> str | None:
    """A member that the object `text` has more than once; None where it has none, or is no JSON object."""
    twice: set[str] = set()

    def visit(path: list[str], start: int, end: int, container: Container | None) -> None:
        if not path and container is not None:
            twice.update(container.twice)

    try:
        scan(text, visit, lambda path: _any_bite if path else _scalar)
    except (InvalidJson, LimitExceeded):
        return None
    return min(twice, default=None)


def decode_string(text: bytes) -> str:
    """The string whose JSON is `text`, quotes included, known to be strict; lone surrogates stay such."""
    if b"\\" not in text:
        return text[1:-1].decode("utf-8")
    return str(json.loads(text))


_SPLIT = "store it in parts, or leave it where it is"


def _member(text: bytes, at: int, container: Container) -> tuple[int, str]:
    """Where the value of the member that begins at `at` begins, and its key, noted in `container`."""
    match = _key(text, at)
    if match is None:
        raise _defect(text, at)
    key = decode_string(match[1])
    assert container.keys is not None
    if key in container.keys:
        container.twice.add(key)
    container.keys.add(key)
    return match.end(), key


def _string_end(text: bytes, at: int) -> int:
    end = text.find(b'"', at + 1)
    if end - at > _LONG and text.find(b"\\", at, end) < 0:
        import numpy as np  # here alone, so that looking at small values and at help pages needs none

        inside = np.frombuffer(text, np.uint8, end - at - 1, at + 1)
        if inside.min() >= 0x20 and inside.max() < 0x80:
            return end + 1
    match = _string(text, at)
    if match is None:
        raise _defect(text, at)
    return match.end()


def _end(match: re.Match[bytes] | None) -> int:
    assert match is not None  # blanks match everywhere, if only the empty run of them
    return match.end()


def _defect(text: bytes, at: int) -> InvalidJson:
    if not text.strip():
        what = "the text is empty"
    elif at >= len(text):
        what = f"it ends too early, after {len(text)} bytes"
    elif text[at : at + 1] == b'"' and _string(text, at) is None:
        what = f"the string at byte {at} is open, or holds a bad escape, a control character or no UTF-8"
    elif (token := damaged_token(text, at)) is not None:
        what = f"the token {token} at byte {at} is no number that JSON knows"
    else:
        what = f"byte {at} is out of place: {text[at : at + 8]!r}"
        if at and text[at - 1 : at].isdigit():
            what += ", behind a number"
    return InvalidJson(f"not strict JSON: {what}", hint="read the value again from its source")
