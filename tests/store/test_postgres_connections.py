"""The pool: who gets a connection, who gives it back, and what stays behind in it."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from servers.pgbouncer import PgBouncer
from somactl.errors import SomactlError, StoreBusy, StoreUnavailable
from somactl.store.postgres import PostgresStore, connections
from somactl.testing.values import envelope, put, write
from store.postgres_backend import (
    Opener,
    PostgresBackend,
    backend as backend,
    opener as opener,
    store as store,
    until,
)


async def test_reads_cancelled_at_random_points_leave_a_working_pool(
    backend: PostgresBackend, opener: Opener
) -> None:
    store = opener(url=backend.url + "?pool_size=3")
    await store.init()
    await write(store, {key: envelope(key, seed, n=60) for seed, key in enumerate("abcd")})
    dice = random.Random(3)

    async def read(key: str) -> None:
        assert (await store.read(key)).key == key
        assert list((await store.read_many([key])).entries) == [key]
        assert [s.key async for page in store.scan(key) for s in page] == [key]

    for _ in range(40):
        tasks = [asyncio.create_task(read(dice.choice("abcd"))) for _ in range(8)]
        await asyncio.sleep(dice.choice([0, 0.001, 0.003, 0.01]))
        for task in dice.sample(tasks, 6):
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
    for key in "abcd" * 3:
        await read(key)
    await until(lambda: _at_most(backend, 3), "the end of cut connections")


async def _at_most(backend: PostgresBackend, number: int) -> bool:
    return len(await backend.processes()) <= number


async def test_more_calls_than_connections_wait_for_their_turn(
    backend: PostgresBackend, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opener(url=backend.url + "?pool_size=1", timeout=5.0)
    await store.init()
    await asyncio.gather(*(put(store, f"k{number}") for number in range(12)))
    assert len(await backend.processes()) == 1
    assert (await store.head()).version == 12
    monkeypatch.setattr(store._connections, "_timeout", 0.1)
    async with backend.raw() as other, other.transaction():
        await other.execute("LOCK TABLE somactl.namespace IN ACCESS EXCLUSIVE MODE")
        first = asyncio.create_task(store.head())
        await backend.until_one_waits_for_a_lock()
        with pytest.raises(StoreBusy, match="all 1 connections"):
            await store.head()
    assert (await first).version == 12


async def test_connections_that_died_at_rest_are_replaced(
    backend: PostgresBackend, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, "a")
    for _ in range(3):
        for pid in await backend.processes():
            await backend.rows("SELECT pg_terminate_backend($1)", pid)
        await until(lambda: _at_most(backend, 0), "their end")
        await asyncio.sleep(0.05)
        assert (await put(store, "a")).version


async def test_a_connection_is_asked_after_a_rest_and_replaced_in_the_end(
    backend: PostgresBackend, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store, "a")
    before = await backend.processes()
    monkeypatch.setattr(connections, "_RESTED_SECONDS", 0.0)
    await put(store, "a")
    assert await backend.processes() == before
    (session,) = store._connections._idle
    session.connection.terminate()  # what a firewall does, it does to our back
    assert (await put(store, "a")).version == 3
    monkeypatch.setattr(connections, "_LIFETIME_SECONDS", 0.0)
    await store.head()
    assert not store._connections._idle


async def test_statements_that_the_server_forgets(backend: PostgresBackend, store: PostgresStore) -> None:
    """A pooler that hides itself: what looked like one server's process is several."""
    await put(store, "a")
    (session,) = store._connections._idle
    assert session.named
    await session.connection.execute("DEALLOCATE ALL")
    assert (await put(store, "a")).version == 2
    (session,) = store._connections._idle
    assert not session.named
    assert (await store.read("a")).version == 2


async def test_nothing_stays_behind_in_a_pooled_connection(
    backend: PostgresBackend, opener: Opener, pgbouncer: PgBouncer
) -> None:
    url = pgbouncer.url(backend.database)
    store = opener(url=url + "?application_name=night-audit")
    await store.init()
    for expected in (None, {"guard": 0}):
        await put(store, "a", expected=expected)
        await store.read_many(["a"])
        await store.compact()
        await store.commit_status("x", resolve=True)
    assert "pooler" in (await store.diagnose())[0].detail
    assert not any(session.named for session in store._connections._idle)
    plain = await asyncpg.connect(url, statement_cache_size=0)
    settings = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "jit")
    for _ in range(3):
        assert await plain.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
        assert await plain.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
        changed = await plain.fetch(
            "SELECT name, setting FROM pg_settings WHERE name = ANY ($1::text[]) AND setting <> reset_val",
            [*settings, "plan_cache_mode", "enable_seqscan"],
        )
        assert changed == []
    await plain.close()


async def test_a_closed_store_is_closed(store: PostgresStore) -> None:
    await put(store, "a")
    await store.close()
    for call in (store.head(), put(store, "a"), store.namespaces(), store.init()):
        with pytest.raises(SomactlError, match="after it was closed"):
            await call


async def test_closing_ends_reads_under_way(backend: PostgresBackend, store: PostgresStore) -> None:
    async with backend.raw() as other, other.transaction():
        await other.execute("LOCK TABLE somactl.namespace IN ACCESS EXCLUSIVE MODE")
        read = asyncio.create_task(store.head())
        await backend.until_one_waits_for_a_lock()
        await store.close()
        with pytest.raises(StoreUnavailable):
            await read


async def test_other_connections_of_the_process_may_copy(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    """Only the store's own are held to the messages that a store is sent."""
    await store.head()
    async with backend.raw() as connection:
        await connection.execute("CREATE TEMPORARY TABLE copied (n integer)")
        await connection.copy_records_to_table("copied", records=[(1,), (2,)])
        assert await connection.fetchval("SELECT sum(n) FROM copied") == 3
