"""A store that is used before and after a fork, and in one event loop after another: nothing is shared."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from servers.external import ExternalPostgres, ExternalRedis
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl import runtime
from somactl.config import Settings
from somactl.errors import UsageError
from somactl.runtime import open_store
from somactl.store.contract import Store
from somactl.store.redis import RedisStore
from somactl.store.request import new_commit_id
from somactl.testing.values import put


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a loop that is closed leaves behind is closed by the collector, which says so."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
KINDS = ["sqlite", "redis", "postgres", "hybrid"]


@pytest.fixture(params=KINDS)
def settings(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    redis_server: RedisServer | ExternalRedis,
    postgres_server: PostgresServer | ExternalPostgres,
) -> Iterator[Settings]:
    if request.param == "sqlite":
        yield Settings(store=f"sqlite:///{tmp_path / 'store.db'}")
        return
    with redis_server.client() as raw:
        raw.flushdb()
        if request.param == "redis":
            yield Settings(store=redis_server.url)
        else:
            url = postgres_server.create_database()
            cache = redis_server.url if request.param == "hybrid" else ""
            yield Settings(store=url, cache=cache, read_timeout=5.0)
            postgres_server.drop_database(url)
        raw.flushdb()


@pytest_asyncio.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    """With connections that are open, and values to be read."""
    async with open_store(settings) as store:
        await store.init()
        await put(store, "a")
        await asyncio.gather(*(store.read("a") for _ in range(4)))
        yield store


def build(settings: Settings) -> Store:
    """The same, to be closed by the test."""
    return runtime.Server(settings).namespace(settings.namespace)


async def begin(store: Store) -> None:
    await store.init()
    await put(store, "a")


def fork(child: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a process that has threads
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        child()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


async def ended(pid: int) -> int:
    _, status = await asyncio.wait_for(asyncio.to_thread(os.waitpid, pid, 0), 60)
    return os.waitstatus_to_exitcode(status)


async def use(store: Store, key: str) -> None:
    """Read and write, several times at once, and look whether every answer is to the question."""
    for seed in range(5):
        await put(store, key, seed=seed, commit_id=new_commit_id())
        entries = await asyncio.gather(*(store.read(each) for each in ("a", key, "a", key)))
        assert [entry.key for entry in entries] == ["a", key, "a", key]


async def test_parent_and_child_use_one_store_at_once(store: Store) -> None:
    pids = [fork(lambda name=f"child-{n}": asyncio.run(use(store, name))) for n in range(2)]  # type: ignore[misc]
    await use(store, "parent")
    assert [await ended(pid) for pid in pids] == [0, 0]
    await use(store, "parent")
    assert (await store.head()).version == 21


async def test_what_a_child_drops_or_closes_stays_open_in_the_parent(store: Store) -> None:
    async def drop() -> None:
        nonlocal store
        del store
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)

    async def close() -> None:
        await store.close()

    kept = store
    for child in (drop, close):
        assert await ended(fork(lambda child=child: asyncio.run(child()))) == 0  # type: ignore[misc]
        await asyncio.wait_for(use(kept, "parent"), 30)


async def test_a_fork_while_calls_are_under_way(store: Store) -> None:
    calls = [asyncio.create_task(use(store, f"k{number}")) for number in range(4)]
    pids = []
    for number in range(3):
        await asyncio.sleep(0.01)
        pids.append(fork(lambda name=f"child-{number}": asyncio.run(use(store, name))))  # type: ignore[misc]
    await asyncio.gather(*calls)
    assert [await ended(pid) for pid in pids] == [0, 0, 0]


async def test_the_parents_event_loop_is_refused_in_the_child(store: Store) -> None:
    """Whatever is asked there says so at once, where it would hang otherwise."""
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.read("a"),
        lambda: put(store, "a"),
        lambda: store.commit_status("any"),
        lambda: store.head(),
    ]

    async def refused(call: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(UsageError, match="no event loop of this process"):
            await call()

    def child() -> None:
        for call in calls:
            with pytest.raises(StopIteration):
                refused(call).send(None)

    assert await ended(fork(child)) == 0
    await use(store, "parent")


def test_a_child_of_multiprocessing(settings: Settings) -> None:
    """The store was used in a loop that has ended, as before a pool of workers."""
    context = multiprocessing.get_context("fork")

    store = build(settings)
    asyncio.run(begin(store))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = context.Process(target=lambda: asyncio.run(use(store, "child")))
        process.start()
    process.join(60)
    assert process.exitcode == 0
    asyncio.run(use(store, "parent"))
    asyncio.run(store.close())


def test_one_event_loop_after_another(settings: Settings) -> None:
    store = build(settings)
    asyncio.run(begin(store))
    for _ in range(3):
        asyncio.run(use(store, "k"))
    asyncio.run(store.close())


async def test_two_event_loops_at_once_are_refused(redis_server: RedisServer | ExternalRedis) -> None:
    store = RedisStore(redis_server.url)
    await store.init()
    errors: list[BaseException] = []

    def other() -> None:
        try:
            asyncio.run(store.head())
        except UsageError as exc:
            errors.append(exc)

    thread = threading.Thread(target=other)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert "two event loops" in str(errors[0])
    await store.head()
    await store.close()
