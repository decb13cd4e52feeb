"""The SQLite database under test, and the hooks that go round its store: straight to the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from somactl.store.sqlite import SqliteStore


class SqliteBackend:
    implicit_init = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, namespace: str = "default") -> SqliteStore:
        return SqliteStore(self.path, namespace)

    @contextmanager
    def raw(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=5)) as connection, connection:
            yield connection

    def rows(self, statement: str, *parameters: Any) -> list[Any]:
        with self.raw() as connection:
            return connection.execute(statement, parameters).fetchall()

    async def stored(self, namespace: str) -> set[tuple[str, int]]:
        return set(
            self.rows(
                "SELECT key, version FROM payload JOIN revision USING (id) "
                "WHERE namespace = (SELECT id FROM namespace WHERE name = ?)",
                namespace,
            )
        )

    async def stored_bytes(self, namespace: str, key: str, version: int) -> bytes:
        ((data,),) = self.rows(
            "SELECT data FROM payload JOIN revision USING (id) "
            "WHERE namespace = (SELECT id FROM namespace WHERE name = ?) AND key = ? AND version = ?",
            namespace,
            key,
            version,
        )
        assert isinstance(data, bytes)
        return data

    async def overwrite(self, namespace: str, key: str, version: int, data: bytes) -> None:
        with self.raw() as connection:
            done = connection.execute(
                "UPDATE payload SET data = ? WHERE id = (SELECT id FROM revision "
                "WHERE namespace = (SELECT id FROM namespace WHERE name = ?) AND key = ? AND version = ?)",
                (data, namespace, key, version),
            )
            assert done.rowcount == 1

    async def age(self, namespace: str, seconds: float) -> None:
        with self.raw() as connection:
            for table, columns in {
                "revision": ("committed_at", "superseded_at"),
                "commit_record": ("recorded_at",),
                "grace": ("expires_at",),
                "note": ("written_at",),
            }.items():
                changes = ", ".join(f"{column} = {column} - {seconds}" for column in columns)
                connection.execute(
                    f"UPDATE {table} SET {changes} "
                    "WHERE namespace = (SELECT id FROM namespace WHERE name = ?)",
                    (namespace,),
                )

    async def dispose(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
