"""SQLite's errors as somactl's, translated once, here."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from somactl.errors import SchemaMismatch, StoreBusy, StoreDamaged, StoreFull, StoreUnavailable
from somactl.store.sqlite.database import holder
from somactl.suggestion import run

_PRIMARY = 0xFF
"""Extended result codes carry their primary code in the low byte."""
_NEARLY_FULL_BYTES = 1 << 20

# Values of the SQLite C API, which do not change; the sqlite3 module names them only since Python 3.11.
PERM, BUSY, LOCKED, READONLY, IOERR, CORRUPT, FULL, CANTOPEN = 3, 5, 6, 8, 10, 11, 13, 14
PROTOCOL, CONSTRAINT, AUTH, NOTADB = 15, 19, 23, 26
_IOERR_SYNCS = (IOERR | 4 << 8, IOERR | 5 << 8)
"""SQLITE_IOERR_FSYNC and SQLITE_IOERR_DIR_FSYNC."""


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise what SQLite raises on the database at `path` as an error of `somactl.errors`."""
    try:
        yield
    except sqlite3.Error as exc:
        error = translate(exc, path)
        if error is None:
            raise
        raise error from exc
    except OSError as exc:
        raise StoreUnavailable(
            f"the database {path} cannot be reached: {exc.strerror or exc}", hint=_access_hint(path)
        ) from exc


def primary(exc: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error that the Python module raised itself."""
    return int(getattr(exc, "sqlite_errorcode", 0) or 0) & _PRIMARY


def is_lost_sync(exc: sqlite3.Error) -> bool:
    """Whether fsync failed: what was written before may or may not survive a crash."""
    return getattr(exc, "sqlite_errorcode", 0) in _IOERR_SYNCS


def translate(exc: sqlite3.Error, path: str) -> StoreUnavailable | None:
    """The somactl error for `exc`; None where it can only be a bug of ours (exit code 1)."""
    code = primary(exc)
    if code in (BUSY, LOCKED, PROTOCOL):
        return StoreBusy(
            f"the database {path} is locked{holder(path) or ' by another process'}",
            hint="run it again; if it stays locked, find the process that holds it (`fuser`, `lsof`)",
        )
    if code == FULL or (code == IOERR and is_full(path)):
        return StoreFull(
            f"there is no room left for the database {path} ({exc})",
            hint="free disk space or raise the size limit; then compacting makes room inside the file",
            next=[run("doctor"), run("compact", dry_run=True)],
        )
    if code in (CORRUPT, CONSTRAINT):  # we ask for nothing that a sound file would refuse
        return StoreDamaged(
            f"the database {path} is damaged ({exc})",
            hint="stop writers, copy the file and its -wal aside, run `PRAGMA integrity_check`, "
            "restore a backup",
        )
    if code == NOTADB:
        return SchemaMismatch(
            f"{path} is not a SQLite database",
            hint="check the store's path: somactl writes into no file that it did not make. If it was "
            "the database once, its first page is damaged: restore a backup",
        )
    if code in (CANTOPEN, READONLY, PERM, AUTH, IOERR):
        return StoreUnavailable(f"the database {path} cannot be used: {exc}", hint=_access_hint(path))
    return None


def is_full(path: str) -> bool:
    """Whether an I/O error comes from a full disk or a file size limit: SQLite does not say."""
    import resource

    folder = os.path.dirname(path)
    try:
        space = os.statvfs(folder)
        size = max(os.path.getsize(path + suffix) for suffix in ("", "-wal") if os.path.exists(path + suffix))
    except (OSError, ValueError):
        return False
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    limited = limit != resource.RLIM_INFINITY and size + _NEARLY_FULL_BYTES > limit
    return limited or space.f_bavail * space.f_frsize < _NEARLY_FULL_BYTES


def _access_hint(path: str) -> str:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"create the folder {folder} first"
    if os.path.isdir(path):
        return "this is a folder: name a file in it"
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
        return f"give this user read and write permission on {path}"
    if not os.access(folder, os.W_OK):
        return (
            f"give this user write permission on {folder}: beside the database SQLite keeps its -wal and -shm"
        )
    return "check the disk and the kernel log, and that the file was not moved or replaced"


def missing_folder(path: str) -> StoreUnavailable:
    """The folder of a database that is to be created is not there."""
    return StoreUnavailable(
        f"the database {path} cannot be used: {os.strerror(errno.ENOENT)}", hint=_access_hint(path)
    )
