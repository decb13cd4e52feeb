"""One database under test, with hooks that look behind the store's back."""

from __future__ import annotations

from typing import Protocol

from somactl.store.contract import Retention, Store


class Backend(Protocol):
    """A database that starts empty. The hooks go round the store: straight to the file or the server."""

    implicit_init: bool
    """Whether the first commit creates the namespace (SQLite), or `init` must (all others)."""

    default_retention: Retention = Retention()
    """What `init` gives a new namespace if it is told nothing."""

    frees_itself: bool = False
    """Whether the bytes of a deleted key vanish without `compact` once its grace is over."""

    problems: frozenset[str] = frozenset()
    """The checks of `diagnose` that rightly complain about the server under test, e.g. one without fsync."""

    def open(self, namespace: str = "default") -> Store:
        """A new store object on this database; the suite closes it."""
        ...

    async def stored(self, namespace: str) -> set[tuple[str, int]]:
        """(key, version) of every value whose bytes are in the database, live or superseded."""
        ...

    async def stored_bytes(self, namespace: str, key: str, version: int) -> bytes:
        """The bytes as they lie in the database."""
        ...

    async def overwrite(self, namespace: str, key: str, version: int, data: bytes) -> None:
        """Replace those bytes by others, leaving all else that the store knows of them as it is."""
        ...

    async def age(self, namespace: str, seconds: float) -> None:
        """Make everything recorded look `seconds` older: values, tombstones with their graces, records,
        notes. The time inside a generated commit id is the client's, and stays."""
        ...

    async def dispose(self) -> None:
        """Drop the database."""
        ...
