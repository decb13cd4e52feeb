"""Clients that ask a service at a steady rate over both faces, whatever it answers; and what it costs it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.soak_judge import Answer

ANSWER_SECONDS = 30.0
"""A request that is not answered by then is lost."""
FRESH_SECONDS = 0.1
"""What is sent so soon after a connection began, or after its last answer, is waited for by a server that
is about to end (QUIET_SECONDS of the listener); later a client has to try again on another connection."""
BEHIND_SECONDS = 1.0
"""A client that is so late does not make up for it."""


class _Rho(msgspec.Struct):
    oldest_seconds: float | None = None


class _Prover(msgspec.Struct):
    round_seconds: float | None = None
    state: str = ""
    restarts: int = 0


class _Reason(msgspec.Struct):
    cause: str
    service: str | None = None


class Health(msgspec.Struct):
    """What a client looks at in the answer of /healthz."""

    ok: bool
    degraded: bool
    rho: _Rho
    prover: _Prover
    reasons: list[_Reason]


_health = msgspec.json.Decoder(Health).decode


class Gone(Exception):
    """The connection was closed before anything was answered, when that may be."""


class Load:
    """Clients of one service. `answers` is what they were told since it was emptied last; `health` the last
    answer of /healthz.

    ending  from then on a connection may be refused: the service was told to end, and nothing follows it
    """

    def __init__(self, http: int, grpc_port: int | None, token: str, key: str) -> None:
        self.http, self.grpc = http, grpc_port
        self.answers: list[Answer] = []
        self.health: Health | None = None
        self.sent = 0
        self.ending = False
        self._read = (
            f"GET /v1/rho/{key} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, rate: float) -> None:
        """Begin: of five requests three are about health, one reads a value, one goes over gRPC."""
        health = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        clients: list[Callable[[], Any]] = [lambda: _Client(self, "health", health)] * 6
        clients += [lambda: _Client(self, "read", self._read)] * 2
        if self.grpc is not None:
            clients += [lambda: _Checks(self)] * 2
        for number, client in enumerate(clients):
            first = number / rate
            self._tasks.append(asyncio.create_task(self._ask(client(), len(clients) / rate, first)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in ended:
            if isinstance(each, BaseException) and not isinstance(each, asyncio.CancelledError):
                raise each

    async def _ask(self, client: Any, every: float, first: float) -> None:
        due = time.monotonic() + first
        async with contextlib.aclosing(client):
            while True:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due = max(due + every, time.monotonic() - BEHIND_SECONDS)
                self.sent += 1
                found = await client.ask()
                if found is not None:
                    self.answers.append(found)


class _Client:
    """One that keeps its connection for as long as the server does."""

    def __init__(self, load: Load, kind: str, request: bytes) -> None:
        self._load, self._kind, self._request = load, kind, request
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    async def aclose(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def ask(self) -> Answer | None:
        """None where the service is gone, which it may be."""
        asked = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status, body = await self._exchange()
                break
            except Gone:
                continue
            except ConnectionRefusedError:
                if self._load.ending:
                    return None
                return Answer(self._kind, asked, time.monotonic(), "refused")
            except (OSError, EOFError, TimeoutError):
                await self.aclose()
                return Answer(self._kind, asked, time.monotonic(), "lost")
        return self._answer(asked, status, body)

    def _answer(self, asked: float, status: int, body: bytes) -> Answer:
        if self._kind != "health" or status not in (200, 503):
            return Answer(self._kind, asked, time.monotonic(), status)
        health = self._load.health = _health(body)
        good = (status == 200) and health.ok
        if good != (status == 200):
            return Answer(self._kind, asked, time.monotonic(), "contradicting")
        return Answer(
            self._kind,
            asked,
            time.monotonic(),
            status,
            green=good,
            oldest=health.rho.oldest_seconds,
            round=health.prover.round_seconds,
        )

    async def _exchange(self) -> tuple[int, bytes]:
        """Raises Gone, OSError, EOFError (IncompleteReadError is one)."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._load.http)
            self._used = time.monotonic()
        reader, writer = self._streams
        fresh = time.monotonic() - self._used < FRESH_SECONDS
        try:
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            await self.aclose()
            began = isinstance(exc, asyncio.IncompleteReadError) and exc.partial
            if fresh or began:
                raise EOFError from exc
            raise Gone from exc
        lines = head.lower().split(b"\r\n")
        fields = dict(line.partition(b":")[::2] for line in lines[1:])
        body = await reader.readexactly(int(fields[b"content-length"]))
        self._used = time.monotonic()
        if b"close" in fields.get(b"connection", b""):
            await self.aclose()
        return int(lines[0].split()[1]), body


class _Checks:
    """One that asks over gRPC for the health of all that is served."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{load.grpc}",
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
            ],
        )
        self._check = health_pb2_grpc.HealthStub(self._channel).Check

    async def aclose(self) -> None:
        await self._channel.close()

    async def ask(self) -> Answer | None:
        asked = time.monotonic()
        try:
            # A call waits for a connection, as clients that mean to survive a restart have it.
            told = await self._check(
                health_pb2.HealthCheckRequest(), timeout=ANSWER_SECONDS, wait_for_ready=not self._load.ending
            )
        except grpc.aio.AioRpcError as error:
            if self._load.ending and error.code() == grpc.StatusCode.UNAVAILABLE:
                return None
            return Answer("check", asked, time.monotonic(), error.code().name)
        serves = told.status == health_pb2.HealthCheckResponse.SERVING
        return Answer("check", asked, time.monotonic(), "OK", green=serves)


class Costs:
    """Memory and descriptors of processes, as they were at each look.

    memory        by process: (time, bytes that are its own)
    descriptors   by process: (time, how many)
    """

    def __init__(self) -> None:
        self.memory: dict[int, list[tuple[float, float]]] = {}
        self.descriptors: dict[int, list[tuple[float, float]]] = {}

    def look(self, parent: int) -> None:
        """Look at a service and its prover."""
        for pid in (parent, *children(parent)):
            with contextlib.suppress(OSError, ProcessLookupError, StopIteration):
                now, own = time.monotonic(), _own_bytes(pid)
                count = float(len(os.listdir(f"/proc/{pid}/fd")))
                self.memory.setdefault(pid, []).append((now, own))
                self.descriptors.setdefault(pid, []).append((now, count))


def children(parent: int) -> list[int]:
    try:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]


def _own_bytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
