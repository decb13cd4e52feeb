"""Matrices to envelopes and back: `docs/ENVELOPE.md`, format version 1.

`framing` knows the bytes around a payload; this module knows the numbers in it. Encoding copies the
numbers once, into the result; decoding an uncompressed `full` payload does not copy them at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from somactl.core import byte_shuffle, hermitian
from somactl.core.array_input import Converted, as_matrix, check_finite, convert, target_dtype
from somactl.core.framing import (
    COMPRESSIONS,
    FORMAT_VERSION,
    ITEM_BYTES,
    LAYOUTS,
    MAGIC,
    MAX_ENVELOPE_BYTES,
    Buffer,
    Header,
    build_header,
    digest,
    from_text,
    header_length,
    payload,
    peek,
    raw_length,
    shape_defect,
    unsupported_version,
    verify,
)
from somactl.core.names import validate_key, validate_kind, validate_namespace
from somactl.errors import (
    BadHeader,
    BadMagic,
    BadPayload,
    DigestMismatch,
    InputRejected,
    LimitExceeded,
    UsageError,
)

__all__ = [
    "Encoded",
    "Matrix",
    "decode",
    "deserialize_matrix",
    "encode",
    "factor",
    "packed",
    "peek",
    "serialize_matrix",
]

Array = NDArray[Any]

MAX_PRODUCT_BYTES = 2 * MAX_ENVELOPE_BYTES
"""How large F F^H may become when a `factor` is multiplied out: as large as a hermitian array may be."""

_JSON_STARTS = b'{["'
_LITTLE_ENDIAN = {name: np.dtype(name).newbyteorder("<") for name in ITEM_BYTES}


@dataclass(frozen=True, slots=True)
class Encoded:
    """An envelope with its header, and what storing in another dtype cost.

    rounding_error is max |stored - given| over all entries, rounding_frobenius the Frobenius norm of the
    difference; both are 0.0 where the conversion is exact.
    """

    data: bytes
    header: Header
    rounding_error: float
    rounding_frobenius: float


@dataclass(frozen=True)
class Matrix:
    """A decoded matrix. `header` is None where it came from legacy JSON.

    `values` is what was stored: the array itself, or F of layout `factor`. It is read-only where it
    shares the memory of the bytes it was decoded from.
    """

    values: Array
    header: Header | None = None

    @property
    def inexact(self) -> bool:
        """Whether `array` is a rounded product, F F^H, and not what was stored."""
        return self.header is not None and self.header.layout == "factor"

    @cached_property
    def array(self) -> Array:
        """The matrix; F F^H of layout `factor`, computed on first use, Hermitian bit for bit.

        Raises LimitExceeded where that product would take more than MAX_PRODUCT_BYTES.
        """
        if not self.inexact:
            return self.values
        n = len(self.values)
        if n * n * self.values.itemsize > MAX_PRODUCT_BYTES:
            raise LimitExceeded(
                f"F F^H of a factor with {n} rows takes {n * n * self.values.itemsize} bytes; "
                f"at most {MAX_PRODUCT_BYTES} are computed",
                hint="work with the factor itself: checks do not need the product",
            )
        product = self.values @ self.values.conj().T
        return np.asarray((product + product.conj().T) / 2, dtype=self.values.dtype)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        """`array` for numpy: `np.asarray(matrix)` copies nothing, other than another dtype takes it.

        copy  None: where it must; True: always; False: never, ValueError where it must (NumPy 2)
        """
        found = self.array
        if copy:
            return np.array(found, dtype=dtype, copy=True)
        if copy is False and dtype is not None and np.dtype(dtype) != found.dtype:
            raise ValueError(f"a matrix of dtype {found.dtype} becomes {np.dtype(dtype)} by a copy alone")
        return np.asarray(found, dtype=dtype)


def serialize_matrix(
    array: ArrayLike,
    version: int = FORMAT_VERSION,
    *,
    key: str,
    namespace: str = "default",
    kind: str = "rho",
    dtype: str | None = None,
    layout: str = "auto",
    compression: str | None = None,
    timestamp: float = 0.0,
) -> bytes:
    """`encode`, without the rounding error."""
    return encode(
        array,
        version,
        key=key,
        namespace=namespace,
        kind=kind,
        dtype=dtype,
        layout=layout,
        compression=compression,
        timestamp=timestamp,
    ).data


def encode(
    array: ArrayLike,
    version: int = FORMAT_VERSION,
    *,
    key: str,
    namespace: str = "default",
    kind: str = "rho",
    dtype: str | None = None,
    layout: str = "auto",
    compression: str | None = None,
    timestamp: float = 0.0,
) -> Encoded:
    """The envelope of a matrix (rows x columns, each >= 1) in any memory order, stride or byte order.

    dtype        float64, complex128, float32 or complex64. None keeps these four, widens float16 to
                 float32, and turns integers and long doubles into float64 / complex128 where that is exact
    layout       `full`, `hermitian`, `factor` (the array is F, n x k, of F F^H), or `auto`: hermitian
                 where the array is Hermitian bit for bit, n >= 2 and the kind is no sketch, else full
    compression  None or "zstd"; a payload that does not become smaller is stored uncompressed
    timestamp    seconds since 1970, a label

    Raises InvalidName, UsageError (an unknown dtype, layout or compression), InputRejected (not a 2-D
    array of numbers, not exactly representable, not Hermitian as `hermitian` demands), NonFinite,
    LimitExceeded before anything is allocated, UnsupportedVersion.
    """
    if version != FORMAT_VERSION:
        raise unsupported_version(version)
    _check_arguments(namespace, key, kind, layout, compression, timestamp)
    given = as_matrix(array, key)
    target = target_dtype(given.dtype, dtype, key)
    _check_limit(given.shape, target, layout, kind, namespace, key)
    converted = convert(given, target, exact=dtype is None, key=key)
    values = converted.values
    layout = _choose_layout(values, layout, kind, key)
    _check_limit(given.shape, target, layout, kind, namespace, key)
    raw = hermitian.pack(values) if layout == "hermitian" else values
    return _assemble(
        converted,
        raw,
        compression or "none",
        kind=kind,
        dtype=target,
        layout=layout,
        timestamp=timestamp,
        namespace=namespace,
        key=key,
    )


def _assemble(converted: Converted, raw: Array, compression: str, **fields: Any) -> Encoded:
    stored: Any = raw.reshape(-1).view(np.uint8)
    if compression == "zstd":
        squeezed = byte_shuffle.compress(raw)
        compression, stored = ("zstd", squeezed) if len(squeezed) < raw.nbytes else ("none", stored)
    payload_digest = digest(stored)
    # The canonical bytes of an uncompressed full payload are the payload: they are hashed once.
    same = compression == "none" and raw is converted.values
    canonical = payload_digest if same else digest(converted.values)
    head = build_header(
        **fields,
        shape=converted.values.shape,
        compression=compression,
        payload_length=len(stored),
        payload_digest=payload_digest,
        canonical_digest=canonical,
    )
    data = b"".join((head, stored))
    return Encoded(data, peek(head), converted.max_error, converted.frobenius_error)


def deserialize_matrix(data: Buffer | str, *, namespace: str | None = None, key: str | None = None) -> Matrix:
    """The matrix in an envelope (raw bytes or base64 text) or in legacy JSON, fully verified.

    `namespace` and `key`, where given, must be those the envelope was written for. Raises EnvelopeError
    (one subclass for each defect), InvalidJson, LimitExceeded.
    """
    if isinstance(data, str) or not _is_binary(data):
        if _is_json(data):
            return Matrix(_parse_legacy(data))
        data = from_text(_ascii(data))
    return decode(data, verify(data, namespace=namespace, key=key))


def decode(data: Buffer, header: Header) -> Matrix:
    """The matrix in an envelope whose framing is verified already: `header` is what `verify` returned.

    Raises BadPayload, NonFinite, DigestMismatch (the numbers are not those that were encoded).
    """
    raw = _raw(data, header)
    if header.layout == "hermitian":
        _check_diagonal(raw, header)
        values = hermitian.unpack(raw, header.shape[0])
    else:
        values = raw.reshape(header.shape)
    # Where the payload is canonical as it stands, `verify` has compared this digest already.
    if not header.canonical_payload and digest(values) != header.canonical_digest:
        raise DigestMismatch(
            f"the numbers of {header.key!r} do not match their digest: they are not those that were encoded",
            hint="fetch the value again from where it was committed",
        )
    return Matrix(values, header)


def packed(data: Buffer, header: Header) -> Array:
    """The payload of a verified envelope of layout `hermitian`: 1-D, read-only, n (n + 1) / 2 entries.

    LAPACK's rectangular full packed order, TRANSR='N', UPLO='L', of the matrix's transpose (which is its
    conjugate and has its spectrum). Not unpacked, so the canonical digest is not compared: `decode` does.
    Raises BadPayload, NonFinite.
    """
    _check_layout(header, "hermitian")
    raw = _raw(data, header)
    _check_diagonal(raw, header)
    return raw


def factor(data: Buffer, header: Header) -> Array:
    """F (n x k, read-only) of a verified envelope of layout `factor`. Raises BadPayload, NonFinite."""
    _check_layout(header, "factor")
    return _raw(data, header).reshape(header.shape)


def _raw(data: Buffer, header: Header) -> Array:
    """The uncompressed payload, 1-D, read-only, finite; a view of `data` where it is aligned there."""
    stored: Any = payload(data, header)
    dtype = _LITTLE_ENDIAN[header.dtype]
    if header.compression == "zstd":
        stored = byte_shuffle.decompress(stored, header.raw_length, dtype, header.key)
    raw = np.frombuffer(stored, dtype=dtype)
    if not raw.flags.aligned:
        raw = raw.copy()
    raw.flags.writeable = False
    check_finite(raw, header.key)
    return raw


def _check_diagonal(raw: Array, header: Header) -> None:
    if raw.dtype.kind != "c":
        return
    imaginary = hermitian.diagonal(raw, header.shape[0]).imag
    if imaginary.tobytes().strip(b"\0"):
        raise BadPayload(
            f"the hermitian payload of {header.key!r} has a diagonal entry whose imaginary part is not +0.0",
            hint="such a matrix is not Hermitian; it was not written by somactl",
        )


def _check_layout(header: Header, layout: str) -> None:
    if header.layout != layout:
        raise BadHeader(f"{header.key!r} has layout {header.layout}, not {layout}")


def _check_arguments(
    namespace: str, key: str, kind: str, layout: str, compression: str | None, timestamp: float
) -> None:
    validate_namespace(namespace)
    validate_key(key)
    validate_kind(kind)
    if layout not in ("auto", *LAYOUTS):
        raise UsageError(f"layout {layout!r} is none of auto, {', '.join(LAYOUTS)}")
    if compression is not None and compression not in COMPRESSIONS:
        raise UsageError(f"compression {compression!r} is none of {', '.join(COMPRESSIONS)}")
    if not math.isfinite(timestamp):
        raise UsageError(f"timestamp {timestamp!r} of {key!r} is not a finite number of seconds")


def _choose_layout(values: Array, layout: str, kind: str, key: str) -> str:
    """`auto` resolved; raises InputRejected where the layout asked for does not fit the array."""
    rows, columns = values.shape
    if layout == "auto":
        candidate = kind != "sketch" and rows == columns and rows > 1
        layout = "hermitian" if candidate and hermitian.is_hermitian(values) else "full"
    elif layout == "hermitian" and rows == columns and not hermitian.is_hermitian(values):
        raise InputRejected(
            f"{key!r} is not Hermitian bit for bit, as layout hermitian demands",
            hint="use layout auto, or store (m + m.conj().T) / 2",
        )
    defect = shape_defect(kind, layout, (rows, columns))
    if defect is not None:
        raise InputRejected(f"{key!r} cannot be encoded: {defect}")
    return layout


def _check_limit(
    shape: tuple[int, ...], dtype: str, layout: str, kind: str, namespace: str, key: str
) -> None:
    rows, columns = shape
    room = MAX_ENVELOPE_BYTES - header_length(namespace, key)
    if layout == "auto":
        layout = "hermitian" if rows == columns and kind != "sketch" else "full"
    size = raw_length((rows, columns), dtype, layout)
    if size > room:
        raise LimitExceeded(
            f"{key!r}, {rows} x {columns} {dtype} in layout {layout}, takes {size} bytes; "
            f"an envelope has room for {room}",
            hint=_what_fits(rows, columns, dtype, kind, room),
            size=size,
            limit=room,
        )


def _what_fits(rows: int, columns: int, dtype: str, kind: str, room: int) -> str:
    layouts = ("full", "hermitian") if rows == columns and kind != "sketch" else ("full",)
    dtypes = ("complex128", "complex64") if dtype.startswith("complex") else ("float64", "float32")
    fitting = [
        f"layout {layout} with dtype {name}"
        for layout in layouts
        for name in dtypes
        if ITEM_BYTES[name] <= ITEM_BYTES[dtype] and raw_length((rows, columns), name, layout) <= room
    ]
    if fitting:
        return f"{' or '.join(fitting)} would fit"
    columns_of_factor = room // (rows * ITEM_BYTES[dtype]) if len(layouts) == 2 else 0
    if columns_of_factor:
        return f"no layout and dtype make it fit; a factor with at most {columns_of_factor} columns would"
    return "no layout and dtype make it fit; split it over several keys"


def _is_binary(data: Buffer) -> bool:
    """Whether the bytes are an envelope's or none at all. No text begins with the first byte of MAGIC."""
    return bytes(data[:1]) in (b"", MAGIC[:1])


def _is_json(data: Buffer | str) -> bool:
    head = data[:64].encode("utf-8", "replace") if isinstance(data, str) else bytes(data[:64])
    return head.lstrip(b" \t\r\n")[:1] in {b"{", b"[", b'"'}


def _parse_legacy(data: Buffer | str) -> Array:
    from somactl.core.legacy_json import parse_matrix

    return parse_matrix(data if isinstance(data, str | bytes) else bytes(data))


def _ascii(data: Buffer | str) -> str:
    if isinstance(data, str):
        return data
    try:
        return bytes(data).decode("ascii")
    except UnicodeDecodeError:
        raise BadMagic(
            "the bytes are neither an envelope, nor base64 text, nor JSON",
            hint="commit .npy, .npz, legacy JSON or an envelope that somactl wrote",
        ) from None
