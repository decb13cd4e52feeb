"""Which process holds the write lock of a database file, as far as the kernel tells it."""

from __future__ import annotations

import os
from collections.abc import Iterator

_WAL_WRITE_LOCK = 120
"""The byte of the -shm file that a writer locks in WAL mode (sqlite.org/walformat.html, 2.2.2)."""
_RESERVED = 0x40000001
"""The byte of the database file that a writer locks in any other mode (sqlite.org/fileformat2.html, 1.1)."""
_LOCKS = "/proc/locks"


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
