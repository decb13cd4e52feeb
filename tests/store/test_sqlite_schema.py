"""The schema files, their application, and the named statements."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from somactl.package_data import data_file
from somactl.store import sql
from somactl.store.sqlite import SqliteStore, schema
from somactl.testing.values import put


def test_the_newest_file_is_the_schema_this_somactl_writes() -> None:
    numbers = [number for number, _ in schema._files()]
    assert numbers == list(range(1, schema.SCHEMA_VERSION + 1))


def test_every_statement_is_used_and_every_name_is_defined() -> None:
    folder = Path(schema.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    defined = set(schema.queries())
    used = {name for name in defined if f'"{name}"' in source}
    assert used == defined
    assert set(re.findall(r'queries\(\)\["(\w+)"\]', source)) <= defined


def test_every_statement_is_understood_and_uses_its_indexes(tmp_path: Path) -> None:
    path = tmp_path / "plan.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrate(connection, str(path))
        for name, statement in schema.queries().items():
            parameters = dict.fromkeys(re.findall(r":(\w+)", statement), 1)
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            scans = {step.split()[1] for step in plan if step.startswith("SCAN")}
            # The three lists of few rows; the counter of newer values and the keys whose grace is over, which
            # stop at their limits; and the keys that were asked for.
            few = {"sqlite_master", "somactl_schema", "namespace", "(subquery-1)", "1", "due", "wanted"}
            assert scans <= few, (name, plan)


def test_a_schema_file_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "0003_broken.sql"
    broken.write_text("CREATE TABLE more (x);\nCREATE TABLE namespace (y);\n")
    files = [*schema._files(), (3, broken)]
    monkeypatch.setattr(schema, "_files", lambda: files)
    path = tmp_path / "half.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        with pytest.raises(sqlite3.OperationalError):
            schema.migrate(connection, str(path))
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        assert not connection.in_transaction


def test_a_look_never_sees_a_schema_half_made(tmp_path: Path) -> None:
    """A look made of two statements saw, about once in seventy rounds, no somactl table and then a table."""
    crowd = 4

    def look(path: Path, start: threading.Barrier) -> set[int]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            start.wait(30)
            versions = {schema.found(connection, str(path), write=True) for _ in range(40)}
            schema.migrate(connection, str(path))
            return versions

    with ThreadPoolExecutor(crowd) as pool:
        for number in range(40):
            path, start = tmp_path / f"{number}.db", threading.Barrier(crowd)
            sqlite3.connect(path).execute("PRAGMA journal_mode = WAL").connection.close()
            for versions in pool.map(lambda _, path=path, start=start: look(path, start), range(crowd)):
                assert versions <= {0, schema.SCHEMA_VERSION}


def test_many_create_the_same_file_at_once(tmp_path: Path) -> None:
    """SQLite does not wait when two connections change the journal at once: without our own waiting about
    one round in eight fails."""
    crowd = 6

    def create(path: Path, start: threading.Barrier) -> int:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            start.wait(30)
            schema.enter_wal(connection, str(path), 5.0)
            schema.migrate(connection, str(path))
            return schema.found(connection, str(path), write=True)

    with ThreadPoolExecutor(crowd) as pool:
        for number in range(30):
            path, start = tmp_path / f"{number}.db", threading.Barrier(crowd)
            versions = [pool.submit(create, path, start) for _ in range(crowd)]
            assert [version.result() for version in versions] == [schema.SCHEMA_VERSION] * crowd


async def test_a_write_migrates_an_older_schema_and_a_read_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "older.db"
    store = SqliteStore(path)
    await put(store, "a")
    await store.close()
    newer = tmp_path / "0002_more.sql"
    newer.write_text("-- a comment\nCREATE TABLE more (x);\n")
    files = [*schema._files(), (2, newer)]
    monkeypatch.setattr(schema, "_files", lambda: files)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    store = SqliteStore(path)
    assert (await store.read("a")).version == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT max(version) FROM somactl_schema").fetchone() == (1,)
    assert (await put(store, "a")).version == 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT max(version) FROM somactl_schema").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM more").fetchone() == (0,)
    await store.close()


async def test_the_file_is_what_the_docs_say(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SqliteStore(path)
    await put(store, "a")
    for worker in (store._writer, store._reader):
        expected = {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": int(worker is store._writer),
            "page_size": 16_384,
            "application_id": int.from_bytes(b"soma", "big"),
            "busy_timeout": 5000,
            "query_only": int(worker is store._reader),
        }
        await store.read("a")
        for name, value in expected.items():
            answer = await worker.run(lambda c, name=name: c.execute(f"PRAGMA {name}").fetchone()[0])
            assert answer == value, name
    await store.close()
    assert not Path(f"{path}-wal").exists()


def test_a_name_that_stands_twice_is_a_bug(tmp_path: Path) -> None:
    file = tmp_path / "twice.sql"
    file.write_text("-- head\n\n-- name: a\nSELECT 1;\n\n-- about b\n-- name: b\nSELECT\n    2;\n")
    assert sql.load(file) == {"a": "SELECT 1", "b": "SELECT\n    2"}
    file.write_text(file.read_text() + "-- name: a\nSELECT 3;\n")
    with pytest.raises(ValueError, match="twice"):
        sql.load(file)


def test_schema_files_are_shipped() -> None:
    assert data_file("sql", "sqlite", "0001_init.sql").read_text().startswith("-- Schema 1.")


def test_the_store_loads_no_numbers() -> None:
    code = "import sys, somactl.store.sqlite; sys.exit('numpy' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
