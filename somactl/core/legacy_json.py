"""Every JSON form in which the old service left matrices, strictly parsed.

The forms (`tests/data/legacy/README.md`):

- numpy form: `{"__np__": true, "data": BASE64, "dtype": NAME, "shape": [ROWS, COLUMNS]}`, keys in any
  order (JSONB reorders them), BASE64 the C-order bytes of the array;
- nested lists: `[[1.0, 0.5], [0.5, 2]]`;
- a JSON string whose text is one of the above, once or twice wrapped.

A complex matrix as nested lists of `[re, im]` pairs is no legacy form and is refused.

Two ideas make it fast. Numbers go from simdjson's tape into one flat buffer; that buffer forgets where
rows begin and how deep they lay, so both are checked apart. And the base64 text, all but a few bytes of a
numpy form, is never looked at as JSON: it is cut out and a mark is put in its place; if the small rest is
strict JSON whose `data` is that mark, and what was cut out is strict base64 (hence free of quotes and
backslashes), then the whole is strict JSON too. Any doubt leads to the plain path, which has the last
word.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pybase64
import simdjson

from somactl.core.framing import MAX_ENVELOPE_BYTES
from somactl.core.json_pointer import scan
from somactl.core.number_tokens import spells_a_number
from somactl.core.text_encoding import without_mark
from somactl.errors import InvalidJson, LimitExceeded

MAX_MATRIX_BYTES = MAX_ENVELOPE_BYTES
"""What the numbers of one matrix may take; a larger one is refused before it is allocated."""

MAX_TEXT_BYTES = MAX_ENVELOPE_BYTES // 2 * 3
"""Longest text looked at: base64 takes 4/3 of the matrix it holds."""

# What each dtype becomes. Envelopes know no float16 and no integers: they are widened, exactly or not at all.
_TARGETS = {
    "f2": "f4", "f4": "f4", "f8": "f8", "c8": "c8", "c16": "c16",
    **{kind + size: "f8" for kind in "iu" for size in "1248"},
}  # fmt: skip
_ORDERS = frozenset("<>=|")
_FIELDS = frozenset({"__np__", "data", "dtype", "shape"})
_MARK = b"@"  # no base64 character, so that it cannot be mistaken for data
_DATA_KEY = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*"')
_NON_FINITE_TOKEN = re.compile(rb"\b(NaN|Infinity)\b")
# Strings first, so that no integer is found in one; what stands before a digit tells that it begins there.
_LONG_INTEGER = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(?<![0-9.eE+-])(-?+[1-9][0-9]{18,}+)(?![.eE])', re.DOTALL)
_LONGEST_INTEGER = 310  # sign and digits of the largest float64
MAX_ROWS = 1 << 20
"""Rows of a matrix written as lists: each costs some steps of its own, however short it is."""
_WRAPPINGS = 2
_HEAD = 1 << 16  # the base64 text begins within this many bytes or the plain path is taken
_TAIL = 1 << 12  # and ends within this many of the end
_SATURATED = 0xFFFFFF  # simdjson counts array elements up to here
_KEEP_PARSER_BYTES = 32 << 20

_spare_parsers: list[simdjson.Parser] = []


def parse_matrix(text: str | bytes) -> np.ndarray:
    """The matrix in `text`: a writable two-dimensional C-order array, native endian, every number finite.

    dtype is float64 for nested lists; the numpy form keeps float64, float32, complex128 and complex64,
    widens float16 to float32 and integers to float64 (refused where that is not exact), and converts
    big-endian data. Numbers are correctly rounded: bit for bit what `np.array(json.loads(text), float)`
    gives.

    Raises InvalidJson for everything that is none of the forms, duplicate keys, extra keys, shapes that do
    not fit, NaN and Inf included; LimitExceeded for a text over MAX_TEXT_BYTES or a matrix over
    MAX_MATRIX_BYTES, before anything of its size is allocated.
    """
    for _ in range(_WRAPPINGS + 1):
        data = without_mark(_encoded(text))
        cut = _cut_data(data)
        if cut is not None:
            return cut
        found = _parse_plainly(data)
        if isinstance(found, np.ndarray):
            return found
        text = found
    raise InvalidJson(f"text is wrapped in JSON strings more than {_WRAPPINGS} times", hint=_FORMS)


_FORMS = (
    'a matrix is {"__np__": true, "data": base64, "dtype": name, "shape": [rows, columns]} or lists of rows'
)
_AS_FLOAT = "write it as a float if it was one, such as 1.0e17"
_AGAIN = "the value is damaged: read it again from its source, or restore an earlier one"


def _encoded(text: str | bytes) -> bytes:
    if isinstance(text, str):
        try:
            text = text.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidJson("not strict JSON: the text holds a lone surrogate", hint=_AGAIN) from None
    if len(text) > MAX_TEXT_BYTES:
        raise LimitExceeded(
            f"{len(text)} bytes of JSON are more than the {MAX_TEXT_BYTES} that one matrix may take",
            hint="store the matrix as .npy, or in parts",
        )
    # k numbers take at least 2k - 1 bytes: only long texts can hide too many, in lists as short as "0,0,0".
    most = MAX_MATRIX_BYTES // 8
    if len(text) > 2 * most and text.count(b",") > most:
        raise LimitExceeded(
            f"more than {most} JSON values: a float64 matrix would pass {MAX_MATRIX_BYTES} bytes"
        )
    return text


def _cut_data(text: bytes) -> np.ndarray | None:
    """The matrix by the short way (see the module's docstring); None sends the text down the plain path."""
    key = _DATA_KEY.search(text, 0, _HEAD)
    if key is None:
        return None
    start = key.end()
    end = text.find(b'"', max(start, len(text) - _TAIL))
    if end < 0:
        return None
    try:
        document = simdjson.Parser().parse(text[:start] + _MARK + text[end:])
        if not isinstance(document, simdjson.Object):
            return None
        data, layout = _fields(document)
        return _from_base64(memoryview(text)[start:end], layout) if data == _MARK.decode() else None
    except (ValueError, RuntimeError, InvalidJson):
        return None


def _parse_plainly(text: bytes) -> np.ndarray | str:
    try:
        parser = _spare_parsers.pop()  # its memory is mapped already, which saves a third of the time
    except IndexError:
        parser = simdjson.Parser()
    try:
        document = parser.parse(text)
    except (ValueError, RuntimeError) as error:  # UnicodeDecodeError is a ValueError
        text = _without_long_integers(text, error)
        document = parser.parse(text)
    if isinstance(document, str):
        return document
    if isinstance(document, simdjson.Object):
        return _from_object(document)
    if isinstance(document, simdjson.Array):
        matrix = _from_lists(document, text)
        del document  # a parser may be used again only when nothing refers to its last document
        if len(text) <= _KEEP_PARSER_BYTES:
            _spare_parsers.append(parser)
        return matrix
    raise InvalidJson(f"JSON that is {_name_of(document)} holds no matrix", hint=_FORMS)


def _without_long_integers(text: bytes, error: Exception) -> bytes:
    """`text` with its integers beyond 64 bits, which simdjson does not read, written as floats.

    JSONB prints 1e20 as 100000000000000000000. Raises InvalidJson where one is not exact in float64, and
    where the text is no JSON for another reason, which `error` was.
    """
    changed = _LONG_INTEGER.sub(_as_float, text) if _LONG_INTEGER.search(text) else text
    try:
        if changed is not text:
            simdjson.Parser().parse(changed)
            return changed
    except (ValueError, RuntimeError) as second:
        error = second
    raise InvalidJson(f"not strict JSON: {_why_not_json(text, error)}", hint=_FORMS)


def _as_float(match: re.Match[bytes]) -> bytes:
    if match[1] is None:
        return match[0]  # a string
    _exactly(match[1].decode())
    return match[1] + b".0"


def _why_not_json(text: bytes, error: Exception) -> str:
    if not text.strip():
        return "the text is empty"
    token = _NON_FINITE_TOKEN.search(text)
    if token is not None:
        return f"the token {token[1].decode()} at byte {token.start()}, which JSON does not know"
    if isinstance(error, UnicodeDecodeError):
        return "the text is not valid UTF-8"
    try:
        scan(text, lambda *_: None)
    except InvalidJson as defect:
        return defect.message.removeprefix("not strict JSON: ")
    except LimitExceeded as defect:
        return defect.message
    reason = str(error).partition(": ")[2] or str(error)
    return reason.partition(". ")[0].strip().rstrip(".")


# Nested lists.


def _from_lists(document: simdjson.Array, text: bytes) -> np.ndarray:
    rows = len(document)
    if rows == 0:
        raise InvalidJson("the list is empty", hint=_FORMS)
    most = min(MAX_ROWS, _SATURATED)
    if rows >= most:
        raise InvalidJson(f"{most} rows or more are not read from lists", hint="store the matrix as .npy")
    if not _has_brackets(text, rows + 1):
        raise InvalidJson(_defect_of(document), hint=_FORMS)
    try:
        flat = np.frombuffer(document.as_buffer(of_type="d"), dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidJson(_defect_of(document), hint=_FORMS) from None
    columns, rest = divmod(flat.size, rows)
    length = min(columns, _SATURATED)
    if (
        rest
        or columns == 0
        or any(not isinstance(row, simdjson.Array) or len(row) != length for row in document)
    ):
        raise InvalidJson(_defect_of(document), hint=_FORMS)
    if max(-flat.min(), flat.max()) >= 2.0**53:
        json.loads(text, parse_int=_exactly)
    return flat.reshape(rows, columns)


def _has_brackets(text: bytes, count: int) -> bool:
    """Whether `text` has exactly `count` opening brackets, hence (without strings) as many lists.

    `find` runs at the speed of memchr where `count` would look at one byte after the other.
    """
    at = -1
    for _ in range(count):
        at = text.find(b"[", at + 1)
        if at < 0:
            return False
    return text.find(b"[", at + 1) < 0


def _exactly(token: str) -> int:
    shown = token if len(token) <= 40 else f"{token[:20]}... of {len(token)} characters"
    if len(token) > _LONGEST_INTEGER:
        raise InvalidJson(f"the integer {shown} is beyond the range of float64", hint=_AS_FLOAT)
    value = int(token)
    try:
        exact = int(float(value)) == value
    except OverflowError:
        raise InvalidJson(f"the integer {shown} is beyond the range of float64", hint=_AS_FLOAT) from None
    if not exact:
        raise InvalidJson(
            f"the integer {shown} is above 2^53 and not representable in float64", hint=_AS_FLOAT
        )
    return value


def _defect_of(document: simdjson.Array) -> str:
    """One sentence for what keeps `document` from being a list of equally long lists of numbers."""
    first = None
    for i, row in enumerate(document):
        if not isinstance(row, simdjson.Array):
            return f"row {i} is {_name_of(row)}, not a list of numbers"
        for j, entry in enumerate(row):
            if type(entry) not in (int, float):
                return f"row {i}, column {j} is {_name_of(entry)}, not a number{_spelled(entry)}"
        length = len(row)
        first = length if first is None else first
        if length == 0:
            return f"row {i} is empty"
        if length != first:
            return f"the rows are ragged: row 0 has {first} numbers, row {i} has {length}"
    raise AssertionError("a list of equally long lists of numbers has no defect")


def _spelled(entry: object) -> str:
    return f": {entry[:40]!r} only spells one" if isinstance(entry, str) and spells_a_number(entry) else ""


def _name_of(value: object) -> str:
    if isinstance(value, simdjson.Array):
        return "a list"
    if isinstance(value, simdjson.Object):
        return "an object"
    return {bool: "a boolean", str: "a string", type(None): "null"}.get(type(value), "a number")


# The numpy form.


class _Layout(NamedTuple):
    dtype: np.dtype[Any]  # of the bytes, with their byte order
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


def _from_object(document: simdjson.Object) -> np.ndarray:
    data, layout = _fields(document)
    if not isinstance(data, str):
        raise InvalidJson(f"`data` is {_name_of(data)}, not a base64 string", hint=_FORMS)
    return _from_base64(memoryview(data.encode("utf-8")), layout)


def _fields(document: simdjson.Object) -> tuple[Any, _Layout]:
    """What stands under `data`, and how to read it."""
    names = list(islice(document.keys(), 8))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidJson(f"the key {twice[:40]!r} occurs twice", hint=_AGAIN)
    if set(names) != _FIELDS:
        given = ", ".join(repr(name[:40]) for name in names) or "no fields"
        raise InvalidJson(f"the object has {given}, not the fields of the numpy form", hint=_FORMS)
    if document["__np__"] is not True:
        raise InvalidJson("`__np__` is not true", hint=_FORMS)
    return document["data"], _Layout(_dtype(document["dtype"]), _shape(document["shape"]))


def _dtype(name: object) -> np.dtype[Any]:
    """The dtype a numpy name or array-protocol code stands for; anything else numpy would take is refused."""
    if isinstance(name, str):
        code = _CODES.get(name, name)
        if code in _TARGETS or (code[:1] in _ORDERS and code[1:] in _TARGETS):
            return np.dtype(code)
    shown = repr(name[:40]) if isinstance(name, str) else _name_of(name)
    raise InvalidJson(f"dtype {shown} is not supported", hint=f"one of {', '.join(_CODES)} is")


_CODES = {
    "float64": "f8", "float32": "f4", "complex128": "c16", "complex64": "c8", "float16": "f2",
    **{f"{kind}{bits}": f"{kind[0]}{bits // 8}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def _shape(value: object) -> tuple[int, int]:
    if not isinstance(value, simdjson.Array):
        raise InvalidJson(f"`shape` is {_name_of(value)}, not [rows, columns]", hint=_FORMS)
    sizes: list[Any] = list(islice(value, 9))
    if any(type(size) is not int for size in sizes):
        raise InvalidJson("`shape` holds something else than integers", hint=_FORMS)
    shown = f"{sizes}" if len(sizes) <= 8 else f"of {len(value)} dimensions"
    if any(size <= 0 for size in sizes):
        raise InvalidJson(f"shape {shown} has a size that is not positive", hint=_AGAIN)
    if len(sizes) != 2:
        raise InvalidJson(f"shape {shown} is that of an array, not of a matrix", hint=_FORMS)
    return sizes[0], sizes[1]


def _from_base64(text: memoryview, layout: _Layout) -> np.ndarray:
    if not text:
        raise InvalidJson("`data` is empty", hint=_AGAIN)
    quads, rest = divmod(len(text), 4)
    if rest:
        raise _not_base64()
    last = bytes(text[-4:])
    size = 3 * quads - last.count(b"=")
    if size != layout.nbytes:
        raise InvalidJson(
            f"`data` holds {size} bytes where shape {list(layout.shape)} of {layout.dtype.name} takes"
            f" {layout.nbytes}",
            hint=_AGAIN,
        )
    if size > MAX_MATRIX_BYTES:
        raise LimitExceeded(
            f"a matrix of {size} bytes is larger than the {MAX_MATRIX_BYTES} an envelope may take"
        )
    try:
        raw = pybase64.b64decode_as_bytearray(text, validate=True)
    except ValueError:  # binascii.Error is one
        raise _not_base64() from None
    tail = (size - 1) % 3 + 1
    if pybase64.b64encode(raw[-tail:]) != last:  # stray bits in the last character: not what an encoder wrote
        raise _not_base64()
    return _converted(np.frombuffer(raw, dtype=layout.dtype).reshape(layout.shape))


def _not_base64() -> InvalidJson:
    return InvalidJson("`data` is not base64", hint=_AGAIN)


def _converted(matrix: np.ndarray) -> np.ndarray:
    """`matrix` checked finite, native-endian, in an envelope dtype; copied only where that takes a copy."""
    target = np.dtype(_TARGETS[matrix.dtype.str[1:]])
    result = matrix.astype(target, copy=False)
    if matrix.dtype.kind in "iu" and (int(matrix.max()) > 2**53 or int(matrix.min()) < -(2**53)):
        raise InvalidJson(
            f"the {matrix.dtype.name} data hold integers above 2^53, not all representable in float64",
            hint="convert the array to float64 where it was written",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        # A finite sum has finite terms, and one sum is cheaper than a mask; only overflow needs the mask.
        finite = bool(np.isfinite(result.sum())) or bool(np.isfinite(result).all())
    if not finite:
        raise InvalidJson("the data hold NaN or Inf", hint=_AGAIN)
    return result
