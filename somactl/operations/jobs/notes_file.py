"""Notes in a file of their own, for those who may read a store and not write to it.

`NotesFile` answers the three methods of a store's notes as `somactl.store.contract` promises them, so that a
ledger or a checkpoint does not know where it is kept. The file is JSON, made for one store and safe for many
processes of one machine: each change is made under a lock, and put in place of the old file in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shlex
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

import msgspec

from somactl.errors import (
    InputRejected,
    SchemaMismatch,
    StoreBusy,
    StoreFull,
    StoreUnavailable,
    TargetRefused,
)
from somactl.store.contract import Note
from somactl.store.notes import check_note_name, check_notes, refuse_note_conflicts
from somactl.suggestion import again

T = TypeVar("T")
LOCK_SECONDS = 5.0
MAX_FILE_BYTES = 1 << 30
_PAGE_NOTES = 1000
_ELSEWHERE = "name another FILE"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    version: int
    written_at: float
    data: bytes  # base64 in JSON

    def note(self, name: str, *, with_data: bool) -> Note:
        return Note(name, self.version, len(self.data), self.written_at, self.data if with_data else None)


class _Content(msgspec.Struct, frozen=True):
    """namespace -> name -> note"""

    somactl: Literal["notes"] = "notes"
    format: int = 1
    notes: dict[str, dict[str, _Kept]] = {}


class _Kind(msgspec.Struct):
    """What this file has in every format."""

    somactl: Literal["notes"]
    format: int


class NotesFile:
    """The notes of one namespace in the file `path`, which need not exist: the first write makes it, and only
    its owner may read it. Where `path` is a link, the file it leads to is replaced, and the link stays.

    Every method may raise TargetRefused (what is there is no file, or may not be written), InputRejected (it
    is not ours), SchemaMismatch (a newer somactl wrote it), StoreBusy (another process holds the lock),
    StoreFull (no space is left) and StoreUnavailable. Whatever they raise, the file is as it was.
    """

    def __init__(self, path: str, namespace: str = "default") -> None:
        self.path = path
        self.namespace = namespace
        # One thread: the calls of this object come one after the other, and block no other.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="somactl-notes")

    async def read_notes(self, names: Sequence[str]) -> dict[str, Note]:
        wanted = dict.fromkeys(map(check_note_name, names))
        there = await self._ask(self._read)
        return {name: there[name].note(name, with_data=True) for name in wanted if name in there}

    async def write_notes(
        self, changes: Mapping[str, bytes | None], expected: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        changes, expected = dict(changes), dict(expected or {})
        check_notes(changes, expected)
        return await self._ask(lambda: self._write(changes, expected))

    async def scan_notes(self, prefix: str = "", after: str | None = None) -> AsyncIterator[list[Note]]:
        for name in filter(None, (prefix, after)):
            check_note_name(name)
        there = await self._ask(self._read)
        names = sorted(name for name in there if name.startswith(prefix) and name > (after or ""))
        for first in range(0, len(names), _PAGE_NOTES):
            yield [there[name].note(name, with_data=False) for name in names[first : first + _PAGE_NOTES]]

    async def close(self) -> None:
        """Wait for writes under way. Calling it twice is harmless."""
        await asyncio.to_thread(self._thread.shutdown)

    async def _ask(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _read(self) -> dict[str, _Kept]:
        """Without a lock: the file is one that was put there whole."""
        with self._translated():
            content = _load(self.path)
        return {} if content is None else content.notes.get(self.namespace, {})

    def _write(self, changes: dict[str, bytes | None], expected: dict[str, int]) -> dict[str, int]:
        with self._translated():
            if _load(self.path) is None:
                refuse_note_conflicts(expected, {})  # what is refused leaves no file behind
            with _locked(os.path.realpath(self.path)) as path:
                content = _load(path) or _Content()
                notes = dict(content.notes.get(self.namespace, {}))
                refuse_note_conflicts(expected, {name: each.version for name, each in notes.items()})
                versions = _changed(notes, changes)
                _replace(path, msgspec.json.encode(_Content(notes={**content.notes, self.namespace: notes})))
        return versions

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise self._error(exc) from None

    def _error(self, exc: OSError) -> Exception:
        why = (exc.strerror or "it failed").lower()
        message = f"{self.path}: cannot be used for notes: {why}"
        if exc.errno in _FULL:
            return StoreFull(
                f"{message}; it is as it was", hint=f"free space there, or {_ELSEWHERE}", next=again()
            )
        if exc.errno == errno.EIO:
            return StoreUnavailable(message, hint=f"check the disk, or {_ELSEWHERE}", next=again())
        hint = _ELSEWHERE
        if exc.errno == errno.ENOENT:
            hint = shlex.join(["mkdir", "-p", os.path.dirname(os.path.realpath(self.path))])
        return TargetRefused(message, hint=hint, file=self.path)


def _changed(notes: dict[str, _Kept], changes: Mapping[str, bytes | None]) -> dict[str, int]:
    """Make the changes in `notes`; the new versions."""
    now = time.time()
    versions = {}
    for name, data in changes.items():
        before = notes.pop(name, None)
        versions[name] = 0
        if data is not None:
            versions[name] = 1 if before is None else before.version + 1
            notes[name] = _Kept(versions[name], now, data)
    return versions


def _load(path: str) -> _Content | None:
    """What the file holds; None where there is none yet, or an empty one. Raises OSError for a name that
    is no file's, InputRejected, SchemaMismatch."""
    if not path or "\0" in path or path.endswith("/"):
        raise OSError(errno.EINVAL, "it is no file name")
    if _names_a_descriptor(path):
        raise OSError(errno.EINVAL, "it is a device or a descriptor")
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise _foreign(path)
        with open(path, "rb") as file:
            return _decoded(path, file.read())
    except FileNotFoundError:
        return None


def _names_a_descriptor(path: str) -> bool:
    """`/dev/stdout` may lead to a file, which is not ours to replace."""
    folder = os.path.realpath(os.path.dirname(path) or ".")
    return folder == "/dev" or folder.startswith(("/dev/fd", "/proc/"))


def _decoded(path: str, data: bytes) -> _Content | None:
    if not data:
        return None
    try:
        if msgspec.json.decode(data, type=_Kind).format > _Content().format:
            raise SchemaMismatch(
                f"{path}: was written by a newer somactl", hint=f"use that one, or {_ELSEWHERE}"
            )
        return msgspec.json.decode(data, type=_Content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _foreign(path) from None


def _foreign(path: str) -> InputRejected:
    return InputRejected(
        f"{path}: holds no notes of somactl, and is left as it is",
        hint=f"{_ELSEWHERE}, or one that does not exist yet",
        file=path,
    )


@contextlib.contextmanager
def _locked(path: str) -> Iterator[str]:
    """`path`, whose changes are ours alone until the end. A file that was not there is made, and empty.

    The lock is on the file itself. Who gets it may hold a file that was replaced while it waited: then it
    begins again with the new one. Raises StoreBusy.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        try:
            if _lock(descriptor) and _is_at(descriptor, path):
                yield path
                return
        finally:
            os.close(descriptor)
        if time.monotonic() >= deadline:
            raise StoreBusy(f"{path}: another process holds its lock for {LOCK_SECONDS:g} s", next=again())
        time.sleep(0.005)


def _lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:
        return True  # a system without such locks: one process at a time
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _replace(path: str, data: bytes) -> None:
    """Put `data` in the place of what `path` holds, in one step, with the rights it has. Under the lock.

    The file beside it has one name, so that what a killed process left there is used up by the next.
    """
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            _give(descriptor, os.stat(path))
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    _sync_folder(folder)


def _give(descriptor: int, like: os.stat_result) -> None:
    """Owner, group and mode of the file that is replaced; ours alone where it cannot be given back."""
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (like.st_uid, like.st_gid):
        try:
            os.fchown(descriptor, like.st_uid, like.st_gid)
        except PermissionError:
            return
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode))


def _sync_folder(folder: str) -> None:
    """Make the new name last through a power failure; some file systems cannot be asked to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
