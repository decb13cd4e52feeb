"""Several processes on one database, and processes that die in the middle of a commit."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from somactl.errors import NamespaceNotFound
from somactl.store.sqlite import SqliteStore
from somactl.testing.values import put

SCRIPT = Path(__file__).with_name("writer_process.py")


class Writer:
    """A running writer_process.py that has imported everything and waits for its orders."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def start(self, path: Path, prefix: str, count: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path} {prefix} {count}\n")
        self.process.stdin.flush()

    def kill(self) -> list[list[str]]:
        self.process.kill()
        return self.finish()

    def finish(self) -> list[list[str]]:
        """The words of each whole line that it printed."""
        printed, _ = self.process.communicate(timeout=60)
        return [line.split() for line in printed.splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def writers() -> Iterator[list[Writer]]:
    """Started side by side, so that their imports overlap."""
    started = [Writer() for _ in range(12)]
    for writer in started:
        writer.wait_until_ready()
    yield started
    for writer in started:
        writer.process.kill()
        writer.process.communicate()


def acknowledged(lines: list[list[str]]) -> dict[str, int]:
    return {line[1]: int(line[2]) for line in lines if line[0] == "done"}


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
        return bool(answer == "ok") and not connection.execute("PRAGMA foreign_key_check").fetchall()


async def committed(path: Path) -> dict[str, int]:
    """Commit id -> version for all that stands in the database, after checking that it is consistent."""
    store = SqliteStore(path)
    try:
        head = await store.head()
        receipts = [record.receipt for record in await store.log(limit=100_000) if record.receipt]
        versions = [receipt.version for receipt in receipts]
        assert versions == list(range(head.version, 0, -1))
        for version in versions[:3]:
            entries = [await store.read(key, version) for key in ("a", "b", "c")]
            assert {entry.version for entry in entries} == {version}
        return {receipt.commit_id: receipt.version for receipt in receipts}
    except NamespaceNotFound:
        return {}
    finally:
        await store.close()


async def test_processes_that_start_at_once_share_one_database(tmp_path: Path, writers: list[Writer]) -> None:
    path = tmp_path / "shared.db"
    for number, writer in enumerate(writers[:4]):
        writer.start(path, f"w{number}", 15)
    acks: dict[str, int] = {}
    for writer in writers[:4]:
        acks |= acknowledged(writer.finish())
        assert writer.process.returncode == 0
    assert sorted(acks.values()) == list(range(1, 61))
    assert await committed(path) == acks
    assert sound(path)


async def test_a_killed_writer_tears_nothing_and_loses_nothing_acknowledged(
    tmp_path: Path, writers: list[Writer]
) -> None:
    path = tmp_path / "killed.db"
    dice = random.Random(3)
    acks: dict[str, int] = {}
    sent: set[str] = set()
    for number, writer in enumerate(writers):
        writer.start(path, f"w{number}", 10_000)
        time.sleep(0.02 + dice.random() * 0.06)
        lines = writer.kill()
        acks |= acknowledged(lines)
        sent |= {line[1] for line in lines if line[0] == "sent"}
        there = await committed(path)
        assert acks.items() <= there.items()
        assert set(there) <= sent
        # One commit at most was under way when the process died.
        assert len(there) - len(acks) <= number + 1
        assert sound(path)
    assert len(acks) > len(writers)
    store = SqliteStore(path)
    assert (await put(store, "after")).version == len(there) + 1
    await store.close()


async def test_a_writer_killed_while_it_creates_the_database(tmp_path: Path, writers: list[Writer]) -> None:
    dice = random.Random(4)
    for number, writer in enumerate(writers):
        path = tmp_path / f"new-{number}.db"
        writer.start(path, "w", 10_000)
        time.sleep(dice.random() * 0.012)
        acks = acknowledged(writer.kill())
        there = await committed(path)
        assert acks.items() <= there.items()
        store = SqliteStore(path)
        assert (await put(store, "after")).version == len(there) + 1
        await store.close()
        assert sound(path)
