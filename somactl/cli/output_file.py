"""The one writer of the files that commands write: a file whole or not at all, anything else as it stands.

    with OutputFile(path) as target:    # refused here (11), before any work
        target.write(data)
        target.keep()

A regular file is replaced in one step by one that was written beside it, with its mode and, where that is
allowed, its owner; a new one has what the umask leaves. Where `path` is a link, that is the file it leads to,
and the link stays. Devices, FIFOs and descriptors (`/dev/null`, `/dev/fd/N`) are written through. Whatever
cannot be written is refused before, and a write that fails later (17) leaves the old file as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
import stat
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from somactl.cli.signals import abortable
from somactl.errors import ResultNotWritten, TargetRefused

_ELSEWHERE = "name another FILE"
_LINKS = 40
_BUFFER_BYTES = 64 << 10


class OutputFile:
    """What is written to `path` and put there by `keep`. Raises TargetRefused, ResultNotWritten."""

    def __init__(self, path: str, *, spare: Iterable[str] = ()) -> None:
        """spare: files that are not to be written over, whatever name leads to them."""
        self.name = path
        self._spare = tuple(spare)
        self._temporary: str | None = None
        self._descriptor = -1
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        try:
            self._number = descriptor_of(self.name)
            if self._number is not None:
                self._descriptor = _writable_copy(self._number)
                return self
            self._path = os.path.realpath(self.name)
            found = _inspect(self.name)
            _refuse_same(found, self._spare)
            if found is None or stat.S_ISREG(found.st_mode):
                self._create_beside(found)
            else:
                _refuse_unwritable(self.name, found)
        except ValueError:
            raise TargetRefused(f"{self.name!r} is no file name", hint=_ELSEWHERE) from None
        except OSError as exc:
            raise self._refused(exc) from None
        return self

    def write(self, data: bytes | memoryview) -> None:
        if len(self._buffer) + len(data) <= _BUFFER_BYTES:
            self._buffer += data
            return
        self._flush()
        self._pass_on(memoryview(data).cast("B"))

    def _flush(self) -> None:
        pending, self._buffer = self._buffer, bytearray()
        self._pass_on(memoryview(pending))

    def _pass_on(self, rest: memoryview) -> None:
        try:
            if self._descriptor < 0:
                # The reader of a FIFO may come late or never: a signal ends the waiting.
                with abortable():
                    self._descriptor = os.open(self._path, os.O_WRONLY | os.O_NOCTTY)
            while rest:
                with abortable():
                    rest = rest[os.write(self._descriptor, rest) :]
        except OSError as exc:
            raise self._failed(exc) from None

    def keep(self) -> None:
        """What was written is all of it: put it in its place."""
        self._flush()
        try:
            if self._temporary is not None:
                os.fsync(self._descriptor)
                os.replace(self._temporary, self._path)
                self._temporary = None
                _sync_folder(os.path.dirname(self._path))
            self._close()
        except OSError as exc:
            raise self._failed(exc) from None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)

    def _create_beside(self, found: os.stat_result | None) -> None:
        if found is not None:
            _refuse_unwritable(self.name, found)
        temporary = f"{os.path.dirname(self._path)}/.somactl-{secrets.token_hex(8)}"
        # As every new file has it: 0666, and of these what the umask leaves. What is to have the rights of
        # another one is closed to all until it has them.
        mode = 0o666 if found is None else 0o600
        self._descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        self._temporary = temporary
        if found is not None:
            try:
                _give(self._descriptor, found)
            except BaseException:
                self.__exit__(None, None, None)
                raise

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _refused(self, error: OSError) -> TargetRefused:
        folder = os.path.dirname(self.name.rstrip("/")) or "."
        hint = _ELSEWHERE
        if error.errno == errno.ENOENT and not os.path.isdir(os.path.dirname(os.path.realpath(self.name))):
            hint = shlex.join(["mkdir", "-p", os.path.dirname(os.path.realpath(self.name)) or folder])
        return TargetRefused(f"{self.name}: cannot be written: {_why(error)}", hint=hint, file=self.name)

    def _failed(self, error: OSError) -> ResultNotWritten:
        kept = "" if self._temporary is None else "; what stood there before, if anything, is as it was"
        return ResultNotWritten(
            f"{self.name}: cannot be written: {_why(error)}{kept}",
            hint="free space there, or name another FILE, and run the command again",
            file=self.name,
        )


def is_stdout(path: str) -> bool:
    """Whether `path` is `-`, or another name of standard output."""
    try:
        return path == "-" or descriptor_of(path) == 1
    except (OSError, ValueError):
        return False


def descriptor_of(path: str) -> int | None:
    """N where `path`, or the links it is, name descriptor N of this process: `/dev/stdout`, `/dev/fd/63`.

    To open such a name anew would begin a file at its start, over what was appended to it.
    """
    process = os.getpid()
    folders = ("/dev/fd", f"/proc/{process}/fd", f"/proc/{process}/task/{process}/fd")
    for _ in range(_LINKS):
        folder, name = os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path)
        if name.isascii() and name.isdigit() and folder in folders:
            return int(name)
        here = os.path.join(folder, name)
        if not os.path.islink(here):
            return None
        path = os.path.join(folder, os.readlink(here))
    return None


def _writable_copy(number: int) -> int:
    """A copy of the descriptor. Raises OSError where it is not open for writing."""
    import fcntl

    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "the descriptor is not open for writing")
    return os.dup(number)


def _inspect(path: str) -> os.stat_result | None:
    """What stands there; None for nothing. Raises OSError for a name that can only be a folder's."""
    if not path or path.endswith("/"):
        raise OSError(errno.EISDIR, "it names a folder" if path else "the name is empty")
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _refuse_same(found: os.stat_result | None, spare: Iterable[str]) -> None:
    """Raises OSError for a file that the command reads, or its store lives in."""
    for path in spare:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if found is not None and os.path.samestat(os.stat(path), found):
                raise OSError(errno.EEXIST, "the command reads this very file")


def _refuse_unwritable(path: str, found: os.stat_result) -> None:
    """Raises OSError for what is neither a file, a FIFO nor a device of characters, or may not be written."""
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, "it is a folder")
    if stat.S_ISBLK(found.st_mode) or stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EINVAL, f"it is a {'disk' if stat.S_ISBLK(found.st_mode) else 'socket'}")
    effective = os.access in os.supports_effective_ids
    if not os.access(path, os.W_OK, effective_ids=effective):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _give(descriptor: int, like: os.stat_result) -> None:
    """Owner and group where we may give a file away; then the mode, which a new owner takes bits from."""
    for uid, gid in ((-1, like.st_gid), (like.st_uid, -1)):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, uid, gid)
    mode, now = stat.S_IMODE(like.st_mode), os.fstat(descriptor)
    if now.st_gid != like.st_gid:  # another group gets no more than all others
        mode &= ~0o070 | (mode & 0o007) << 3
    if (now.st_uid, now.st_gid) != (like.st_uid, like.st_gid):
        mode &= 0o1777
    os.fchmod(descriptor, mode)


def _sync_folder(folder: str) -> None:
    """Make the new name last through a power failure; some file systems cannot be asked to."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _why(error: OSError) -> str:
    return (error.strerror or "it failed").lower()
