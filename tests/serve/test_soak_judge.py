"""The judge of a long run can condemn: servers that lie, forget, refuse and leak are found out."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from support.soak_judge import (
    SLACK_SECONDS,
    Answer,
    Excused,
    Red,
    failures,
    false_greens,
    leaks,
    patience,
    slope,
    unseen,
)
from support.soak_load import Load

INTERVAL = 0.2


def healthy(ok: bool, oldest: float) -> bytes:
    """An answer of /healthz."""
    told = {
        "ok": ok,
        "degraded": False,
        "rho": {"oldest_seconds": oldest},
        "prover": {"round_seconds": 0.1, "state": "running", "restarts": 0},
        "reasons": [],
    }
    body = json.dumps(told).encode()
    head = b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n" % (200 if ok else 503, len(body))
    return head + body


@asynccontextmanager
async def fake(answer: Callable[[], bytes]) -> AsyncIterator[Load]:
    """Clients of a server that answers each request with that; with nothing, it closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                said = answer()
                writer.write(said)
                if not said:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    load = Load(server.sockets[0].getsockname()[1], None, "token", "key")
    load.start(400)
    try:
        yield load
    finally:
        await load.stop()
        server.close()


async def answered(load: Load, holds: Callable[[Answer], Any]) -> list[Answer]:
    """All answers, once one of them is so."""
    async with asyncio.timeout(60):
        while not any(map(holds, load.answers)):
            await asyncio.sleep(0.01)
    return load.answers


async def test_a_server_that_stays_green_is_found_out_by_the_age_that_it_claims() -> None:
    async with fake(lambda: healthy(True, 0.01)) as load:
        red = Red("a violation", time.monotonic(), float("inf"), in_time=False)
        answers = await answered(load, lambda each: each.asked > red.since + 0.1)
    found = false_greens(answers, [red], INTERVAL)
    assert found
    assert found[0].startswith("a violation: proven 0.010 s ago and green")
    assert unseen(answers, [red]) == ["a violation was never told"]


async def test_a_server_that_stays_green_is_found_out_by_the_time_that_passes() -> None:
    """It admits that it has looked at nothing since: that may last for so long, and no longer."""
    began = time.monotonic()
    async with fake(lambda: healthy(True, time.monotonic() - began + 1)) as load:
        within = INTERVAL + 0.1 + SLACK_SECONDS
        red = Red("a violation", began, float("inf"))
        answers = await answered(load, lambda each: each.green and each.asked > began + within + 0.1)
    assert false_greens([each for each in answers if each.asked < began + within], [red], INTERVAL) == []
    assert false_greens(answers, [red], INTERVAL)


async def test_a_server_that_tells_the_truth_is_acquitted() -> None:
    began = time.monotonic()
    async with fake(lambda: healthy(False, time.monotonic() - began)) as load:
        red = Red("a violation", began, float("inf"))
        answers = await answered(load, lambda each: each.kind == "health" and each.asked > began)
    reads = [Excused(503, began, float("inf"))]
    assert (false_greens(answers, [red], INTERVAL), unseen(answers, [red])) == ([], [])
    assert failures(answers, reads) == []


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 -\r\nContent-Le", healthy(True, 0.0)[:-5]], ids=["none", "head", "body"]
)
async def test_a_request_that_was_taken_and_not_answered_is_lost(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = 0

    def answer() -> bytes:
        nonlocal turn
        turn += 1
        return healthy(True, 0.0) if turn % 5 else said

    monkeypatch.setattr("support.soak_load.ANSWER_SECONDS", 0.5)
    async with fake(answer) as load:
        answers = await answered(load, lambda each: each.status == "lost")
    assert any("lost" in each for each in failures(answers, []))


async def test_a_refusal_is_a_failure_unless_what_it_needs_was_away() -> None:
    async with fake(lambda: b"HTTP/1.1 401 -\r\nContent-Length: 0\r\n\r\n") as load:
        answers = list(await answered(load, lambda each: each.kind == "read"))
    reads = [each for each in answers if each.kind == "read"]
    assert failures(reads, []) == [f"read: 401 at {each.asked:.3f}" for each in reads]
    assert failures(reads, [Excused(401, reads[0].asked - 1, float("inf"))]) == []
    assert failures(reads, [Excused(503, reads[0].asked - 1, float("inf"))])
    assert failures(reads, [Excused(401, 0.0, reads[0].asked - 1)])


async def test_a_server_that_is_gone_refuses_until_its_end_is_announced() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    load = Load(port, None, "token", "key")
    load.start(400)
    await answered(load, lambda each: each.status == "refused")
    load.ending = True
    await asyncio.sleep(0)
    load.answers.clear()
    before = load.sent
    while load.sent < before + 20:
        await asyncio.sleep(0.01)
    await load.stop()
    assert all(each.status == "refused" for each in load.answers)
    assert len(load.answers) <= 10  # of requests that were sent before


def test_how_long_a_check_may_take_is_what_the_service_says() -> None:
    quick, slow = (Answer("health", 0, 0, 200, True, 0.0, seconds) for seconds in (0.05, 7.0))
    assert patience([quick], 0.5) == 0.5 + 0.05 + SLACK_SECONDS
    assert patience([quick, slow], 0.5) == 14.0 + SLACK_SECONDS


def test_a_leak_is_told_from_a_peak_and_from_a_warm_up() -> None:
    flat = [(float(second), 100.0 + (second % 7)) for second in range(600)]
    peak = [(at, value + (500.0 if 200 < at < 260 else 0.0)) for at, value in flat]
    warm = [(at, value - (50.0 if at < 60 else 0.0)) for at, value in flat]
    leaking = [(at, value + at / 20) for at, value in flat]
    for samples in (flat, peak, warm):
        assert leaks(samples, 60, 20.0) is None
    assert leaks(leaking, 60, 20.0) == pytest.approx(27, abs=2)
    assert slope([(0, 0), (1, 2), (2, 4)]) == 2.0
    assert leaks([], 60, 20.0) is None
