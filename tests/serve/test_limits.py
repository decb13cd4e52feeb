"""Hostile clients: each is bounded, answered where it can be, logged; and others are served meanwhile."""

from __future__ import annotations

import asyncio
import json

import pytest

from somactl.serve.context import Limits
from support.listening import HEALTH, PATIENT, QUICK, Client, ask, on_uvloop, served


def post(body: bytes, path: str = "/echo", fields: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@on_uvloop
async def test_requests_one_after_the_other_and_many_at_once() -> None:
    async with served() as server:
        client = await Client.of(server)
        for _ in range(3):
            client.send(HEALTH)
            assert (await client.answer())[0] == 200
        client.send(HEALTH * 5 + post(b"abc") + HEALTH)
        statuses = [await client.answer() for _ in range(7)]
        assert [each[0] for each in statuses] == [200] * 7
        assert json.loads(statuses[5][2])["body"] == "abc"
        assert "date" in statuses[0][1]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@on_uvloop
async def test_a_request_in_small_pieces(size: int) -> None:
    async with served() as server:
        client = await Client.of(server)
        for data in (HEALTH + post(b"abc"), CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"):
            for start in range(0, len(data), size):
                client.send(data[start : start + size])
                await asyncio.sleep(0)
        answers = [await client.answer() for _ in range(3)]
        assert [each[0] for each in answers] == [200] * 3
        assert [json.loads(each[2])["body"] for each in answers[1:]] == ["abc", "abc"]
        assert await client.ended() == b""


@on_uvloop
async def test_a_slow_header_is_ended_and_others_are_served() -> None:
    async with served(QUICK) as server:
        slow = await Client.of(server)
        slow.send(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(3):
            slow.send(b"X: y\r\n")
            assert (await ask(server))[0] == 200
        status, headers, _ = await slow.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert await slow.ended() == b""
        assert server.refusals() == ["slow header"]


@on_uvloop
async def test_a_trickle_does_not_prolong_the_time_of_a_header() -> None:
    async with served(QUICK) as server:
        slow = await Client.of(server)
        slow.send(b"GET /healthz HTTP/1.1\r\n")
        answer = asyncio.ensure_future(slow.answer())
        for _ in range(600):
            if answer.done():
                break
            slow.send(b"X: y\r\n")
            await asyncio.sleep(0.05)
        assert (await answer)[0] in (408, 431)


@on_uvloop
async def test_a_slow_body_is_ended() -> None:
    async with served(QUICK) as server:
        for start in (post(b"abc" * 10)[:-5], CHUNKED + b"3\r\nab"):
            slow = await Client.of(server)
            slow.send(start)
            assert (await ask(server))[0] == 200
            assert (await slow.answer())[0] == 408
            assert await slow.ended() == b""
        assert server.refusals() == ["slow body"] * 2


@on_uvloop
async def test_connections_that_ask_nothing_are_closed() -> None:
    async with served(QUICK) as server:
        silent, idle = await Client.of(server), await Client.of(server)
        idle.send(HEALTH)
        assert (await idle.answer())[0] == 200
        assert await silent.ended() == await idle.ended() == b""
        assert len(server.gate) == 0


@on_uvloop
async def test_who_takes_no_answer_is_cut_off() -> None:
    async with served(QUICK) as server:
        reader = await Client.of(server, limit=1)
        reader.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(30):
            while not server.gate.refused["slow reader"]:
                await asyncio.sleep(0.01)
            await server.gate.vacated.wait()
        assert server.refusals() == ["slow reader"]


@on_uvloop
async def test_who_takes_an_answer_slowly_is_served() -> None:
    async with served(QUICK) as server:
        reader = await Client.of(server)
        reader.send(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        status, _, body = await reader.answer()
        assert (status, len(body)) == (200, 50_000_000)


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 3000 + b"\r\n\r\n", 431, "header"),
        (b"GET /" + b"y" * 3000, 431, "header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 30 + b"\r\n", 431, "malformed"),
        (post(b"x" * 10_001), 413, "body"),
        (CHUNKED + (b"a\r\n" + b"x" * 10 + b"\r\n") * 1001, 413, "body"),
        (CHUNKED + (b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 30, 413, "body"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "malformed"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "malformed"),
        (CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n", 400, "malformed"),
        (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", 400, "malformed"),
        (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400, "malformed"),
        (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400, "malformed"),
        (CHUNKED + b"fffffffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400, "malformed"),
        (CHUNKED + b"3\nabc\n0\n\n", 400, "malformed"),
        (CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400, "malformed"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501, "malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "malformed"),
    ],
)
@on_uvloop
async def test_what_breaks_a_rule_is_refused_logged_and_closed(
    request_: bytes, status: int, kind: str
) -> None:
    async with served() as server:
        client = await Client.of(server)
        client.send(request_)
        got, headers, body = await client.answer()
        assert got == status
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["status"] == status
        assert await client.ended() == b""
        assert (await ask(server))[0] == 200
        assert server.refusals() == [kind]


@on_uvloop
async def test_a_refusal_is_seen_by_a_client_that_goes_on_sending() -> None:
    async with served() as server:
        client = await Client.of(server)
        client.send(post(b"x" * 5_000_000))
        assert (await client.answer())[0] == 413


@pytest.mark.parametrize(
    "smuggled",
    [
        CHUNKED + b"0\r\n\r\n" + HEALTH,
        CHUNKED + b"3\r\nabc\r\n0\r\nHost: b\r\nAuthorization: Bearer x\r\n\r\n" + HEALTH,
        b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + HEALTH,
        b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + HEALTH,
        b"GET /echo HTTP/1.0\r\n\r\n" + HEALTH,
    ],
)
@on_uvloop
async def test_nothing_behind_the_last_request_of_a_connection_is_taken_for_one(smuggled: bytes) -> None:
    async with served() as server:
        client = await Client.of(server)
        client.send(smuggled)
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.ended() == b""


@on_uvloop
async def test_what_stands_behind_chunks_is_no_header() -> None:
    async with served() as server:
        request = CHUNKED.replace(b"/echo", b"/headers") + b"0\r\nAuthorization: Bearer x\r\n\r\n"
        _, _, body = await ask(server, request)
        assert [name for name, _ in json.loads(body)] == ["host", "transfer-encoding"]


@on_uvloop
async def test_little_is_kept_of_what_stands_behind_a_request_that_waits() -> None:
    async with served() as server:
        client = await Client.of(server)
        client.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n" + HEALTH * 1000)
        async with asyncio.timeout(30):
            while not server.gate.refused["pipelined"]:
                await asyncio.sleep(0.01)
        server.held.set()
        assert (await client.answer())[0] == 200
        assert await client.ended() == b""


@on_uvloop
async def test_requests_under_way_are_bounded_and_health_is_not_among_them() -> None:
    async with served() as server:
        hold = b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"
        holding = [await Client.of(server) for _ in range(PATIENT.requests)]
        for each in holding:
            each.send(hold)
        async with asyncio.timeout(30):
            while (answer := await ask(server, b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"))[0] == 200:
                await asyncio.sleep(0.01)
        status, headers, _ = answer
        assert (status, headers["retry-after"]) == (503, "1")
        assert (await ask(server))[0] == 200
        server.held.set()
        assert [(await each.answer())[0] for each in holding] == [200] * PATIENT.requests


@pytest.mark.parametrize("beginning", [b"", b"GET /healthz HTTP/1.1\r\n", post(b"x" * 100)[:-1]])
@on_uvloop
async def test_the_oldest_idle_connection_makes_room_for_a_new_one(beginning: bytes) -> None:
    async with served() as server:
        idle = []
        for _ in range(3 * PATIENT.connections):
            idle.append(await Client.of(server))
            idle[-1].send(beginning)
        assert (await ask(server))[0] == 200
        assert await idle[0].ended() == b""
        assert len(server.gate) <= PATIENT.connections
        assert server.gate.refused["evicted"] >= 2 * PATIENT.connections
        assert 0 < len(server.refusals()) < 2 * PATIENT.connections


@on_uvloop
async def test_a_connection_is_refused_where_all_others_are_at_work() -> None:
    async with served(Limits(connections=2, requests=10)) as server:
        hold = [await Client.of(server) for _ in range(2)]
        for each in hold:
            each.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(30):
            while server.gate.idle:
                await asyncio.sleep(0.01)
        late = await Client.of(server)
        status, headers, _ = await late.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        assert await late.ended() == b""
        server.held.set()
        assert [(await each.answer())[0] for each in hold] == [200, 200]


@on_uvloop
async def test_garbage_ends_nothing() -> None:
    import random

    draw = random.Random(13)
    async with served(QUICK) as server:
        for _ in range(100):
            client = await Client.of(server)
            client.send(draw.randbytes(draw.randrange(1, 5000)))
            await client.answer()
            await client.close()
        assert (await ask(server))[0] == 200


@on_uvloop
async def test_draining_answers_what_is_under_way_and_closes_what_idles() -> None:
    async with served() as server:
        idle, busy, early = [await Client.of(server) for _ in range(3)]
        idle.send(HEALTH)
        assert (await idle.answer())[0] == 200
        busy.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(30):
            while server.gate.idle > 2:
                await asyncio.sleep(0.01)
        server.listener.drain()
        early.send(HEALTH)
        status, headers, _ = await early.answer()
        assert (status, headers["connection"]) == (200, "close")
        stopping = asyncio.ensure_future(server.listener.stop(30.0))
        assert await idle.ended() == b""
        assert not stopping.done()
        server.held.set()
        assert (await busy.answer())[0] == 200
        assert await stopping == 0
        with pytest.raises(ConnectionRefusedError):
            await Client.of(server)


@on_uvloop
async def test_what_takes_longer_than_the_grace_is_cut_off() -> None:
    async with served() as server:
        busy = await Client.of(server)
        busy.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(30):
            while server.gate.idle or not len(server.gate):
                await asyncio.sleep(0.01)
        assert await server.listener.stop(0.05) == 1
        assert await busy.ended() == b""
