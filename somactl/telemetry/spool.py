"""What could not be pushed, kept in a folder for the next push: one file for each group of a run.

The name of a file begins with the time of the run, so that their order is that of the runs. There are never
more than MAX_ENTRIES files, or MAX_BYTES: the oldest go first, since a newer run says more.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

MAX_ENTRIES = 1000
MAX_BYTES = 16 << 20
_NAME = re.compile(r"\d{11}\.\d{6}-[0-9a-f]{8}\.somactl-push")
Write = Callable[[str, bytes], None]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One group of one run: what was to be pushed, and when the run ended."""

    format: int = 1
    group: dict[str, str]
    ended_at: float
    text: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry and the file that it is in."""

    path: str
    entry: Entry


class Spool:
    """A folder. `write(path, data)` puts a file there, whole or not at all."""

    def __init__(self, folder: str, write: Write) -> None:
        self.folder = folder
        self._write = write

    def keep(self, group: Mapping[str, str], ended_at: float, text: bytes) -> int:
        """Keep what was not pushed; how many older entries had to go for it. Raises what `write` does."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        entry = Entry(group=dict(group), ended_at=ended_at, text=text.decode())
        name = f"{ended_at:018.6f}-{secrets.token_hex(4)}.somactl-push"
        self._write(os.path.join(self.folder, name), msgspec.json.encode(entry))
        return self._bound()

    def names(self) -> list[str]:
        """The files of the spool, the oldest run first; none where there is no folder."""
        try:
            return sorted(name for name in os.listdir(self.folder) if _NAME.fullmatch(name))
        except OSError:
            return []

    def entries(self) -> Iterator[Kept]:
        """The oldest run first; files that cannot be read are passed over."""
        for name in self.names():
            path = os.path.join(self.folder, name)
            with contextlib.suppress(OSError, msgspec.MsgspecError, ValueError):
                with open(path, "rb") as file:
                    data = file.read(MAX_BYTES)
                entry = msgspec.json.decode(data, type=Entry)
                if entry.format == 1:
                    yield Kept(path, entry)

    def drop(self, kept: Kept) -> None:
        """It was pushed, or never will be."""
        with contextlib.suppress(OSError):
            os.unlink(kept.path)

    def _bound(self) -> int:
        names, dropped = self.names(), 0
        sizes = [_size(os.path.join(self.folder, name)) for name in names]
        while len(names) - dropped > MAX_ENTRIES or sum(sizes[dropped:]) > MAX_BYTES:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.folder, names[dropped]))
            dropped += 1
        return dropped

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other process sends from this folder at the moment."""
        import fcntl

        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            yield False
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
