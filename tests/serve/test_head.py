"""Heads of requests: what is one request for every reader, and what is refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given, strategies as st

from somactl.serve.context import Limits
from somactl.serve.head import BadHead, begins_badly, judge

LIMITS = Limits(header_fields=5, body_bytes=1000)
HOST = b"Host: a\r\n"


def head(fields: bytes = HOST, line: bytes = b"POST /x HTTP/1.1") -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


@pytest.mark.parametrize(
    ("given", "body"),
    [
        (head(), 0),
        (head(HOST + b"Content-Length: 12\r\n"), 12),
        (head(HOST + b"content-length:12 \r\n"), 12),
        (head(HOST + b"Transfer-Encoding: Chunked\r\n"), None),
        (head(b"", b"GET / HTTP/1.0"), 0),
        (head(line=b"GET http://a.example/x?y HTTP/1.1"), 0),
        (head(HOST + b"X: caf\xc3\xa9\r\n"), 0),
    ],
)
def test_where_a_request_ends(given: bytes, body: int | None) -> None:
    assert judge(given, LIMITS).body == body


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (head(HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
        (head(HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 400),
        (head(HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
        (head(HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n"), 400),
        (head(HOST + b"Content-Length: 5, 5\r\n"), 400),
        (head(HOST + b"Content-Length: +5\r\n"), 400),
        (head(HOST + b"Content-Length: -1\r\n"), 400),
        (head(HOST + b"Content-Length: 0x5\r\n"), 400),
        (head(HOST + b"Content-Length:\r\n"), 400),
        (head(HOST + b"Content-Length: 5 5\r\n"), 400),
        (head(HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n"), 400),
        (head(HOST + b"Content-Length: 1001\r\n"), 413),
        (head(HOST + b"Transfer-Encoding: chunked, chunked\r\n"), 501),
        (head(HOST + b"Transfer-Encoding: gzip\r\n"), 501),
        (head(HOST + b"Transfer-Encoding: xchunked\r\n"), 501),
        (head(HOST + b"Transfer-Encoding: \x0bchunked\r\n"), 400),
        (head(HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 501),
        (head(HOST + b"Transfer-Encoding: chunked\r\n", b"POST / HTTP/1.0"), 400),
        (head(HOST + b"Transfer-Encoding : chunked\r\n"), 400),
        (head(HOST + b"X: a\r\n Transfer-Encoding: chunked\r\n"), 400),
        (head(HOST + b"X: a\r\n\tb\r\n"), 400),
        (head(HOST + b"X: a\nContent-Length: 5\r\n"), 400),
        (head(HOST + b"X: a\rContent-Length: 5\r\n"), 400),
        (head(HOST + b"X: a\x00b\r\n"), 400),
        (head(HOST + b": empty\r\n"), 400),
        (head(HOST + b"no colon\r\n"), 400),
        (head(HOST + HOST), 400),
        (head(b""), 400),
        (head(HOST + b"A: 1\r\n" * 5), 431),
        (head(line=b"GET  / HTTP/1.1"), 400),
        (head(line=b"GET / HTTP/1.1 "), 400),
        (head(line=b"GET /"), 400),
        (head(line=b"GET /\xff HTTP/1.1"), 400),
        (head(line=b"GET x HTTP/1.1"), 400),
        (head(line=b"OPTIONS * HTTP/1.1"), 400),
        (head(line=b"GET ftp://a/ HTTP/1.1"), 400),
        (head(line=b"GET / HTTP/2.0"), 505),
        (head(line=b"PRI * HTTP/2.0"), 505),
        (head(line=b"GET / HTTP/1.9"), 505),
        (head(line=b"GET / http/1.1"), 400),
        (head(line=b"CONNECT a:443 HTTP/1.1"), 501),
        (head(line=b"get / HTTP/1.1"), 501),
    ],
)
def test_what_is_refused(given: bytes, status: int) -> None:
    with pytest.raises(BadHead) as refused:
        judge(given, LIMITS)
    assert refused.value.status == status


@given(st.binary(max_size=300))
@example(b"\r\n\r\n")
@example(b"")
def test_any_bytes_are_judged(data: bytes) -> None:
    with suppress(BadHead):
        judge(data, LIMITS)


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"GET / HTTP/1.1\nHost: a", b"\n", b" GET"])
def test_what_cannot_become_a_head(data: bytes) -> None:
    assert begins_badly(data)
    assert not begins_badly(b"GET / HTTP/1.1\r")
