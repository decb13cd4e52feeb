"""A Redis that sends what no Redis sends: it ends as an error of the tree, and is not buffered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from somactl.errors import SomactlError
from somactl.store.redis import RedisStore
from somactl.store.redis.connection import CONNECT_BYTES, TALK_BYTES
from somactl.store.redis.failures import ERROR_CHARACTERS

READ_AHEAD = 4 << 20


@asynccontextmanager
async def stub(answer: bytes, *, after: int = 0, endless: bool = False) -> AsyncIterator[Callable[[], int]]:
    """A server that answers OK `after` times, then `answer`; gives its port, and counts what it sent."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            for _ in range(after):
                await reader.read(1 << 16)
                writer.write(b"+OK\r\n" * 8)
            await reader.read(1 << 16)
            while True:
                writer.write(answer)
                sent += len(answer)
                await writer.drain()
                if not endless:
                    break
            await reader.read()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def count() -> int:
        return sent

    count.port = port  # type: ignore[attr-defined]
    try:
        yield count
    finally:
        server.close()


async def _ask(port: int, login: str = "", seconds: float = 0.5) -> SomactlError:
    store = RedisStore(f"redis://{login}127.0.0.1:{port}", timeout=seconds, connect_timeout=seconds)
    try:
        with pytest.raises(SomactlError) as caught:
            await store.head()
    finally:
        await store.close()
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        b"-ERR what is this\r\n",
        b"-WHAT\r\n",
        b"-\r\n",
        b"-\xff\xfe\r\n",
        b"-MOVED\r\n",
        b"$2147483648\r\n",
        b"$-2\r\n",
        b"*-2\r\n",
        b"*4294967295\r\n",
        b":99999999999999999999\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
@pytest.mark.parametrize("login", ["", ":secret@"])
async def test_an_answer_at_connect_is_an_error_of_the_tree(answer: bytes, login: str) -> None:
    async with stub(answer) as server:
        error = await _ask(server.port, login)  # type: ignore[attr-defined]
    assert error.exit_code in (10, 13)
    assert "secret" not in str(error)


@pytest.mark.parametrize("answer", [b"$600000000\r\n" + b"x" * 65536, b"-ERR " + b"x" * 65536, b"x" * 65536])
async def test_a_stream_without_end_is_cut_off(answer: bytes) -> None:
    async with stub(answer, endless=True) as server:
        error = await _ask(server.port, ":secret@", 20.0)  # type: ignore[attr-defined]
    assert len(error.message) < ERROR_CHARACTERS + 300
    assert server() <= CONNECT_BYTES + READ_AHEAD + TALK_BYTES // 8
