"""What `somactl serve` costs: health under an open loop while its prover works, its start, its memory.

Idle and busy are the same server: its prover, which would prove a matrix of 2048 x 2048 again and again, is
stopped for the one and goes on for the other, in turn. A latency counts from the moment at which a request
was due, so that a slow answer cannot hide the wait of the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from load import p95
from matrices import density
from measure import Effort, Row
from startup import SOMACTL, store_environment

N = 2048
PER_SECOND = 500.0
CLIENTS = 25
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
ROWS = ["serve-health", "serve-check", "serve-memory"]

Ask = Callable[[int], Awaitable[None]]


class Serving(NamedTuple):
    """A server that has proven its matrix once."""

    pid: int
    prover: int
    http: tuple[str, int]
    grpc: str


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.rpartition("/")[2], int(port)


def _child(pid: int) -> int:
    """The prover: the one process that the server has started."""
    found = [each.read_text().split() for each in Path(f"/proc/{pid}/task").glob("*/children")]
    (child,) = [int(word) for words in found for word in words]
    return child


@contextmanager
def _started(folder: str, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """The process, and where it serves."""
    words = [SOMACTL, "serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "-o", "json", *options]
    log = Path(folder) / "serve.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            words, env=store_environment(folder), stdout=subprocess.DEVNULL, stderr=stderr
        )
    try:
        yield process, _event(process, log, lambda line: line.get("event") == "serving")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(_child(process.pid), signal.SIGCONT)
        process.terminate()
        process.wait(60)


def _event(
    process: subprocess.Popen[bytes], log: Path, wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The first line of the log that is wanted."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_bytes().splitlines(keepends=True):
            if line.startswith(b"{") and line.endswith(b"\n") and wanted(found := json.loads(line)):
                return dict(found)
        time.sleep(0.002)
    raise RuntimeError(f"somactl serve did not come up: {log.read_text()}")


@contextmanager
def _serving(folder: str) -> Iterator[Serving]:
    path = Path(folder) / "rho.npy"
    np.save(path, density(N))
    commit = [SOMACTL, "commit", f"rho={path}"]
    subprocess.run(commit, env=store_environment(folder), check=True, capture_output=True)
    with _started(folder, "--interval", "100ms") as (process, told):
        _event(process, Path(folder) / "serve.log", lambda line: line.get("ok") is True)
        yield Serving(process.pid, _child(process.pid), _address(told["http"]), told["grpc"])


async def _open_loop(ask: Ask, seconds: float) -> list[float]:
    """Latencies at PER_SECOND requests a second, spread over CLIENTS."""
    dice = random.Random(13)
    every = CLIENTS / PER_SECOND
    times: list[float] = []

    async def client(number: int) -> None:
        due = time.perf_counter() + dice.random() * every
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await ask(number)
            times.append(time.perf_counter() - due)
            due += every

    await asyncio.gather(*map(client, range(CLIENTS)))
    return times


async def _idle_and_busy(serving: Serving, ask: Ask, effort: Effort) -> list[tuple[float, float]]:
    """p95 with the prover stopped, and with it at work, round by round."""
    seconds, rounds = max(2.0, effort.seconds / 2), effort.least
    await _open_loop(ask, 1.0)
    found = []
    for _ in range(rounds):
        os.kill(serving.prover, signal.SIGSTOP)
        try:
            idle = p95(await _open_loop(ask, seconds))
        finally:
            os.kill(serving.prover, signal.SIGCONT)
        found.append((idle, p95(await _open_loop(ask, seconds))))
    return found


async def _health(serving: Serving, effort: Effort) -> list[tuple[float, float]]:
    """Over connections that stay, byte for byte: the client is to cost little."""
    connections = [await asyncio.open_connection(*serving.http) for _ in range(CLIENTS)]

    async def ask(number: int) -> None:
        reader, writer = connections[number]
        writer.write(HEALTH)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"not healthy: {head!r}")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)

    try:
        return await _idle_and_busy(serving, ask, effort)
    finally:
        for _, writer in connections:
            writer.close()


async def _check(serving: Serving, effort: Effort) -> list[tuple[float, float]]:
    async with grpc.aio.insecure_channel(serving.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        request = health_pb2.HealthCheckRequest()

        async def ask(number: int) -> None:
            answer = await stub.Check(request)
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                raise RuntimeError("not serving")

        return await _idle_and_busy(serving, ask, effort)


def _row(name: str, measure: str, found: list[tuple[float, float]], goal: float) -> Row:
    above = [1000 * (busy - idle) for idle, busy in found]
    idle, busy = (1000 * statistics.median(each[side] for each in found) for side in (0, 1))
    detail = f"p95 idle {idle:.2f} ms, busy {busy:.2f} ms"
    figure = statistics.median(above)
    return Row(name, measure, figure, min(above), max(above), "<=", goal, 2, unit=" ms", detail=detail)


def _resident(pid: int) -> float:
    """MB that the process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def faces(effort: Effort) -> list[Row]:
    """Health over HTTP and gRPC while the prover works, and the memory of the process that answers."""
    rate = f"{PER_SECOND:.0f} a second, the prover at work on n = {N}, against idle"
    with tempfile.TemporaryDirectory() as folder, _serving(folder) as serving:
        health = asyncio.run(_health(serving, effort))
        check = asyncio.run(_check(serving, effort))
        memory = _resident(serving.pid)
    return [
        _row("serve-health", f"p95 of /healthz at {rate}", health, 2.0),
        _row("serve-check", f"p95 of gRPC Check at {rate}", check, 3.0),
        Row(
            *("serve-memory", "Memory of `somactl serve` after both, without the prover"),
            *(memory, memory, memory, "<=", 120.0, 0),
            unit=" MB",
        ),
    ]


def start(effort: Effort) -> list[Row]:
    """From the start of the process to its first answer to /healthz."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(effort.least + 1):
            began = time.perf_counter()
            with _started(folder) as (_, told):
                asyncio.run(_first(_address(told["http"])))
                times.append(time.perf_counter() - began)
    times = times[1:]  # the first one has read the files
    figure = statistics.median(times)
    measure = "Start of `somactl serve` to its first answer"
    return [Row("serve-start", measure, figure, min(times), max(times), "<=", 1.5, 2, unit=" s")]


async def _first(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(HEALTH)
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
