"""The Redis store when something goes wrong: scripts forgotten, data lost, replies late, servers killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from servers.redis import RedisServer
from somactl.errors import (
    CommitAborted,
    OutcomeUnknown,
    SomactlError,
    StoreTimeout,
    StoreUnavailable,
    UnsafeServer,
)
from somactl.store.redis import RedisStore, link
from somactl.testing.values import content_of, delete, envelope, listed, put, write
from store.redis_backend import RedisBackend, backend as backend, store as store

LARGE = 300
"""n of matrices that are staged, and do not travel with their commit."""
AT_ONCE = {"repl-diskless-sync-delay": "0"}
"""A primary that does not wait for more replicas before it sends its data to one."""


async def everything(store: RedisStore) -> None:
    """Call everything once, on keys a (live), b (deleted) and c (never there)."""
    await store.head()
    await store.read("a")
    await store.read("a", 1)
    await store.read_many(["a", "b", "c"])
    await store.stat_many(["a", "b", "c"])
    await listed(store.scan())
    await listed(store.scan(deleted=True))
    await store.history("a")
    await store.log()
    await store.commit_status("first")
    await store.commit_status("unseen", resolve=True)
    await store.namespaces()
    await store.compact()
    await put(store, "a", seed=1)
    await write(store, {"a": envelope("a", 2, n=LARGE)})
    await write(store, {f"k{i}": envelope(f"k{i}", n=40) for i in range(10)})
    await delete(store, "a")
    await store.init()


# Scripts that the server does not know


async def test_scripts_flushed_between_any_two_calls(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a", "b", commit_id="first")
    await delete(store, "b")
    ask = store._link.ask

    async def forgetful(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        backend.raw.script_flush()
        return await ask(*commands, commit_id=commit_id, **rest)

    store._link.ask = forgetful  # type: ignore[method-assign]
    await everything(store)
    assert (await store.head()).version == 6


async def test_a_replica_takes_over_that_knows_the_data_and_no_script(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path / "one", config=AT_ONCE) as one,
        RedisServer(tmp_path / "two", config={"save": "3600 1"}) as two,
    ):
        store = RedisStore(one.url)
        await store.init()
        await put(store, "a", "b", commit_id="first")
        await delete(store, "b")
        with one.client() as old, two.client() as new:
            new.replicaof("127.0.0.1", one.port)
            old.set("last", "write")
            assert old.wait(1, 10_000) == 1
            one.kill()
            new.replicaof("NO", "ONE")
        two.stop()
        two.port = one.port
        two.start()
        await asyncio.sleep(0.05)  # the event loop has been kept from hearing that the first one is gone
        with two.client() as new:
            assert new.info("memory")["number_of_cached_scripts"] == 0
        await everything(store)
        assert (await store.head()).version == 6
        await store.close()


async def test_a_server_that_forgot_everything_is_empty(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        store = RedisStore(server.url)
        await store.init()
        await put(store, "a")
        server.restart()
        await asyncio.sleep(0.05)
        for call in (put(store, "a"), store.read("a"), store.compact()):
            with pytest.raises(SomactlError) as caught:
                await call
            assert caught.value.exit_code == 15
        await store.close()


# Servers that would evict


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_may_evict_is_read_and_not_written(
    backend: RedisBackend, store: RedisStore, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    await put(store, "a")
    backend.raw.config_set("maxmemory-policy", policy)
    other = backend.open()
    for call in (put(other, "a"), other.init(), other.commit_status("x", resolve=True)):
        with pytest.raises(UnsafeServer, match=policy) as caught:
            await call
        assert (caught.value.exit_code, "noeviction" in (caught.value.hint or "")) == (10, True)
    assert (await other.read("a")).version == 1
    assert (await other.durability(), len(await listed(other.scan()))) == ("memory", 1)
    assert {f.check: f.status for f in await other.diagnose()}["maxmemory-policy"] == "problem"
    # A store that was open already finds out after a minute, or when it connects anew.
    assert (await put(store, "a")).version == 2
    monkeypatch.setattr(link, "CHECKED_SECONDS", 0.0)
    store._guard._until = 0.0
    with pytest.raises(UnsafeServer):
        await put(store, "a")
    monkeypatch.undo()
    backend.raw.config_set("maxmemory-policy", "noeviction")
    assert (await put(store, "a")).version == 3  # mending helps at once
    backend.raw.config_set("maxmemory-policy", policy)
    backend.raw.client_kill_filter(_type="normal", skipme=True)
    await asyncio.sleep(0.02)
    with pytest.raises(UnsafeServer):
        await put(store, "a")
    await other.close()


async def test_durability_is_what_the_settings_promise(backend: RedisBackend, tmp_path: Path) -> None:
    for config, promised in (
        ({"appendonly": "yes", "appendfsync": "always"}, "fsync"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "memory"),
        ({"appendonly": "no", "appendfsync": "always"}, "memory"),
    ):
        with RedisServer(tmp_path / promised / config["appendfsync"], config=config) as server:
            store = RedisStore(server.url)
            await store.init()
            receipt = await put(store, "a", commit_id="once")
            assert {await store.durability(), receipt.stores[0].durability} == {promised}
            with server.client() as raw:
                raw.config_set("appendfsync", "no")
            other = RedisStore(server.url)
            assert await other.durability() == "memory"
            assert await put(other, "a", commit_id="once") == replace(receipt, replayed=True)
            await store.close()
            await other.close()


async def test_a_commit_can_wait_for_replicas(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "one", config=AT_ONCE) as one, RedisServer(tmp_path / "two") as two:
        store = RedisStore(f"{one.url}?wait_replicas=1")
        await store.init()
        alone = await put(store, "a", commit_id="alone")
        assert alone.stores[0].durability == "memory"
        with two.client() as raw, one.client() as primary:
            raw.replicaof("127.0.0.1", one.port)
            primary.set("any", "write")
            assert primary.wait(1, 10_000) == 1
        receipt = await put(store, "a", commit_id="both")
        assert receipt.stores[0].durability == "replicated:1"
        assert await put(store, "a", commit_id="both") == replace(receipt, replayed=True)
        status = await store.commit_status("both")
        assert status.record is not None
        assert status.record.receipt == receipt
        assert await store.durability() == "memory"  # the worst of what may happen
        await store.close()


# Replies that are late, lost or for another caller


@asynccontextmanager
async def paused(server: RedisServer) -> AsyncIterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


async def test_a_paused_server(own: RedisServer) -> None:
    store = RedisStore(own.url, timeout=0.2, connect_timeout=0.2)
    await store.init()
    await put(store, "a", commit_id="first")
    async with paused(own):
        for read in (store.read("a"), store.head(), store.log()):
            with pytest.raises((StoreTimeout, StoreUnavailable)) as caught:
                await read
            assert caught.value.retryable
        with pytest.raises(StoreUnavailable):
            await RedisStore(own.url, timeout=0.2, connect_timeout=0.2).head()
    assert (await store.read("a")).version == 1
    await store.close()


async def test_a_commit_whose_reply_does_not_come_is_settled_afterwards(own: RedisServer) -> None:
    store = RedisStore(own.url, timeout=0.1)
    await store.init()
    await put(store, "warm", commit_id="warm")
    states = set()
    for number in range(12):
        commit_id = f"lost-{number}"
        async with paused(own):
            if number % 2:
                store._guard._until = float("inf")
                task = asyncio.create_task(put(store, f"k{number}", commit_id=commit_id))
                await asyncio.sleep(0.05)
            else:
                task = asyncio.create_task(put(store, f"k{number}", commit_id=commit_id))
                await asyncio.sleep(0)
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, OutcomeUnknown):
            assert (outcome.exit_code, outcome.commit_id) == (14, commit_id)
        else:
            assert isinstance(outcome, StoreUnavailable)
        state = (await store.commit_status(commit_id, resolve=True)).state
        states.add(state)
        if state == "aborted":
            with pytest.raises(CommitAborted):
                await put(store, f"k{number}", commit_id=commit_id)
        else:
            assert (await store.read(f"k{number}")).commit_id == commit_id
    log = await store.log(limit=100)
    assert [r.receipt.version for r in log if r.receipt] == list(range(len(log), 0, -1))
    assert states <= {"committed", "aborted"}
    await store.close()


async def test_a_connection_that_breaks_in_the_middle(own: RedisServer) -> None:
    """Staged values that do not arrive are nothing; a script that may have is unknown."""
    store = RedisStore(own.url)
    await store.init()
    ask = store._link.ask

    async def cut(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        task = asyncio.create_task(ask(*commands, commit_id=commit_id, **rest))
        if own.running:
            own.pause()
            await asyncio.sleep(0.02)
            own.kill()
        return await task

    data = envelope("a", n=LARGE)
    store._link.ask = cut  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable) as caught:
        await write(store, {"a": data}, commit_id="staging")
    assert not isinstance(caught.value, OutcomeUnknown)
    store._link.ask = ask  # type: ignore[method-assign]
    own.start()
    await store.init()

    async def cut_the_script(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        return await (cut if commit_id else ask)(*commands, commit_id=commit_id, **rest)

    store._link.ask = cut_the_script  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        await write(store, {"a": data}, commit_id="script")
    await store.close()


async def test_cancelled_reads_leave_no_reply_for_others(own: RedisServer) -> None:
    store = RedisStore(own.url)
    await store.init()
    values = {f"k{i}": envelope(f"k{i}", i, n=60 + i) for i in range(8)}
    await write(store, values)
    dice = random.Random(1)
    for _ in range(250):
        keys = [dice.choice(list(values)) for _ in range(6)]
        tasks = [asyncio.create_task(store.read(key)) for key in keys]
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(dice.choice([0, 0, 0.0003]))
        for task in dice.sample(tasks, 3):
            task.cancel()
        for key, entry in zip(keys, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            assert isinstance(entry, asyncio.CancelledError) or bytes(entry.data) == values[key]  # type: ignore[union-attr]
    await store.close()


async def test_a_reply_that_comes_after_its_caller_has_gone(own: RedisServer) -> None:
    store = RedisStore(own.url)
    await store.init()
    await put(store, "a", "b")
    async with paused(own):
        task = asyncio.create_task(store.read("a"))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    entries = await asyncio.gather(*(store.read("b") for _ in range(20)))
    assert {entry.key for entry in entries} == {"b"}
    assert {content_of(entry.data) for entry in entries} == {content_of(envelope("b"))}
    await store.close()


async def test_a_refused_commit_leaves_nothing_staged(backend: RedisBackend, store: RedisStore) -> None:
    await put(store, "a")
    with pytest.raises(SomactlError):
        await write(store, {"a": envelope("a", 1, n=LARGE)}, expected=7)
    assert not list(backend.names("default", "stage"))


async def test_staged_values_expire(backend: RedisBackend, store: RedisStore) -> None:
    ask = store._link.ask

    async def look(*commands: Any, commit_id: str | None = None, **rest: Any) -> list[Any]:
        if commit_id is not None:
            staged = [backend.name("default", f"stage:{rest}") for rest in backend.names("default", "stage")]
            assert len(staged) == 33
            assert all(0 < backend.raw.ttl(name) <= 600 for name in staged)
        return await ask(*commands, commit_id=commit_id, **rest)

    store._link.ask = look  # type: ignore[method-assign]
    values = {f"k{i}": envelope(f"k{i}", n=30) for i in range(32)}
    await write(store, {**values, "large": envelope("large", n=LARGE)})
    assert backend.raw.ttl(backend.name("default", "live:large")) == -1
    assert not list(backend.names("default", "stage"))
