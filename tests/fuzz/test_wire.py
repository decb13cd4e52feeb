"""Damaged replies of a server end as errors of the tree, whichever operation they meet.

A proxy stands between a store and its real server and damages what the server sends. The seeds are fixed, but
how the bytes come in pieces is not, so the proxy says what it sent when something else comes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from fuzz.mutation import mutated
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.errors import SomactlError
from somactl.legacy.source.redis import RedisSource
from somactl.store.contract import Store
from somactl.store.postgres import PostgresStore
from somactl.store.redis import RedisStore
from somactl.testing.values import envelope, put, write

ROUNDS = 10_000 if os.environ.get("SOMACTL_TEST_NIGHT") else 30
"""Each makes a dozen calls; a night has 160,000 of each server."""
SECONDS = 0.2
RESP = (
    b"$-1\r\n", b"$-2\r\n", b"$2147483648\r\n", b"*-1\r\n", b"*2147483648\r\n", b"*0\r\n", b"*4294967295\r\n",
    b"+OK\r\n", b":0\r\n", b":-1\r\n", b":99999999999999999999\r\n", b"$0\r\n\r\n", b"-ERR x\r\n", b"-\r\n",
    b"-MOVED 1\r\n", b"-MOVED 1 h:x\r\n", b"-ASK\r\n", b"-\xff\xfe\r\n", b"_\r\n", b"%1\r\n", b"*1\r\n" * 50,
)  # fmt: skip
PG = (
    b"\0\0\0\x04", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"E\0\0\0\x05\0",
    b"E\0\0\0\x0aCXX\0\0", b"R\0\0\0\x08\0\0\0\x63", b"Z\0\0\0\x05I", b"D\0\0\0\x06\xff\xff",
    b"T\0\0\0\x06\xff\xff", b"N\0\0\0\x05\0", b"C\0\0\0\x05\0",
)  # fmt: skip


@dataclass
class Damaging:
    """What one connection after the other is sent through, and what became of it."""

    rng: random.Random
    words: tuple[bytes, ...]
    sent: list[bytes] = field(default_factory=list)
    quiet: bool = False

    def __call__(self, data: bytes) -> bytes:
        if not self.quiet and self.rng.random() < 0.15:
            data = mutated(data, self.rng, self.words)
        self.sent.append(data[:400])
        return data


@asynccontextmanager
async def proxied(url: str, damage: Damaging) -> AsyncIterator[str]:
    """A URL for the server at `url` whose replies are damaged on their way."""
    parts = urlsplit(url)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
            inner, outer = await asyncio.open_connection(parts.hostname, parts.port)
            back = asyncio.create_task(_copy(inner, writer, damage))
            try:
                await _copy(reader, outer, lambda data: data)
            finally:
                back.cancel()
                outer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login, at, _ = parts.netloc.rpartition("@")
    try:
        yield urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{port}"))
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[bytes], bytes]
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(change(data))
            await writer.drain()
        writer.close()


def calls(store: Store, round_: int) -> list[Callable[[], Awaitable[Any]]]:
    """What a round asks for, in an order of its own."""

    async def scan() -> None:
        async for _ in store.scan():
            pass

    return [
        store.head,
        lambda: put(store, "a", seed=round_),
        lambda: write(store, {"b": envelope("b", round_, namespace=store.namespace)}, commit_id=f"c{round_}"),
        lambda: store.read("a"),
        lambda: store.read_many(["a", "b", "absent"]),
        lambda: store.stat_many(["a", "b"]),
        scan,
        lambda: store.history("a"),
        store.log,
        lambda: store.commit_status(f"c{round_}", resolve=bool(round_ % 2)),
        lambda: store.read_notes(["n"]),
        lambda: store.write_notes({"n": b"1"}, {}),
        store.diagnose,
        store.summary,
        store.namespaces,
        store.clock,
    ]


async def _only_errors_of_the_tree(
    make: Callable[[str], Any],
    url: str,
    words: tuple[bytes, ...],
    seed: int,
    of: Callable[[Any, int], list[Any]],
) -> None:
    rng = random.Random(seed)
    damage = Damaging(rng, words)
    async with proxied(url, damage) as through:
        store = make(through)
        asked = of(store, seed)
        rng.shuffle(asked)
        for call in asked:
            damage.sent.clear()
            try:
                async with asyncio.timeout(30):
                    await call()
            except SomactlError as error:
                if error.exit_code == 1:
                    pytest.fail(f"seed {seed}: {error!r} after {damage.sent}")
            except Exception as error:
                pytest.fail(f"seed {seed}: {type(error).__name__}: {error} after {damage.sent}")
        damage.quiet = True
        with contextlib.suppress(SomactlError):
            await store.close()


@pytest.fixture(autouse=True, scope="module")
def nothing_left(redis_server: RedisServer) -> Iterator[None]:
    yield
    with redis_server.client() as raw:
        raw.flushall()


@pytest.mark.parametrize("tenth", range(10))
async def test_replies_of_redis(redis_server: RedisServer, tenth: int) -> None:
    store = RedisStore(redis_server.url, "fuzz")
    await store.init()
    await store.close()
    for seed in range(tenth, ROUNDS, 10):
        await _only_errors_of_the_tree(
            lambda url: RedisStore(url, "fuzz", timeout=SECONDS, connect_timeout=SECONDS),
            redis_server.url, RESP, seed, calls,
        )  # fmt: skip


@pytest.mark.parametrize("tenth", range(10))
async def test_replies_of_redis_as_a_source(redis_server: RedisServer, tenth: int) -> None:
    with redis_server.client() as raw:
        raw.set("fuzz:1", "[[0.5, 0], [0, 0.5]]")
        raw.hset("fuzz:2", "a", "b")

    def asked(source: RedisSource, seed: int) -> list[Callable[[], Awaitable[Any]]]:
        async def names() -> None:
            async for _ in source.names(None):
                pass

        return [names, lambda: source.fetch(["fuzz:1", "fuzz:2", "absent"]), names]

    for seed in range(tenth, ROUNDS, 10):
        await _only_errors_of_the_tree(
            lambda url: RedisSource(url, timeout=SECONDS, connect_timeout=SECONDS),
            redis_server.url, RESP, seed, asked,
        )  # fmt: skip


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database()


@pytest.mark.parametrize("tenth", range(10))
async def test_replies_of_postgres(database: str, tenth: int) -> None:
    store = PostgresStore(database, "fuzz")
    await store.init()
    await store.close()
    for seed in range(tenth, ROUNDS, 10):
        await _only_errors_of_the_tree(
            lambda url: PostgresStore(url, "fuzz", timeout=SECONDS, connect_timeout=SECONDS),
            database, PG, seed, calls,
        )  # fmt: skip
