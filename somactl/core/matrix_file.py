"""From the bytes of a file to the matrix in it: .npy, .npz, envelope or legacy JSON, told by content alone.

A name proves nothing, so the extension is not looked at. Nothing is unpickled, and every size is checked
against the bytes that are there before anything of that size is allocated.
"""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from somactl.core import framing
from somactl.core.text_encoding import wide_encoding, without_mark
from somactl.errors import InvalidFile, SomactlError

MAX_NPY_HEADER_BYTES = 10_000
"""What numpy itself trusts its header parser with."""
MAX_NPY_DEPTH = 16
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
MAX_ARRAY_BYTES = 4 * framing.MAX_ENVELOPE_BYTES
"""The largest array an envelope still holds: double precision, to be stored hermitian in single precision."""

_NPY_MAGIC = b"\x93NUMPY"
_NUMBERS = frozenset({"f2", "f4", "f8", "c8", "c16", *(kind + size for kind in "iu" for size in "1248")})
_SPACE = b" \t\r\n"
_CODE_OR_NAME = re.compile(r"[<>=|]?(?!a[0-9]*\Z)[?A-Za-z]{1,16}[0-9]{0,3}(?:\[[a-z]{1,2}\])?\Z").match
_ENCRYPTED = 0x1
_ZIP_END = b"PK\x05\x06"
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP_END_BYTES = 22
_ZIP_TAIL_BYTES = _ZIP_END_BYTES + (1 << 16)  # the end record, and the longest comment behind it
MAX_DIRECTORY_BYTES = 1 << 18
"""Of a zip archive: room for some thousand names, where one is asked for; each costs an object."""
FREE_EXPANSION_BYTES = 64 << 20
"""What an archive may expand to however small it is."""
MAX_EXPANSION = 100
"""Beyond that, bytes for each compressed one: numbers do not compress so far, and zeros need no file."""
_FORMATS = "somactl reads .npy, .npz with one array, envelopes (raw or base64) and the legacy JSON forms"
_FLAT_LIST = re.compile(rb"\[[ \t\r\n]*-?[0-9]")
_VECTOR = "a state vector is committed with --layout factor, which stores rho = v v^H"
_SAVE_AGAIN = "copy the file again, or write it again with numpy.save"
_CONVERT = "convert it to float64 or complex128 first"


@dataclass(frozen=True, slots=True)
class ParsedFile:
    """What a file holds: an envelope as it is, with its own layout, kind and address, or a plain matrix.

    name      what errors call the file
    matrix    the array of every other format; None for an envelope
    envelope  the raw envelope (base64 undone), framing and digests verified; None for every other format
    header    of that envelope
    """

    name: str
    matrix: np.ndarray | None
    envelope: bytes | None = None
    header: framing.Header | None = None

    @property
    def array(self) -> np.ndarray:
        """Two-dimensional, native endian, of an envelope dtype; C or Fortran order; maybe a read-only view.

        From .npy and .npz its numbers may be NaN or Inf: that is for the verdict to say. Legacy JSON has
        refused them on parsing; an envelope is decoded here, on each request, and raises NonFinite or
        BadPayload naming the file.
        """
        if self.envelope is None or self.header is None:
            assert self.matrix is not None
            return self.matrix
        from somactl.core.envelope import decode

        try:
            return decode(self.envelope, self.header).array
        except SomactlError as error:
            raise error.about(self.name) from None


def parse_matrix_file(data: bytes, name: str, *, vector: bool = False) -> ParsedFile:
    """The matrix in `data`; `name` is what errors call it. With `vector`, one of n numbers is n x 1.

    Integers are widened to float64 where that is exact, float16 to float32. Raises InvalidFile (no format we
    read, no two-dimensional array of numbers, truncated, extended, pickled, too large), InvalidJson or an
    EnvelopeError, each naming `name` and the defect.
    """
    try:
        parsed = _parse(data, name)
        if parsed.matrix is not None and parsed.matrix.ndim == 1:
            if not vector:
                size = parsed.matrix.size
                raise InvalidFile(f"the array has shape [{size}]; a matrix has two dimensions; {_VECTOR}")
            return replace(parsed, matrix=parsed.matrix.reshape(-1, 1))
        return parsed
    except SomactlError as error:
        raise error.about(name) from None


def _parse(data: bytes, name: str) -> ParsedFile:
    if not data:
        raise InvalidFile("the file is empty", hint=_FORMATS)
    if framing.MAGIC.startswith(data[: len(framing.MAGIC)]):
        return _parse_envelope(data, name)
    if data.startswith(_NPY_MAGIC):
        return ParsedFile(name, _parse_npy(data))
    if data.startswith(b"PK"):
        return ParsedFile(name, _parse_npz(data))
    text = without_mark(data).strip(_SPACE)
    if text[:1] in (b"{", b"[", b'"'):
        return ParsedFile(name, _parse_json(text))
    if text.startswith(framing.TEXT_PREFIX.encode()):
        return _parse_envelope(framing.from_text(text.decode("ascii", "replace")), name)
    raise InvalidFile(f"the file is {_guess(data)}", hint=_FORMATS)


def _parse_json(text: bytes) -> np.ndarray:
    """A matrix, or of a flat list its numbers: a vector."""
    from somactl.core import legacy_json

    if _FLAT_LIST.match(text):
        vector: np.ndarray = legacy_json.parse_matrix(b"[%b]" % text)[0]
        return vector
    return legacy_json.parse_matrix(text)


def _parse_envelope(data: bytes, name: str) -> ParsedFile:
    return ParsedFile(name, None, data, framing.verify(data))


def _guess(data: bytes) -> str:
    if (encoding := wide_encoding(data)) is not None:
        return f"{encoding}, not UTF-8: have it written as UTF-8"
    if not data.strip(_SPACE + b"\0"):
        return "blank"
    if data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05":
        return "a pickle, which somactl never loads"
    if data.startswith(b"\x1f\x8b"):
        return "gzip-compressed: decompress it first"
    if data.startswith(b"\x89HDF"):
        return "HDF5, which somactl does not read"
    if b"\0" not in data[:4096]:
        return "text that is neither JSON nor the base64 of an envelope"
    return "in no format that somactl knows"


def _parse_npy(data: bytes) -> np.ndarray:
    start, dtype, shape, fortran = _npy_header(data)
    size = _checked_size(dtype, shape)
    if len(data) - start != size:
        defect = "truncated" if len(data) - start < size else "followed by other bytes"
        raise InvalidFile(
            f"the array is {defect}: {list(shape)} {dtype.name} takes {size} bytes, not {len(data) - start}",
            hint=_SAVE_AGAIN,
        )
    array = np.frombuffer(data, dtype=dtype, offset=start)
    return _converted(array.reshape(shape[::-1]).T if fortran else array.reshape(shape))


def _npy_header(data: bytes) -> tuple[int, np.dtype[Any], tuple[int, ...], bool]:
    """(where the numbers begin, dtype, shape, whether in Fortran order), of an npy file or its beginning."""
    try:
        header = read_npy_header(data)
    except ValueError as error:
        raise InvalidFile(f"the npy header {error}", hint=_SAVE_AGAIN) from None
    return header.start, _dtype(header.descr), header.shape, header.fortran


def _dtype(descr: object) -> np.dtype[Any]:
    """As numpy reads it: a code, with its byte order or without (then it is this machine's), or a name."""
    if not isinstance(descr, str):
        raise InvalidFile("the array has dtype of structured records, which no matrix has", hint=_CONVERT)
    if descr.endswith("O"):
        raise InvalidFile("the array holds pickled objects, which somactl never loads", hint=_FORMATS)
    shown = descr
    if _CODE_OR_NAME(descr):
        # Warnings: of a name that numpy is about to give up. Nothing is allocated for a dtype.
        with contextlib.suppress(TypeError, ValueError, OverflowError, Warning):
            dtype = np.dtype(descr)
            if dtype.str[1:] in _NUMBERS:
                return dtype
            shown = dtype.name
    raise InvalidFile(f"the array has dtype {shown[:80]!r}, which no matrix has", hint=_CONVERT)


def _checked_size(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """The bytes of a matrix of numbers; everything else is refused. Python's integers do not overflow."""
    if len(shape) not in (1, 2):
        raise InvalidFile(f"the array has shape {list(shape)}; a matrix has two dimensions", hint=_FORMATS)
    rows, columns = (*shape, 1)[:2]
    if rows <= 0 or columns <= 0:
        raise InvalidFile(f"the array has shape {list(shape)}; both sizes of a matrix are positive")
    size = rows * columns * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise InvalidFile(
            f"an array of shape {list(shape)} takes {size} bytes, and no envelope holds {MAX_ARRAY_BYTES}"
        )
    return size


def _converted(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "iu":
        if int(array.max()) > 2**53 or int(array.min()) < -(2**53):
            raise InvalidFile(
                f"the {array.dtype} array holds integers above 2^53, not all of which are float64 numbers"
            )
        return array.astype(np.float64)
    if array.dtype.itemsize == 2:
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _parse_npz(data: bytes) -> np.ndarray:
    """The one array of the archive. Its declared size is checked before it expands, and never exceeded."""
    _check_directory(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) != 1 or not members[0].filename.endswith(".npy"):
                names = _listed([member.filename for member in members])
                raise InvalidFile(
                    f"the archive holds {names}, not exactly one .npy array",
                    hint="save the one array to a file of its own with numpy.save",
                )
            return _parse_npy(_expanded(archive, members[0]))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError):
        raise InvalidFile(
            "the npz archive is damaged", hint="copy the file again, or write it again"
        ) from None


def _check_directory(data: bytes) -> None:
    """Refuse an archive of many members before they are listed; all else is for `zipfile` to say."""
    at = data.rfind(_ZIP_END, max(0, len(data) - _ZIP_TAIL_BYTES))
    if at < 0:
        return
    size = int.from_bytes(data[at + 12 : at + 16], "little")
    zip64 = data[max(0, at - 20) : at].startswith(_ZIP64_LOCATOR)  # it has 64 bits for the size, elsewhere
    if zip64 or MAX_DIRECTORY_BYTES < size <= at:
        raise InvalidFile(
            f"the npz archive lists more than {MAX_DIRECTORY_BYTES} bytes of names, or is made for that",
            hint="save the one array to a file of its own with numpy.save",
        )


def _expanded(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.flag_bits & _ENCRYPTED or member.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        raise InvalidFile("the npz array is encrypted or compressed otherwise than numpy does it")
    if member.file_size > MAX_ARRAY_BYTES + MAX_NPY_HEADER_BYTES:
        raise InvalidFile(f"the npz array declares {member.file_size} bytes; no envelope holds that many")
    if member.file_size > max(FREE_EXPANSION_BYTES, MAX_EXPANSION * member.compress_size):
        raise InvalidFile(
            f"the npz array expands from {member.compress_size} bytes to {member.file_size}, more than"
            f" {MAX_EXPANSION}-fold",
            hint="if it is what it should be, save it with numpy.save, uncompressed",
        )
    with archive.open(member) as stream:
        head = stream.read(MAX_NPY_HEADER_BYTES + 64)
        _, dtype, shape, _ = _npy_header(head)
        _checked_size(dtype, shape)  # before the rest is expanded
        body = head + stream.read(member.file_size - len(head))
        if len(body) != member.file_size:
            raise zipfile.BadZipFile
        return body


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(repr(name[:40]) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


class NpyHeader(NamedTuple):
    """start: where the numbers begin; descr: as it stands there, for the reader of dtypes to judge."""

    start: int
    descr: object
    shape: tuple[int, ...]
    fortran: bool


def read_npy_header(data: bytes) -> NpyHeader:
    """The header of an npy file, or of its beginning. Raises ValueError with what is wrong with it.

    It is the Python literal of a dict with three entries (numpy.lib.format, NEP 1), read by a grammar of its
    own. numpy hands this text to Python's parser, which takes anything that nests, and warns, tokenises and
    tries again where it is damaged; a matrix needs none of that. What is read is what numpy reads of files
    that numpy wrote, Python 2's (`(3L, 3L)`) among them.
    """
    version = (data[6], data[7]) if len(data) > 8 else (0, 0)
    width = _LENGTH_BYTES.get(version)
    if width is None:
        raise ValueError("is damaged or of a format after 3.0")
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if start > len(data) or start - 8 - width > MAX_NPY_HEADER_BYTES:
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
    if token["mark"] not in _CLOSERS or depth == MAX_NPY_DEPTH:
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
