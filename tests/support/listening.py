"""The HTTP listener of `somactl serve` in the test's own loop, and clients that write raw bytes to it."""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvloop
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from somactl.serve import http
from somactl.serve.context import Address, Limits, ServeContext, ServeOptions
from somactl.serve.listener import Listener, bind
from support.serving import FakeState, context

QUICK = Limits(
    header_bytes=2048,
    header_fields=20,
    header_seconds=0.3,
    body_bytes=10_000,
    body_seconds=0.3,
    idle_seconds=0.3,
    write_seconds=0.3,
    connections=50,
    requests=4,
)
"""Limits that a test can wait for."""
PATIENT = Limits(header_bytes=2048, header_fields=20, body_bytes=10_000, connections=50, requests=4)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
WAIT_SECONDS = 30.0


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test on the loop that `somactl serve` runs on."""

    @functools.wraps(test)
    def run(*given: Any, **named: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*given, **named))

    return run


async def _echo(request: Request) -> Response:
    body = await request.body()
    return JSONResponse(
        {"body": body.decode("latin-1"), "tls": request.scope.get("extensions", {}).get("tls")}
    )


async def _headers(request: Request) -> Response:
    return JSONResponse([[name, value] for name, value in request.headers.items()])


class Served:
    """A listener with its context, and what it has logged."""

    def __init__(self, context: ServeContext, listener: Listener, lines: list[bytes]) -> None:
        self.context = context
        self.listener = listener
        self.gate = listener.gate
        self.port = listener.addresses[0].port
        self._lines = lines
        self.clients: list[Client] = []
        self.held = asyncio.Event()
        """Set: requests for /hold are answered."""

    def logged(self) -> list[Any]:
        """All lines so far; the log ends with that."""
        self.context.log.close()
        return [json.loads(line) for line in self._lines]

    def refusals(self) -> list[str]:
        return [each["kind"] for each in self.logged() if each["event"] == "refused"]


@asynccontextmanager
async def served(
    limits: Limits = PATIENT,
    *,
    routes: Sequence[Route] = (),
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Served]:
    """The application with /echo, /headers, /large and /hold beside its own paths, on a free port."""
    lines: list[bytes] = []
    given = context(FakeState(), lines=lines, options=ServeOptions(limits=limits))

    async def hold(request: Request) -> Response:
        await found.held.wait()
        return JSONResponse({"held": True})

    async def large(request: Request) -> Response:
        return Response(b"x" * 50_000_000)

    own = [
        Route("/echo", _echo, methods=["GET", "POST"]),
        Route("/headers", _headers, methods=["GET", "POST"]),
        Route("/hold", hold),
        Route("/large", large),
    ]
    listener = Listener(http.app(given, [*own, *routes]), limits, given.log)
    listener.tls = tls
    await listener.start([bind(Address("127.0.0.1", 0))])
    found = Served(given, listener, lines)
    try:
        yield found
    finally:
        await listener.stop(0.0)
        for client in found.clients:
            await client.close()
        given.log.close()


class Client:
    """One connection, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, served: Served, **options: Any) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", served.port, **options))
        served.clients.append(client)
        return client

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        async with asyncio.timeout(WAIT_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
            return int(first.split()[1]), headers, body

    async def ended(self) -> bytes:
        """What still comes until the server closes the connection."""
        async with asyncio.timeout(WAIT_SECONDS):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def close(self) -> None:
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()


async def ask(served: Served, request: bytes = HEALTH) -> tuple[int, dict[str, str], bytes]:
    """One request over a connection of its own."""
    client = await Client.of(served)
    client.send(request)
    try:
        return await client.answer()
    finally:
        await client.close()
