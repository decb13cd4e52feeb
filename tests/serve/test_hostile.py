"""Hostile clients of a whole `somactl serve`: its memory and descriptors are bounded, the log tells what was
refused, and a client that behaves is served all the while."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import resource
import socket
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from support import hasty_serve
from support.http2 import BEGUN, CALL, HEADERS, PING, SETTINGS, endless_headers, frame, streams_that_are_reset
from support.serve_process import WAIT_SECONDS, ServeProcess
from tests.cli.conftest import Shell, density

NIGHT = bool(os.environ.get("SOMACTL_TEST_NIGHT"))
IDLE, ROOM = (10_000, 1000) if NIGHT else (1000, 400)
"""Connections that say nothing, half as many of them over gRPC, and for how many there is room."""
PRUNER = "pruner-0123456789abcdef"
MORE_BYTES = 48 << 20
"""What the process may grow by. Each attack sends as much as it can, or waits with much unanswered."""
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
POST = (
    f"POST /v1/prune-orders?order_id=n-1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {PRUNER}\r\n".encode()
)
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    shell = Shell(tmp_path_factory.mktemp("hostile"))
    shell.save("a.npy", density(3))
    shell.ok("commit", "a=a.npy")
    tokens = shell.folder / "tokens"
    tokens.touch(0o600)
    tokens.write_text(f"manager-1 prune {PRUNER}\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options = ("--grpc", "127.0.0.1:0", "--max-connections", str(ROOM), "--tokens", str(tokens))
    with ServeProcess(shell.folder, *options, through=(sys.executable, hasty_serve.__file__)) as process:
        process.event("health", ok=True)
        yield process
        look_back(process)
        code, report = process.end()
        assert (code, report["cut_off"], report["prover_restarts"]) == (0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def look_back(process: ServeProcess) -> None:
    """All that was refused was counted and logged, none of it is a bug, and the log has no secret."""
    counted = set()
    for line in process.get("/metrics")[1].decode().splitlines():
        name, _, value = line.partition("} ")
        if name.startswith('somabrain_serve_refused_total{reason="') and float(value):
            counted.add(name.split('"')[1])
    assert counted == {line["kind"] for line in process.lines if line.get("event") == "refused"}
    assert not [line for line in process.lines if line.get("event") == "bug"]
    assert PRUNER.encode() not in process.raw
    assert json.loads(process.get("/healthz")[1])["ok"] is True


def resident(process: ServeProcess) -> int:
    """Bytes of memory that the parent holds."""
    return int(Path(f"/proc/{process.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors(process: ServeProcess) -> int:
    return len(os.listdir(f"/proc/{process.process.pid}/fd"))


class Observer:
    """Asks for health over new connections, from a thread of its own, and looks at what the process holds."""

    def __init__(self, process: ServeProcess) -> None:
        self._process = process
        self._port = process.port
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.took: list[float] = []
        self.statuses: set[int] = set()
        self.memory: list[int] = [resident(process)]
        self.descriptors: list[int] = [descriptors(process)]

    def __enter__(self) -> Observer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.02):
            began = time.monotonic()
            self.statuses.add(self._ask(began + WAIT_SECONDS))
            self.took.append(time.monotonic() - began)
            self.memory.append(resident(self._process))
            self.descriptors.append(descriptors(self._process))

    def _ask(self, until: float) -> int:
        """As a probe does, which comes again where its connection was closed for another."""
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WAIT_SECONDS)
            try:
                connection.request("GET", "/healthz")
                answer = connection.getresponse()
                answer.read()
                return answer.status
            except (ConnectionError, http.client.BadStatusLine):
                if time.monotonic() > until:
                    raise
            finally:
                connection.close()

    def check(self) -> None:
        assert len(self.took) > 3
        assert self.statuses == {200}
        assert statistics.quantiles(self.took, n=10)[-1] < 1.0, sorted(self.took)[-5:]
        assert max(self.memory) - self.memory[0] < MORE_BYTES
        assert max(self.descriptors) - self.descriptors[0] <= 4 * ROOM + 20


@contextlib.contextmanager
def observed(process: ServeProcess) -> Iterator[Observer]:
    with Observer(process) as observer:
        yield observer
    observer.check()


class Attacker:
    """One connection that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> bool:
        """False: the server has closed it."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            return False
        return not self._writer.transport.is_closing()

    async def rest(self) -> bytes:
        """What comes until the server closes it."""
        found = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(1 << 16):
                found += data[: (1 << 16) - len(found)]
        return bytes(found)

    async def status(self) -> int:
        """Of the only answer that came; 0: none, and the connection was closed."""
        answer = await self.rest()
        assert answer.count(b"HTTP/1.1 ") <= 1, answer
        return int(answer.split()[1]) if answer else 0


@contextlib.asynccontextmanager
async def attacker(port: int) -> AsyncIterator[Attacker]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    try:
        yield Attacker(reader, writer)
    finally:
        writer.transport.abort()


async def each(count: int, port: int, attack: Callable[[Attacker], Awaitable[int]]) -> list[int]:
    """What that many attackers at once were answered."""

    async def one() -> int:
        async with attacker(port) as client:
            return await attack(client)

    async with asyncio.timeout(4 * WAIT_SECONDS):
        return list(await asyncio.gather(*(one() for _ in range(count))))


async def slow_header(client: Attacker) -> int:
    """A byte now and then."""
    answer = asyncio.ensure_future(client.status())
    await client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ")
    while not answer.done():
        await client.send(b"y")
        await asyncio.wait({answer}, timeout=0.3)
    return await answer


async def slow_body(client: Attacker) -> int:
    """Almost all of what a body may have, and then nothing."""
    await client.send(POST + b"Content-Length: 300000\r\n\r\n" + b"x" * 299_000)
    return await client.status()


async def large_body(client: Attacker) -> int:
    await client.send(POST + b"Content-Length: 1000000000\r\n\r\n")
    return await client.status()


def flood(beginning: bytes, piece: bytes) -> Callable[[Attacker], Awaitable[int]]:
    async def attack(client: Attacker) -> int:
        answer = asyncio.ensure_future(client.status())
        going = await client.send(beginning)
        while going:  # for a second it goes on to be read, and dropped
            going = await client.send(piece)
        return await answer

    return attack


async def takes_nothing(client: Attacker) -> int:
    """Asks again and again for a page, and reads nothing."""
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 20
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while await client.send(asked):
                pass
    return 0


SLOW = {
    # how many, what they do, what they are answered, why they are refused
    "slow headers": (150, slow_header, {408}, "slow header"),
    "slow bodies": (60, slow_body, {408}, "slow body"),
    "takers of nothing": (40, takes_nothing, {0}, "pipelined"),
}
LARGE = {
    "a body that is told to be large": (20, large_body, {413}, "body"),
    "a header without an end": (4, flood(HEALTH[:-2], b"X: " + b"y" * 8000 + b"\r\n"), {0, 431}, "header"),
    "a field without an end": (4, flood(HEALTH[:-2] + b"X: ", b"y" * 8000), {0, 431}, "header"),
    "chunks without an end": (4, flood(CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"), {0, 413}, "body"),
    "a chunk without an end": (4, flood(CHUNKED + b"ffffffff\r\n", b"x" * 65536), {0, 413}, "body"),
}


@pytest.mark.parametrize("attacks", [SLOW, LARGE], ids=["slow", "large"])
async def test_clients_that_take_time_or_memory(serving: ServeProcess, attacks: dict[str, tuple]) -> None:
    with observed(serving):
        answers = await asyncio.gather(
            *(each(count, serving.port, attack) for count, attack, _, _ in attacks.values())
        )
    for found, (name, (_, _, expected, kind)) in zip(answers, attacks.items(), strict=True):
        assert set(found) <= expected, name
        assert serving.event("refused", kind=kind)["client"] == "127.0.0.1"
    assert await settled(serving) <= 20


async def settled(process: ServeProcess) -> int:
    """The connections that are left, once no more of them end."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (left := sockets(process)) > 20:
            await asyncio.sleep(0.1)
    return left


def sockets(process: ServeProcess) -> int:
    found = 0
    for name in os.listdir(f"/proc/{process.process.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/{process.process.pid}/fd/{name}").startswith("socket:")
    return found


SMUGGLED = b"GET /v1/rho/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
TWO_WAYS = {
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 46\r\n\r\n",
    "two lengths in one": POST + b"Content-Length: 0, 46\r\n\r\n",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and something": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks of another name": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n",
    "a folded line": POST + b"X: y\r\n Content-Length: 46\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 46\r\n\r\n",
    "a bare line feed": POST + b"X: y\nContent-Length: 46\r\n\r\n",
    "a bare carriage return": POST + b"X: y\rContent-Length: 46\r\n\r\n",
    "a signed length": POST + b"Content-Length: +46\r\n\r\n",
    "a NUL": POST + b"X: y\x00\r\nContent-Length: 46\r\n\r\n",
    "two hosts": POST + b"Host: b\r\n\r\n",
}


async def test_a_request_that_two_readers_understand_differently_is_refused(serving: ServeProcess) -> None:
    with observed(serving):
        for name, request in TWO_WAYS.items():
            async with attacker(serving.port) as client, asyncio.timeout(WAIT_SECONDS):
                await client.send(request + SMUGGLED)
                answer = await client.rest()
            assert answer.split()[1] in (b"400", b"501"), (name, answer)
            assert answer.count(b"HTTP/1.1 ") == 1, (name, answer)
        await asyncio.sleep(0.3)  # for the observer
    assert serving.event("refused", kind="malformed")["status"] == 400
    assert not [line for line in serving.lines if "smuggled" in str(line.get("path"))]


async def test_connections_that_say_nothing(serving: ServeProcess) -> None:
    """More than there is room for, on both faces: the oldest make room, and none costs much."""
    grpc = int(serving.event("serving")["grpc"].rpartition(":")[2])
    with observed(serving), contextlib.ExitStack() as stack:
        for number in range(IDLE):
            for port in (serving.port, grpc) if number % 2 else (serving.port,):
                idle = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                if number % 3 == 0:
                    idle.sendall(HEALTH[:20] if port != grpc else BEGUN[:20])
            if number % 50 == 0:
                await asyncio.sleep(0)
        assert sockets(serving) <= 4 * ROOM + 20
    assert serving.event("refused", kind="evicted")
    assert serving.event("refused", kind="grpc-silent")
    await settled(serving)


BAD_FRAMES = {
    "garbage": lambda: [b"\x00\xff" * 500],
    "a frame too large": lambda: [BEGUN + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 10],
    "headers that do not end": endless_headers,
    "a header of which the end does not come": lambda: [BEGUN + frame(HEADERS, 0, 1, CALL)],
    "streams that are reset": streams_that_are_reset,
    "pings": lambda: [BEGUN, *[frame(PING, 0, 0, b"12345678") * 1000] * 50],
    "settings": lambda: [BEGUN, *[frame(SETTINGS, 0, 0) * 1000] * 50],
}


async def test_frames_that_break_the_rules(serving: ServeProcess) -> None:
    grpc = int(serving.event("serving")["grpc"].rpartition(":")[2])

    async def attack(client: Attacker, parts: Iterator[bytes]) -> int:
        answer = asyncio.ensure_future(client.rest())
        for part in parts:
            if not await client.send(part):
                break
        await answer
        return 0

    with observed(serving):
        await asyncio.gather(
            *(each(5, grpc, lambda client, made=made: attack(client, made())) for made in BAD_FRAMES.values())
        )
    for kind in ("grpc-protocol", "grpc-frames"):
        assert serving.event("refused", kind=kind)["client"] == "127.0.0.1"
    await settled(serving)
