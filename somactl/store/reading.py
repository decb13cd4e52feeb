"""What every store decides about a read: pure functions, as `request.py` has them for commits.

A store brings what it holds of a key (the newest revision, or the newest that is not newer than a version),
and is told here whether that is an answer, and which error it is otherwise.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec

from somactl.core import framing
from somactl.core.names import Pattern
from somactl.errors import CorruptValue, EnvelopeError, KeyNotFound, NamespaceNotFound, VersionCompacted
from somactl.suggestion import run

T = TypeVar("T")


class Held(msgspec.Struct, frozen=True):
    """What a store holds of one revision of a key.

    deleted  it is a tombstone
    ended    the version that superseded it; None where none has, or where that is not told
    removed  its bytes are gone, or may be any moment: retention has removed them, or a grace is over
    """

    version: int
    deleted: bool
    ended: int | None = None
    removed: bool = False


def require_live(namespace: str, key: str, newest: Held | None) -> None:
    """Raises KeyNotFound unless the newest revision is a value."""
    if newest is None:
        raise KeyNotFound(f"key {key!r} is not in namespace {namespace!r}", next=run("ls"))
    if newest.deleted:
        raise KeyNotFound(
            f"key {key!r} was deleted in version {newest.version}",
            next=[run("log", key), run("restore", key)],
            deleted_since=newest.version,
        )


def require_as_of(namespace: str, head: int, floor: int, key: str, version: int, held: Held | None) -> None:
    """Raises KeyNotFound or VersionCompacted unless `held` was the live value at `version`.

    `held` is the newest revision that is not newer. Below version `floor`, entries of histories may be gone:
    there a key that did not exist yet cannot be told from one that was forgotten.
    """
    if version > head:
        raise KeyNotFound(
            f"namespace {namespace!r} is at version {head}; key {key!r} has nothing at version {version} yet"
        )
    if held is None and not 0 < version < floor:
        raise KeyNotFound(f"key {key!r} did not exist at version {version}")
    if held is None or held.removed or (held.ended is not None and held.ended <= version):
        raise VersionCompacted(
            f"what key {key!r} was at version {version} is no longer kept: retention has removed it",
            next=run("log", key),
            key=key,
        )
    if held.deleted:
        raise KeyNotFound(
            f"key {key!r} was deleted at version {version}, since version {held.version}",
            deleted_since=held.version,
        )


def no_history(key: str) -> KeyNotFound:
    return KeyNotFound(f"key {key!r} has no history: it was never written, or retention has forgotten it")


def no_namespace(namespace: str, hint: str | None = None) -> NamespaceNotFound:
    return NamespaceNotFound(
        f"namespace {namespace!r} does not exist in this database",
        hint=hint,
        next=[run("namespaces"), run("init")],
    )


def check_length(key: str, version: int, length: int | None, size: int) -> None:
    """Raises CorruptValue unless the stored value, of `length` bytes (None: there is none), has `size`."""
    if length is None:
        raise corrupt(key, version, "its bytes are missing", "MissingBytes")
    if length != size:
        raise corrupt(key, version, f"it has {length} bytes where {size} were committed", "WrongLength")


def verify(
    namespace: str, key: str, version: int, data: bytes | memoryview, content: str, envelope: str
) -> framing.Header:
    """The framing of `data`; raises CorruptValue unless it is the envelope with these two digests, byte for
    byte."""
    try:
        header = framing.verify(data, namespace=namespace, key=key)
    except EnvelopeError as exc:
        raise corrupt(key, version, str(exc), type(exc).__name__) from exc
    if (header.content, header.envelope) != (content, envelope):
        raise corrupt(key, version, "the envelope is intact, but not the one committed", "OtherEnvelope")
    return header


def corrupt(key: str, version: int, defect: str, name: str) -> CorruptValue:
    """The error for a stored value that is not what was committed; `name` is the defect's in reports."""
    return CorruptValue(
        f"the stored value of {key!r} (version {version}) is not what was committed: {defect}",
        hint="an older version, if there is one, can be restored",
        next=run("log", key),
        key=key,
        version=version,
        defect=name,
    )


def recoverable_until(deleted_at: float, own: float | None, kept_seconds: float) -> float:
    """When what a tombstone hides may be removed: the end of its `own` grace, if it has one."""
    return deleted_at + kept_seconds if own is None else own


class Listing(msgspec.Struct, frozen=True):
    """What `scan` is asked for: live keys or tombstones that match, and where its pages end."""

    pattern: Pattern | None
    deleted: bool
    page_bytes: int
    page_keys: int

    @property
    def prefix(self) -> str:
        """What all matching keys begin with."""
        return self.pattern.prefix if self.pattern else ""

    def matches(self, key: str) -> bool:
        return self.pattern is None or self.pattern.matches(key)


async def pages(
    fetch: Callable[[str | None], Awaitable[tuple[list[T], str | None]]], after: str | None
) -> AsyncIterator[list[T]]:
    """The pages that are not empty. `fetch(after)` gives one, and where the next begins (None: no more)."""
    while True:
        page, after = await fetch(after)
        if page:
            yield page
        if after is None:
            return
