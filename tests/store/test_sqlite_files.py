"""Files that are not there, not ours, not writable, replaced or damaged."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from somactl.errors import (
    ConfigurationError,
    CorruptValue,
    NamespaceNotFound,
    SchemaMismatch,
    SomactlError,
    StoreDamaged,
    StoreUnavailable,
    VersionConflict,
)
from somactl.store.contract import Store
from somactl.store.sqlite import SqliteStore
from somactl.testing.values import envelope, listed, put, write

Opener = Callable[..., SqliteStore]


async def reads_fail(store: Store, error: type[SomactlError]) -> None:
    for call in (
        store.head(),
        store.read("a"),
        store.read_many(["a"]),
        store.history("a"),
        listed(store.scan()),
        store.log(),
        store.commit_status("x"),
        store.commit_status("x", resolve=True),
        store.compact(),
        store.compact(dry_run=True),
    ):
        with pytest.raises(error):
            await call


async def test_nothing_but_init_and_commit_creates_the_file(tmp_path: Path, opener: Opener) -> None:
    store = opener(tmp_path / "new.db")
    await reads_fail(store, NamespaceNotFound)
    assert await store.namespaces() == []
    with pytest.raises(VersionConflict):
        await put(store, "a", expected=1)
    with pytest.raises(SomactlError):
        await write(store, {"a": b"no envelope"})
    assert list(tmp_path.iterdir()) == []
    await put(store, "a", expected=0)
    assert (await store.read("a")).version == 1


async def test_an_empty_file_is_a_database_nobody_wrote_to(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    store = opener(path)
    await reads_fail(store, NamespaceNotFound)
    assert path.stat().st_size == 0
    assert (await put(store, "a")).version == 1
    assert (await store.read("a")).version == 1


async def test_a_relative_path_is_fixed_when_the_store_is_made(
    tmp_path: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = opener("here.db")
    monkeypatch.chdir("/")
    await put(store, "a")
    assert (tmp_path / "here.db").exists()


@pytest.mark.parametrize(
    "name", ["a b.db", "per%20cent.db", "what?mode=ro", "hash#1.db", "\u00e9.db", "\udcff.db"]
)
async def test_odd_file_names(tmp_path: Path, opener: Opener, name: str) -> None:
    store = opener(tmp_path / name)
    await put(store, "a")
    assert (await store.read("a")).version == 1
    assert (tmp_path / name).exists()


async def test_a_path_with_nul_is_refused(opener: Opener) -> None:
    with pytest.raises(ConfigurationError):
        opener("a\0b")


async def test_a_missing_folder_is_named(tmp_path: Path, opener: Opener) -> None:
    store = opener(tmp_path / "no" / "such.db")
    with pytest.raises(StoreUnavailable, match=r"such\.db") as caught:
        await put(store, "a")
    assert caught.value.hint == f"create the folder {tmp_path / 'no'} first"
    with pytest.raises(StoreUnavailable):
        await store.init()
    await reads_fail(store, NamespaceNotFound)
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_is_no_database(tmp_path: Path, opener: Opener) -> None:
    store = opener(tmp_path)
    with pytest.raises(StoreUnavailable) as caught:
        await put(store, "a")
    assert "folder" in str(caught.value.hint)
    await reads_fail(store, StoreUnavailable)


@pytest.mark.parametrize(
    "content",
    [b"just some text\n", b"SQLite format 3", random.Random(3).randbytes(9000)],
    ids=["text", "half a header", "noise"],
)
async def test_another_kind_of_file_is_left_as_it_is(tmp_path: Path, opener: Opener, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    store = opener(path)
    with pytest.raises(SchemaMismatch, match=r"notes\.txt") as caught:
        await put(store, "a")
    assert (caught.value.exit_code, caught.value.retryable) == (13, False)
    await reads_fail(store, SchemaMismatch)
    assert path.read_bytes() == content


async def test_another_program_s_database_is_left_as_it_is(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    store = opener(path)
    for call in (put(store, "a"), store.init(), store.namespaces()):
        with pytest.raises(SchemaMismatch, match="something else"):
            await call
    await reads_fail(store, SchemaMismatch)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


async def test_a_newer_schema_says_who_may_read_and_write(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "newer.db"
    await put(opener(path), "a")

    def set_schema(least_reader: int, least_writer: int) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM somactl_schema WHERE version = 99")
            connection.execute(
                "INSERT INTO somactl_schema VALUES (99, ?, ?, 0)", (least_reader, least_writer)
            )

    set_schema(1, 1)
    assert (await put(opener(path), "a")).version == 2
    set_schema(1, 3)
    store = opener(path)
    assert (await store.read("a")).version == 2
    with pytest.raises(SchemaMismatch, match="schema 99"):
        await put(store, "a")
    set_schema(3, 3)
    with pytest.raises(SchemaMismatch, match="schema 99"):
        await opener(path).head()


async def test_a_file_that_was_replaced_or_removed_is_noticed(tmp_path: Path, opener: Opener) -> None:
    path, copy = tmp_path / "a.db", tmp_path / "b.db"
    other = opener(copy)
    await put(other, "a", seed=9)
    await other.close()
    store = opener(path)
    await put(store, "a")
    await put(store, "a")
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    os.replace(copy, path)
    assert bytes((await store.read("a")).data) == envelope("a", 9)
    assert (await put(store, "a")).version == 2
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(NamespaceNotFound):
        await store.read("a")
    assert (await put(store, "a")).version == 1


async def test_a_backup_copied_by_sqlite_opens(tmp_path: Path, opener: Opener) -> None:
    path, copy = tmp_path / "a.db", tmp_path / "copy.db"
    store = opener(path)
    await put(store, "a")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    assert (await opener(copy).read("a")).incarnation == (await store.head()).incarnation
    assert (await put(opener(copy), "a")).version == 2


async def test_a_copy_made_by_vacuum_into_gets_its_log_back(tmp_path: Path, opener: Opener) -> None:
    path, copy = tmp_path / "a.db", tmp_path / "copy.db"
    await put(opener(path), "a")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    store = opener(copy)
    assert (await store.read("a")).version == 1
    await store.close()
    with closing(sqlite3.connect(copy, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM revision").fetchall()  # bars the change of journal
        waiting = asyncio.create_task(put(opener(copy), "a"))
        await asyncio.sleep(0.2)
        reader.execute("ROLLBACK")
    assert (await waiting).version == 2
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE namespace SET version = 0",
        "UPDATE commit_record SET detail = 'no JSON'",
        "UPDATE commit_record SET detail = NULL",
    ],
)
async def test_a_store_that_contradicts_itself_is_damaged(
    tmp_path: Path, opener: Opener, change: str
) -> None:
    path = tmp_path / "tampered.db"
    store = opener(path)
    await put(store, "a", commit_id="once")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    with pytest.raises(StoreDamaged):
        await put(store, "a", seed=1) if "version" in change else await store.log()
    assert bytes((await store.read("a")).data) == envelope("a")


async def closed_database(opener: Opener, path: Path, n: int = 3) -> None:
    """One value, and no log left beside the file."""
    store = opener(path)
    await write(store, {"a": envelope("a", n=n), "b": envelope("b")})
    await store.close()
    assert not Path(f"{path}-wal").exists()


async def test_a_damaged_file_is_damaged_not_empty(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "damaged.db"
    await closed_database(opener, path)
    data = bytearray(path.read_bytes())
    data[16_384:] = os.urandom(len(data) - 16_384)
    path.write_bytes(data)
    store = opener(path)
    with pytest.raises(StoreDamaged, match=r"damaged\.db") as caught:
        await store.read("a")
    assert not caught.value.retryable
    with pytest.raises(StoreDamaged):
        await put(store, "a")


async def test_a_file_cut_short_is_damaged(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "short.db"
    await closed_database(opener, path, n=200)
    os.truncate(path, 3 * 16_384)
    with pytest.raises((StoreDamaged, SchemaMismatch)):
        await opener(path).read("a")


async def test_damaged_pages_of_one_value_are_that_value_s_fault(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "pages.db"
    data = envelope("a", n=200)
    await closed_database(opener, path, n=200)
    file = bytearray(path.read_bytes())
    # An overflow page begins with the number of the next; the payload's middle lies well inside one.
    middle = file.find(data[150_000:150_200])
    assert middle > 0
    page = middle // 16_384 * 16_384
    file[page : page + 4] = b"\x00\xff\xff\xff"
    path.write_bytes(file)
    store = opener(path)
    with pytest.raises(CorruptValue, match="'a'") as caught:
        await store.read("a")
    assert caught.value.facts["defect"] == "DamagedPages"
    snapshot = await store.read_many(["a", "b"])
    assert (list(snapshot.entries), list(snapshot.corrupt)) == (["b"], ["a"])


@pytest.mark.parametrize("damaged", ["k00", "k20", "k39"])
async def test_a_damaged_page_hides_no_other_small_value(
    tmp_path: Path, opener: Opener, damaged: str
) -> None:
    """Small values come with their rows, many in one statement, which ends at the damaged page."""
    path = tmp_path / "pages.db"
    values = {f"k{seed:02}": envelope(f"k{seed:02}", seed, n=80) for seed in range(40)}
    assert len(values[damaged]) < 64 << 10
    store = opener(path)
    await write(store, values)
    await store.close()
    file = bytearray(path.read_bytes())
    # An overflow page begins with the number of the next: the bytes lie in the first of three.
    page = file.find(values[damaged][10_000:10_100]) // 16_384 * 16_384
    assert page > 0
    file[page : page + 4] = b"\x00\xff\xff\xff"
    path.write_bytes(file)
    snapshot = await opener(path).read_many([*values, "never"])
    assert {key: each.facts["defect"] for key, each in snapshot.corrupt.items()} == {damaged: "DamagedPages"}
    assert {key: each.data for key, each in snapshot.entries.items()} == {
        key: data for key, data in values.items() if key != damaged
    }
    assert snapshot.absent == ("never",)


async def test_a_missing_payload_is_corrupt_not_absent(tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "gone.db"
    store = opener(path)
    await put(store, "a")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM payload")
    with pytest.raises(CorruptValue, match="missing"):
        await store.read("a")


UNPRIVILEGED = """
import asyncio, os, sys
from somactl.errors import StoreUnavailable
from somactl.store.sqlite import SqliteStore
from somactl.testing.values import put
import somactl.core.envelope, encodings.idna
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

async def main():
    store = SqliteStore(sys.argv[1])
    try:
        try:
            print("read", (await store.read("a")).version)
        except StoreUnavailable as exc:
            print("read", type(exc).__name__, exc.hint)
        try:
            print("write", (await put(store, "a")).version)
        except StoreUnavailable as exc:
            print("write", type(exc).__name__, exc.hint)
    finally:
        await store.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("case", ["file", "folder", "unreadable", "unsearchable"])
async def test_permissions(opener: Opener, case: str) -> None:
    folder = Path(tempfile.mkdtemp())
    path = folder / "somactl.db"
    try:
        await closed_database(opener, path)
        modes = {
            "file": (0o777, 0o444),
            "folder": (0o555, 0o666),
            "unreadable": (0o777, 0o000),
            "unsearchable": (0, 0o666),
        }
        folder_mode, file_mode = modes[case]
        path.chmod(file_mode)
        folder.chmod(folder_mode)
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, str(path)],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
        )
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)
    read, written = done.stdout.splitlines()
    if case in ("file", "folder"):  # what cannot be written can be read as it lies
        assert read == "read 1"
    else:
        assert read.startswith("read StoreUnavailable")
    assert written.startswith("write StoreUnavailable")
    assert "permission" in written
