"""What a migration must keep of all values at once, on disk: their names in order, and where each one goes.

Ten million names are a gigabyte as Python strings. Here they are a file of their own, that no other process
can open and that is gone when the process is, however it ends: SQLite unlinks a database without a name
as soon as it has made it. It lies in the folder for temporary files (TMPDIR).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from somactl.errors import StoreFull

if TYPE_CHECKING:
    import sqlite3

PAGE_NAMES = 1000
_CACHE_KIB = 4096
_TABLES = """
CREATE TABLE names (name BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE texts (name BLOB PRIMARY KEY, text BLOB NOT NULL) WITHOUT ROWID;
"""


class Workspace:
    """Both in one file. Used from one task at a time; raises StoreFull where the disk is full."""

    def __init__(self) -> None:
        self._database = open_database(_TABLES)
        self.names = SortedNames(self._database)
        self.texts = Texts(self._database)

    def close(self) -> None:
        """Give the disk space back; harmless when repeated."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SortedNames:
    """A set of names, in the order of their bytes."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._count = 0

    def add(self, names: Iterable[str]) -> None:
        """Names that are there already stay there once."""
        with room():
            done = self._database.executemany(
                "INSERT OR IGNORE INTO names VALUES (?)", ((to_bytes(name),) for name in names)
            )
        self._count += done.rowcount

    def __len__(self) -> int:
        return self._count

    def pages(self, after: str | None = None, size: int = PAGE_NAMES) -> Iterator[list[str]]:
        """The names after `after`, at most `size` at a time. Names may be added meanwhile."""
        last = b"" if after is None else to_bytes(after)
        beyond = ">=" if after is None else ">"
        while True:
            with room():
                rows = self._database.execute(
                    f"SELECT name FROM names WHERE name {beyond} ? ORDER BY name LIMIT ?", (last, size)
                ).fetchall()
            if not rows:
                return
            yield [to_text(name) for (name,) in rows]
            last, beyond = rows[-1][0], ">"


class Texts:
    """Name -> a short text, such as where a key of the target comes from."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def get(self, name: str) -> str | None:
        with room():
            row = self._database.execute(
                "SELECT text FROM texts WHERE name = ?", (to_bytes(name),)
            ).fetchone()
        return None if row is None else to_text(row[0])

    def put(self, name: str, text: str) -> None:
        """Replaces what stood there."""
        with room():
            self._database.execute(
                "INSERT OR REPLACE INTO texts VALUES (?, ?)", (to_bytes(name), to_bytes(text))
            )


def open_database(tables: str) -> sqlite3.Connection:
    """A database without a name, for this process alone; `tables` are its CREATE statements."""
    import sqlite3

    with room():
        database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        # Nothing outlives the process, so nothing is worth a journal.
        database.executescript(
            f"PRAGMA temp_store = FILE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
            f"PRAGMA cache_size = -{_CACHE_KIB}; {tables}"
        )
    return database


@contextmanager
def room() -> Iterator[None]:
    """Raise what SQLite or the system says about the disk as StoreFull."""
    import sqlite3

    try:
        yield
    except (sqlite3.OperationalError, OSError) as exc:
        raise StoreFull(
            f"the folder for temporary files cannot be used ({exc})",
            hint="free space there, or name another folder in TMPDIR",
        ) from exc


def to_bytes(name: str) -> bytes:
    """The bytes of a key as its source has it: surrogates stand for bytes that are no UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def to_text(name: bytes) -> str:
    """The reverse of `to_bytes`."""
    return name.decode("utf-8", "surrogateescape")
