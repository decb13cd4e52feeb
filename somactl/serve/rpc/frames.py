"""What a relay can tell of HTTP/2 in plain text: how a connection begins, what a client may not send, and the
error with which a server ends it.

RFC 9113: the preface in 3.4, frames in 4.1, their types in 6, error codes in 7. The library bounds streams,
frames, pings and what it keeps of headers; it takes headers that never end, and streams that are opened and
reset without a pause.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TLS_HANDSHAKE = b"\x16\x03"  # RFC 8446, 5.1
CONTROL_BURST, CONTROL_RATE = 1000, 33.0
"""Frames that ask for nothing but work: so many at once, so many a second for long (as nghttp2 has it)."""
_HEADER = 9
_HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _CONTINUATION = 1, 2, 3, 4, 6, 7, 9
_CONTROL = {
    _PRIORITY: "PRIORITY",
    _RST_STREAM: "RST_STREAM",
    _SETTINGS: "SETTINGS",
    _PING: "PING",
}
_END_HEADERS = 4
_MOST = 8 + 100
"""Bytes of a GOAWAY that are kept: the last stream, the code, and a part of what it says."""


class _Frames:
    """Follows the frames of one direction, however they are cut."""

    def __init__(self, skip: int = 0) -> None:
        self._head = bytearray()
        self._left = skip
        self._kept: bytearray | None = None

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._left:
                at += self._skip(data, at)
                continue
            need = _HEADER - len(self._head)
            self._head += data[at : at + need]
            at += need
            if len(self._head) == _HEADER:
                length, kind, flags = int.from_bytes(self._head[:3]), self._head[3], self._head[4]
                self._head.clear()
                self._left = length
                self._kept = bytearray() if kind == _GOAWAY else None
                self._frame(kind, flags, length)

    def _skip(self, data: bytes, at: int) -> int:
        taken = min(self._left, len(data) - at)
        self._left -= taken
        if self._kept is not None:
            self._kept += data[at : at + min(taken, _MOST - len(self._kept))]
            if not self._left:
                self._goaway(self._kept)
        return taken

    def _frame(self, kind: int, flags: int, length: int) -> None:
        """A frame begins."""

    def _goaway(self, payload: bytearray) -> None:
        """A GOAWAY has ended."""


class GoAway(_Frames):
    """What a server sends: the last GOAWAY is kept.

    code  its error code; 0: a connection that ends in order; None: there was none
    said  what it says beside, as far as that is printable ASCII
    """

    def __init__(self) -> None:
        super().__init__()
        self.code: int | None = None
        self.said = ""

    def _goaway(self, payload: bytearray) -> None:
        if len(payload) >= 8:
            self.code = int.from_bytes(payload[4:8])
            self.said = "".join(chr(each) if 32 <= each < 127 else "?" for each in payload[8:])


class Rules(_Frames):
    """What a client sends, from the preface on.

    broken  what it did that no client needs to; None: nothing
    header  a header has begun, and has not ended
    """

    def __init__(self, header_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(skip=len(PREFACE))
        self.broken: str | None = None
        self.header = False
        self._most = 4 * header_bytes
        """Bytes of one header: packed names and values have fewer than they come to, and frames add some."""
        self._header_bytes = 0
        self._clock = clock
        self._tokens, self._at = float(CONTROL_BURST), clock()

    def _frame(self, kind: int, flags: int, length: int) -> None:
        if kind in (_HEADERS, _CONTINUATION):
            self._header_bytes = length + _HEADER + (self._header_bytes if kind == _CONTINUATION else 0)
            self.header = not flags & _END_HEADERS
            if self._header_bytes > self._most:
                self.broken = "a header that does not end"
        elif kind in _CONTROL:
            self._control(_CONTROL[kind])

    def _control(self, name: str) -> None:
        now = self._clock()
        self._tokens = min(CONTROL_BURST, self._tokens + CONTROL_RATE * (now - self._at)) - 1
        self._at = now
        if self._tokens < 0:
            self.broken = f"too many frames that ask for nothing, {name} the last"


def begins_well(data: bytes, *, encrypted: bool) -> bool | None:
    """Whether a connection that begins so may be one of gRPC; None: not enough has come to tell."""
    expected = TLS_HANDSHAKE if encrypted else PREFACE
    if not expected.startswith(data[: len(expected)]):
        return False
    return True if len(data) >= len(expected) else None
