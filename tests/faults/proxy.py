"""A TCP proxy that fails on purpose, at the very byte that a test names."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self

Direction = Literal["sent", "received"]
"""As the client sees it: to the server, or from it."""
How = Literal["close", "reset", "freeze", "swallow"]
_PIECE = 1 << 16


@dataclass(eq=False)
class _Pair:
    """One connection of a client, and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    frozen: bool = False
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def close(self, *, reset: bool = False) -> None:
        for writer in (self.client, self.server):
            if reset:
                raw: socket.socket = writer.get_extra_info("socket")
                with suppress(OSError):  # the other side was faster
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Forwards every connection to `host`:`port`, until told to fail.

    `sent` and `received` hold what was forwarded since the last `forget`, over all connections; `offered` all
    that clients sent, whether or not it was forwarded.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = host, port
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._cut: tuple[Direction, int | bytes, How] | None = None
        self._frozen = False
        self._thawed = asyncio.Event()
        self.port = 0
        self.connections = 0
        self.dropped = False
        """Set by `drop`, for a test to notice."""
        self.sent = bytearray()
        self.received = bytearray()
        self.offered = bytearray()
        self.happened = asyncio.Event()
        """Set once what `cut` demanded was done."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        for pair in self._pairs:
            for pump in pair.pumps:
                pump.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    def forget(self) -> None:
        """Forward everything from now on, on connections that did not fail, and count from 0."""
        for count in (self.sent, self.received, self.offered):
            count.clear()
        self._cut = None
        self._frozen = False
        self.connections = 0
        self.happened.clear()

    def cut(self, direction: Direction, place: int | bytes, how: How = "close") -> None:
        """Once so many more bytes were forwarded in that direction, fail the connection of the next one; or,
        before anything is forwarded that was read together with those bytes, fail theirs.

        close     both sides see an orderly end
        reset     both sides see a broken connection
        freeze    nothing is forwarded any more, either way, and the connection stays open, until `thaw`
        swallow   what comes in that direction is taken and never delivered; the other goes on
        """
        self.forget()
        self._cut = direction, place, how

    def freeze(self) -> None:
        """From now on no connection, old or new, delivers anything. New ones are accepted all the same."""
        self._frozen = True

    def thaw(self) -> None:
        """Deliver, late, what frozen connections hold; a client that has gone meanwhile is gone then."""
        self._frozen = False
        for pair in self._pairs:
            pair.frozen = False
        self._thawed.set()
        self._thawed = asyncio.Event()

    async def quiet(self) -> None:
        """Return when all connections there were have ended on both sides."""
        await asyncio.gather(*self._handlers)

    def drop(self, how: Literal["close", "reset"] = "close") -> None:
        """End all connections there are, whatever they are doing."""
        self.dropped = True
        for pair in list(self._pairs):
            pair.close(reset=how == "reset")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        own = asyncio.current_task()
        assert own is not None
        self._handlers.add(own)
        own.add_done_callback(self._handlers.discard)
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        for each in (writer, to_server):
            each.transport.set_write_buffer_limits(0)  # `drain` then waits until all is on its way
        pair = _Pair(writer, to_server)
        pair.pumps = [
            asyncio.create_task(self._pump(pair, reader, to_server, "sent")),
            asyncio.create_task(self._pump(pair, from_server, writer, "received")),
        ]
        self._pairs.add(pair)
        try:
            await asyncio.wait(pair.pumps)
        finally:
            pair.close()
            self._pairs.discard(pair)
            for each in (writer, to_server):
                with suppress(OSError):
                    await each.wait_closed()

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        count: bytearray = self.sent if direction == "sent" else self.received
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                if direction == "sent":
                    self.offered += data
                await self._flowing(pair)
                cut = self._cut
                room = _room(cut[1], count, data) if cut and cut[0] == direction else None
                if cut is None or room is None:
                    count += data
                    writer.write(data)
                    await writer.drain()
                    continue
                count += data[:room]
                writer.write(data[:room])
                await writer.drain()
                self._cut = None
                self.happened.set()
                if cut[2] != "freeze":
                    await self._fail(pair, reader, cut[2])
                    break
                pair.frozen = True
                await self._flowing(pair)
                count += data[room:]
                writer.write(data[room:])
            else:
                if direction == "sent":  # the server may still have something to do, and to say
                    writer.write_eof()
                    return
        pair.close()

    async def _fail(self, pair: _Pair, reader: asyncio.StreamReader, how: How) -> None:
        if how == "swallow":
            while await reader.read(_PIECE):
                pass
        elif how == "reset":
            pair.close(reset=True)

    async def _flowing(self, pair: _Pair) -> None:
        """Return at once, or when whatever is frozen has thawed."""
        while self._frozen or pair.frozen:
            await self._thawed.wait()


def _room(place: int | bytes, count: bytearray, data: bytes) -> int | None:
    """How much of `data` may pass before the cut; None where the cut is not here."""
    if isinstance(place, bytes):
        return 0 if place in data else None
    return place - len(count) if len(count) + len(data) > place else None
