"""The frame of an envelope, checked without numpy, so that stores and listings stay light.

Everything is checked before anything of a claimed size is allocated, and each defect has an error of its
own. `docs/ENVELOPE.md` is the norm.

The header of format version 1 is a fixed little-endian structure followed by two names: nothing to parse
leniently, nothing that could stand there twice, and every length is bounded before it is believed.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final, TypeAlias

import xxhash

from somactl.core.names import MAX_KEY_BYTES, validate_key, validate_namespace
from somactl.errors import (
    BadBase64,
    BadHeader,
    BadMagic,
    DigestMismatch,
    InvalidName,
    LimitExceeded,
    TrailingBytes,
    Truncated,
    UnsupportedVersion,
    WrongAddress,
)

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC: Final = b"\x89RHO\r\n\x1a\n"
FORMAT_VERSION: Final = 1
READERS: Final = {1: "somactl 0.1"}
"""Format version -> the first release that reads it."""

MAX_ENVELOPE_BYTES: Final = 256 << 20
ALIGNMENT: Final = 64

KIND_CODES: Final = {"rho": 1, "sketch": 2, "matrix": 3}
DTYPE_CODES: Final = {"float64": 1, "complex128": 2, "float32": 3, "complex64": 4}
LAYOUT_CODES: Final = {"full": 1, "hermitian": 2, "factor": 3}
COMPRESSION_CODES: Final = {"none": 1, "zstd": 2}
DTYPES: Final = tuple(DTYPE_CODES)
LAYOUTS: Final = tuple(LAYOUT_CODES)
COMPRESSIONS: Final = tuple(COMPRESSION_CODES)
ITEM_BYTES: Final = {"float64": 8, "complex128": 16, "float32": 4, "complex64": 8}

_KINDS = {code: name for name, code in KIND_CODES.items()}
_DTYPES = {code: name for name, code in DTYPE_CODES.items()}
_LAYOUTS = {code: name for name, code in LAYOUT_CODES.items()}
_COMPRESSIONS = {code: name for name, code in COMPRESSION_CODES.items()}

_START = struct.Struct("<8sHHI")
"""magic, format version, reserved, header length: what every version of the format begins with."""
_FIXED = struct.Struct("<8sHHIQQqqd4BBBH16s16s")
DIGEST_BYTES: Final = 16
_MAX_NAMESPACE_BYTES = 64
MAX_HEADER_BYTES: Final = -(-(_FIXED.size + _MAX_NAMESPACE_BYTES + MAX_KEY_BYTES + DIGEST_BYTES) // 64) * 64

_CONTENT = struct.Struct("<16sBBBBHHqq16s")
_CONTENT_TAG = b"somactl.content1"
_CANONICAL_ARRAY, _CANONICAL_FACTOR = 1, 2


@dataclass(frozen=True)
class Header:
    """All that an envelope says before its payload.

    shape is that of the array, (rows, columns); of layout `factor` that of F, (n, k). timestamp is a
    label in seconds since 1970. raw_length is the payload's size once decompressed. Digests are 16 bytes.
    """

    format_version: int
    kind: str
    dtype: str
    shape: tuple[int, int]
    layout: str
    compression: str
    timestamp: float
    namespace: str
    key: str
    header_length: int
    payload_length: int
    raw_length: int
    payload_digest: bytes = field(repr=False)
    canonical_digest: bytes = field(repr=False)
    envelope_digest: bytes = field(repr=False)

    @property
    def total_length(self) -> int:
        return self.header_length + self.payload_length

    @property
    def canonical_payload(self) -> bool:
        """Whether the stored payload is the canonical one, so that both have one digest."""
        return self.compression == "none" and self.layout != "hermitian"

    @property
    def envelope(self) -> str:
        """The envelope digest in hex: chained, by the payload digest, to every byte."""
        return self.envelope_digest.hex()

    @cached_property
    def content(self) -> str:
        """The content digest in hex: what the matrix is, whatever its layout, compression and timestamp."""
        namespace, key = self.namespace.encode(), self.key.encode()
        fixed = _CONTENT.pack(
            _CONTENT_TAG,
            KIND_CODES[self.kind],
            DTYPE_CODES[self.dtype],
            _CANONICAL_FACTOR if self.layout == "factor" else _CANONICAL_ARRAY,
            len(namespace),
            len(key),
            0,
            *self.shape,
            self.canonical_digest,
        )
        return xxhash.xxh3_128_hexdigest(fixed + namespace + key)


def digest(data: object) -> bytes:
    """xxh3_128 (seed 0, canonical big-endian form) of any contiguous buffer, 16 bytes."""
    return xxhash.xxh3_128_digest(data)  # type: ignore[arg-type]


def raw_length(shape: tuple[int, int], dtype: str, layout: str) -> int:
    """Bytes of the uncompressed payload, in Python integers, which do not overflow."""
    rows, columns = shape
    entries = rows * (rows + 1) // 2 if layout == "hermitian" else rows * columns
    return entries * ITEM_BYTES[dtype]


def header_length(namespace: str, key: str) -> int:
    """Bytes before the payload: the fields, the two names and the digest, up to a multiple of 64."""
    unaligned = _FIXED.size + len(namespace.encode()) + len(key.encode()) + DIGEST_BYTES
    return -(-unaligned // ALIGNMENT) * ALIGNMENT


def build_header(
    *,
    kind: str,
    dtype: str,
    shape: tuple[int, int],
    layout: str,
    compression: str,
    timestamp: float,
    namespace: str,
    key: str,
    payload_length: int,
    payload_digest: bytes,
    canonical_digest: bytes,
) -> bytes:
    """The header's bytes. Names and codes must be valid; `peek` of the result says what was written."""
    size = header_length(namespace, key)
    names = namespace.encode(), key.encode()
    fixed = _FIXED.pack(
        MAGIC,
        FORMAT_VERSION,
        0,
        size,
        payload_length,
        raw_length(shape, dtype, layout),
        *shape,
        timestamp,
        KIND_CODES[kind],
        DTYPE_CODES[dtype],
        LAYOUT_CODES[layout],
        COMPRESSION_CODES[compression],
        len(names[0]),
        0,
        len(names[1]),
        payload_digest,
        canonical_digest,
    )
    head = (fixed + names[0] + names[1]).ljust(size - DIGEST_BYTES, b"\0")
    return head + digest(head)


def claimed_header_length(data: Buffer) -> int:
    """The header's length, after the checks that must come before its digest can be found."""
    begin = bytes(data[: _START.size])
    if begin[: len(MAGIC)] != MAGIC[: len(begin)]:
        raise BadMagic(
            "the bytes are no envelope: they do not begin with its magic number",
            hint="commit .npy, .npz, legacy JSON or an envelope that somactl wrote",
        )
    if len(begin) >= len(MAGIC) + 2:
        _check_version(int.from_bytes(begin[8:10], "little"))
    if len(begin) < _START.size:
        raise _inside_header(len(data))
    _, _, _, size = _START.unpack(begin)
    if size % ALIGNMENT or not _FIXED.size + DIGEST_BYTES < size <= MAX_HEADER_BYTES:
        raise _bad_header(
            f"the header claims {size} bytes; a header has a multiple of {ALIGNMENT}, "
            f"at most {MAX_HEADER_BYTES}"
        )
    if len(data) < size:
        raise _inside_header(len(data))
    return int(size)


def _inside_header(length: int) -> Truncated:
    return Truncated(
        f"the envelope ends after {length} bytes, inside its header",
        hint="fetch the value again: the copy is incomplete",
    )


def _check_version(version: int) -> None:
    if version != FORMAT_VERSION:
        raise unsupported_version(version)


def unsupported_version(version: int) -> UnsupportedVersion:
    reads = ", ".join(f"{number} (read since {release})" for number, release in READERS.items())
    return UnsupportedVersion(
        f"the envelope has format version {version}; this somactl reads {reads}",
        hint="read it with the release of somactl that wrote it, or a newer one",
    )


@lru_cache(maxsize=2048)
def parse_header(head: bytes) -> Header:
    """The fields of exactly one header, whose digest holds. Raises BadHeader for any that is wrong.

    The last ones are remembered: on its way through a commit an envelope is looked at four times and more.
    """
    fields = _FIXED.unpack_from(head)
    (_, version, reserved_a, size, payload_length, raw, rows, columns, timestamp) = fields[:9]
    (kind, dtype, layout, compression, namespace_bytes, reserved_b, key_bytes) = fields[9:16]
    if reserved_a or reserved_b:
        raise _bad_header("reserved bytes of the header are not zero")
    names_end = _FIXED.size + namespace_bytes + key_bytes
    if size != -(-(names_end + DIGEST_BYTES) // ALIGNMENT) * ALIGNMENT:
        raise _bad_header(
            f"the header claims {size} bytes, which do not fit names of "
            f"{namespace_bytes} and {key_bytes} bytes"
        )
    if any(head[names_end:-DIGEST_BYTES]):
        raise _bad_header("the padding of the header is not zero")
    header = Header(
        format_version=version,
        kind=_name(_KINDS, kind, "kind"),
        dtype=_name(_DTYPES, dtype, "dtype"),
        shape=(rows, columns),
        layout=_name(_LAYOUTS, layout, "layout"),
        compression=_name(_COMPRESSIONS, compression, "compression"),
        timestamp=timestamp,
        namespace=_text(head[_FIXED.size : _FIXED.size + namespace_bytes], "namespace"),
        key=_text(head[_FIXED.size + namespace_bytes : names_end], "key"),
        header_length=size,
        payload_length=payload_length,
        raw_length=raw,
        payload_digest=fields[16],
        canonical_digest=fields[17],
        envelope_digest=head[-DIGEST_BYTES:],
    )
    _check_consistency(header)
    return header


def _bad_header(defect: str) -> BadHeader:
    """The digest of the header holds, so this is no accident of transport."""
    return BadHeader(
        defect, hint="it was written so: find the program that made it, and read docs/ENVELOPE.md"
    )


def _name(names: dict[int, str], code: int, field_name: str) -> str:
    if code not in names:
        raise _bad_header(f"the header has the unknown {field_name} code {code}")
    return names[code]


def _text(data: bytes, field_name: str) -> str:
    try:
        text = data.decode("utf-8")
        return validate_key(text) if field_name == "key" else validate_namespace(text)
    except UnicodeDecodeError:
        raise _bad_header(f"the {field_name} in the header is not valid UTF-8: {data[:40]!r}") from None
    except InvalidName as exc:
        raise _bad_header(f"the header names no valid {field_name}: {exc.message}") from None


def _check_consistency(header: Header) -> None:
    """Fields that are well-formed each, against each other."""
    rows, columns = header.shape
    if rows < 1 or columns < 1:
        raise _bad_header(f"the header of {header.key!r} claims the shape {rows} x {columns}, which is empty")
    defect = shape_defect(header.kind, header.layout, header.shape)
    if defect is not None:
        raise _bad_header(f"the header of {header.key!r} contradicts itself: {defect}")
    if not math.isfinite(header.timestamp):
        raise _bad_header(f"the timestamp in the header of {header.key!r} is not finite")
    raw = raw_length(header.shape, header.dtype, header.layout)
    if header.header_length + max(raw, header.payload_length) > MAX_ENVELOPE_BYTES:
        raise _bad_header(
            f"the header of {header.key!r} claims {max(raw, header.payload_length)} bytes of payload; "
            f"an envelope has at most {MAX_ENVELOPE_BYTES}"
        )
    if header.raw_length != raw:
        raise _bad_header(
            f"the header of {header.key!r} claims a raw payload of {header.raw_length} bytes; "
            f"{rows} x {columns} {header.dtype} in layout {header.layout} has {raw}"
        )
    if header.compression == "none" and header.payload_length != raw:
        raise _bad_header(
            f"the header of {header.key!r} claims {header.payload_length} uncompressed bytes "
            f"where {raw} belong"
        )
    if header.payload_length == 0:
        raise _bad_header(f"the header of {header.key!r} claims an empty payload")
    if header.canonical_payload and header.canonical_digest != header.payload_digest:
        raise _bad_header(f"the header of {header.key!r} has two digests for one and the same payload")


def shape_defect(kind: str, layout: str, shape: tuple[int, int]) -> str | None:
    """Why these three do not go together, or None. A rho and a hermitian payload are square."""
    rows, columns = shape
    if layout != "full" and kind == "sketch":
        return f"a sketch has layout full, not {layout}"
    if layout == "hermitian" and rows != columns:
        return f"layout hermitian is for square matrices, and this one is {rows} x {columns}"
    if layout == "full" and kind == "rho" and rows != columns:
        return f"a rho is square, and this matrix is {rows} x {columns}"
    return None


MAX_COMMIT_BYTES: Final = 1 << 30
_BASE64_LIMIT = (MAX_ENVELOPE_BYTES + 2) // 3 * 4
TEXT_PREFIX: Final = "iVJITw0KGg"
"""How the base64 text of every envelope begins."""


def peek(data: Buffer) -> Header:
    """The header alone, checked; `data` may be longer or shorter than the whole envelope.

    Raises BadMagic, UnsupportedVersion, Truncated, DigestMismatch (the header changed after it was
    written) or BadHeader (it was written so).
    """
    size = claimed_header_length(data)
    head = bytes(data[:size])
    if digest(head[:-DIGEST_BYTES]) != head[-DIGEST_BYTES:]:
        raise DigestMismatch(
            "the header of the envelope does not match its digest: it changed after it was written",
            hint="fetch the value again from where it was committed",
        )
    return parse_header(head)


def verify(data: Buffer, *, namespace: str | None = None, key: str | None = None) -> Header:
    """Everything that can be checked without numpy: header, exact length, payload digest, address.

    Raises what `peek` does, and Truncated, TrailingBytes, DigestMismatch, WrongAddress.
    """
    header = peek(data)
    if len(data) < header.total_length:
        raise Truncated(
            f"the envelope of {header.key!r} ends after {len(data)} of {header.total_length} bytes",
            hint="fetch the value again: the copy is incomplete",
        )
    if len(data) > header.total_length:
        raise TrailingBytes(
            f"the envelope of {header.key!r} has {len(data) - header.total_length} bytes after its end",
            hint="an envelope ends where its header says; cut off what follows",
        )
    if digest(payload(data, header)) != header.payload_digest:
        raise DigestMismatch(
            f"the payload of {header.key!r} does not match its digest: it changed after it was written",
            hint="fetch the value again from where it was committed",
        )
    _check_address(header, namespace, key)
    return header


def payload(data: Buffer, header: Header) -> memoryview:
    """The stored payload, without a copy. `data` must be the whole envelope (`verify`)."""
    return memoryview(data)[header.header_length : header.total_length]


def to_text(data: Buffer) -> str:
    """The envelope as base64 (RFC 4648 section 4, padded, one line)."""
    import pybase64

    return pybase64.b64encode_as_string(data)


def from_text(text: str) -> bytes:
    """The bytes of strict base64: no white space, padded, standard alphabet, no stray bits at the end.

    Raises BadBase64, and LimitExceeded for a text longer than an envelope's may be. What it holds is
    not checked: `verify` does.
    """
    import pybase64

    if len(text) > _BASE64_LIMIT:
        raise LimitExceeded(
            f"the base64 text has {len(text)} characters; the largest envelope has {_BASE64_LIMIT}"
        )
    try:
        data = pybase64.b64decode(text, validate=True)
    except ValueError as exc:
        raise BadBase64(f"the text is no base64: {exc}", hint=_BASE64_HINT) from None
    # The last group may carry bits that no byte holds; two texts must not mean the same bytes.
    if text[-4:] != pybase64.b64encode_as_string(data[(len(data) - 1) // 3 * 3 :]) and data:
        raise BadBase64("the last characters of the base64 text carry stray bits", hint=_BASE64_HINT)
    return data


_BASE64_HINT = "strict base64 has only A-Z a-z 0-9 + /, padding, and no white space"


def _check_address(header: Header, namespace: str | None, key: str | None) -> None:
    for wanted, found, what in ((namespace, header.namespace, "namespace"), (key, header.key, "key")):
        if wanted is not None and wanted != found:
            raise WrongAddress(
                f"{what} {wanted!r} holds an envelope that was written for {what} {found!r}",
                hint="re-encode the matrix for its key; an envelope is not valid at another address",
            )
