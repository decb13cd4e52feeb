"""A database that another connection has locked."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from somactl.errors import StoreBusy
from somactl.store.sqlite import SqliteStore
from somactl.testing.values import put

Opener = Callable[..., SqliteStore]


async def test_a_locked_database_is_busy_and_can_still_be_read(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "locked.db"
    store = opener(path, busy_timeout=0.05)
    await put(store, "a")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for call in (
            put(store, "a"),
            store.init(),
            store.commit_status("x", resolve=True),
            store.write_notes({"n": b"x"}),
        ):
            with pytest.raises(StoreBusy, match=r"locked\.db") as caught:
                await call
            assert caught.value.retryable
        assert (await store.read("a")).version == 1
        assert await store.read_notes(["n"]) == {}
        other.execute("ROLLBACK")
    assert (await put(store, "a")).version == 2


async def test_a_lock_is_waited_for(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "locked.db"
    store = opener(path)
    await put(store, "a")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(put(store, "a"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        other.execute("ROLLBACK")
    assert (await waiting).version == 2


async def test_a_cancelled_commit_is_settled_before_its_status_is_told(
    tmp_path: Path, opener: Opener
) -> None:
    path = tmp_path / "locked.db"
    store = opener(path)
    await put(store, "a")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = asyncio.create_task(put(store, "a", commit_id="begun"))
        await asyncio.sleep(0.1)
        queued = asyncio.create_task(put(store, "a", commit_id="queued"))
        await asyncio.sleep(0.1)
        for task in (begun, queued):
            task.cancel()
        outcomes = await asyncio.gather(begun, queued, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        status = asyncio.create_task(store.commit_status("begun"))
        await asyncio.sleep(0.1)
        assert not status.done()
        other.execute("ROLLBACK")
    assert (await status).state == "committed"
    assert (await store.commit_status("queued")).state == "unseen"
    assert (await store.head()).version == 2


async def test_a_database_locked_while_it_is_created(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "locked.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy):
            await put(opener(path, busy_timeout=0.05), "a")
        waiting = asyncio.create_task(put(opener(path), "a"))
        await asyncio.sleep(0.2)
        other.execute("ROLLBACK")
    assert (await waiting).version == 1
