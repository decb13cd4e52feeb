"""The frame of an envelope, checked without numpy, so that stores and listings stay light.

Everything is checked before anything of a claimed size is allocated, and each defect has an error of its
own. `docs/ENVELOPE.md` is the norm.

The header of format version 1 is a fixed little-endian structure followed by two names: nothing to parse
leniently, nothing that could stand there twice, and every length is bounded before it is believed.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import lru_cache
from itertools import product
from typing import Final, TypeAlias

import msgspec
import xxhash

from somactl.core.names import MAX_KEY_BYTES, validate_key, validate_namespace
from somactl.errors import (
    BadBase64,
    BadHeader,
    BadMagic,
    DigestMismatch,
    EnvelopeError,
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

_CODES = {"kind": KIND_CODES, "dtype": DTYPE_CODES, "layout": LAYOUT_CODES, "compression": COMPRESSION_CODES}
"""The codes of a header, in the order of their bytes."""
_NAMED = {bytes(map(dict.__getitem__, _CODES.values(), each)): each for each in product(*_CODES.values())}
"""What each four bytes of codes mean: one look for all of them."""

_START = struct.Struct("<8sHHI")
"""magic, format version, reserved, header length: what every version of the format begins with."""
_FIXED = struct.Struct("<8sHHIQQqqd4sBBH16s16s")
DIGEST_BYTES: Final = 16
_MAX_NAMESPACE_BYTES = 64
MAX_HEADER_BYTES: Final = -(-(_FIXED.size + _MAX_NAMESPACE_BYTES + MAX_KEY_BYTES + DIGEST_BYTES) // 64) * 64

_CONTENT = struct.Struct("<16sBBBBHHqq16s")
_CONTENT_TAG = b"somactl.content1"
_CANONICAL_ARRAY, _CANONICAL_FACTOR = 1, 2


class Header(msgspec.Struct, frozen=True, gc=False):
    """All that an envelope says before its payload.

    shape is that of the array, (rows, columns); of layout `factor` that of F, (n, k). timestamp is a
    label in seconds since 1970. raw_length is the payload's size once decompressed. Digests are 16 bytes.
    content is the content digest in hex: what the matrix is, whatever its layout, compression and timestamp.

    A struct: an audit makes one for each value, and a frozen dataclass sets a field at a time.
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
    payload_digest: bytes
    canonical_digest: bytes
    envelope_digest: bytes
    content: str

    def __repr__(self) -> str:
        """Without the digests."""
        told = self.__struct_fields__[:12]
        return f"Header({', '.join(f'{name}={getattr(self, name)!r}' for name in told)})"

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
        bytes((KIND_CODES[kind], DTYPE_CODES[dtype], LAYOUT_CODES[layout], COMPRESSION_CODES[compression])),
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
    if len(data) < _START.size:
        raise _too_short(bytes(data))
    magic, version, _, size = _START.unpack_from(data)
    if magic != MAGIC:
        raise _bad_magic()
    if version != FORMAT_VERSION:
        raise unsupported_version(version)
    if size % ALIGNMENT or not _FIXED.size + DIGEST_BYTES < size <= MAX_HEADER_BYTES:
        raise _bad_header(
            f"the header claims {size} bytes; a header has a multiple of {ALIGNMENT}, "
            f"at most {MAX_HEADER_BYTES}"
        )
    if len(data) < size:
        raise _inside_header(len(data))
    return int(size)


def _too_short(begin: bytes) -> EnvelopeError:
    """What is wrong with so few bytes, as far as they tell."""
    if begin[: len(MAGIC)] != MAGIC[: len(begin)]:
        return _bad_magic()
    version = int.from_bytes(begin[len(MAGIC) : len(MAGIC) + 2], "little")
    if len(begin) >= len(MAGIC) + 2 and version != FORMAT_VERSION:
        return unsupported_version(version)
    return _inside_header(len(begin))


def _bad_magic() -> BadMagic:
    return BadMagic(
        "the bytes are no envelope: they do not begin with its magic number",
        hint="commit .npy, .npz, legacy JSON or an envelope that somactl wrote",
    )


def _inside_header(length: int) -> Truncated:
    return Truncated(
        f"the envelope ends after {length} bytes, inside its header",
        hint="fetch the value again: the copy is incomplete",
    )


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
    (
        _, version, reserved_a, size, payload_length, raw, rows, columns, timestamp,
        codes, namespace_bytes, reserved_b, key_bytes, payload_digest, canonical_digest,
    ) = _FIXED.unpack_from(head)  # fmt: skip
    if reserved_a or reserved_b:
        raise _bad_header("reserved bytes of the header are not zero")
    key_start = _FIXED.size + namespace_bytes
    names_end = key_start + key_bytes
    if size != -(-(names_end + DIGEST_BYTES) // ALIGNMENT) * ALIGNMENT:
        raise _bad_header(
            f"the header claims {size} bytes, which do not fit names of "
            f"{namespace_bytes} and {key_bytes} bytes"
        )
    if head[names_end:-DIGEST_BYTES].strip(b"\0"):
        raise _bad_header("the padding of the header is not zero")
    kind, dtype, layout, compression = _NAMED.get(codes) or _names(codes)
    form = _CANONICAL_FACTOR if layout == "factor" else _CANONICAL_ARRAY
    fixed = _CONTENT.pack(
        _CONTENT_TAG, codes[0], codes[1], form, namespace_bytes, key_bytes, 0, rows, columns, canonical_digest
    )
    header = Header(
        version, kind, dtype, (rows, columns), layout, compression, timestamp,
        _namespace(head[_FIXED.size : key_start]),
        _text(head[key_start:names_end], "key", validate_key),
        size, payload_length, raw, payload_digest, canonical_digest, head[-DIGEST_BYTES:],
        xxhash.xxh3_128_hexdigest(fixed + head[_FIXED.size : names_end]),
    )  # fmt: skip
    _check_consistency(header)
    return header


def _bad_header(defect: str) -> BadHeader:
    """The digest of the header holds, so this is no accident of transport."""
    return BadHeader(
        defect, hint="it was written so: find the program that made it, and read docs/ENVELOPE.md"
    )


def _names(codes: bytes) -> tuple[str, ...]:
    """What the four codes mean; raises BadHeader for the first that means nothing."""
    for (field_name, known), code in zip(_CODES.items(), codes, strict=True):
        if code not in known.values():
            raise _bad_header(f"the header has the unknown {field_name} code {code}")
    return _NAMED[codes]


@lru_cache(maxsize=64)
def _namespace(data: bytes) -> str:
    """Remembered, as one audit reads one namespace."""
    return _text(data, "namespace", validate_namespace)


def _text(data: bytes, field_name: str, validate: Callable[[str], str]) -> str:
    try:
        return validate(data.decode())
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
    stored = header.payload_length
    if header.header_length + max(raw, stored) > MAX_ENVELOPE_BYTES:
        raise _bad_header(
            f"the header of {header.key!r} claims {max(raw, stored)} bytes of payload; "
            f"an envelope has at most {MAX_ENVELOPE_BYTES}"
        )
    if header.raw_length != raw:
        raise _bad_header(
            f"the header of {header.key!r} claims a raw payload of {header.raw_length} bytes; "
            f"{rows} x {columns} {header.dtype} in layout {header.layout} has {raw}"
        )
    if stored != raw and header.compression == "none":
        raise _bad_header(
            f"the header of {header.key!r} claims {stored} uncompressed bytes where {raw} belong"
        )
    if stored == 0:
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
    if len(data) != header.total_length:
        raise _wrong_length(len(data), header)
    if digest(memoryview(data)[header.header_length :]) != header.payload_digest:
        raise DigestMismatch(
            f"the payload of {header.key!r} does not match its digest: it changed after it was written",
            hint="fetch the value again from where it was committed",
        )
    if namespace not in (None, header.namespace) or key not in (None, header.key):
        raise _wrong_address(header, namespace, key)
    return header


def _wrong_length(length: int, header: Header) -> Truncated | TrailingBytes:
    if length < header.total_length:
        return Truncated(
            f"the envelope of {header.key!r} ends after {length} of {header.total_length} bytes",
            hint="fetch the value again: the copy is incomplete",
        )
    return TrailingBytes(
        f"the envelope of {header.key!r} has {length - header.total_length} bytes after its end",
        hint="an envelope ends where its header says; cut off what follows",
    )


def _wrong_address(header: Header, namespace: str | None, key: str | None) -> WrongAddress:
    """The error for the one that is wrong, the namespace where both are."""
    what, wanted, found = "namespace", namespace, header.namespace
    if wanted in (None, found):
        what, wanted, found = "key", key, header.key
    return WrongAddress(
        f"{what} {wanted!r} holds an envelope that was written for {what} {found!r}",
        hint="re-encode the matrix for its key; an envelope is not valid at another address",
    )


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
