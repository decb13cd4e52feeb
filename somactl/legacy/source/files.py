"""Values in `.json` files, one a file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from somactl.core.names import Pattern
from somactl.errors import (
    AccessDenied,
    InvalidFile,
    InvalidName,
    ReadOnlyStore,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from somactl.legacy.source.contract import FETCH_BYTES, MAX_VALUE_BYTES, Change, Value
from somactl.legacy.source.workspace import to_bytes

SUFFIX = ".json"
_PLAIN = re.compile(r"[\w ()./-]*\.[A-Za-z]{1,6}").fullmatch
"""A file's name, by its ending; what is written otherwise may be an address with a password in it."""
_ATTRIBUTES = re.compile(r"mode=([0-7]{4}) uid=([0-9]{1,10}) gid=([0-9]{1,10})\Z").match


class FilesSource:
    """Files by their keys; see `somactl.legacy.source.contract.Source`.

    A change writes a new file beside the old one and puts it in its place, so that a reader sees the one or
    the other whole, after a crash as well. The old content is compared at the last moment before that; no
    file system can be asked to do both at once, so a writer in the microseconds between, unless it is somactl
    too, loses his change.

    A file that is put back has the mode and, where we may give it away, the owner that it had.

    Raises InvalidFile for what cannot be a file, and read-only for one that is not there. Otherwise that is
    a value that is gone: it may be put back.
    """

    name = "json files"
    replaceable = True

    def __init__(self, paths: Mapping[str, str], *, read_only: bool = True) -> None:
        self._paths = {key: _real_path(path, missing_ok=not read_only) for key, path in paths.items()}
        places = sorted(f"{key}\0{path}" for key, path in self._paths.items())
        self.identity = "json files sha256:" + hashlib.sha256(to_bytes("\n".join(places))).hexdigest()
        self._read_only = read_only

    async def names(self, match: Pattern | None) -> AsyncIterator[list[str]]:
        there = [key for key, path in self._paths.items() if os.path.lexists(path)]
        chosen = [key for key in there if match is None or match.matches(key)]
        if chosen:
            yield chosen

    async def fetch(self, keys: Sequence[str]) -> list[Value]:
        return await asyncio.to_thread(self._fetch, keys)

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        if self._read_only:
            raise ReadOnlyStore("a change was asked of files that are open for reading only")
        return await asyncio.to_thread(lambda: [self._swap(change) for change in changes])

    async def close(self) -> None:
        """Nothing is kept open."""

    def _fetch(self, keys: Sequence[str]) -> list[Value]:
        values: list[Value] = []
        total = 0
        for key in keys:
            value = self._read(key, FETCH_BYTES - total if total else MAX_VALUE_BYTES)
            if value is None:
                break
            values.append(value)
            total += len(value.data)
        return values

    def _read(self, key: str, most: int) -> Value | None:
        """The value of `key`; None where it could be read, and is larger than `most`."""
        try:
            with open(self._paths[key], "rb") as file:
                status = os.fstat(file.fileno())
                size = status.st_size
                if size > MAX_VALUE_BYTES:
                    return Value(key, "unreadable", detail=f"{size / 1e6:.0f} MB of JSON")
                if size > most:
                    return None
                return Value(key, "text", file.read(size), attributes=_Access.of(status).encode())
        except (KeyError, FileNotFoundError):
            return Value(key, "gone")
        except OSError as exc:
            return Value(key, "unreadable", detail=f"a file that cannot be read: {exc.strerror}")

    def _swap(self, change: Change) -> bool:
        path = self._paths.get(change.key)
        if path is None:
            return change.after is None
        with _translated(path), _locked(os.path.dirname(path)) as folder:
            found = _content(path)
            if found == change.after:
                return True
            if found != change.before:
                return False
            if change.after is None:
                os.unlink(path)
            elif not _put(path, change):
                return False
            os.fsync(folder)  # a crash is not to bring back the names that were
        return True


def names_file(word: str) -> bool:
    """Whether a word that could be taken for an address in some notation is one for a file."""
    path = word.rpartition("=")[2]
    return "://" not in word and (path.endswith(SUFFIX) or os.path.isfile(path))


def parse_words(words: Sequence[str]) -> dict[str, str]:
    """Key -> path of the words `PATH.json` and `KEY=PATH`, the latter split at the last `=`.

    Raises UsageError for any other word, InvalidName for a key that is named twice."""
    paths: dict[str, str] = {}
    for word in words:
        key, separator, path = word.rpartition("=")
        if not separator and path.endswith(SUFFIX):
            key = os.path.basename(path).removesuffix(SUFFIX)
        if not key or not path:
            shown = repr(word) if os.path.lexists(word) else "a word of SOURCE"
            raise UsageError(f"{shown} names no values to migrate", hint=_instead(word))
        if key in paths:
            raise InvalidName(f"key {key!r} is given twice", hint="name the key of each file: KEY=PATH")
        paths[key] = path
    return paths


def lasting_words(words: Sequence[str]) -> list[str]:
    """Words that name the same files from any folder; none where a path has a `=` in it, which ends a key."""
    paths = {key: os.path.realpath(path) for key, path in parse_words(words).items()}
    lasting = [f"{key}={path}" for key, path in paths.items()]
    return lasting if not any("=" in path for path in paths.values()) else []


def _instead(word: str) -> str:
    if os.path.isdir(word):
        return f"name the files in it: {os.path.join(word, '*' + SUFFIX)}"
    if os.path.isfile(word) and word.endswith((".ndjson", ".jsonl")):
        return f"lines of JSON come by standard input: < {word}"
    return "write a URL, PATH.json, KEY=PATH, or - for lines of JSON on standard input"


def _real_path(path: str, *, missing_ok: bool) -> str:
    """The file itself, where links lead to it. Raises InvalidFile."""
    shown = path if path.endswith(SUFFIX) or _PLAIN(path) else "the file of a word of SOURCE"
    try:
        path = os.path.realpath(path)
        if not os.path.isfile(path) and not (missing_ok and not os.path.lexists(path)):
            os.stat(path)
            raise InvalidFile(f"{shown}: no ordinary file")
    except ValueError:
        raise InvalidFile(f"{shown!r} is no file name") from None
    except OSError as exc:
        raise InvalidFile(f"{shown}: {(exc.strerror or 'cannot be read').lower()}") from None
    return path


def _content(path: str) -> bytes | None:
    """What the file holds; None where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


class _Access(NamedTuple):
    """Whose a file is, and who may do what with it."""

    mode: int
    uid: int
    gid: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Access:
        return cls(status.st_mode & 0o7777, status.st_uid, status.st_gid)

    def encode(self) -> str:
        return f"mode={self.mode:04o} uid={self.uid} gid={self.gid}"

    @classmethod
    def decode(cls, attributes: str) -> _Access | None:
        found = _ATTRIBUTES(attributes)
        return found and cls(int(found[1], 8), int(found[2]), int(found[3]))

    def give(self, descriptor: int) -> None:
        """Owner and group where we may give a file away; then the mode, which a new owner takes bits from."""
        for uid, gid in ((-1, self.gid), (self.uid, -1)):
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, self.mode)


def _put(path: str, change: Change) -> bool:
    """Put a file with `after` in the place of one with `before`, or where none is; whether it was so.

    Until it is known who may read it, only this user may.
    """
    assert change.after is not None
    folder = os.path.dirname(path)
    new = os.path.join(folder, f".{os.path.basename(path)[:200]}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(change.after)
            file.flush()
            replaces = change.before is not None
            access = _Access.of(os.stat(path)) if replaces else _Access.decode(change.attributes)
            if access is not None:
                access.give(file.fileno())
            os.fsync(file.fileno())
        if _content(path) != change.before:
            return False
        if not replaces:
            os.link(new, path)  # refused where a file appeared, which `replace` would overwrite
        else:
            os.replace(new, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
    return True


@contextmanager
def _locked(folder: str) -> Iterator[int]:
    """The folder's descriptor, while no other somactl changes a file in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        text = f"{path} cannot be changed: {exc.strerror}"
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(text, hint="free disk space there") from exc
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessDenied(text, hint="check the permissions of the file and its folder") from exc
        raise StoreUnavailable(text) from exc
