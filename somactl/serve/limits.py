"""The limits on what clients may take, of time, bytes and connections: a protocol of uvicorn that keeps them.

uvicorn has no limit on the time, size or shape of a header. Here a request reaches its parser only when its
head has come in whole and was judged (`serve.head`), and no further than where that head says it ends.
"""

from __future__ import annotations

import asyncio
import collections
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from somactl.report.encoding import to_json
from somactl.serve.context import Limits
from somactl.serve.head import END, BadHead, begins_badly, judge

if TYPE_CHECKING:
    from somactl.serve.log import Log

LINGER_SECONDS = 1.0
"""How long what a refused client still sends is read and dropped: it would not see the answer otherwise."""
LEAST_BYTES = 16 * 1024
"""What a client must take of an answer in `write_seconds`, unless the rest is less."""


class Connection(Protocol):
    """What has a place among the connections."""

    def evict(self) -> None: ...
    def drain(self) -> None: ...


class Gate:
    """What all connections of a server share: how many there are, and which may be closed for another.

    refused   reason -> how often
    vacated   is set while there is no connection
    """

    def __init__(self, limits: Limits, log: Log) -> None:
        self.limits = limits
        self.log = log
        self.draining = False
        self.refused: collections.Counter[str] = collections.Counter()
        self.vacated = asyncio.Event()
        self.vacated.set()
        self._all: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # for a whole request; who has waited longest first

    def __len__(self) -> int:
        return len(self._all)

    @property
    def idle(self) -> int:
        """How many of them wait for a client."""
        return len(self._waiting)

    def admit(self, connection: Connection) -> bool:
        """Whether there is room, if need be that of another, whose request has not come in whole."""
        while len(self._all) >= self.limits.connections:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return False
            self.refuse("evicted", None, "too many connections")
            self.leave(oldest)
            oldest.evict()
        self._all.add(connection)
        self._waiting[connection] = None
        self.vacated.clear()
        return True

    def replace(self, old: Connection, new: Connection) -> bool:
        """Have the place of one be that of another, unless it has lost it."""
        if old not in self._all:
            return False
        self.leave(old)
        self._all.add(new)
        self._waiting[new] = None
        self.vacated.clear()
        return True

    def leave(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._waiting.pop(connection, None)
        if not self._all:
            self.vacated.set()

    def waits(self, connection: Connection) -> None:
        """It waits for a client from now on."""
        self._waiting.pop(connection, None)
        if connection in self._all:
            self._waiting[connection] = None

    def works(self, connection: Connection) -> None:
        """Its request is there: it is not closed for another."""
        self._waiting.pop(connection, None)

    def refuse(self, kind: str, client: str | None, why: str, status: int | None = None) -> None:
        """Count and log."""
        self.refused[kind] += 1
        self.log.limited("refused", kind, client=client, why=why, status=status)

    def connections(self) -> list[Connection]:
        return list(self._all)


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Head, body and answer each have their time; what breaks a rule is refused."""

    def __init__(self, gate: Gate, config: Config, state: ServerState) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self._gate = gate
        self._limits = gate.limits
        self._in = bytearray()  # came in, and was not parsed yet
        self._scanned = 0
        self._left: int | None = 0  # bytes of the body that the parser waits for; None: chunks
        self._reading = False  # a head was parsed whose body has not come in whole
        self._body = self._chunks = 0  # bytes, without and with what chunks have around them
        self._in_body = self._refusing = False
        self._last = False  # nothing is read behind this request
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tls: dict[str, Any] | None = None
        self._unsent = 0
        self._before: Connection | None = None

    # the connection

    def comes_from(self, before: Connection) -> None:
        """Have it take the place of another, which it goes on with."""
        self._before = before

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._tls = _tls_of(transport)
        if self._before is not None:
            if not self._gate.replace(self._before, self):
                self.transport.abort()
                return
        elif not self._gate.admit(self):
            self._refuse(503, "connections", "too many connections")
            self._close()
            return
        self._time("head", self._limits.header_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self._gate.leave(self)
        self._in.clear()
        super().connection_lost(exc)

    def evict(self) -> None:
        self.transport.abort()

    def drain(self) -> None:
        """Have the answer under way, if there is one, be its last."""
        if self._responding and self.cycle.keep_alive and not self.cycle.response_started:
            self._end_with_answer()

    def shutdown(self) -> None:
        """Close it, or have the answer under way be its last."""
        super().shutdown()
        if self.transport.is_closing():
            self._flush_or_abort()

    # what comes in

    def data_received(self, data: bytes) -> None:
        if self._refusing or self._last:
            return
        self._in += data
        self._advance()

    def _advance(self) -> None:
        """Parse what has come in, as far as one request at a time allows."""
        while self._in and not self._refusing and not self.transport.is_closing():
            if self._reading:
                if not self._parse(self._rest()):
                    return
            elif self._responding:
                self._hold_back()
                return
            elif not self._begin():
                return

    @property
    def _responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _rest(self) -> int:
        """How much of what came in belongs to the request that is read."""
        if self._left is not None:
            return min(self._left, len(self._in))
        self._chunks += len(self._in)
        return len(self._in)

    def _hold_back(self) -> None:
        """The client goes on before it was answered: it has to wait, and little of it is kept."""
        self.flow.pause_reading()
        if len(self._in) > self._limits.header_bytes:
            self._in.clear()
            self._last = True
            self._gate.refuse("pipelined", self._client, "too much behind a request")

    def _begin(self) -> bool:
        """Parse the next head, if it is there and good."""
        while self._in.startswith(b"\r\n"):
            del self._in[:2]
        if not self._in:
            return False
        self._unset_keepalive_if_required()
        if "head" not in self._timers:
            self._time("head", self._limits.header_seconds, self._head_is_late)
        end = self._in.find(END, max(0, self._scanned - len(END)))
        self._scanned = len(self._in)
        if (end if end >= 0 else len(self._in)) > self._limits.header_bytes:
            self._refuse(431, "header", f"a header of more than {self._limits.header_bytes} bytes")
            return False
        if end < 0:
            if begins_badly(self._in):
                self._refuse(400, "malformed", "no request of HTTP/1.1")
            return False
        return self._judged(end + len(END))

    def _judged(self, size: int) -> bool:
        try:
            framing = judge(bytes(self._in[:size]), self._limits)
        except BadHead as bad:
            self._refuse(bad.status, "body" if bad.status == 413 else "malformed", bad.why)
            return False
        self._scanned, self._left, self._body, self._chunks = 0, framing.body, 0, 0
        self._reading = True
        self._timely("head")
        if framing.body != 0:
            self._time("body", self._limits.body_seconds, self._body_is_late)
        else:
            self._gate.works(self)
        return self._parse(size)

    def _parse(self, size: int) -> bool:
        """Hand so many bytes to the parser. False: the connection ends."""
        data = bytes(self._in[:size])
        del self._in[:size]
        if self._chunks > 2 * self._limits.body_bytes + self._limits.header_bytes:
            self._refuse(413, "body", "more around the chunks of a body than in them")
            return False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last = True  # to nothing: it is answered, and closed
            self._end_with_answer()
        except httptools.HttpParserError:
            if not self._last:
                self._refuse(400, "malformed", "the request is malformed")
            return False
        return not self._refusing

    # what the parser tells

    def on_message_begin(self) -> None:
        if self._last:
            raise ValueError("nothing may stand behind chunks")
        super().on_message_begin()
        self._in_body = False
        if self._tls is not None:
            extensions: dict[str, dict[object, object]] = {"tls": dict(self._tls.items())}
            self.scope["extensions"] = extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # what stands behind chunks is no header
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_body = True
        # Where chunks end the parser alone knows: what stands behind them is never taken for a request.
        if self._gate.draining or self._left is None or not self.cycle.keep_alive:
            self._end_with_answer()

    def _end_with_answer(self) -> None:
        """Close it behind the answer, which says so: uvicorn itself did not always."""
        self.cycle.keep_alive = False
        self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def on_body(self, body: bytes) -> None:
        if self._left is not None:
            self._left -= len(body)
        self._body += len(body)
        if self._refusing:
            return
        if self._body > self._limits.body_bytes:
            self._refuse(413, "body", f"a body of more than {self._limits.body_bytes} bytes")
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reading = False
        self._timely("body")
        self._last |= self._left is None
        if self._responding:
            self._gate.works(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._gate.waits(self)
        if self._last and not self.transport.is_closing():
            self.transport.close()
        if self.transport.is_closing():
            self._flush_or_abort()
        elif not self._reading:
            self._advance()

    # what takes too long

    def _head_is_late(self) -> None:
        if self._in:
            self._refuse(408, "slow header", "the header took too long")
        else:
            self._gate.refuse("idle", self._client, "nothing was asked")
            self._close()

    def _body_is_late(self) -> None:
        self._refuse(408, "slow body", "the body took too long")

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._flush_or_abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._timely("write")

    def _flush_or_abort(self) -> None:
        """What is to be sent must be taken in time."""
        self._unsent = self.transport.get_write_buffer_size()
        self._time("write", self._limits.write_seconds, self._look_at_writing)

    def _look_at_writing(self) -> None:
        left = self.transport.get_write_buffer_size()
        if not left and not self.transport.is_closing():
            return
        if left > self._unsent - LEAST_BYTES:
            self._gate.refuse("slow reader", self._client, "the answer was not taken")
            self.transport.abort()
        else:
            self._flush_or_abort()

    # how it ends

    def _refuse(self, status: int, kind: str, why: str) -> None:
        """Answer, unless an answer is under way, and close as soon as the client can have seen it."""
        self._gate.refuse(kind, self._client, why, status)
        self._refusing = True
        self._gate.waits(self)
        self._in.clear()
        self._stop_timers()
        if self._responding:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._responding and self.cycle.response_started:
            self.transport.abort()
            return
        self.transport.write(_answer(status, why, self.server_state.default_headers))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._time("linger", LINGER_SECONDS, self._close)

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        self._flush_or_abort()

    @property
    def _client(self) -> str | None:
        return self.client[0] if self.client else None

    def _time(self, name: str, seconds: float, late: Any) -> None:
        self._timely(name)
        self._timers[name] = self.loop.call_later(seconds, self._ring, name, late)

    def _timely(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def _stop_timers(self) -> None:
        self._unset_keepalive_if_required()
        for name in list(self._timers):
            self._timely(name)

    def _ring(self, name: str, late: Any) -> None:
        self._timers.pop(name, None)
        late()


def _answer(status: int, why: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    title = HTTPStatus(status).phrase
    body = to_json({"type": "about:blank", "title": title, "status": status, "detail": why})
    lines = [b"HTTP/1.1 %d %s" % (status, title.encode())]
    lines += [name + b": " + value for name, value in headers]
    lines += [b"content-type: application/problem+json", b"content-length: %d" % len(body)]
    lines += [b"cache-control: no-store", b"connection: close"]
    if status == 503:
        lines.append(b"retry-after: 1")
    return b"\r\n".join(lines) + END + body


def _tls_of(transport: asyncio.BaseTransport) -> dict[str, Any] | None:
    """The certificate that the client has proven its own, if any; None: the connection is not encrypted."""
    if transport.get_extra_info("ssl_object") is None:
        return None
    return {"peercert": transport.get_extra_info("peercert") or None}
