"""Transactions that are in each other's way, and connections that are lost in the middle of one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from somactl.errors import (
    CommitAborted,
    NotPrimary,
    OutcomeUnknown,
    StoreBusy,
    StoreFull,
    StoreTimeout,
    StoreUnavailable,
)
from somactl.store.postgres import PostgresStore, failures, writing
from somactl.testing.values import put
from store.postgres_backend import (
    Opener,
    PostgresBackend,
    backend as backend,
    opener as opener,
    store as store,
    until,
)


async def test_a_lock_that_is_held_too_long(
    backend: PostgresBackend, opener: Opener, store: PostgresStore
) -> None:
    await put(store, "a")
    hasty = opener(timeout=3.0)
    async with backend.raw() as other, other.transaction():
        await other.execute("SELECT 1 FROM somactl.namespace FOR UPDATE")
        refused = await asyncio.gather(
            put(hasty, "a", commit_id="late"),
            put(hasty, "a", expected={"guard": 0}),
            hasty.commit_status("x", resolve=True),
            hasty.init(new_incarnation=True),
            return_exceptions=True,
        )
        assert [type(error) for error in refused] == [StoreBusy] * 4
        assert all("lock" in str(error) and error.retryable for error in refused)  # type: ignore[union-attr]
        assert (await store.read("a")).version == 1
    assert (await store.commit_status("late")).state == "unseen"
    assert (await put(store, "a", commit_id="late")).version == 2


async def test_a_lock_is_waited_for(backend: PostgresBackend, store: PostgresStore) -> None:
    await put(store, "a")
    async with backend.raw() as other, other.transaction():
        await other.execute("SELECT 1 FROM somactl.namespace FOR UPDATE")
        commits = [asyncio.create_task(put(store, key, expected=expected)) for key, expected in (
            ("a", 1), ("a", 1), ("b", None), ("c", {"guard": 0}),
        )]  # fmt: skip
        await backend.until_one_waits_for_a_lock()
        assert not any(task.done() for task in commits)
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Receipt"] * 3 + ["VersionConflict"]
    assert (await store.head()).version == 4


async def test_a_deadlock_with_somebody_else_is_survived(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    """An operator who works on our tables by hand may lock rows in another order. We give way: the server
    looks for deadlocks on behalf of the session that has waited for the time that his own setting says."""
    await put(store, "a")
    async with backend.raw() as other:
        await other.execute("SET deadlock_timeout = '1h'")
        await backend.rows(f"ALTER DATABASE {backend.database} SET deadlock_timeout = '100ms'")
        await store.close()
        store = backend.open()
        async with other.transaction():
            await other.execute("SELECT 1 FROM somactl.revision FOR UPDATE")
            commit = asyncio.create_task(put(store, "a", seed=1, commit_id="once"))
            await backend.until_one_waits_for_a_lock()
            await other.execute("SELECT 1 FROM somactl.namespace FOR UPDATE")
        assert (await commit).version == 2
    log = [record.commit_id for record in await store.log()]
    assert log[0] == "once"
    await store.close()


async def test_a_stricter_isolation_costs_repetitions_and_nothing_else(
    backend: PostgresBackend, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role or database may ask for SERIALIZABLE by default: commits that meet undo each other (40001)."""
    undone: list[str] = []
    again = failures.sqlstate
    monkeypatch.setattr(failures, "sqlstate", lambda exc: undone.append(state := again(exc)) or state)
    await backend.rows(
        f"ALTER DATABASE {backend.database} SET default_transaction_isolation = 'serializable'"
    )
    store = opener()
    await store.init()
    async with backend.raw() as other, other.transaction(isolation="read_committed"):
        await other.execute("UPDATE somactl.namespace SET keep_seconds = keep_seconds + 1")
        commit = asyncio.create_task(put(store, "a"))
        await backend.until_one_waits_for_a_lock()
    assert (await commit).version == 1
    assert "40001" in undone


async def test_a_transaction_that_is_always_undone_is_busy(
    backend: PostgresBackend, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float, result: Any = None) -> Any:
        pauses.append(seconds)
        return await sleep(0, result)

    monkeypatch.setattr("somactl.store.postgres.store.asyncio.sleep", counted)
    await backend.refuse_records("40P01")
    with pytest.raises(StoreBusy, match="undid"):
        await put(store, "a")
    waited = [pause for pause in pauses if pause]
    assert len(waited) == 5
    assert all(pause <= 0.02 * 2**attempt for attempt, pause in enumerate(waited))
    assert await backend.stored("default") == set()


async def test_a_server_that_takes_no_writes(backend: PostgresBackend, opener: Opener) -> None:
    store = opener()
    await store.init()
    await put(store, "a")
    await backend.rows(f"ALTER DATABASE {backend.database} SET default_transaction_read_only = on")
    store = opener()
    for call in (put(store, "a"), put(store, "a", expected={"b": 0}), store.init(new_incarnation=True)):
        with pytest.raises(NotPrimary, match="read-only transaction"):
            await call
    assert (await store.read("a")).version == 1
    assert "read_only" in {f.check for f in await store.diagnose() if f.status == "problem"}


async def test_an_answer_that_takes_too_long(
    backend: PostgresBackend, opener: Opener, store: PostgresStore
) -> None:
    await put(store, "a")
    await store.close()
    hasty = opener(timeout=1.0)
    async with backend.raw() as other, other.transaction():
        await other.execute("LOCK TABLE somactl.payload, somactl.namespace IN ACCESS EXCLUSIVE MODE")
        calls = [
            asyncio.create_task(call) for call in (hasty.read("a"), hasty.read_many(["a"]), hasty.head())
        ]
        await backend.until_one_waits_for_a_lock()
        before = await backend.processes()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in outcomes] == [StoreTimeout] * 3
        assert all(error.retryable for error in outcomes)  # type: ignore[union-attr]
    assert (await hasty.read("a")).version == 1
    (session,) = hasty._connections._idle
    assert session.connection.get_server_pid() not in before  # a late answer must reach no caller


async def test_a_statement_timeout_of_the_server_s(
    backend: PostgresBackend, opener: Opener, store: PostgresStore
) -> None:
    await put(store, "a")
    await backend.rows(f"ALTER DATABASE {backend.database} SET statement_timeout = '1s'")
    limited = opener()
    async with backend.raw() as other, other.transaction():
        await other.execute("LOCK TABLE somactl.payload IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreTimeout, match="statement timeout"):
            await limited.read("a")
    assert (await limited.read("a")).version == 1


async def test_a_connection_lost_in_the_only_statement_of_a_commit(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    async with backend.raw() as other, other.transaction():
        await other.execute("SELECT 1 FROM somactl.namespace FOR UPDATE")
        commit = asyncio.create_task(put(store, "a", commit_id="lost"))
        pid = await backend.until_one_waits_for_a_lock()
        await backend.rows("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(OutcomeUnknown) as caught:
            await commit
    assert (caught.value.commit_id, caught.value.exit_code) == ("lost", 14)
    assert (await store.commit_status("lost", resolve=True)).state == "aborted"
    with pytest.raises(CommitAborted):
        await put(store, "a", commit_id="lost")


async def test_a_connection_lost_before_commit_was_sent(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    async with backend.raw() as other, other.transaction():
        await other.execute("SELECT 1 FROM somactl.namespace FOR UPDATE")
        commit = asyncio.create_task(put(store, "a", commit_id="lost", expected={"guard": 0}))
        pid = await backend.until_one_waits_for_a_lock()
        await backend.rows("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(StoreUnavailable) as caught:
            await commit
    assert caught.value.retryable
    assert await backend.stored("default") == set()
    assert (await put(store, "a", commit_id="lost", expected={"guard": 0})).version == 1


async def test_a_connection_lost_while_commit_is_done(backend: PostgresBackend, store: PostgresStore) -> None:
    """A constraint that is looked at only in COMMIT keeps the server there."""
    await backend.rows(
        "CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN PERFORM pg_sleep(60); RETURN NULL; END$$"
    )
    await backend.rows(
        "CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON somactl.commit_record "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.dawdle()"
    )
    commit = asyncio.create_task(put(store, "a", commit_id="lost", expected={"guard": 0}))

    async def dawdling() -> Any:
        return await backend.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' "
            "AND query = 'COMMIT'"
        )

    await until(dawdling, "the server in COMMIT")
    with pytest.raises(OutcomeUnknown):
        await commit
    await backend.rows("DROP TRIGGER dawdle ON somactl.commit_record")
    assert (await store.commit_status("lost")).state == "unseen"
    assert (await put(store, "a", commit_id="lost", expected={"guard": 0})).version == 1


async def test_a_refusal_in_commit_itself_is_an_answer(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    await backend.refuse_records("53100", in_commit=True)
    for expected in (None, {"guard": 0}):
        with pytest.raises(StoreFull):
            await put(store, "a", expected=expected)
    assert ((await store.head()).version, await backend.stored("default")) == (0, set())


async def test_a_client_that_stops_does_not_keep_the_lock(
    backend: PostgresBackend, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sits between the lock and COMMIT, as a suspended laptop would; the server ends its transaction."""
    stopped, resumed = asyncio.Event(), asyncio.Event()
    standing = writing.standing

    async def stop(session: Any, request: Any) -> Any:
        rows = await standing(session, request)
        if request.commit_id == "stopped" and session.connection.is_in_transaction():
            stopped.set()
            await resumed.wait()
        return rows

    monkeypatch.setattr(writing, "standing", stop)
    slow, quick = opener(timeout=9.0), opener(timeout=9.0)
    await slow.init()
    commit = asyncio.create_task(put(slow, "a", commit_id="stopped", expected={"guard": 0}))
    await stopped.wait()
    assert (await put(quick, "b")).version == 1  # within its patience for the lock, 3 s
    resumed.set()
    with pytest.raises(StoreUnavailable):
        await commit
    assert (await quick.commit_status("stopped")).state == "unseen"
