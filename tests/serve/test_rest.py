"""Values and prune orders over HTTP, on real stores."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune.orders import live
from servers.postgres import Databases
from servers.redis import RedisServer
from somactl import Policy, commit_matrix_update
from somactl.serve.negotiation import acceptable, matches, wait_seconds
from somactl.serve.values import ENVELOPE
from somactl.store.contract import Store
from somactl.store.redis.cache_entries import Names
from somactl.testing.values import put
from support.doors import PRUNER, READER, Asked, asked, put_rho
from support.sqlite_backend import SqliteBackend

KEYS = [f"key-{number:02}" for number in range(10)]
ODD = ["acme:(9.0, 14.0, 43.0):data", "a/b//c", "100%", "a+b?c#d", "é\u2028 ", "x" * 1024, "[{", "/", "%2F"]


@pytest.fixture
def backend(tmp_path: Path) -> SqliteBackend:
    return SqliteBackend(tmp_path / "store.db")


@pytest.fixture
async def served(backend: SqliteBackend, tmp_path: Path) -> AsyncIterator[Asked]:
    async with asked(f"sqlite:///{backend.path}", tmp_path) as found:
        yield found


def store_of(served: Asked) -> Store:
    assert served.context.server is not None
    return served.context.server.namespace("default")


async def test_every_key_is_reached(served: Asked) -> None:
    store = store_of(served)
    await put(store, *ODD)
    for key in ODD:
        answer = await served.rho(key)
        assert (answer.status, answer.headers["content-type"]) == (200, ENVELOPE), key
        assert answer.body == bytes((await store.read(key)).data)
    for path in ("/v1/rho/a/b//c", "/%761/rh%6F/a/b//c", "/v1%2Frho%2Fa%2Fb//c"):
        assert (await served.get(path)).body == (await served.rho("a/b//c")).body, path
    for path, status in {
        "/v1/rho/": 422,
        "/v1/rho/%ff": 422,
        "/v1/rho/a%00": 422,
        "/v1/rho/" + "x" * 1025: 422,
        "/v1/rho/absent": 404,
        "/v1/rho/a%25": 404,
    }.items():
        refused = await served.get(path)
        assert (refused.status, refused.headers["content-type"]) == (status, "application/problem+json"), path
    assert (await served.get("/v1/rho/absent")).json["title"] == "KeyNotFound"


async def test_what_a_value_says_of_itself(served: Asked) -> None:
    store = store_of(served)
    await put(store, "a")
    receipt = await put_rho(store, "a", "b", seed=1)
    entry = await store.read("a")
    answer = await served.rho("a")
    told = {name: value for name, value in answer.headers.items() if name.startswith("somactl-")}
    assert told == {
        "somactl-version": "2",
        "somactl-incarnation": receipt.incarnation,
        "somactl-commit": receipt.commit_id,
        "somactl-kind": "rho",
        "somactl-content": entry.framed.content,
        "somactl-envelope": entry.framed.envelope,
        "somactl-served-by": "sqlite",
        "somactl-degraded": "false",
        "somactl-verdict": "valid",
    }
    as_json = await served.rho("a", headers={"accept": "application/json"})
    assert as_json.json["admitted_dark"] is False
    assert as_json.headers["content-type"] == "application/json"
    assert base64.b64decode(as_json.json["value"]) == answer.body
    assert (as_json.json["key"], as_json.json["version"], as_json.json["shape"]) == ("a", 2, [3, 3])
    assert as_json.json["verdict"]["status"] == "valid"
    before = await served.rho("a", "?version=1")
    assert (before.headers["somactl-version"], before.body != answer.body) == ("1", True)
    head = await served.ask("HEAD", "/v1/rho/a", READER)
    assert (head.status, head.headers) == (200, answer.headers)
    assert (await served.rho("a", headers={"accept": "text/html"})).status == 406


async def test_a_value_says_that_it_was_admitted_in_the_dark(served: Asked) -> None:
    store, bad = store_of(served), np.diag([1.2, -0.2])
    await commit_matrix_update(store, {"a": bad}, policy=Policy(dark=True))
    as_json = await served.rho("a", headers={"accept": "application/json"})
    assert (as_json.json["admitted_dark"], as_json.json["verdict"]["status"]) == (True, "violated")
    known = await served.rho("a", headers={"if-none-match": as_json.headers["etag"]})
    old = await served.rho("a", "?version=1")
    head = await served.ask("HEAD", "/v1/rho/a", READER)
    assert (known.status, old.status, head.status) == (304, 200, 200)
    for answer in (as_json, known, old, head):
        told = answer.headers
        assert (told["somactl-admitted-dark"], told["somactl-verdict"]) == ("true", "violated")


async def test_what_is_known_is_not_sent_again(served: Asked) -> None:
    await put(store_of(served), "a")
    tag = (await served.rho("a")).headers["etag"]
    for known in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
        again = await served.rho("a", headers={"if-none-match": known})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert (await served.rho("a", headers={"if-none-match": '"x"'})).status == 200
    await put(store_of(served), "a", seed=1)
    assert (await served.rho("a", headers={"if-none-match": tag})).status == 200


@pytest.mark.parametrize(
    "query", ["?versoin=1", "?version=1&version=2", "?version=x", "?version=0", "?version=-1", "?version=1e3"]
)
async def test_a_misspelt_query_is_refused(served: Asked, query: str) -> None:
    await put(store_of(served), "a")
    answer = await served.rho("a", query)
    assert (answer.status, answer.json["title"]) == (400, "UsageError")


async def test_a_tampered_value_is_an_error_and_no_byte_of_it_is_served(
    served: Asked, backend: SqliteBackend
) -> None:
    await put(store_of(served), "a")
    data = bytearray((await served.rho("a")).body)
    data[-1] ^= 1
    await backend.overwrite("default", "a", 1, bytes(data))
    for accept in (ENVELOPE, "application/json"):
        answer = await served.rho("a", headers={"accept": accept, "if-none-match": "*"})
        assert (answer.status, answer.json["title"], answer.json["code"]) == (500, "CorruptValue", 3)
        assert answer.json["runbook"] == "RUNBOOKS/corrupt-value.md"
        assert bytes(data[-16:]) not in answer.body


async def test_a_tampered_verdict_begins_no_header(served: Asked, backend: SqliteBackend) -> None:
    await put_rho(store_of(served), "a")
    backend.rows("UPDATE revision SET verdict = ?", json.dumps({"status": "\u4e2d\r\nset-cookie: a=b"}))
    answer = await served.rho("a")
    assert answer.status == 200
    assert answer.headers["somactl-verdict"] == "%E4%B8%AD%0D%0Aset-cookie: a=b"
    assert "set-cookie" not in answer.headers


async def test_an_order_over_http(served: Asked) -> None:
    store = store_of(served)
    await put(store, *KEYS)
    foreseen = await served.post(KEYS[:3], "?dry_run=true")
    assert (foreseen.status, foreseen.json["deleted_keys"], foreseen.json["dry_run"]) == (200, 3, True)
    assert await live(store) == KEYS
    unnamed = await served.post(KEYS[:3])
    assert (unnamed.status, unnamed.json["code"]) == (400, 2)
    done = await served.post(KEYS[:5], "?order_id=n-1&limit=3&grace=3600")
    assert (done.status, done.json["deleted_keys"], done.json["grace"]) == (200, 3, 3600.0)
    assert await live(store) == KEYS[3:]
    again = await served.post(KEYS[:5], "?order_id=n-1&limit=3&grace=3600")
    assert (again.status, again.json) == (200, done.json | {"replayed": True})
    other = await served.post(KEYS[:5], "?order_id=n-1&limit=4&grace=3600")
    assert (other.status, other.json["title"]) == (422, "CommitIdReused")
    status = await served.get("/v1/prune-orders/n-1", PRUNER)
    assert (status.status, status.json["state"], status.json["report"]) == (200, "done", done.json)
    assert status.json["order"]["caller"] == "manager-1"
    assert (await served.get("/v1/prune-orders/n-2", PRUNER)).status == 404
    records = [record for record in await store.log() if record.commit_id == "n-1"]
    assert [dict(record.metadata.facts)["caller"] for record in records if record.metadata] == ["manager-1"]
    assert b'"order":"n-1","caller":"manager-1","door":"http"' in served.logged()


@pytest.mark.parametrize(
    ("query", "status", "title"),
    [
        ("?order_id=n-1&kep=5", 400, "UsageError"),
        ("?order_id=n-1&limit=1&keep=1", 400, "UsageError"),
        ("?order_id=n-1&limit=-1", 400, "UsageError"),
        ("?order_id=n-1&limit=1.5", 400, "UsageError"),
        ("?order_id=n-1&grace=0", 400, "UsageError"),
        ("?order_id=n-1&grace=1d", 400, "UsageError"),
        ("?order_id=n-1&grace=nan", 400, "UsageError"),
        ("?order_id=n-1&grace=999999999999", 400, "UsageError"),
        ("?order_id=n-1&batch=0", 400, "UsageError"),
        ("?order_id=n-1&missing=perhaps", 400, "UsageError"),
        ("?order_id=n-1&dry_run=1", 400, "UsageError"),
        ("?order_id=a/b", 422, "InvalidName"),
        ("?order_id=n-1&missing=fail", 404, "KeyNotFound"),
        ("?order_id=n-1&namespace=acme", 404, "NamespaceNotFound"),
        ("?order_id=n-1&namespace=other", 403, "Forbidden"),
        ("?order_id=n-1&namespace=a/b", 422, "InvalidName"),
    ],
)
async def test_an_order_that_is_refused(served: Asked, query: str, status: int, title: str) -> None:
    store = store_of(served)
    await put(store, *KEYS)
    answer = await served.post([*KEYS, "absent"], query)
    assert (answer.status, answer.json["title"], answer.json["status"]) == (status, title, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert await live(store) == KEYS


async def test_bodies_that_are_no_orders(served: Asked) -> None:
    for body, status in {b"": 400, b"[1]": 422, b"[]": 422, b"{}": 422, b"\xff": 422, b" \n": 422}.items():
        assert (await served.post(body, "?order_id=n-1")).status == status, body


async def test_an_order_goes_on_without_its_caller(served: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(served)
    await put(store, *KEYS)
    inner = served.doors._stores["default"]
    gate, waiting, commit = asyncio.Event(), asyncio.Event(), inner.commit_matrix_update

    async def slow(*arguments: Any, **options: Any) -> Any:
        waiting.set()
        await gate.wait()
        return await commit(*arguments, **options)

    monkeypatch.setattr(inner, "commit_matrix_update", slow)
    begun = await served.post(KEYS, "?order_id=n-1&batch=4", headers={"prefer": "wait=0"})
    assert (begun.status, begun.json["state"]) == (202, "running")
    assert begun.headers["location"] == "/v1/prune-orders/n-1"
    assert begun.headers["preference-applied"] == "wait=0"
    await waiting.wait()
    status = await served.get(begun.headers["location"], PRUNER)
    assert (status.json["state"], status.json["order"]["state"]) == ("running", "running")
    other = await served.post(KEYS[:1], "?order_id=n-1&batch=4")
    assert (other.status, other.json["title"]) == (422, "CommitIdReused")

    left = asyncio.create_task(served.post(KEYS, "?order_id=n-1&batch=4"))
    await asyncio.sleep(0)
    stays = asyncio.create_task(served.post(KEYS, "?order_id=n-1&batch=4"))
    left.cancel()
    gate.set()
    done = await stays
    assert (done.status, done.json["deleted_keys"], done.json["replayed"]) == (200, 10, False)
    assert await live(store) == []
    assert (await served.get("/v1/prune-orders/n-1", PRUNER)).json["state"] == "done"


async def test_a_service_that_ends_leaves_what_can_be_gone_on_with(
    served: Asked, backend: SqliteBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(served)
    await put(store, *KEYS)
    inner = served.doors._stores["default"]
    commit, stopped = inner.commit_matrix_update, []

    async def last(*arguments: Any, **options: Any) -> Any:
        stopped.append(asyncio.create_task(served.doors.stop(60)))
        await asyncio.sleep(0)
        return await commit(*arguments, **options)

    monkeypatch.setattr(inner, "commit_matrix_update", last)
    answer = await served.post(KEYS, "?order_id=n-1&batch=4")
    assert (answer.status, answer.headers["retry-after"], answer.json["title"]) == (503, "1", "Unfinished")
    assert (answer.json["code"], answer.json["report"]["deleted_keys"]) == (143, 4)
    refused = await served.post(KEYS, "?order_id=n-2")
    assert (refused.status, refused.json["title"]) == (503, "Terminated")
    async with asked(f"sqlite:///{backend.path}", tmp_path) as after:
        done = await after.post(KEYS, "?order_id=n-1&batch=4")
    assert (done.status, done.json["deleted_keys"], done.json["resumed"]) == (200, 10, True)
    await asyncio.gather(*stopped)


async def test_callers(served: Asked) -> None:
    await put(store_of(served), "a")
    for token in (None, "", "wrong-0123456789abcdef", READER.upper()):
        refused = await served.rho("a", token=token)
        assert (refused.status, refused.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert (await served.post(["a"], "?order_id=n-1", token=token)).status == 401
    assert (await served.rho("a", token=PRUNER)).status == 403
    assert (await served.post(["a"], "?order_id=n-1", token=READER)).status == 403
    assert (await served.get("/v1/prune-orders/n-1", token=READER)).status == 403
    assert (await served.rho("absent", token="wrong")).status == 401  # who is unknown learns nothing
    here = {"client": ("127.0.0.1", 1), "headers": {"host": "localhost:8080"}}
    assert (await served.rho("a", token=None, **here)).status == 200
    assert (await served.post(["a"], "?order_id=n-1", token=None, **here)).status == 401
    rebound = {"client": ("127.0.0.1", 1), "headers": {"host": "rebound.example"}}
    assert (await served.rho("a", token=None, **rebound)).status == 401
    crossed = await served.post(["a"], "?order_id=n-1", headers={"sec-fetch-site": "cross-site"})
    assert crossed.status == 403
    for health in ("/healthz", "/livez", "/readyz", "/metrics", "/openapi.json"):
        assert (await served.get(health, None)).status == 200
    assert await live(store_of(served)) == ["a"]


async def test_no_token_is_told(served: Asked) -> None:
    """Planted in headers and queries: neither what comes back nor what is logged has it."""
    planted = "planted-0123456789abcdef"
    answers = [
        await served.rho("a", token=planted),
        await served.rho("a", f"?token={planted}", token=planted),
        await served.rho("a", f"?access_token={planted}"),
        await served.post(["a"], f"?order_id=n-1&limit={planted}", token=planted),
        await served.rho("a", headers=[("authorization", f"Basic {planted}")], token=None),
        await served.rho("a", headers=[("authorization", f"Bearer {planted}")] * 2, token=None),
        await served.post(["a"], "?order_id=n-1", token=READER),
        await served.rho("a", token=PRUNER),
    ]
    told = served.logged() + b"".join(answer.body + json.dumps(answer.headers).encode() for answer in answers)
    assert all(answer.status >= 400 for answer in answers)
    for token in (planted, READER, PRUNER):
        assert token.encode() not in told


async def test_a_certificate_is_a_caller(backend: SqliteBackend, tmp_path: Path) -> None:
    tokens = "batch prune cert:CN=batch.acme\nmesh read cert:SAN=spiffe://acme/reader\n"
    async with asked(f"sqlite:///{backend.path}", tmp_path, tokens=tokens) as served:
        await put(store_of(served), "a", "b")

        def proven(**names: Any) -> dict[str, Any]:
            return {"extensions": {"tls": {"peercert": names}}}

        batch = proven(subject=((("commonName", "batch.acme"),),))
        mesh = proven(subjectAltName=(("URI", "spiffe://acme/reader"),))
        assert (await served.post(["a"], "?order_id=n-1", None, **batch)).status == 200
        assert (await served.rho("b", token=None, **mesh)).status == 200
        assert (await served.rho("b", token=None, **batch)).status == 403
        assert (await served.rho("b", token=None, extensions={"tls": {"peercert": None}})).status == 401


async def test_doors_are_shut_unless_configured(backend: SqliteBackend, tmp_path: Path) -> None:
    async with asked(f"sqlite:///{backend.path}", tmp_path, tokens=None) as served:
        await put(store_of(served), "a")
        here = {"client": ("::1", 1), "headers": {"host": "[::1]:8080"}, "token": None}
        assert (await served.rho("a", **here)).status == 200
        for answer in (
            await served.post(["a"], "?order_id=n-1", **here),
            await served.post(["a"], "?order_id=n-1"),
            await served.rho("a"),
        ):
            assert (answer.status, "not configured" in answer.json["detail"]) == (403, True)
            assert "file of tokens" in answer.json["hint"]


async def test_several_namespaces(backend: SqliteBackend, tmp_path: Path) -> None:
    async with asked(f"sqlite:///{backend.path}", tmp_path, "default", "acme", "other") as served:
        assert served.context.server is not None
        await put(served.context.server.namespace("acme"), "a")
        unnamed = await served.rho("a")
        assert (unnamed.status, unnamed.json["hint"]) == (400, "default, acme, other")
        limited = await served.post(["a"], "?order_id=n-1")
        assert (limited.status, limited.json["hint"]) == (400, "default, acme")  # what that caller may use
        assert (await served.rho("a", "?namespace=acme")).status == 200
        assert (await served.rho("a", "?namespace=default")).status == 404
        done = await served.post(["a"], "?order_id=n-1&namespace=acme", headers={"prefer": "wait=0"})
        assert done.status in (200, 202)
        if done.status == 202:
            assert done.headers["location"] == "/v1/prune-orders/n-1?namespace=acme"


async def test_a_store_that_is_away(tmp_path: Path) -> None:
    nowhere = "postgresql://postgres@127.0.0.1:1/none"
    async with asked(nowhere, tmp_path, retry_seconds=0.0) as served:
        for answer in (
            await served.rho("a"),
            await served.post(["a"], "?order_id=n-1"),
            await served.get("/v1/prune-orders/n-1", PRUNER),
        ):
            assert (answer.status, answer.json["code"], answer.json["retryable"]) == (503, 13, True)
            assert int(answer.headers["retry-after"]) > 0
            assert answer.json["runbook"] == "RUNBOOKS/store-unavailable.md"
        assert (await served.get("/healthz", None)).status == 200


async def test_reads_through_a_cache(
    postgres_server: Databases, redis_server: RedisServer, tmp_path: Path
) -> None:
    url = postgres_server.create_database()
    raw = redis_server.client()
    raw.flushdb()
    try:
        async with asked(url, tmp_path, cache=redis_server.url, read_timeout=5.0) as served:
            store = store_of(served)
            await store.init()
            await put_rho(store, *KEYS)
            answer = await served.rho("key-00")
            cached = answer.headers["somactl-served-by"]
            assert answer.status == 200
            assert (float(answer.headers["somactl-age"]) >= 0, answer.headers["age"].isdigit()) == (
                True,
                True,
            )
            good = answer.body
            entry = Names.of("default").entry("key-00")
            raw.hset(entry, "envelope", good[:-1] + bytes([good[-1] ^ 1]))
            answer = await served.rho("key-00")
            assert (answer.status, answer.body) == (200, good)
            assert answer.headers["somactl-served-by"] != cached
            done = await served.post(KEYS[:4], "?order_id=n-1&batch=3")
            assert (done.status, done.json["deleted_keys"]) == (200, 4)
            assert (await served.rho("key-00")).status == 404
            assert (await served.rho("key-09")).status == 200
    finally:
        postgres_server.drop_database(url)


def test_negotiation() -> None:
    offers = ("a/x", "b/y")
    assert acceptable([], offers) == "a/x"
    assert acceptable(["*/*"], offers) == "a/x"
    assert acceptable(["b/y, */*;q=0.5"], offers) == "b/y"
    assert acceptable(["b/*;q=0.2, a/x;q=0.1"], offers) == "b/y"
    assert acceptable(["*/*, a/x;q=0"], offers) == "b/y"
    assert acceptable(["a/x;q=0"], offers) is None
    assert acceptable(["text/html"], offers) is None
    assert acceptable(["a/x;q=nonsense"], offers) is None
    assert matches(['W/"a", "b"'], 'W/"b"')
    assert not matches(['"ab"'], 'W/"b"')
    assert not matches([], 'W/"b"')
    assert wait_seconds([]) is None
    assert wait_seconds(["wait=5"]) == 5.0
    assert wait_seconds(["respond-async"]) == 0.0
    assert wait_seconds(["respond-async, wait=7"]) == 7.0
    assert wait_seconds(["wait=x", 'return=minimal; a="b"']) is None
