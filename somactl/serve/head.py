r"""The head of an HTTP/1.1 request, judged before anything else reads it. Pure.

    judge(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", limits) -> Framing(body=0, ...)

What two readers could take for two things (RFC 9112, section 11.2) is refused, never repaired: a length
beside a transfer coding, two lengths, folded lines, bare CR or LF, blanks before a colon, NUL.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from somactl.serve.context import Limits

END = b"\r\n\r\n"
METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
LENGTH_DIGITS = 12

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_TARGET = re.compile(rb"(?:https?://[^/?#]+)?/[^#]*", re.IGNORECASE)
_BARE_LF = re.compile(rb"(?<!\r)\n")


class Framing(NamedTuple):
    """Where the request ends: so many bytes behind its head; None: where its chunks end."""

    body: int | None


class BadHead(Exception):
    """A head that is refused, and the status that says so."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


def judge(head: bytes, limits: Limits) -> Framing:
    """Where the request with this head ends; `head` is all until END. Raises BadHead."""
    first, *lines = head.removesuffix(END).split(b"\r\n")
    version = _judge_line(first)
    if len(lines) > limits.header_fields:
        raise BadHead(431, f"more than {limits.header_fields} header fields")
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadHead(400, "a header field is malformed")
        fields.setdefault(match[1].lower(), []).append(match[2].rstrip(b" \t"))
    hosts = fields.get(b"host", [])
    if len(hosts) > 1 or (version == (1, 1) and not hosts):
        raise BadHead(400, "not one Host")
    return Framing(_length(fields, version, limits))


def _judge_line(line: bytes) -> tuple[int, int]:
    """The version of HTTP that the request line says."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadHead(400, "the request line is malformed")
    method, target, version = match[1], match[2], (int(match[3]), int(match[4]))
    if version not in ((1, 0), (1, 1)):
        raise BadHead(505, "the version of HTTP is not 1.0 or 1.1")
    if method not in METHODS:
        raise BadHead(501, "an unknown method")
    if _TARGET.fullmatch(target) is None:
        raise BadHead(400, "the target is no path")
    return version


def _length(fields: dict[bytes, list[bytes]], version: tuple[int, int], limits: Limits) -> int | None:
    lengths, codings = fields.get(b"content-length", []), fields.get(b"transfer-encoding", [])
    if codings:
        if lengths:
            raise BadHead(400, "a length beside a transfer coding")
        if version != (1, 1):
            raise BadHead(400, "a transfer coding in HTTP/1.0")
        if [each.lower() for each in codings] != [b"chunked"]:
            raise BadHead(501, "a transfer coding other than chunked")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not (lengths[0].isdigit() and len(lengths[0]) <= LENGTH_DIGITS):
        raise BadHead(400, "not one length")
    if int(lengths[0]) > limits.body_bytes:
        raise BadHead(413, f"a body of more than {limits.body_bytes} bytes")
    return int(lengths[0])


def begins_badly(data: bytes | bytearray) -> bool:
    """Whether a head that has not come to its end cannot become a good one: binary data, or a bare LF."""
    return not 0x21 <= data[0] <= 0x7E or _BARE_LF.search(data) is not None
