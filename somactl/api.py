"""The Python API's own functions; the other names that `somactl` exports are those of the layers below."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from somactl.config import DEFAULT_STORE, Settings
from somactl.core.envelope import Matrix, deserialize_matrix
from somactl.core.names import validate_key, validate_namespace
from somactl.runtime import open_store as open_settings
from somactl.store.contract import Store


@asynccontextmanager
async def open_store(
    url: str = DEFAULT_STORE,
    *,
    namespace: str = "default",
    cache: str | None = None,
    read_only: bool = False,
    allow_stale: bool = False,
    retry_seconds: float = 5.0,
) -> AsyncIterator[Store]:
    """The store at `url`, for use as `async with somactl.open_store(...) as store:`, closed at its end.

    url          sqlite:///relative.db, sqlite:////absolute.db, postgresql://..., redis://...
    cache        a Redis that reads ask first: redis://HOST:PORT/0
    read_only    a write raises ReadOnlyStore, and reads leave the cache as it is
    allow_stale  cached values are served, and say so, while the store cannot be reached
    retry_seconds  how long a call that may be made again is tried again; 0 for never

    What stands here is all there is: no environment variable and no configuration file is read. The store
    belongs to the event loop in which it was opened: enter and leave the block, and await its methods, in
    tasks of that loop. Raises ConfigurationError for a URL no store knows, InvalidName for a namespace.
    """
    settings = Settings(
        store=url,
        cache=cache or "",
        namespace=validate_namespace(namespace),
        retry_seconds=retry_seconds,
    )
    async with open_settings(settings, read_only=read_only, allow_stale=allow_stale) as store:
        yield store


async def read_matrix(store: Store, key: str, version: int | None = None) -> Matrix:
    """The matrix under `key`, at `version` of the namespace or now; framing, digests and address verified.

    `numpy.asarray(...)` of it is the array; `header` says its kind, dtype, layout and digests. Raises
    KeyNotFound, VersionCompacted, CorruptValue, StoreUnavailable.
    """
    entry = await store.read(validate_key(key), version)
    return await asyncio.to_thread(deserialize_matrix, entry.data, namespace=store.namespace, key=key)
