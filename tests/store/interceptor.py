"""Stands between a client and a real Redis, and answers one command of the conversation in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import hiredis

from servers.redis import RedisServer

Words = list[bytes]


class Interceptor:
    """Lets everything pass but the commands that `chosen` picks.

    In place of the reply to one of these the client gets `line`, an error without its minus sign; or, where
    that is empty, the connection is closed. With `carried_out` the server gets the command all the same;
    `before` is called first.
    """

    def __init__(self, server: RedisServer) -> None:
        self.chosen: Callable[[Words], bool] = lambda words: False
        self.line = ""
        self.carried_out = False
        self.before: Callable[[], object] = lambda: None
        self.replaces = True
        self.url = ""
        self._port = server.port
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Interceptor]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while head := await reader.readline():
                words, raw = await _words(reader, head)
                await self._answer(words, raw, writer, there_reader, there_writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            there_writer.close()

    async def _answer(
        self,
        words: Words,
        raw: bytes,
        writer: asyncio.StreamWriter,
        there_reader: asyncio.StreamReader,
        there_writer: asyncio.StreamWriter,
    ) -> None:
        chosen = self.chosen(words)
        reply = b""
        if chosen:
            self.before()
        if not chosen or self.carried_out:
            there_writer.write(raw)
            reply = await _reply(there_reader)
        if chosen and self.replaces:
            if not self.line:
                raise ConnectionResetError
            reply = f"-{self.line}\r\n".encode()
        writer.write(reply)


async def _words(reader: asyncio.StreamReader, head: bytes) -> tuple[Words, bytes]:
    raw, words = head, []
    for _ in range(int(head[1:])):
        size = await reader.readline()
        word = await reader.readexactly(int(size[1:]) + 2)
        raw += size + word
        words.append(word[:-2])
    return words, raw


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """The bytes of one reply, whatever it is."""
    parser, raw = hiredis.Reader(), b""
    while parser.gets() is False:
        piece = await reader.read(1 << 16)
        if not piece:
            raise ConnectionResetError
        raw += piece
        parser.feed(piece)
    return raw
