"""Frames of HTTP/2 as a client writes that keeps to no rule."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from somactl.serve.rpc.frames import PREFACE

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_HEADERS, ACK = 4, 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header as HPACK writes it without its tables (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


CALL = b"".join(
    [
        literal(b":method", b"POST"),
        literal(b":scheme", b"http"),
        literal(b":path", b"/grpc.health.v1.Health/Check"),
        literal(b":authority", b"a"),
        literal(b"te", b"trailers"),
        literal(b"content-type", b"application/grpc"),
    ]
)
BEGUN = PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0)
MANY = 50_000
"""What a client that floods sends of a kind, at most: it is ended long before."""


def endless_headers() -> Iterator[bytes]:
    yield BEGUN + frame(HEADERS, 0, 1, CALL)
    for _ in range(MANY // 50):
        yield frame(CONTINUATION, 0, 1, literal(b"a", b"v" * 120)) * 50


def streams_that_are_reset() -> Iterator[bytes]:
    yield BEGUN
    for stream in range(1, MANY, 2):
        yield frame(HEADERS, END_HEADERS, stream, CALL) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
