"""Doors of a process that dies, of stores that die or are tampered with, of tokens that change under load."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import schemathesis
from hypothesis import given, settings

from prune.orders import live
from servers.postgres import Databases
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.runtime import open_store
from somactl.store.contract import Store
from somactl.testing.values import put
from store.postgres_backend import PostgresBackend
from support.doors import PRUNER, READER, TOKENS, asked, put_rho
from support.serve_process import ServeProcess

PROCESS = Path(__file__).with_name("doors_process.py")
TESTS = PROCESS.parents[1]
KEYS = [f"key-{number:02}" for number in range(12)]
ORDER = "/v1/prune-orders?order_id=n-1&batch=2"
WAIT_SECONDS = 60.0


class Place(NamedTuple):
    url: str
    cache: str = ""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        async with open_store(Settings(store=self.url, cache=self.cache, read_timeout=5.0)) as store:
            yield store


@pytest.fixture
def postgres(postgres_server: Databases) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "hybrid"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A database with KEYS in it."""
    place = Place(f"sqlite:///{tmp_path / 'store.db'}")
    if request.param != "sqlite":
        redis: RedisServer = request.getfixturevalue("redis_server")
        with redis.client() as raw:
            raw.flushdb()
        place = Place(request.getfixturevalue("postgres"), redis.url)
    await fill(place)
    return place


async def fill(place: Place) -> None:
    async with place.opened() as store:
        await store.init()
        await put_rho(store, *KEYS)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return write(tmp_path / "tokens", TOKENS)


def write(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


class Client:
    """Requests to a port of this machine, each over a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, token: str, order: Any = None) -> tuple[int, Any]:
        body = None if order is None else json.dumps(order)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            data = answer.read()
        return answer.status, json.loads(data) if "json" in answer.headers["content-type"] else data


class Process(Client):
    """`doors_process.py`, and requests to it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        super().__init__(int(process.stdout.readline()))
        self.process = process


@contextmanager
def serving(place: Place, tokens: Path, *die: str) -> Iterator[Process]:
    process = subprocess.Popen(
        [sys.executable, PROCESS, place.url, place.cache, tokens, *die],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    try:
        yield Process(process)
        process.terminate()
        process.wait(WAIT_SECONDS)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_order_outlives_the_process_that_was_killed_in_the_middle(
    place: Place, tokens: Path, moment: str
) -> None:
    with serving(place, tokens, moment, "3") as killed:
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            killed.ask("POST", ORDER, PRUNER, KEYS)
        assert killed.process.wait(WAIT_SECONDS) == -signal.SIGKILL
    with serving(place, tokens) as after:
        status, half = after.ask("GET", "/v1/prune-orders/n-1", PRUNER)
        assert (status, half["state"], half["report"]) == (200, "unfinished", None)
        assert half["order"]["deleted_keys"] == (4 if moment == "before" else 6)
        other = after.ask("POST", ORDER, PRUNER, KEYS[:2])
        assert (other[0], other[1]["title"]) == (422, "CommitIdReused")
        status, report = after.ask("POST", ORDER, PRUNER, KEYS)
        assert (status, report["deleted_keys"], report["resumed"], report["code"]) == (200, 12, True, 0)
        assert after.ask("POST", ORDER, PRUNER, KEYS) == (200, report | {"replayed": True})
        assert after.ask("GET", "/v1/rho/key-00", READER)[0] == 404

    async def check() -> None:
        async with place.opened() as store:
            assert await live(store) == []
            made = [record for record in await store.log() if record.commit_id.startswith("n-1/")]
            assert [record.commit_id for record in made] == [f"n-1/000{n}" for n in range(6, 0, -1)]
            assert all(each.metadata and each.metadata.facts["caller"] == "manager-1" for each in made)

    asyncio.run(check())


def test_tokens_change_under_load_and_no_reader_is_hurt(tmp_path: Path, tokens: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'store.db'}")
    asyncio.run(fill(place))
    other = "other-0123456789abcdef"
    found: list[tuple[str, int]] = []
    done = threading.Event()

    def read(process: Process, token: str) -> None:
        while not done.is_set():
            found.append((token, process.ask("GET", "/v1/rho/key-00", token)[0]))

    def until(process: Process, token: str, status: int) -> None:
        deadline = threading.Event()
        for _ in range(int(WAIT_SECONDS / 0.02)):
            if process.ask("GET", "/v1/rho/key-00", token)[0] == status:
                return
            deadline.wait(0.02)
        raise AssertionError(f"{status} never came")

    with serving(place, tokens) as process:
        stays = "stays-0123456789abcdef"
        write(tokens, f"{TOKENS}second read {stays}\n")
        until(process, stays, 200)  # it was looked at without being told
        readers = [threading.Thread(target=read, args=(process, token)) for token in (READER, stays, other)]
        for reader in readers:
            reader.start()
        try:
            write(tokens, f"second read {stays}\nthird read {other}\n")
            process.process.send_signal(signal.SIGHUP)
            until(process, other, 200)
            assert process.ask("GET", "/v1/rho/key-00", READER)[0] == 401
            write(tokens, f"nonsense {READER}\n")
            for _ in range(5):
                process.process.send_signal(signal.SIGHUP)
                assert process.ask("GET", "/v1/rho/key-00", other)[0] == 200
                assert process.ask("GET", "/v1/rho/key-00", READER)[0] == 401
            write(tokens, TOKENS)
            process.process.send_signal(signal.SIGHUP)
            until(process, READER, 200)
        finally:
            done.set()
            for reader in readers:
                reader.join()
    assert {status for token, status in found if token == READER} == {200, 401}
    assert {status for token, status in found if token == other} == {401, 200}
    first = [status for token, status in found if token == stays]
    assert first == sorted(first)  # 200 until it was taken out, 401 from then on: no other answer, ever


def test_the_description_holds_on_a_real_server(tmp_path: Path, tokens: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'store.db'}")
    asyncio.run(fill(place))
    with serving(place, tokens) as process:
        described = schemathesis.openapi.from_url(f"http://127.0.0.1:{process.port}/openapi.json")
        for path, method, token in (
            ("/v1/rho/{key}", "GET", READER),
            ("/v1/prune-orders", "POST", PRUNER),
            ("/v1/prune-orders/{order_id}", "GET", PRUNER),
            ("/healthz", "GET", READER),
            ("/metrics", "GET", READER),
        ):
            check(described[path][method], token)


def check(operation: Any, token: str) -> None:
    from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

    @given(case=operation.as_strategy())
    @settings(max_examples=5)
    def run(case: Any) -> None:
        case.call_and_validate(
            headers={"Authorization": f"Bearer {token}"},
            excluded_checks=[ignored_auth, positive_data_acceptance],
        )

    run()


async def test_a_store_that_dies_in_the_middle_of_an_order(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", config={"appendonly": "yes", "appendfsync": "always"}) as redis:
        place = Place(redis.url)
        await fill(place)
        async with asked(place.url, tmp_path, retry_seconds=0.0) as served:
            inner = served.doors._stores["default"]
            commit, count = inner.commit_matrix_update, 0

            async def dying(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == 3:
                    await asyncio.to_thread(redis.kill)
                return await commit(*arguments, **options)

            inner.commit_matrix_update = dying  # type: ignore[method-assign]
            answer = await served.post(KEYS, "?order_id=n-1&batch=2")
            assert (answer.status, answer.json["code"]) == (503, 13)
            assert answer.json["report"]["deleted_keys"] == 4
            assert (await served.get("/v1/prune-orders/n-1", PRUNER)).status == 503
            assert (await served.rho("key-11")).status == 503
            await asyncio.to_thread(redis.start)
            status = await served.get("/v1/prune-orders/n-1", PRUNER)
            assert (status.json["state"], status.json["failure"]["code"]) == ("unfinished", 13)
            done = await served.post(KEYS, "?order_id=n-1&batch=2")
            assert (done.status, done.json["deleted_keys"], done.json["resumed"]) == (200, 12, True)


async def test_two_services_are_sent_the_same_order_at_once(place: Place, tmp_path: Path) -> None:
    async with (
        asked(place.url, tmp_path, cache=place.cache) as one,
        asked(place.url, tmp_path, cache=place.cache) as other,
    ):
        answers = await asyncio.gather(
            *(each.post(KEYS, "?order_id=n-1&batch=1") for each in (one, other) for _ in range(3))
        )
        assert {answer.status for answer in answers} <= {200, 409}
        for answer in answers:
            if answer.status == 409:
                assert answer.json["code"] in (12, 16)
        done = await one.post(KEYS, "?order_id=n-1&batch=1")
        assert (done.status, done.json["deleted_keys"], done.json["complete"]) == (200, 12, True)
    async with place.opened() as store:
        made = [record.commit_id for record in await store.log() if record.commit_id.startswith("n-1/")]
        assert len(made) == 12


async def test_a_value_that_was_tampered_with_in_postgres(postgres_server: Databases, tmp_path: Path) -> None:
    backend = PostgresBackend(postgres_server)
    async with asked(backend.url, tmp_path) as served:
        assert served.context.server is not None
        store = served.context.server.namespace("default")
        await store.init()
        await put(store, "a", "b")
        data = bytearray((await served.rho("a")).body)
        data[-1] ^= 1
        await backend.overwrite("default", "a", 1, bytes(data))
        answer = await served.rho("a")
        assert (answer.status, answer.json["title"]) == (500, "CorruptValue")
        assert (await served.rho("b")).status == 200
    await backend.dispose()


NO_NUMPY = """
import asyncio, sys
from somactl.config import Settings
from somactl.runtime import Server
from somactl.serve import http, rest
from somactl.serve.access import Access, Credentials
from somactl.serve.doors import Doors
from somactl.serve.log import Log
from somactl.operations.orders import OrderOptions
import somactl.store.hybrid, somactl.store.postgres.store, somactl.store.redis.cache, somactl.store.metered

async def main(url, tokens):
    server, log = Server(Settings(store=url)), Log(lambda line: None)
    doors = Doors(server, ["default"], Access.open(tokens, log), log, observers=lambda name: lambda *_: None)
    reader, pruner = (Credentials(token=token) for token in sys.argv[3:])
    assert (await doors.read(reader, "key-00")).framed.kind == "rho"
    run = await doors.prune(pruner, b"key-00", OrderOptions(order_id="n-1"), door="http")
    assert (await run.report()).deleted_keys == 1
    await doors.stop(1)
    await server.close()

asyncio.run(main(*sys.argv[1:3]))
print(sorted({"numpy", "scipy"} & set(sys.modules)))
"""


def test_doors_need_no_numpy(tmp_path: Path, tokens: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'store.db'}")
    asyncio.run(fill(place))
    words = [sys.executable, "-c", NO_NUMPY, place.url, str(tokens), READER, PRUNER]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)
    assert (done.stdout, done.stderr) == ("[]\n", "")


async def test_the_service_ends_between_two_batches_and_the_next_one_goes_on(
    tmp_path: Path, tokens: Path
) -> None:
    keys = [f"key-{number:03}" for number in range(400)]
    place = Place(f"sqlite:///{tmp_path / 'store.db'}")
    async with place.opened() as store:
        await put_rho(store, *keys)
    query = "?order_id=n-1&batch=1"
    with ServeProcess(tmp_path, "--store", place.url, "--watch", "none", "--tokens", str(tokens)) as serving:
        answers: list[tuple[int, Any]] = []
        client = Client(serving.port)
        path = f"/v1/prune-orders{query}"
        caller = threading.Thread(target=lambda: answers.append(client.ask("POST", path, PRUNER, keys)))
        caller.start()
        while (client.ask("GET", "/v1/prune-orders/n-1", PRUNER)[1].get("order") or {}).get(
            "deleted_keys", 0
        ) < 1:
            assert caller.is_alive()
        code, _ = serving.end()
        caller.join(WAIT_SECONDS)
        ((status, problem),) = answers
        assert (code, status, problem["title"], problem["code"]) == (0, 503, "Unfinished", 143)
        deleted = problem["report"]["deleted_keys"]
        assert 0 < deleted < len(keys)
        assert serving.event("order", order="n-1", caller="manager-1")["deleted"] == deleted
        assert PRUNER.encode() not in serving.raw
    async with asked(place.url, tmp_path) as after:
        status_of = await after.get("/v1/prune-orders/n-1", PRUNER)
        assert (status_of.json["state"], status_of.json["order"]["deleted_keys"]) == ("unfinished", deleted)
        done = await after.post(keys, query)
        assert (done.status, done.json["deleted_keys"], done.json["resumed"]) == (200, len(keys), True)
