"""The file that says who may call: one caller a line, with roles and a token (or a certificate).

    # NAME      ROLES       SECRET                                   NAMESPACES (all of them, if left out)
    manager-1   prune       sha256:5c1d9d...                         acme,globex
    dashboard   read        kZ3vIr0n3J6sB7mBkqQ1x0rF2m9WlY8p
    batch       read,prune  cert:CN=batch.acme.internal

No token is kept: only its SHA-256 is. No error says more of a line than its number.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, get_args

import msgspec

from somactl.core.names import validate_namespace
from somactl.errors import ConfigurationError, InvalidName, SomactlError
from somactl.serve.log import Log

Role = Literal["read", "prune"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
LOCAL: Final = "local"
"""The name of a caller without a token on this machine, which no line of a file may take."""
LOOK_SECONDS: Final = 1.0
"""How often the file is looked at, at most: a token that was taken out of it is refused after that time."""
MAX_FILE_BYTES: Final = 1 << 20
MAX_TOKEN: Final = 1024

_RACY_SECONDS = 2.0  # a file written this lately may be written again without looking changed
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}\Z")
_TOKEN = re.compile(rf"(?=.{{16,{MAX_TOKEN}}}\Z)[A-Za-z0-9._~+/-]+=*\Z")  # RFC 6750, section 2.1
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})\Z")
_CERTIFICATE = re.compile(r"cert:((?:CN|SAN)=\S{1,512})\Z")


class Caller(msgspec.Struct, frozen=True):
    """Who calls, and what they may do. `namespaces` None: in all of them."""

    name: str
    roles: frozenset[Role]
    namespaces: frozenset[str] | None = None

    def may_use(self, namespace: str) -> bool:
        return self.namespaces is None or namespace in self.namespaces


class Entry(msgspec.Struct, frozen=True):
    """One line: a caller, known by the SHA-256 of a token or by a name in a certificate (`CN=`, `SAN=`)."""

    caller: Caller
    digest: bytes = b""
    certificate: str = ""


class TokenTable:
    """The callers that one version of the file names."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)

    def by_token(self, token: str) -> Caller | None:
        """Whose token it is. Every entry is compared, each in constant time."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for entry in self.entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry.caller
        return found

    def by_certificate(self, names: Sequence[str]) -> Caller | None:
        """The first line that is about one of the names of a certificate that was verified."""
        given = frozenset(names)
        return next((each.caller for each in self.entries if each.certificate in given), None)


class TokenFile:
    """The table of a file, read anew when that changes. A bad file keeps the old table, and says so.

    problem   why the file as it is now is not used; None where it is
    """

    def __init__(self, path: str, log: Log, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigurationError where the file cannot be used."""
        self.path = path
        self.problem: str | None = None
        self._log = log
        self._clock = clock
        self._next_look = 0.0
        self._seen, data = _read(path)
        self._data_digest = hashlib.sha256(data).digest()
        self._table = TokenTable(list(_parsed(path, data)))

    @property
    def table(self) -> TokenTable:
        """The table as of now; it looks whether the file has changed, now and then."""
        if self._clock() >= self._next_look:
            self._look()
        return self._table

    def reload(self) -> bool:
        """Read the file, changed or not; whether it is used."""
        self._seen = None
        self._look()
        return self.problem is None

    def _look(self) -> None:
        self._next_look = self._clock() + LOOK_SECONDS
        try:
            if self._seen is not None and self._seen == _looks(os.stat(self.path)):
                return
            self._seen, data = _read(self.path)
            digest = hashlib.sha256(data).digest()
            if digest != self._data_digest or self.problem is not None:
                self._take(TokenTable(list(_parsed(self.path, data))), digest)
        except (SomactlError, OSError) as exc:
            self._keep(exc.message if isinstance(exc, SomactlError) else _unreadable(self.path, exc).message)

    def _take(self, table: TokenTable, digest: bytes) -> None:
        self._table, self._data_digest, self.problem = table, digest, None
        self._log.event("tokens", what="read again", path=self.path, callers=len(table.entries))

    def _keep(self, problem: str) -> None:
        if problem != self.problem:
            self._log.event("tokens", what="the callers of before stay", problem=problem)
        self.problem, self._seen = problem, None


_Looks = tuple[int, int, int, int]


def _looks(found: os.stat_result) -> _Looks | None:
    """What tells a file from another; None where it was changed so lately that it could change unseen."""
    if abs(time.time() - found.st_ctime) < _RACY_SECONDS:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def _read(path: str) -> tuple[_Looks | None, bytes]:
    """Raises ConfigurationError for what is no file, too large, or open to others."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigurationError(f"{path}: is no regular file")
            if found.st_mode & stat.S_IRWXO:
                raise ConfigurationError(
                    f"{path}: all users of this machine may use it (mode {found.st_mode & 0o777:03o})",
                    hint=f"chmod o= {path}; in Kubernetes, give the volume a defaultMode of 0440",
                )
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise _unreadable(path, exc) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(f"{path}: is larger than {MAX_FILE_BYTES >> 20} MiB")
    return _looks(found), data


def _unreadable(path: str, exc: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"the file of tokens cannot be read: {path}: {(exc.strerror or 'it failed').lower()}",
        hint="name a file that this process may read; docs/SERVE.md says what stands in it",
    )


def _parsed(path: str, data: bytes) -> Iterator[Entry]:
    """The file's lines. Raises ConfigurationError that names every bad one, and shows none."""
    wrong: list[str] = []
    found: dict[bytes | str, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        try:
            entry = _entry([word.decode("ascii") for word in words])
            first = found.setdefault(entry.digest or entry.certificate, number)
            if first != number:
                raise _BadLineError(f"has the secret of line {first}")
            yield entry
        except UnicodeDecodeError:
            wrong.append(f"line {number} is not ASCII")
        except _BadLineError as exc:
            wrong.append(f"line {number} {exc}")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ConfigurationError(f"{path}: {'; '.join(wrong[:5])}{more}", hint=_SHAPE)
    if not found:
        raise ConfigurationError(f"{path}: names no caller", hint=_SHAPE)


_SHAPE = (
    "a line is NAME ROLES SECRET [NAMESPACE,...]: roles are read, prune or both with a comma between; the "
    "secret is a token of 16 characters or more, sha256:HEX of one, cert:CN=NAME or cert:SAN=NAME"
)


class _BadLineError(Exception):
    """What is wrong with a line, in words that repeat nothing of it."""


def _entry(words: list[str]) -> Entry:
    if len(words) not in (3, 4):
        raise _BadLineError(f"has {len(words)} columns, not 3 or 4")
    name, roles, secret = words[:3]
    if not _NAME.match(name) or name == LOCAL:
        raise _BadLineError("begins with no name that a caller may have")
    named = roles.split(",")
    if not set(named) <= set(ROLES):
        raise _BadLineError("has no roles in its second column")
    namespaces = _namespaces(words[3]) if len(words) == 4 else None
    caller = Caller(name, frozenset(role for role in ROLES if role in named), namespaces)
    if certificate := _CERTIFICATE.match(secret):
        return Entry(caller, certificate=certificate[1])
    if digest := _DIGEST.match(secret):
        return Entry(caller, digest=bytes.fromhex(digest[1]))
    if _TOKEN.match(secret):
        return Entry(caller, digest=hashlib.sha256(secret.encode()).digest())
    raise _BadLineError("has no secret in its third column")


def _namespaces(text: str) -> frozenset[str]:
    try:
        return frozenset(validate_namespace(name) for name in text.split(","))
    except InvalidName:
        raise _BadLineError("has no namespaces in its fourth column") from None
