"""A disk that is full, a file that may not grow, a disk that does not confirm."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from somactl.errors import OutcomeUnknown, StoreFull
from somactl.store.contract import CommitMetadata
from somactl.store.request import prepare
from somactl.store.sqlite import SqliteStore, notes, writing
from somactl.testing.values import envelope, put, write


async def test_a_full_database_writes_nothing_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "full.db"
    store = SqliteStore(path)
    await put(store, "a")
    await store._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 20").fetchone())
    with pytest.raises(StoreFull, match=r"full\.db") as caught:
        await write(store, {"a": envelope("a", n=400), "b": envelope("b")}, commit_id="too-big")
    assert not caught.value.retryable
    assert (await store.head()).version == 1
    assert (await store.commit_status("too-big")).state == "unseen"
    assert bytes((await store.read("a")).data) == envelope("a")
    await store._writer.run(lambda connection: connection.execute("PRAGMA max_page_count = 40").fetchone())
    with pytest.raises(StoreFull):
        await store.write_notes({"small": b"x", "large": bytes(1 << 20)})
    assert await store.read_notes(["small", "large"]) == {}
    assert (await write(store, {"a": envelope("a", n=400)}, commit_id="too-big")).version == 2
    await store.close()


LIMITED = """
import asyncio, resource, sys
from somactl.errors import StoreFull
from somactl.store.sqlite import SqliteStore
from somactl.testing.values import envelope, put, write

async def main():
    store = SqliteStore(sys.argv[1])
    await put(store, "a")
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    full = 0
    for number in range(30):
        try:
            await write(store, {"a": envelope("a", number, n=100), "b": envelope("b", number, n=100)})
        except StoreFull:
            full += 1
    snapshot = await store.read_many(["a", "b"])
    versions = {entry.version for entry in snapshot.entries.values()}
    assert versions == {snapshot.version}, versions
    assert 0 < full < 30
    try:
        await write(store, {"a": envelope("a", n=400)})
    except StoreFull as exc:
        assert "room" in exc.message
    else:
        raise AssertionError("a file grew beyond its limit")
    assert (await store.read("a")).version == snapshot.version
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (await put(store, "a")).version == snapshot.version + 1
    await store.close()

asyncio.run(main())
"""


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "limited.db"
    subprocess.run([sys.executable, "-c", LIMITED, str(path)], check=True, timeout=60)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


class LosesTheSync(sqlite3.Connection):
    """A connection whose fsync fails when it commits."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if sql == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return super().execute(sql, *arguments)


def test_a_commit_that_the_disk_did_not_confirm_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "unconfirmed.db"

    async def set_up() -> None:
        store = SqliteStore(path)
        await store.init()
        await store.close()

    asyncio.run(set_up())
    request = prepare("default", {"a": envelope("a")}, CommitMetadata(), None, "the-id")
    with closing(sqlite3.connect(path, isolation_level=None, factory=LosesTheSync)) as connection:
        connection.row_factory = sqlite3.Row
        with pytest.raises(OutcomeUnknown) as caught:
            writing.commit(connection, request)
        assert (caught.value.exit_code, caught.value.commit_id) == (14, "the-id")
        assert not connection.in_transaction
        with pytest.raises(OutcomeUnknown, match="notes") as caught:
            notes.write(connection, "default", {"n": b"x"}, {})
        assert (caught.value.exit_code, caught.value.commit_id) == (14, "")
        assert "somactl status" not in (caught.value.hint or "")  # there is no id to ask for
        assert not connection.in_transaction
