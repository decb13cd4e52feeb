"""gRPC over TLS: certificates that are renewed while it serves, and callers who are known by theirs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from prune.orders import live
from serve.test_grpc_prune import OneStore, document
from servers.certificates import Certificates, make_certificates
from somactl.errors import ConfigurationError
from somactl.serve import rpc
from somactl.serve.access import Access
from somactl.serve.context import Address, ServeContext, ServeOptions, Tls
from somactl.serve.doors import Doors
from somactl.serve.pb import prune_pb2
from somactl.serve.rpc import certificates
from somactl.testing.values import put
from support.grpc_face import SECONDS, Client, problem
from support.serving import context
from support.sqlite_backend import SqliteBackend


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of another authority."""
    return make_certificates(tmp_path_factory.mktemp("second"))


def encrypted(made: Certificates, *, clients: Path | None = None, lines: list[bytes] | None = None) -> Any:
    tls = Tls(str(made.certificate), str(made.key), None if clients is None else str(clients))
    return context(options=ServeOptions(tls=tls), lines=lines)


@contextlib.asynccontextmanager
async def face_of(given: ServeContext) -> AsyncIterator[Address]:
    face = await rpc.serve(given, Address("127.0.0.1", 0))
    try:
        yield face.address
    finally:
        await face.stop(0)


@contextlib.asynccontextmanager
async def client_of(
    address: Address, authority: Path, own: Certificates | None = None
) -> AsyncIterator[Client]:
    """A connection of its own, by a client that trusts that authority."""
    pair = (
        {}
        if own is None
        else {
            "private_key": own.key.read_bytes(),
            "certificate_chain": own.certificate.read_bytes(),
        }
    )
    credentials = grpc.ssl_channel_credentials(authority.read_bytes(), **pair)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(str(address), credentials, options=options) as channel:
        yield Client(channel)


async def trusts(address: Address, authority: Path) -> bool:
    """Whether a new client that trusts that authority is served."""
    async with client_of(address, authority) as client:
        try:
            return await client.check() == "SERVING"
        except grpc.aio.AioRpcError as error:
            return bool(error.code() != grpc.StatusCode.UNAVAILABLE)


async def test_a_client_that_trusts_the_authority_is_served_and_another_is_not(
    made: Certificates, renewed: Certificates
) -> None:
    async with face_of(encrypted(made)) as address:
        assert await trusts(address, made.ca)
        assert not await trusts(address, renewed.ca)
        async with grpc.aio.insecure_channel(str(address)) as channel:
            assert (await problem(Client(channel).check())).code == "UNAVAILABLE"


def installed(folder: Path, made: Certificates) -> Certificates:
    """These files, where a server looks for them."""
    folder.mkdir(exist_ok=True)
    shutil.copy(made.certificate, folder / "tls.crt")
    shutil.copy(made.key, folder / "tls.key")
    return Certificates(made.ca, folder / "tls.crt", folder / "tls.key")


@pytest.mark.parametrize("how", ["sighup", "file"])
async def test_a_renewed_certificate_is_used_and_connections_stay(
    tmp_path: Path, made: Certificates, renewed: Certificates, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LOOK_SECONDS", 0.0 if how == "file" else 3600.0)
    lines: list[bytes] = []
    given = encrypted(installed(tmp_path, made), lines=lines)
    async with face_of(given) as address, client_of(address, made.ca) as before:
        assert await before.check() == "SERVING"
        installed(tmp_path, renewed)
        if how == "sighup":
            assert await trusts(address, made.ca)
            for reload in given.reloads:
                reload()
        assert await trusts(address, renewed.ca)
        assert not await trusts(address, made.ca)
        assert await before.check() == "SERVING"
    given.log.close()
    events = [json.loads(line)["event"] for line in lines]
    assert events.count("certificates") == (how == "file")


async def test_a_bad_file_keeps_what_was_valid_and_is_told_of_once(
    tmp_path: Path, made: Certificates, renewed: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LOOK_SECONDS", 0.0)
    lines: list[bytes] = []
    given = encrypted(installed(tmp_path, made), lines=lines)
    async with face_of(given) as address:
        shutil.copy(renewed.key, tmp_path / "tls.key")  # as if the renewal were half done
        assert await trusts(address, made.ca)
        assert await trusts(address, made.ca)
        with pytest.raises(ConfigurationError, match="cannot be used"):
            given.reloads[0]()
        assert await trusts(address, made.ca)
        shutil.copy(renewed.certificate, tmp_path / "tls.crt")
        assert await trusts(address, renewed.ca)
    given.log.close()
    told = [each for each in map(json.loads, lines) if each["event"] == "certificates"]
    assert [("kept" in each, "reloaded" in each) for each in told] == [(True, False), (False, True)]


@pytest.mark.parametrize("missing", ["certificate", "key", "authority"])
async def test_a_file_that_is_missing_is_refused_at_the_start(
    tmp_path: Path, made: Certificates, missing: str
) -> None:
    paths = {"certificate": made.certificate, "key": made.key, "authority": made.ca}
    paths[missing] = tmp_path / "none.pem"
    tls = Tls(*(str(path) for path in paths.values()))
    with pytest.raises(ConfigurationError, match="cannot be used"):
        await rpc.serve(context(options=ServeOptions(tls=tls)), Address("127.0.0.1", 0))


async def test_where_clients_need_a_certificate_its_name_is_the_caller(
    tmp_path: Path, made: Certificates, renewed: Certificates
) -> None:
    store = SqliteBackend(tmp_path / "store.db").open()
    await put(store, "a", "b")
    tokens = tmp_path / "tokens"
    tokens.write_text("batch prune cert:CN=127.0.0.1 default\n")
    tokens.chmod(0o600)
    given = encrypted(made, clients=made.ca)
    given.access = Access.open(str(tokens), given.log)
    server: Any = OneStore(store)
    given.doors = Doors(server, given.namespaces, given.access, given.log)
    request = prune_pb2.ApplyRequest(document=document("a"), order_id="n")
    async with face_of(given) as address:
        async with client_of(address, made.ca, made) as client:
            assert (await client.prune.Apply(request, timeout=SECONDS)).report.deleted_keys == 1
            status = await client.prune.Get(prune_pb2.GetRequest(order_id="n"), timeout=SECONDS)
            assert status.status.order.caller == "batch"
        for stranger in (None, renewed):
            async with client_of(address, made.ca, stranger) as client:
                assert (await problem(client.check())).code == "UNAVAILABLE"
    assert await live(store) == ["b"]
    await store.close()
    await asyncio.sleep(0)
