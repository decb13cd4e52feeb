"""Where matrices stand in one value of the old service, and under which key each one goes.

`docs/LEGACY_VALUES.md` is the norm. `find_matrices` asks what *looks like* a matrix, and a broken one does
too: it must be rejected aloud, not passed over. So it asks as little as it can, and no numbers are read:
`kinds.classify` does that, and the parsers have the last word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from somactl.core import framing
from somactl.core.json_pointer import Bite, Container, bite, decode_string, format_pointer, locate, scan
from somactl.core.names import MAX_KEY_BYTES, validate_key
from somactl.core.number_tokens import MAX_COUNTED, number_begins, rows_lost, two_rows_begin
from somactl.core.text_encoding import wide_encoding, without_mark
from somactl.errors import InputRejected, InvalidJson, InvalidName, LimitExceeded
from somactl.legacy.json_edit import ambiguous, read_reference

Form = Literal["numpy", "lists", "string", "envelope", "unreadable"]

MAX_SITES = 10_000
"""Matrices in one value; a value with more is rejected as a whole."""
AN_OBJECT, A_LIST = "an object without `__np__`", "a list without rows of numbers"
"""Reasons that say nothing of what stands inside: only `discover` and pointers look there."""

_WRAPPINGS = 3  # one more than is read: a matrix wrapped too often is rejected, not passed over
_EDGE = 128  # bytes at each end of a list that tell numbers from words
_TAIL = 512
_BRACKET, _QUOTE = b'["'
_BLANKS = b" \t\r\n"
_BINARY = framing.MAGIC[:4]  # what is left of the magic number when a transport changes line ends
_BASE64 = framing.TEXT_PREFIX.encode()

_numpy_begins = re.compile(rb'\s*+\{\s*+"__np__"\s*+:').match
# JSON that ends like this has `__np__` among the keys of its outermost object: nothing else can end there.
_numpy_ends = re.compile(
    rb',\s*+"__np__"\s*+:\s*+true\s*+(?:,\s*+"(?:dtype|shape)"\s*+:\s*+(?:"[^"\\]*+"|\[[0-9,\s]*+\])\s*+)*+\}\s*+\Z'
).search
_JSONB_END = b', "__np__": true}'
# Backslashes: in a string. Single quotes: what Python prints, which is no JSON.
_np_as_key = re.compile(rb'(?:"__np__\\*+"|\'__np__\')\s*+:').search
_np_escaped = re.compile(rb"\\u00(?:5[fF]|6[eE]|70)").search
_brackets = re.compile(rb"\[\s*+(?:\[\s*+)++")
_inside = re.compile(rb"\[\s*+").match
_of_list_characters = re.compile(rb'[][0-9\s,.+\-"eEaNIfinitytruls]*+\Z').match
_PRINTED = rb"(?:(?:np|numpy|jnp|torch)\.)?+(?:array|matrix|masked_array|tensor)\((?:data=)?+\s*+"
_printed = re.compile(_PRINTED).match
_plain = bite(but_text=rb'"(?:[\s\[{\\\xef]|iVJITw|' + _PRINTED + rb")", but_key=rb'"__np__"')
_STRING_MAY_HOLD = re.compile(
    rb'"(?:\xef\xbb\xbf)?+\s*+(?:[\[{]|iVJITw|' + _PRINTED + rb'|\\(?:["nrt/\\]|u00[0-7]|u[fF][eE][fF][fF]))'
)
_WIDE_JSON = re.compile(rb"[^\[{\"]{2,4}[\0]*+[\[{\"]").match


class Site(NamedTuple):
    """A node that looks like a matrix.

    pointer  "" for the whole value, RFC 6901 otherwise; abridged only where `defect` says that it is no key
    form     numpy, lists, string (a JSON string that holds one of these), envelope (bytes, or base64 text);
             unreadable: no JSON, more of it than is read, or ambiguous, so that a matrix may be lost in it
    text     the bytes of the node as they stand in the source
    defect   why it is rejected without being parsed; `classify` raises it
    """

    pointer: str
    form: Form
    text: bytes
    defect: InputRejected | None = None


class Discovery(NamedTuple):
    """`sites` in the order of the text, none inside another; where there is none, `reason` says what is."""

    sites: tuple[Site, ...]
    reason: str = ""


def find_matrices(value: bytes, *, pointers: Sequence[str] = (), discover: bool = False) -> Discovery:
    """What looks like a matrix in the text (or bytes) of one stored value.

    The whole value is looked at; with `pointers` the nodes they name and nothing else; with `discover` every
    node at any depth. No content of `value` makes it raise: defects stand in the sites. Raises UsageError for
    a malformed pointer.
    """
    if any(pointers) and not discover:
        return _find_at(value, pointers)
    if _numpy_begins(value) is not None or value.endswith(_JSONB_END):  # the commonest, known at once
        return Discovery((Site("", "numpy", _bare(value)),))
    seen = _inspect(value)
    if seen.form is not None:
        return Discovery((Site("", seen.form, _bare(value), seen.defect),))
    return _discover(value, seen.reason) if discover else Discovery((), seen.reason)


def target_key(key: str, pointer: str) -> str:
    """Where a matrix goes: a whole value keeps its key, one at pointer P of key K goes to `K#P`.

    Raises InvalidName where that is no key, being longer than 1024 bytes for instance.
    """
    return validate_key(f"{key}#{pointer}" if pointer else key)


# What one node looks like.


class _Inspected(NamedTuple):
    form: Form | None
    reason: str = ""
    defect: InputRejected | None = None


_WORDS = _Inspected(None, "text")
_NOT_JSON = _Inspected(None, "text that is not JSON")
_NO_NUMPY = _Inspected(None, AN_OBJECT)
_NO_ROWS = _Inspected(None, A_LIST)
_AS_UTF8 = "have it written as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8"


def _inspect(text: bytes) -> _Inspected:
    """What the node or value `text` looks like; it need not be JSON."""
    if text.startswith(_BINARY):
        return _Inspected("envelope")
    if (encoding := wide_encoding(text)) and _WIDE_JSON(text):
        return _Inspected("unreadable", "", InvalidJson(f"the text is {encoding}, not UTF-8", hint=_AS_UTF8))
    bare = _bare(text)
    first = bare[:1]
    if first == b"{":
        return _inspect_object(bare)
    if first == b"[":
        return _inspect_list(bare, is_value=True)
    if first == b'"':
        return _inspect_string(bare)
    if bare.startswith(_BASE64):
        return _Inspected("envelope")
    if not bare:
        return _Inspected(None, "empty")
    if _is_printed_array(bare):
        return _Inspected("unreadable", "", _printed_by_python())
    defect = _defect_of(bare)
    if defect is None:
        return _Inspected(None, "a number, a boolean or null")
    return _broken(bare, defect)


def _inspect_object(text: bytes) -> _Inspected:
    if _numpy_ends(text, max(0, len(text) - _TAIL)) is not None:
        return _Inspected("numpy")
    if read_reference(text) is not None:
        return _Inspected(None, "a reference to a migrated matrix")
    if not _np_may_stand_in(text):
        return _NO_NUMPY
    try:
        outermost = _outermost(text)
    except InputRejected as error:
        return _broken(text, error)
    is_numpy = outermost is not None and "__np__" in (outermost.keys or ())
    return _Inspected("numpy") if is_numpy else _NO_NUMPY


def _inspect_list(text: bytes, *, is_value: bool = False) -> _Inspected:
    """`is_value`: it is not the text of a JSON string, which holds words where it holds no JSON."""
    rows = _rows_begin(text, 0)
    if not rows and not _damaged_rows(text, whole=True):
        return _NO_ROWS
    of_numbers = bool(_of_list_characters(text[:_EDGE]) and _of_list_characters(text[-_EDGE:]))
    if of_numbers and b"{" not in text:
        return _Inspected("lists")  # the parser has the last word, and says what is wrong with it
    try:
        outermost = _outermost(text)
        return _NO_ROWS if outermost is not None and outermost.holds_object else _Inspected("lists")
    except InputRejected as error:
        lost = of_numbers or (is_value and two_rows_begin(text))
        if not lost and (is_value or text.endswith(b"]")):  # rows before words are words, in a string
            lost = _damaged_rows(text, whole=True)
        return _Inspected("unreadable", "", error) if lost else _broken(text, error)


def _inspect_string(text: bytes) -> _Inspected:
    for _ in range(_WRAPPINGS):
        if _STRING_MAY_HOLD.match(text) is None:
            return _WORDS
        defect = _defect_of(text)
        if defect is not None:
            return _broken(text, defect)
        text = _bare(decode_string(text).encode("utf-8", "surrogatepass"))
        if text.startswith(_BASE64):
            return _Inspected("envelope")
        if not text.startswith(b'"'):
            break
    seen = _Inspected("string", "", _printed_by_python()) if _is_printed_array(text) else _WORDS
    if text.startswith(b"{"):
        seen = _inspect_object(text)
    elif text.startswith(b"["):
        seen = _inspect_list(text)
    if seen.form is not None:
        return _Inspected("string", "", seen.defect)
    if _np_as_key(text) is not None:
        return _Inspected(None, "text that holds more than a matrix, where no pointer leads")
    return _WORDS


def _broken(text: bytes, error: InputRejected) -> _Inspected:
    """What is not JSON is words, unless it speaks of a matrix: then one may have been lost in it."""
    if _np_as_key(text) is not None:
        return _Inspected("unreadable", "", error)
    return _Inspected(None, "binary data") if b"\0" in text[:4096] else _NOT_JSON


def _np_may_stand_in(text: bytes) -> bool:
    return b"__np__" in text or _np_escaped(text) is not None


def _is_printed_array(text: bytes) -> bool:
    """Whether `text` begins as Python prints an array of numbers: `array([[0.5, ...`."""
    call = _printed(text)
    return call is not None and (_rows_begin(text, call.end()) or _damaged_rows(text, call.end()))


def _printed_by_python() -> InvalidJson:
    return InvalidJson(
        "it is an array as Python prints it, and no JSON", hint="have it written with array.tolist()"
    )


def _rows_begin(text: bytes, at: int) -> bool:
    """Whether the list at `at` begins with a list, and that with a number or what stands for a lost one."""
    brackets = _brackets.match(text, at)
    return brackets is not None and number_begins(text, brackets.end()) is not None


def _damaged_rows(text: bytes, at: int = 0, *, whole: bool = False) -> bool:
    """Whether the list at `at` begins with what is no number, and is rows of numbers all the same.

    `whole`: nothing but blanks may stand behind it.
    """
    lost, end = rows_lost(text, at)
    return lost and not (whole and end < at + MAX_COUNTED and text[end:].strip(_BLANKS))


def _rows_stand_in(text: bytes) -> bool:
    at = 0
    while (brackets := _brackets.search(text, at)) is not None:
        if number_begins(text, brackets.end()) is not None:
            return True
        lost, end = rows_lost(text, brackets.start())
        if lost:
            return True
        at = max(brackets.end(), end)  # nothing is looked at twice
    return False


def _take_plain(path: list[str]) -> Bite:
    return _plain


def _bare(text: bytes) -> bytes:
    return without_mark(text).strip(_BLANKS)  # the same object where there is nothing to strip


def _defect_of(text: bytes) -> InputRejected | None:
    try:
        scan(text, lambda *_: None)
    except InputRejected as error:
        return error
    return None


def _outermost(text: bytes) -> Container | None:
    """The container that `text` is; None where it is plain. Raises as `scan`."""
    last: list[Container | None] = [None]

    def visit(path: list[str], start: int, end: int, container: Container | None) -> None:
        last[0] = container

    scan(text, visit, _take_plain)
    return last[0]


# Nodes inside a value.


def _find_at(value: bytes, pointers: Sequence[str]) -> Discovery:
    try:
        places = locate(value, pointers)
    except InputRejected as error:
        seen = _inspect(value) if "" in pointers else _lost(value, error)
        sites = (Site("", seen.form, _bare(value), seen.defect),) if seen.form else ()
        return Discovery(sites, seen.reason)
    sites_found: list[Site] = []
    reason, end = "nothing stands at the pointer", -1
    for pointer, span in places.items():
        if span.start < end:
            continue  # inside the site before
        text = value[span.start : span.end]
        seen = _inspect(text)
        if span.twice is not None:  # only the last of the two has been looked at
            seen = _Inspected(seen.form or "unreadable", "", ambiguous(pointer, span.twice))
        if seen.form is None:
            reason = seen.reason
            continue
        sites_found.append(Site(pointer, seen.form, text, seen.defect))
        end = span.end
    return Discovery(tuple(sites_found), "" if sites_found else reason)


def _discover(value: bytes, reason: str) -> Discovery:
    text = _bare(value)
    if text[:1] not in (b"{", b"[") or not _may_hold(text):
        return Discovery((), reason)
    discovery = _Discovery(text)
    try:
        scan(text, discovery.visit, _take_plain)
    except InputRejected as error:
        seen = _lost(text, error)
        return Discovery((Site("", seen.form, text, seen.defect),) if seen.form else (), seen.reason)
    return Discovery(tuple(discovery.sites()), "" if discovery.hits else reason)


def _may_hold(text: bytes) -> bool:
    """False where no node can look like a matrix, which spares most values the scan."""
    return _np_may_stand_in(text) or _rows_stand_in(text) or _STRING_MAY_HOLD.search(text) is not None


def _lost(text: bytes, error: InputRejected) -> _Inspected:
    """As `_broken`, of a text whose inside was asked for: rows may have been lost in it as well."""
    if isinstance(error, LimitExceeded) or (text[:1] in (b"{", b"[") and _rows_stand_in(text)):
        return _Inspected("unreadable", "", error)
    return _broken(text, error)


class _Hit(NamedTuple):
    names: tuple[str, ...]
    form: Form
    start: int
    end: int
    defect: InputRejected | None
    twice: str | None = None


class _Discovery:
    """Collects what looks like a matrix while a text is scanned; what is inside of it is dropped."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.hits: list[_Hit] = []
        self._first: dict[int, bool] = {}  # of the first element at each depth: whether numbers begin it

    def visit(self, path: list[str], start: int, end: int, container: Container | None) -> None:
        first = self.text[start]
        if first == _BRACKET:
            rows = self._begins(path, start)
            if rows and container is not None and not container.holds_object:
                self._hit(path, "lists", start, end, None)
        elif first == _QUOTE:
            if _STRING_MAY_HOLD.match(self.text, start) is not None:
                seen = _inspect_string(self.text[start:end])
                if seen.form is not None:
                    self._hit(path, seen.form, start, end, seen.defect)
        elif container is None or container.keys is None:
            return
        elif "__np__" in container.keys:
            self._hit(path, "numpy", start, end, None)
        elif container.twice:
            self._mark(len(path), start, container.twice)

    def _begins(self, path: list[str], start: int) -> bool:
        """`_rows_begin` of the list at `start`, by what its first element was found to be: nothing twice."""
        inside = _inside(self.text, start)
        assert inside is not None
        entry = inside.end()
        nested = self.text[entry] == _BRACKET
        if not nested:
            begins = number_begins(self.text, entry) is not None
        else:
            begins = self._first[len(path) + 1] or _damaged_rows(self.text, start)
        if path and path[-1] == "0":
            self._first[len(path)] = begins
        return nested and begins

    def sites(self) -> list[Site]:
        sites = []
        for hit in self.hits:
            pointer, defect = _usable_pointer(hit.names)
            if defect is None and hit.twice is not None:
                defect = ambiguous(pointer, hit.twice)
            sites.append(Site(pointer, hit.form, self.text[hit.start : hit.end], defect or hit.defect))
        return sites

    def _hit(self, path: list[str], form: Form, start: int, end: int, defect: InputRejected | None) -> None:
        while self.hits and self.hits[-1].start > start:
            self.hits.pop()
        if len(self.hits) == MAX_SITES:
            raise LimitExceeded(f"more than {MAX_SITES} nodes look like a matrix", hint="use --pointer")
        self.hits.append(_Hit(tuple(path), form, start, end, defect))

    def _mark(self, depth: int, start: int, twice: set[str]) -> None:
        for i in range(len(self.hits) - 1, -1, -1):
            hit = self.hits[i]
            if hit.start < start:
                return
            if hit.names[depth] in twice:
                self.hits[i] = hit._replace(twice=hit.names[depth])


def _usable_pointer(names: tuple[str, ...]) -> tuple[str, InputRejected | None]:
    """The pointer through `names`, or one that can be shown, and why no key can hold the real one."""
    if sum(map(len, names)) + len(names) > MAX_KEY_BYTES:
        shown = format_pointer(name[:20] for name in names[:3]).encode("utf-8", "backslashreplace").decode()
        return f"{shown}…", InvalidName(f"the pointer is longer than the {MAX_KEY_BYTES} bytes of a key")
    pointer = format_pointer(names)
    try:
        pointer.encode("utf-8")
    except UnicodeEncodeError:
        shown = pointer.encode("utf-8", "backslashreplace").decode()
        return shown, InvalidName("the pointer holds a lone surrogate, which no key may")
    return pointer, None
