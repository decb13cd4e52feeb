"""A whole `somactl serve` that ends with requests under way, or is to take new tokens and certificates."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from serve.test_grpc_tls import trusts
from servers.certificates import Certificates, make_certificates
from somactl.serve.context import Address
from support.grpc_face import Client, name_of
from support.serve_process import WAIT_SECONDS, ServeProcess
from tests.cli.conftest import Shell, density

OLD, NEW = "old-0123456789abcdef", "new-0123456789abcdef"
ORDER = json.dumps(["a"]).encode()
HEAD = (
    "POST /v1/prune-orders?dry_run=true HTTP/1.1\r\nHost: a\r\n"
    f"Authorization: Bearer {OLD}\r\nContent-Length: {len(ORDER)}\r\n\r\n"
).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One whose database holds one rho, with tokens."""
    shell = Shell(tmp_path)
    shell.save("a.npy", density(3))
    shell.ok("commit", "a=a.npy")
    write_tokens(tmp_path, OLD)
    return tmp_path


def write_tokens(folder: Path, token: str) -> Path:
    path = folder / "tokens"
    path.touch(0o600)
    path.write_text(f"manager-1 prune {token}\n")
    return path


def begun(serving: ServeProcess) -> socket.socket:
    """A request of which the last byte is missing, and that the server works on."""
    client = socket.create_connection(("127.0.0.1", serving.port), timeout=WAIT_SECONDS)
    client.sendall(HEAD + ORDER[:-1])
    # What is asked later on is answered: so the other one was seen.
    assert serving.get("/livez")[0] == 200
    return client


def test_a_request_under_way_is_answered_and_nothing_after_it_is_taken(folder: Path) -> None:
    with ServeProcess(folder, "--tokens", "tokens", "--grace", "60s") as serving:
        with begun(serving) as client:
            serving.process.send_signal(signal.SIGTERM)
            serving.event("draining")
            wait_until(lambda: is_shut(serving.port))
            client.sendall(ORDER[-1:])
            with client.makefile("rb") as answers:
                answer = answers.read()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in head.lower()
        assert json.loads(body)["dry_run"] is True
        code, report = serving.ended()
        assert (code, report["cut_off"], report["warnings"]) == (0, 0, [])
        assert "cut_off" not in serving.event("ended")


def test_a_request_that_the_grace_is_too_short_for_is_cut_off_told_and_makes_it_4(folder: Path) -> None:
    with ServeProcess(folder, "--tokens", "tokens", "--grace", "1s") as serving, begun(serving) as client:
        code, report = serving.end()
        assert (code, report["code"], report["cut_off"]) == (4, 4, 1)
        assert report["warnings"] == ["1 requests were cut off: --grace 1s was too short"]
        assert serving.event("ended")["cut_off"] == 1
        with client.makefile("rb") as answers:
            assert not answers.read().startswith(b"HTTP/1.1 2")


def is_shut(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def address_of(serving: ServeProcess) -> Address:
    host, _, port = serving.event("serving")["grpc"].rpartition(":")
    return Address(host, int(port))


async def told(stream: Any) -> list[str]:
    """All that a watching call is told until the server ends it."""
    found: list[str] = []
    try:
        async for each in stream:
            found += [name_of(each.status)]
    except grpc.aio.AioRpcError as ended:
        if ended.code() != grpc.StatusCode.UNAVAILABLE:
            raise
    return found


def test_both_faces_are_unready_while_both_go_on_listening(folder: Path) -> None:
    with ServeProcess(folder, "--grpc", "127.0.0.1:0", "--pause", "50s", "--grace", "60s") as serving:
        wait_until(lambda: serving.get("/readyz")[0] == 200)
        at = str(address_of(serving))

        async def look() -> None:
            async with grpc.aio.insecure_channel(at) as channel:
                client = Client(channel)
                assert await client.check() == "SERVING"
                watching = asyncio.ensure_future(told(client.watch()))
                await client.check()
                serving.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(serving.event, "draining")
                assert (await watching)[-1] == "NOT_SERVING"
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(at, options=options) as channel:
                assert await Client(channel).check() == "NOT_SERVING"

        asyncio.run(look())
        assert serving.get("/readyz") == (503, b'{"ready":false,"draining":true}')
        assert serving.get("/livez")[0] == 200
        assert serving.get("/healthz")[0] == 200
        assert serving.end(signal.SIGINT)[0] in (130, 143)  # the second signal


def asked(serving: ServeProcess, token: str, authority: Path) -> int:
    """Over a new connection, by a client that trusts that authority. Raises ssl.SSLError."""
    trusted = ssl.create_default_context(cafile=str(authority))
    connection = http.client.HTTPSConnection("127.0.0.1", serving.port, timeout=WAIT_SECONDS, context=trusted)
    try:
        connection.request("GET", "/v1/prune-orders/o", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    finally:
        connection.close()


def put(made: Certificates, folder: Path) -> None:
    """These files, where the server looks for them."""
    shutil.copy(made.certificate, folder / "tls.crt")
    shutil.copy(made.key, folder / "tls.key")


def test_a_hangup_has_both_faces_take_new_tokens_and_certificates(folder: Path) -> None:
    first, second = folder / "first", folder / "second"
    for each in (first, second):
        each.mkdir()
    old, new = make_certificates(first), make_certificates(second)
    put(old, folder)
    tls = ("--tls-cert", "tls.crt", "--tls-key", "tls.key")
    with ServeProcess(folder, "--grpc", "127.0.0.1:0", "--tokens", "tokens", *tls) as serving:
        grpc_at = address_of(serving)
        wait_until(lambda: asyncio.run(trusts(grpc_at, old.ca)))
        assert asked(serving, OLD, old.ca) == 404  # let in: there is no such order
        assert asked(serving, NEW, old.ca) == 401
        write_tokens(folder, NEW)
        put(new, folder)
        serving.process.send_signal(signal.SIGHUP)
        serving.event("reloaded")
        assert asked(serving, NEW, new.ca) == 404
        assert asked(serving, OLD, new.ca) == 401
        with pytest.raises(ssl.SSLError):
            asked(serving, NEW, old.ca)
        assert asyncio.run(trusts(grpc_at, new.ca))
        assert not asyncio.run(trusts(grpc_at, old.ca))
        assert serving.end()[0] == 0
