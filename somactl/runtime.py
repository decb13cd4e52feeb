"""The composition root: settings become an opened store. The only module that names the concrete stores."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

from somactl.config import Settings
from somactl.errors import ConfigurationError
from somactl.store.contract import Store


@asynccontextmanager
async def open_store(settings: Settings, *, read_only: bool = False) -> AsyncIterator[Store]:
    """The store that `settings` name, closed again on the way out.

    read_only wraps it so that a write raises ReadOnlyStore. Raises ConfigurationError for a URL no store
    knows.
    """
    store = _store(settings)
    if read_only:
        from somactl.store.wrappers import ReadOnly

        store = ReadOnly(store)
    try:
        yield store
    finally:
        await store.close()


def _store(settings: Settings) -> Store:
    scheme = urlsplit(settings.store).scheme
    if scheme == "sqlite":
        from somactl.store.sqlite import SqliteStore

        return SqliteStore(sqlite_path(settings.store), settings.namespace)
    raise ConfigurationError(
        f"no store is known for {scheme}:// URLs", hint="this version opens sqlite:///path/to/somactl.db"
    )


def sqlite_path(url: str) -> str:
    """The file of `sqlite:///relative.db` or `sqlite:////absolute.db`."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or path == "/" or parts.query or parts.fragment:
        raise ConfigurationError(
            f"store URL {url!r} names no file",
            hint="write sqlite:///relative.db or sqlite:////absolute/path.db",
        )
    return os.path.normpath(path[1:])
