"""What clients may send to the gRPC port: bounded, told in the log, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from servers.certificates import make_certificates
from somactl.serve import rpc
from somactl.serve.context import Address, Limits, ServeContext, ServeOptions, Tls
from somactl.serve.rpc.frames import CONTROL_BURST, PREFACE, GoAway, Rules, begins_well
from somactl.serve.rpc.relay import room
from support.grpc_face import SECONDS, Client, serving, told
from support.http2 import (
    ACK,
    BEGUN,
    CALL,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    MANY,
    PING,
    SETTINGS,
    endless_headers,
    frame,
    literal,
    streams_that_are_reset,
)
from support.serving import context

QUICK = Limits(header_seconds=1.0, idle_seconds=2.0, connections=20, header_bytes=4096)
HOSTILE: dict[str, tuple[Any, str, str]] = {
    # what is sent, the kind of the line in the log, and what it says
    "garbage": ([b"\x00\xff" * 500], "protocol", "HTTP/2"),
    "HTTP/1": ([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], "protocol", "HTTP/2"),
    "TLS": ([b"\x16\x03\x01\x02\x00\x01"], "protocol", "HTTP/2"),
    "nothing": ([], "silent", "says nothing"),
    "half a preface": ([PREFACE[:20]], "silent", "says nothing"),
    "no settings": ([PREFACE], "frames", "settings"),
    "settings that are not acknowledged": ([PREFACE + frame(SETTINGS, 0, 0)], "frames", "settings"),
    "a frame too large": ([BEGUN + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 10], "frames", ""),
    "headers that do not end": (endless_headers, "frames", "header"),
    "a header of which the end does not come": ([BEGUN + frame(HEADERS, 0, 1, CALL)], "frames", "header"),
    "streams that are reset": (streams_that_are_reset, "frames", "RST_STREAM"),
    "a few pings": ([BEGUN, frame(PING, 0, 0, b"12345678") * 100], "frames", "too_many_pings"),
    "many pings": ([BEGUN, *[frame(PING, 0, 0, b"12345678") * 1000] * (MANY // 1000)], "frames", ""),
    "settings without an end": ([BEGUN, *[frame(SETTINGS, 0, 0) * 1000] * (MANY // 1000)], "frames", ""),
}


async def send(address: Address, parts: Any) -> None:
    """Send it all and read to the end, which the server makes."""
    reader, writer = await asyncio.open_connection(address.host, address.port)

    async def read() -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass

    reading = asyncio.create_task(read())
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
    await reading
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def checked(client: Client) -> AsyncIterator[None]:
    """A client asks all the while, and is served each time."""
    done = False

    async def ask() -> int:
        asked = 0
        while not done:
            assert await client.check() == "SERVING"
            asked += 1
        return asked

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        done = True
        assert await asking > 0


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("name", HOSTILE)
async def test_it_ends_is_told_in_the_log_and_others_are_served(name: str) -> None:
    parts, kind, why = HOSTILE[name]
    lines: list[bytes] = []
    given = context(lines=lines, options=ServeOptions(limits=QUICK))
    async with serving(given) as (face, client):
        await client.check()
        before = resident()
        async with asyncio.timeout(SECONDS), checked(client):
            await send(face.address, parts() if callable(parts) else parts)
        assert resident() - before < 32 << 20
        async with asyncio.timeout(SECONDS):
            while not refused(given, lines):
                await asyncio.sleep(0.01)
    found = refused(given, lines)
    assert {(each["kind"], each["client"]) for each in found} == {(f"grpc-{kind}", "127.0.0.1")}
    assert why in found[0]["why"]


def refused(given: ServeContext, lines: list[bytes]) -> list[dict[str, Any]]:
    return [each for each in map(json.loads, lines) if each["event"] == "refused"]


async def test_connections_are_bounded_and_the_silent_ones_make_room() -> None:
    lines: list[bytes] = []
    limits = Limits(header_seconds=SECONDS, connections=20)
    given = context(lines=lines, options=ServeOptions(limits=limits))
    async with serving(given) as (face, client), asyncio.timeout(SECONDS):
        silent = [await asyncio.open_connection(*face.address) for _ in range(100)]
        assert await client.check() == "SERVING"
        for reader, _ in silent[:80]:  # the eldest
            assert await reader.read() == b""
        for _, writer in silent:
            writer.close()


async def test_where_all_have_begun_one_more_is_refused_until_one_leaves() -> None:
    lines: list[bytes] = []
    limits = Limits(header_seconds=SECONDS, connections=5)
    given = context(lines=lines, options=ServeOptions(limits=limits))
    async with serving(given) as (face, client), asyncio.timeout(SECONDS):
        begun = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*face.address)
            writer.write(BEGUN)
            assert await reader.readexactly(9)  # the server's settings
            begun.append(writer)
        reader, writer = await asyncio.open_connection(*face.address)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        for each in begun:
            each.close()
        while (await answer(client)) != "SERVING":
            await asyncio.sleep(0.01)
    given.log.close()
    assert {each["kind"] for each in refused(given, lines)} == {"grpc-connections"}


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "expected"),
    [
        (20_000, 20_000, None, 1000),
        (1024, 20_000, 4256, 1000),
        (1024, resource.RLIM_INFINITY, 4256, 1000),
        (1024, 1856, 1856, 200),
        (256, 1024, 1024, 16),
    ],
)
def test_there_are_never_more_connections_than_descriptors(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int | None, expected: int
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    assert room(Limits(connections=1000)) == expected
    assert asked == ([] if raised is None else [(raised, hard)])


async def answer(client: Client) -> str:
    try:
        return await client.check()
    except Exception as error:
        return str(error)


async def test_over_tls_what_begins_otherwise_is_refused_and_no_handshake_is_told(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    lines: list[bytes] = []
    options = ServeOptions(limits=QUICK, tls=Tls(str(made.certificate), str(made.key)))
    given = context(lines=lines, options=options)
    face = await rpc.serve(given, Address("127.0.0.1", 0))
    async with asyncio.timeout(SECONDS):
        await send(face.address, [BEGUN])
        await send(face.address, [b"\x16\x03\x01\x00\x05hello"])
    await face.stop(0)
    given.log.close()
    assert [(each["kind"], each["why"]) for each in refused(given, lines)] == [
        ("grpc-protocol", "it does not begin as TLS does"),
        ("grpc-frames", "no handshake, or bad frames"),
    ]


async def test_a_client_that_takes_nothing_holds_up_itself_alone() -> None:
    """It asks for a stream of the state, and reads nothing of it: the server's buffers are bounded."""
    given = context()
    async with serving(given) as (face, client), asyncio.timeout(SECONDS):
        _, writer = await asyncio.open_connection(*face.address)
        path = literal(b":path", b"/somactl.v1.Rho/Watch")
        call = CALL.replace(literal(b":path", b"/grpc.health.v1.Health/Check"), path)
        begun = frame(HEADERS, END_HEADERS, 1, call) + frame(DATA, 1, 1, b"\x00\x00\x00\x00\x00")
        writer.write(BEGUN + begun)
        before = resident()
        stream = client.watch()
        await told(stream)
        state: Any = given.state
        for _ in range(5000):
            await state.change()
        assert await client.check() == "SERVING"
        assert resident() - before < 32 << 20
        writer.transport.abort()


def test_a_client_may_send_now_and_then_what_it_may_not_send_without_a_pause() -> None:
    now = 0.0
    rules = Rules(4096, clock=lambda: now)
    rules.feed(PREFACE)
    for _ in range(5000):
        rules.feed(frame(PING, 0, 0, b"12345678") + frame(HEADERS, END_HEADERS, 1, b"x" * 4096))
        now += 0.1
    rules.feed(frame(SETTINGS, 0, 0) * CONTROL_BURST)
    assert rules.broken is None
    rules.feed(frame(SETTINGS, 0, 0))
    assert rules.broken is not None


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_the_frames_of_a_connection_are_followed_however_they_are_cut(step: int) -> None:
    goaway = struct.pack(">II", 7, 11) + b"too_many_pings\x00" + b"x" * 200
    sent = frame(SETTINGS, 0, 0, b"x" * 30) + frame(SETTINGS, ACK, 0) + frame(GOAWAY, 0, 0, goaway)
    found = GoAway()
    for at in range(0, len(sent), step):
        assert found.code is None
        found.feed(sent[at : at + step])
    found.feed(frame(PING, 0, 0, b"12345678"))
    assert found.code == 11
    assert found.said == "too_many_pings?" + "x" * 85


@pytest.mark.parametrize(
    ("data", "encrypted", "expected"),
    [
        (b"", False, None),
        (PREFACE[:-1], False, None),
        (PREFACE, False, True),
        (PREFACE + b"x", False, True),
        (b"G", False, False),
        (PREFACE[:10] + b"x", False, False),
        (b"\x16", True, None),
        (b"\x16\x03\x01", True, True),
        (PREFACE, True, False),
    ],
)
def test_how_a_connection_begins(data: bytes, encrypted: bool, expected: bool | None) -> None:
    assert begins_well(data, encrypted=encrypted) is expected
