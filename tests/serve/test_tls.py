"""TLS: handshakes that end, and do not; certificates of clients; certificates that are replaced."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from servers.certificates import Certificates, make_certificates
from somactl.errors import ConfigurationError
from somactl.serve.certificates import tls_context
from somactl.serve.context import Tls
from support.listening import HEALTH, QUICK, Client, on_uvloop, served


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def of_server(files: Certificates) -> ssl.SSLContext:
    return tls_context(Tls(str(files.certificate), str(files.key), str(files.ca)))


def of_client(files: Certificates, *, named: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.ca)
    if named:
        context.load_cert_chain(files.certificate, files.key)
    return context


@pytest.mark.parametrize("named", [True, False])
@on_uvloop
async def test_the_certificate_of_a_client_is_known_and_none_is_asked_for_health(
    files: Certificates, named: bool
) -> None:
    async with served(tls=of_server(files)) as server:
        client = await Client.of(server, ssl=of_client(files, named=named))
        client.send(HEALTH + b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer())[0] == 200
        tls = json.loads((await client.answer())[2])["tls"]
        subject = [[["commonName", "127.0.0.1"]]] if named else None
        assert (tls["peercert"] or {}).get("subject") == subject


@on_uvloop
async def test_a_certificate_of_another_authority_is_refused(files: Certificates, tmp_path: Path) -> None:
    others = make_certificates(tmp_path)
    async with served(tls=of_server(files)) as server:
        context = of_client(files)
        context.load_cert_chain(others.certificate, others.key)
        with suppress(OSError):  # in TLS 1.3 it hears of the refusal after its own handshake
            client = await Client.of(server, ssl=context)
            client.send(HEALTH)
            assert b"200" not in await client.ended()
        assert server.refusals() == ["tls"]


@pytest.mark.parametrize("beginning", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
@on_uvloop
async def test_a_handshake_that_does_not_end_is_ended(files: Certificates, beginning: bytes) -> None:
    async with served(replace(QUICK, idle_seconds=30.0), tls=of_server(files)) as server:
        silent = [await Client.of(server) for _ in range(3 * QUICK.connections)]
        for each in silent:
            each.send(beginning)
        client = await Client.of(server, ssl=of_client(files))
        client.send(HEALTH)
        assert (await client.answer())[0] == 200
        assert len(server.gate) <= QUICK.connections
        for each in silent:
            await each.ended()
        client.send(HEALTH)
        assert (await client.answer())[0] == 200
        assert len(server.gate) == 1


@on_uvloop
async def test_plain_text_is_no_handshake(files: Certificates) -> None:
    async with served(tls=of_server(files)) as server:
        plain = await Client.of(server)
        plain.send(HEALTH)
        assert b"HTTP/1.1 200" not in await plain.ended()
        assert server.refusals() == ["tls"]


@on_uvloop
async def test_new_connections_get_the_new_certificate_and_old_ones_stay(
    files: Certificates, tmp_path: Path
) -> None:
    others = make_certificates(tmp_path)
    async with served(tls=of_server(files)) as server:
        old = await Client.of(server, ssl=of_client(files))
        old.send(HEALTH)
        assert (await old.answer())[0] == 200
        server.listener.tls = of_server(others)
        new = await Client.of(server, ssl=of_client(others))
        for each in (old, new):
            each.send(HEALTH)
            assert (await each.answer())[0] == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await Client.of(server, ssl=of_client(files))


def test_certificates_that_cannot_be_used_are_named(files: Certificates, tmp_path: Path) -> None:
    other = make_certificates(tmp_path)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
    for key in (tmp_path / "none.pem", other.key, files.ca, encrypted):
        with pytest.raises(ConfigurationError, match=key.name):
            tls_context(Tls(str(files.certificate), str(key)))


@on_uvloop
async def test_a_client_that_speaks_at_once_is_heard(files: Certificates) -> None:
    """What comes with the last message of the handshake is the first request."""
    async with served(tls=of_server(files)) as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = of_client(files).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(30):
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(outgoing.read())
                    incoming.write(await reader.read(65536))
            tls.write(HEALTH)
            writer.write(outgoing.read())  # the end of the handshake, and the request
            answer = b""
            while b"HTTP/1.1 200" not in answer:
                incoming.write(await reader.read(65536))
                try:
                    answer += tls.read(65536)
                except ssl.SSLWantReadError:
                    continue
        writer.transport.abort()
