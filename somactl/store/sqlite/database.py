"""One thread with one connection to a database file: the only place where SQLite meets asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # its own hook must stand before ours, or a job handed over there would wait
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar
from weakref import WeakSet

from somactl.errors import NamespaceNotFound, OutcomeUnknown, SomactlError, StoreUnavailable
from somactl.store import calls
from somactl.store.calls import own_loop
from somactl.store.sqlite import failures, schema
from somactl.suggestion import run

T = TypeVar("T")
_JOURNAL_BYTES = 64 << 20
"""What stays of the write-ahead log after a large commit has made it grow."""
_WAL_WRITE_LOCK = 120
"""The byte of the -shm file that a writer locks in WAL mode (sqlite.org/walformat.html, 2.2.2)."""
_RESERVED = 0x40000001
"""The byte of the database file that a writer locks in any other mode (sqlite.org/fileformat2.html, 1.1)."""
_LOCKS = "/proc/locks"
ThreadPoolExecutor = concurrent.futures.thread.ThreadPoolExecutor
_parked: WeakSet[Parked] = WeakSet()


class Worker:
    """Runs jobs one after the other on its own thread and connection.

    A job that has begun runs to its end even if the task that awaits it is cancelled, so the connection
    is never left in the middle of a transaction; one that still waits for its turn is dropped. Nothing is
    opened before the first job.
    """

    def __init__(self, path: str, *, write: bool, busy_timeout: float) -> None:
        self.path = path
        self._write = write
        self._busy_timeout = busy_timeout
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._schema = 0
        self._forked = threading.Event()
        park_at_fork(self)
        self._frozen: tuple[int, int, bool] | None = None

    async def run(self, job: Callable[[sqlite3.Connection], T], *, create: bool = False) -> T:
        """`job(connection)` on the thread. With `create`, a missing file or schema is made first.

        Raises NamespaceNotFound where there is no database and `create` is false.
        """
        work = self._submit(lambda: self._perform(job, create))
        if self._write and calls.is_heard():
            await self._tell_waiting(work)
        return await work

    async def _tell_waiting(self, work: asyncio.Future[T]) -> None:
        """Return when `work` is done; tell who holds the lock meanwhile."""
        try:
            while not work.done():
                await asyncio.wait([work], timeout=calls.NOTICED_SECONDS)
                by = "" if work.done() else holder(self.path)
                if by:
                    calls.wait_for(f"the lock of {self.path}, held{by}")
        except asyncio.CancelledError:
            work.cancel()  # as if it had been awaited itself: what has not begun is dropped
            raise

    async def offload(self, function: Callable[[], T]) -> T:
        """`function()` on the thread, without a connection: work too long for the event loop."""
        return await self._submit(function)

    async def drain(self) -> None:
        """Return when every job that was handed over before is done or dropped."""
        if self._executor is not None and not self._closed:
            await self._submit(lambda: None)

    async def close(self) -> None:
        """Finish what was handed over and release the connection; harmless when repeated."""
        if self._closed:
            return
        if self._executor is None:
            self._closed = True
            return
        last = asyncio.shield(self._submit(self._disconnect))
        self._closed = True
        try:
            await last
        finally:
            self._executor.shutdown(wait=False)

    def _submit(self, job: Callable[[], T]) -> asyncio.Future[T]:
        if self._closed:
            raise SomactlError(f"the store of {self.path} is used after it was closed")
        loop = own_loop()
        if self._executor is None:
            kind = "writer" if self._write else "reader"
            self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite-{kind}")
        return loop.run_in_executor(self._executor, job)

    def park(self) -> None:
        """Release the file, and hold the thread until the process has forked: see `parking`."""
        if self._executor is None or self._closed:
            return
        self._forked.clear()
        released = threading.Event()

        def hold() -> None:
            try:
                self._disconnect()
            finally:
                released.set()
            self._forked.wait()

        self._executor.submit(hold)
        released.wait()

    def resume(self) -> None:
        self._forked.set()

    def leave(self) -> None:
        """In the child, which has no threads: the next job makes its own."""
        self._executor = self._connection = self._file = None
        self._forked = threading.Event()

    def _perform(self, job: Callable[[sqlite3.Connection], T], create: bool) -> T:
        with failures.translated(self.path):
            connection = self._connect(create)
            try:
                result = job(connection)
                self._refuse_changed()
                return result
            except (sqlite3.Error, OutcomeUnknown):
                self._disconnect()  # whatever state it is in, the next job starts with a fresh one
                raise

    def _connect(self, create: bool) -> sqlite3.Connection:
        """The open connection, made anew where the file has been removed or replaced since, or is to be
        migrated."""
        file = self._identity()
        if self._connection is not None:
            if file == self._file and (self._schema >= schema.SCHEMA_VERSION or not create):
                return self._connection
            self._disconnect()
        if file is None:
            if not create:
                raise NamespaceNotFound(
                    f"there is no database at {self.path}",
                    hint="check the store's path; the first commit creates it",
                    next=run("init"),
                )
            if not os.path.isdir(os.path.dirname(self.path)):
                raise failures.missing_folder(self.path)
        self._frozen = None
        if self._write:
            connection = self._open(create)
        else:
            connection, frozen = open_for_reading(self.path, self._busy_timeout)
            self._frozen = _state(self.path) if frozen else None
        try:
            version = schema.found(connection, self.path, write=self._write)
            if version == 0 and not create:
                raise NamespaceNotFound(
                    f"the database {self.path} is empty: nothing was ever committed to it",
                    next=run("init"),
                )
            if self._write:
                schema.enter_wal(connection, self.path, self._busy_timeout)
            if version < schema.SCHEMA_VERSION and create:
                schema.migrate(connection, self.path)
                version = schema.SCHEMA_VERSION
            if not self._write:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        self._connection, self._file, self._schema = connection, self._identity(), version
        return connection

    def _refuse_changed(self) -> None:
        """Raise StoreUnavailable where a file that is read as it lies was written to meanwhile."""
        if self._frozen is not None and self._frozen != _state(self.path):
            self._disconnect()
            raise StoreUnavailable(f"{self.path} was changed while it was read", hint="run it again")

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _open(self, create: bool) -> sqlite3.Connection:
        mode = "rwc" if create else "rw"
        connection = _connect(self.path, f"mode={mode}", self._busy_timeout)
        pragmas = {
            "foreign_keys": "ON",
            "synchronous": "FULL",  # in WAL mode: one fsync of the log per commit
            "fullfsync": "ON",  # on macOS, fsync alone does not reach the medium
            "journal_size_limit": _JOURNAL_BYTES,
        }
        try:
            for name, value in pragmas.items():
                connection.execute(f"PRAGMA {name} = {value}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def open_for_reading(path: str, busy_timeout: float = 0.0) -> tuple[sqlite3.Connection, bool]:
    """A connection that reads, also from a medium on which there is no room, or no right, for a -shm file.

    There the file is read as it lies, without locks, and the second value is True. Raises StoreUnavailable
    where a log is beside it, whose commits would be missing.
    """
    connection = _connect(path, "mode=rw", busy_timeout)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        return connection, False
    except sqlite3.OperationalError as exc:
        connection.close()
        if exc.sqlite_errorname != "SQLITE_IOERR_SHMSIZE":  # no room for it; nor has another process one
            if failures.primary(exc) not in (failures.CANTOPEN, failures.READONLY):
                raise
            if os.access(os.path.dirname(path), os.W_OK) and os.access(path, os.W_OK):
                raise
        if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
            raise StoreUnavailable(
                f"{path} cannot be read where nothing can be written: commits are in its -wal file",
                hint="copy the file and its -wal together to where this user may write, and name that copy",
            ) from exc
    except BaseException:
        connection.close()
        raise
    return _connect(path, "mode=ro&immutable=1", busy_timeout), True


def _state(path: str) -> tuple[int, int, bool]:
    """What changes whenever the database is written to."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, os.path.exists(f"{path}-wal")


def _connect(path: str, query: str, busy_timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{Path(path).as_uri()}?{query}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,  # transactions begin and end where `transaction` says
        cached_statements=64,
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, *, write: bool = False) -> Iterator[None]:
    """All that is done inside, or nothing; reads see one snapshot.

    A write transaction takes the lock at once: one that began as a read could fail half-way.
    """
    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def holder(path: str) -> str:
    """` by process 4711 (python3)`, or nothing where the kernel does not tell it (another system or host)."""
    for suffix, byte in (("-shm", _WAL_WRITE_LOCK), ("", _RESERVED)):
        for process in _lockers(path + suffix, byte):
            return f" by process {process}{_named(process)}"
    return ""


def _lockers(path: str, byte: int) -> Iterator[int]:
    """Other processes that have a write lock on that byte of the file."""
    try:
        status = os.stat(path)
        with open(_LOCKS, encoding="ascii", errors="replace") as table:
            lines = [line.split() for line in table]
    except OSError:
        return
    inode = str(status.st_ino)
    for words in lines:
        # 1: POSIX  ADVISORY  WRITE 4711 08:02:1234 120 120
        if len(words) != 8 or words[3] != "WRITE" or words[5].rpartition(":")[2] != inode:
            continue
        end = float("inf") if words[7] == "EOF" else int(words[7])
        if int(words[6]) <= byte <= end and int(words[4]) not in (0, -1, os.getpid()):
            yield int(words[4])


def _named(process: int) -> str:
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as name:
            return f" ({name.read().strip()})"
    except OSError:
        return ""


class Parked(Protocol):
    """Something that is closed before a fork, stays closed until it is done, and starts anew in the child."""

    def park(self) -> None: ...
    def resume(self) -> None: ...
    def leave(self) -> None: ...


def park_at_fork(owner: Parked) -> None:
    """Have `owner` closed while the process forks: SQLite's locks belong to a process, not to a connection.

    What SQLite remembers of its locks would be untrue in the child: it would read without one, and write into
    a log that the parent may remove at that moment.
    """
    _parked.add(owner)


def _before() -> None:
    for each in list(_parked):
        each.park()


def _in_parent() -> None:
    for each in list(_parked):
        each.resume()


def _in_child() -> None:
    for each in list(_parked):
        each.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
