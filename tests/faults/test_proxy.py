"""The proxy of the fault tests cuts where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from faults.proxy import Direction, Proxy


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """Before a server that answers every byte by the same byte."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # broken on purpose
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


async def answer(proxy: Proxy, data: bytes, seconds: float = 5.0) -> bytes:
    """What comes back until the end of the connection, or for so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    found = b""
    try:
        writer.write(data)
        async with asyncio.timeout(seconds):
            while len(found) < len(data) and (piece := await reader.read(100)):
                found += piece
    except TimeoutError:
        return found + b"..."
    finally:
        writer.close()
    return found


async def test_without_a_cut_everything_passes(proxy: Proxy) -> None:
    assert await answer(proxy, b"0123456789") == b"0123456789"
    assert proxy.sent == proxy.received == proxy.offered == b"0123456789"
    assert proxy.connections == 1


@pytest.mark.parametrize("direction", ["sent", "received"])
@pytest.mark.parametrize("after", [0, 1, 9])
async def test_a_connection_is_closed_after_just_so_many_bytes(
    proxy: Proxy, direction: Direction, after: int
) -> None:
    proxy.cut(direction, after)
    found = await answer(proxy, b"0123456789")
    assert b"0123456789".startswith(found)
    assert (proxy.sent if direction == "sent" else proxy.received) == b"0123456789"[:after]
    assert proxy.happened.is_set()
    proxy.forget()
    assert await answer(proxy, b"0123456789") == b"0123456789"


async def test_a_reset_breaks_the_connection(proxy: Proxy) -> None:
    proxy.cut("received", 0, "reset")
    with pytest.raises(ConnectionResetError):
        await answer(proxy, b"0123456789")


@pytest.mark.parametrize("how", ["freeze", "swallow"])
async def test_a_half_open_connection_stays_open_and_silent(proxy: Proxy, how: str) -> None:
    proxy.cut("received", 4, "freeze" if how == "freeze" else "swallow")
    assert await answer(proxy, b"0123456789", 0.2) == b"0123..."


async def test_a_frozen_proxy_delivers_nothing(proxy: Proxy) -> None:
    proxy.freeze()
    assert await answer(proxy, b"0123456789", 0.2) == b"..."
    assert proxy.sent == b""


async def test_what_was_frozen_arrives_when_it_thaws(proxy: Proxy) -> None:
    proxy.cut("sent", 4, "freeze")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"0123456789")
    await proxy.happened.wait()
    assert proxy.received == b""
    proxy.thaw()
    assert await reader.readexactly(10) == b"0123456789"
    writer.close()
    await proxy.quiet()


async def test_dropping_ends_what_is_open(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"0")
    assert await reader.readexactly(1) == b"0"
    proxy.drop()
    assert await reader.read() == b""
    writer.close()
