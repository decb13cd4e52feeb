"""Prune orders over gRPC: who may send them, what is told, and what a client that leaves changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from prune.orders import live
from serve.test_orders import Gate
from somactl.operations.inspect import log
from somactl.serve.access import Access
from somactl.serve.context import Limits, ServeContext, ServeOptions
from somactl.serve.doors import Doors
from somactl.serve.pb import prune_pb2, rho_pb2
from somactl.store.contract import Store
from somactl.testing.values import put
from support.grpc_face import SECONDS, Client, Problem, problem, serving
from support.serving import context
from support.sqlite_backend import SqliteBackend

KEYS = [f"key-{number:02}" for number in range(10)]
TOKEN, READER, STRANGER = "manager-token-0123456789", "reader-token-0123456789", "stranger-token-0123456789"
FILE = f"manager-1 prune {TOKEN}\ndashboard read {READER}\nelsewhere prune {STRANGER} globex\n"


class OneStore:
    """Stands for the database: each namespace is the same store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def namespace(self, name: str) -> Store:
        return self._store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteBackend(tmp_path / "store.db").open()
    await put(store, *KEYS)
    yield store
    await store.close()


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(FILE)
    path.chmod(0o600)
    return str(path)


def guarded(store: Store, tokens: str | None, *namespaces: str, **more: Any) -> ServeContext:
    given = context(namespaces=namespaces or (store.namespace,), **more)
    given.access = Access.open(tokens, given.log)
    server: Any = OneStore(store)
    given.doors = Doors(server, given.namespaces, given.access, given.log)
    return given


async def apply(client: Client, *, token: str | None = TOKEN, **fields: Any) -> prune_pb2.ApplyResponse:
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    response: prune_pb2.ApplyResponse = await client.prune.Apply(
        prune_pb2.ApplyRequest(**fields), metadata=metadata, timeout=SECONDS
    )
    return response


async def get(client: Client, order_id: str, token: str = TOKEN) -> prune_pb2.OrderStatus:
    metadata = [("authorization", f"Bearer {token}")]
    request = prune_pb2.GetRequest(order_id=order_id)
    return (await client.prune.Get(request, metadata=metadata, timeout=SECONDS)).status


def document(*keys: str) -> bytes:
    return json.dumps(keys).encode()


async def test_an_order_is_carried_out_once_and_the_commit_names_the_caller(
    store: Store, tokens: str
) -> None:
    async with serving(guarded(store, tokens)) as (_, client):
        first = await apply(client, document=document(*KEYS[:3]), order_id="n-1")
        again = await apply(client, document=document(*KEYS[:3]), order_id="n-1")
        status = await get(client, "n-1")
    assert (first.report.deleted_keys, first.report.code, first.report.replayed) == (3, 0, False)
    assert (again.report.deleted_keys, again.report.replayed, again.order_id) == (3, True, "n-1")
    assert await live(store) == KEYS[3:]
    made = (await log(store, None, before=None, limit=1)).commits[0]
    assert (made.caller, made.door) == ("manager-1", "grpc")
    assert (status.state, status.order.caller, status.report.deleted_keys) == ("done", "manager-1", 3)


async def test_an_order_as_a_message_means_the_same_as_its_document(store: Store, tokens: str) -> None:
    version = (await store.read(KEYS[0])).version
    message = prune_pb2.PruneOrder(
        order_id="n-2",
        issued_at=1.0,
        expires_at=253402300799.0,
        issuer="manager",
        sequence=7,
        namespace=store.namespace,
        keys=[
            prune_pb2.RankedKey(key=KEYS[0], version=version + 1),
            prune_pb2.RankedKey(key=KEYS[1]),
        ],
    )
    async with serving(guarded(store, tokens)) as (_, client):
        report = (await apply(client, message=message)).report
    assert (report.form, report.issuer, report.sequence, report.order_id) == ("message", "manager", 7, "n-2")
    assert dict(report.counts) == {"deleted": 1, "changed": 1}
    assert [(each.key, each.ranked, each.found) for each in report.not_applied] == [
        (KEYS[0], version + 1, version)
    ]


async def test_a_dry_run_says_what_would_go_and_needs_no_id(store: Store, tokens: str) -> None:
    async with serving(guarded(store, tokens)) as (_, client):
        found = await apply(client, document=document(*KEYS[:4], "gone"), dry_run=True, limit=2)
    assert [each.key for each in found.report.would_delete] == KEYS[:2]
    assert (found.report.goal, found.report.dry_run) == ("limit", True)
    assert await live(store) == KEYS


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({}, "INVALID_ARGUMENT", "UsageError"),
        ({"document": b"[]"}, "INVALID_ARGUMENT", "InputRejected"),
        ({"document": document("a")}, "INVALID_ARGUMENT", "UsageError"),  # no id
        ({"document": document("a"), "order_id": "n", "missing": 7}, "INVALID_ARGUMENT", "UsageError"),
        ({"document": document("a"), "order_id": "n", "missing": 2}, "NOT_FOUND", "KeyNotFound"),
        ({"document": document("a"), "order_id": "n", "grace_seconds": 0}, "INVALID_ARGUMENT", "UsageError"),
        ({"document": document("a"), "order_id": "n", "namespace": "b"}, "NOT_FOUND", "NamespaceNotFound"),
        ({"document": document("a"), "order_id": "n", "wait_seconds": -1}, "INVALID_ARGUMENT", "UsageError"),
        ({"message": prune_pb2.PruneOrder(order_id="n")}, "INVALID_ARGUMENT", "InputRejected"),
    ],
)
async def test_what_is_wrong_is_told_by_its_name_and_writes_nothing(
    store: Store, tokens: str, fields: dict[str, Any], code: str, reason: str
) -> None:
    async with serving(guarded(store, tokens)) as (_, client):
        found = await problem(apply(client, **fields))
    assert (found.code, found.reason) == (code, reason)
    assert found.facts["exit_code"] in ("2", "11", "15")
    assert await live(store) == KEYS


@pytest.mark.parametrize(
    ("token", "code", "reason"),
    [
        (None, "UNAUTHENTICATED", "UNAUTHENTICATED"),
        ("", "UNAUTHENTICATED", "UNAUTHENTICATED"),
        ("wrong-token-0123456789", "UNAUTHENTICATED", "UNAUTHENTICATED"),
        (READER, "PERMISSION_DENIED", "FORBIDDEN"),
        (STRANGER, "PERMISSION_DENIED", "FORBIDDEN"),
    ],
)
async def test_only_a_caller_with_the_role_may_send_one(
    store: Store, tokens: str, token: str | None, code: str, reason: str
) -> None:
    async with serving(guarded(store, tokens)) as (_, client):
        found = await problem(apply(client, token=token, document=document("key-00"), order_id="n"))
        assert (found.code, found.reason) == (code, reason)
        assert (await problem(get(client, "n", token or "-"))).code == code
    assert await live(store) == KEYS


async def test_without_a_file_of_tokens_and_without_doors_it_is_shut(store: Store) -> None:
    for given in (guarded(store, None), context()):
        async with serving(given) as (_, client):
            found = await problem(apply(client, document=document("key-00"), order_id="n"))
            assert (found.code, found.reason) == ("PERMISSION_DENIED", "CLOSED")
            assert "file of tokens" in found.facts["hint"]
    assert await live(store) == KEYS


async def test_watched_keys_are_told_to_a_token_with_the_role(store: Store, tokens: str) -> None:
    async def ask(token: str) -> Any:
        proxied = [("authorization", f"Bearer {token}"), ("x-forwarded-for", "10.0.0.7")]
        return await client.rho.Status(rho_pb2.StatusRequest(keys=True), metadata=proxied, timeout=SECONDS)

    async with serving(guarded(store, tokens)) as (_, client):
        assert len((await ask(READER)).keys) == 1
        assert (await problem(ask(TOKEN))).code == "PERMISSION_DENIED"
        assert (await problem(ask("x" * 20))).code == "UNAUTHENTICATED"


class TestAClientThatDoesNotWait:
    @pytest.fixture
    def slow(self, store: Store) -> Gate:
        return Gate(store)

    async def _until_done(self, client: Client, order_id: str) -> prune_pb2.OrderStatus:
        async with asyncio.timeout(SECONDS):
            while (status := await get(client, order_id)).state != "done":
                await asyncio.sleep(0.01)
        return status

    async def test_whose_deadline_is_over_changes_nothing(self, slow: Gate, tokens: str) -> None:
        async with serving(guarded(slow, tokens)) as (_, client):
            call = client.prune.Apply(
                prune_pb2.ApplyRequest(document=document("key-00"), order_id="n"),
                metadata=[("authorization", f"Bearer {TOKEN}")],
                timeout=0.5,
            )
            assert (await problem(call)).code == "DEADLINE_EXCEEDED"
            async with asyncio.timeout(SECONDS):
                await slow.waiting.wait()
            assert (await get(client, "n")).state == "running"
            slow.gate.set()
            assert (await self._until_done(client, "n")).report.deleted_keys == 1

    async def test_who_waits_so_long_only_is_told_that_it_goes_on(self, slow: Gate, tokens: str) -> None:
        async with serving(guarded(slow, tokens)) as (_, client):
            found = await apply(client, document=document("key-00"), order_id="n", wait_seconds=0)
            assert (found.HasField("report"), found.order_id) == (False, "n")
            slow.gate.set()
            again = await apply(client, document=document("key-00"), order_id="n")
            assert again.report.deleted_keys == 1

    async def test_a_drain_lets_the_call_end_that_is_under_way(self, slow: Gate, tokens: str) -> None:
        async with serving(guarded(slow, tokens)) as (face, client):
            call = asyncio.create_task(apply(client, document=document("key-00"), order_id="n"))
            async with asyncio.timeout(SECONDS):
                await slow.waiting.wait()
            stopping = asyncio.create_task(face.stop(SECONDS))
            async with asyncio.timeout(SECONDS):
                while not await _is_refused(client):
                    await asyncio.sleep(0.01)
            slow.gate.set()
            assert (await call).report.deleted_keys == 1
            async with asyncio.timeout(SECONDS):
                assert await stopping == 0

    async def test_a_call_that_takes_longer_than_the_grace_is_cut_off(self, slow: Gate, tokens: str) -> None:
        async with serving(guarded(slow, tokens)) as (face, client):
            call = asyncio.create_task(apply(client, document=document("key-00"), order_id="n"))
            async with asyncio.timeout(SECONDS):
                await slow.waiting.wait()
            assert await face.stop(0.1) == 1
            assert (await problem(call)).code in ("UNAVAILABLE", "CANCELLED")
            slow.gate.set()


async def _is_refused(client: Client) -> bool:
    try:
        await client.check()
    except grpc.aio.AioRpcError as error:
        return bool(error.code() == grpc.StatusCode.UNAVAILABLE)
    return False


async def test_an_order_larger_than_a_message_may_be_is_refused_before_it_is_read(
    store: Store, tokens: str
) -> None:
    given = guarded(store, tokens, options=ServeOptions(limits=Limits(body_bytes=10_000)))
    async with serving(given) as (_, client):
        found: Problem = await problem(apply(client, document=b"k" * 20_000, order_id="n"))
        assert found.code == "RESOURCE_EXHAUSTED"
        assert (await apply(client, document=document("key-00"), order_id="n")).report.deleted_keys == 1
