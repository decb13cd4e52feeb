"""The frame of an envelope, checked without numpy, so that stores and listings stay light.

Everything is checked before anything of a claimed size is allocated, and each defect has an error of its
own. `docs/ENVELOPE.md` is the norm.
"""

from __future__ import annotations

from typing import Final

from somactl.core.header import (
    COMPRESSIONS,
    DIGEST_BYTES,
    DTYPES,
    FORMAT_VERSION,
    LAYOUTS,
    MAGIC,
    MAX_ENVELOPE_BYTES,
    Buffer,
    Header,
    claimed_header_length,
    digest,
    parse_header,
)
from somactl.errors import BadBase64, DigestMismatch, LimitExceeded, TrailingBytes, Truncated, WrongAddress

__all__ = [
    "COMPRESSIONS", "DTYPES", "FORMAT_VERSION", "LAYOUTS", "MAGIC", "MAX_COMMIT_BYTES",
    "MAX_ENVELOPE_BYTES", "TEXT_PREFIX", "Buffer", "Header",
    "from_text", "payload", "peek", "to_text", "verify",
]  # fmt: skip

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
