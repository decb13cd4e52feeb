"""Takes the connections of gRPC clients, looks at how they begin, and passes them on to the library.

The library closes what is no HTTP/2, what breaks its rules and what comes too often, without a word; it takes
no socket that is bound already, and a connection that says nothing costs it as much as one that works. So it
listens on a socket of this process alone, and what comes from the network passes here: counted, bounded, with
a line of log for what is refused, and bytes passed on as they are, TLS or not.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import socket
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, cast

from somactl.serve.context import Address, Limits
from somactl.serve.listener import KEPT_BACK, address_of, bind
from somactl.serve.log import Log
from somactl.serve.rpc.frames import GoAway, Rules, begins_well

MAX_WAITING_BYTES = 64 * 1024
"""What one side may send while the other does not take it."""
DESCRIPTORS = 3
"""Of one connection: the client's, and both ends of the one inside."""
FEWEST = 16
"""Connections that there are always; they come out of those that are kept back."""


class Inside:
    """The socket on which the library listens, for this process, and names for the connections to it.

    On Linux names are in the abstract namespace, which needs no file system that can be written.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._name = f"somactl-{os.getpid()}-{secrets.token_hex(8)}"
        self._count = 0
        self._abstract = hasattr(socket, "SO_PEERSEC")  # Linux
        if not self._abstract:
            self._folder = tempfile.TemporaryDirectory(prefix="somactl-")

    @property
    def target(self) -> str:
        """As gRPC writes it."""
        return self._written(self._name)

    def _written(self, name: str) -> str:
        return f"unix-abstract:{name}" if self._abstract else f"unix:{self._path(name)}"

    def _path(self, name: str) -> str:
        assert self._folder is not None
        return str(Path(self._folder.name, name))

    def connection(self) -> tuple[socket.socket, str]:
        """A socket that is about to connect, and what gRPC will call its peer."""
        self._count += 1
        name = f"{self._name}-{self._count}"
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own.setblocking(False)
        own.bind(f"\0{name}" if self._abstract else self._path(name))
        return own, self._written(name)

    @property
    def address(self) -> str:
        return f"\0{self._name}" if self._abstract else self._path(self._name)

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def room(limits: Limits) -> int:
    """How many connections there can be beside those over HTTP: each takes three descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = limits.connections + KEPT_BACK
    wanted = others + DESCRIPTORS * limits.connections
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(limits.connections, max(FEWEST, (soft - others) // DESCRIPTORS))


class Relay:
    """Listens for clients.

    refused kind -> how many connections were
    peers   their addresses, by the name that the library has for a connection
    silent  the connections that have not begun yet, oldest first: they make room for new ones
    """

    def __init__(self, limits: Limits, log: Log, refused: Counter[str], *, encrypted: bool) -> None:
        self.limits = limits
        self.refused = refused
        self.room = room(limits)
        self.log = log
        self.encrypted = encrypted
        self.inside = Inside()
        self.peers: dict[str, str] = {}
        self.connections: dict[Outer, None] = {}
        self.silent: dict[Outer, None] = {}
        self.is_stopping = False
        self._server: asyncio.Server | None = None

    async def listen(self, address: Address, listening: socket.socket | None = None) -> Address:
        """The address with its port. Raises ConfigurationError."""
        own = bind(address) if listening is None else listening
        self._server = await asyncio.get_running_loop().create_server(lambda: Outer(self), sock=own)
        bound = address_of(own)
        return address._replace(port=bound.port) if listening is None else bound

    def stop_listening(self) -> None:
        self.is_stopping = True
        if self._server is not None:
            self._server.close()

    def close(self) -> None:
        self.stop_listening()
        for each in list(self.connections):
            each.abort()
        self.inside.close()

    def has_room(self) -> bool:
        """Whether one more connection may be taken; of those that say nothing the oldest makes room."""
        if len(self.connections) < self.room:
            return True
        oldest = next(iter(self.silent), None)
        if oldest is None:
            return False
        self.refuse("silent", "it says nothing, and another needs the room", oldest.client)
        oldest.abort()
        return True

    def refuse(self, kind: str, why: str, client: str, **facts: Any) -> None:
        if not self.is_stopping:
            self.refused[f"grpc-{kind}"] += 1
            self.log.limited("refused", f"grpc-{kind}", why=why, client=client, **facts)


class _Side(asyncio.Protocol):
    """One of the two ends of a connection; what it cannot take, the other one is not asked for."""

    transport: asyncio.Transport | None = None
    other: _Side | None = None

    def pause_writing(self) -> None:
        if (source := self._source()) is not None:
            source.pause_reading()

    def resume_writing(self) -> None:
        if (source := self._source()) is not None:
            source.resume_reading()

    def _source(self) -> asyncio.Transport | None:
        """Where what is written here comes from, as long as that is open."""
        source = None if self.other is None else self.other.transport
        return None if source is None or source.is_closing() else source

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # which those of uvloop only look like
        self.transport.set_write_buffer_limits(MAX_WAITING_BYTES)


class Outer(_Side):
    """That of the client."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.client = ""
        self._began: bytes | None = b""  # None: it began well, and is passed on
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._rules = Rules(relay.limits.header_bytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else ""
        relay = self.relay
        if not relay.has_room():
            relay.refuse("connections", "too many connections", self.client)
            self.abort()
            return
        relay.connections[self] = relay.silent[self] = None
        self._wait(relay.limits.header_seconds, "it says nothing", "silent")

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self._pass_on(data)
            return
        assert self._began is not None
        self._began += data
        well = begins_well(self._began, encrypted=self.relay.encrypted)
        if well is False:
            self.turn_away("TLS" if self.relay.encrypted else "HTTP/2 in plain text")
        elif well and self._connecting is None:
            assert self.transport is not None
            self.transport.pause_reading()
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def turn_away(self, expected: str) -> None:
        self.relay.refuse("protocol", f"it does not begin as {expected} does", self.client)
        self.abort()

    async def _connect(self) -> None:
        own, name = self.relay.inside.connection()
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(own, self.relay.inside.address)
            self.relay.peers[name] = self.client
            await loop.create_unix_connection(lambda: Inner(self, name), sock=own)
        except OSError as exc:
            own.close()
            self.relay.peers.pop(name, None)
            self.relay.refuse("connections", f"the server does not take it: {exc.strerror}", self.client)
            self.abort()

    def joined(self, inner: Inner) -> None:
        """What has come until now goes on, and what comes goes straight."""
        assert self.transport is not None
        assert inner.transport is not None
        if self.transport.is_closing():
            inner.transport.abort()
            return
        self._stop_waiting()
        self.other, began, self._began = inner, self._began, None
        self._pass_on(began or b"")
        self.transport.resume_reading()

    def _pass_on(self, data: bytes) -> None:
        assert self.other is not None
        assert self.other.transport is not None
        if not self.relay.encrypted:
            self._rules.feed(data)
            if self._rules.broken is not None:
                self.relay.refuse("frames", self._rules.broken, self.client)
                self.abort()
                return
            self._bound_header()
        self.other.transport.write(data)

    def _bound_header(self) -> None:
        """A header has so many seconds, however it is cut."""
        if self._rules.header and self._timer is None:
            self._wait(self.relay.limits.header_seconds, "a header that does not end", "frames")
        elif not self._rules.header:
            self._stop_waiting()

    def inner_lost(self, why: str | None) -> None:
        """The library has closed it; what it has sent before may still leave, in so many seconds."""
        if self.transport is None or self.transport.is_closing():
            return
        if why is not None:
            self.relay.refuse("frames", why, self.client)
        self.transport.close()
        self._timer = asyncio.get_running_loop().call_later(self.relay.limits.write_seconds, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def abort(self) -> None:
        self._forget()
        if self.transport is not None:
            self.transport.abort()

    def _wait(self, seconds: float, why: str, kind: str) -> None:
        def over() -> None:
            self.relay.refuse(kind, why, self.client)
            self.abort()

        self._timer = asyncio.get_running_loop().call_later(seconds, over)

    def _stop_waiting(self) -> None:
        self.relay.silent.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        self._stop_waiting()
        self.relay.connections.pop(self, None)


class Inner(_Side):
    """That of the library."""

    def __init__(self, outer: Outer, name: str) -> None:
        self._outer = outer
        self._name = name
        self._began = asyncio.get_running_loop().time()
        self._goaway = GoAway()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.other = self._outer
        self._outer.joined(self)

    def data_received(self, data: bytes) -> None:
        if not self._outer.relay.encrypted:
            self._goaway.feed(data)
        assert self._outer.transport is not None
        self._outer.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._outer.relay.peers.pop(self._name, None)
        self._outer.inner_lost(self._why())

    def _why(self) -> str | None:
        """What the library had against the connection; None: it ended in order, as an old one does."""
        limits, code = self._outer.relay.limits, self._goaway.code
        if self._outer.relay.encrypted:
            lasted = asyncio.get_running_loop().time() - self._began
            return "no handshake, or bad frames" if lasted < limits.header_seconds + 1 else None
        if code == 0:
            return None
        return f"HTTP/2 error {code}: {self._goaway.said}" if code else "bad frames"
