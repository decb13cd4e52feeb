"""The Python API's own functions; the other names that `somactl` exports are those of the layers below."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from somactl.address import public
from somactl.config import DEFAULT_STORE, Settings
from somactl.core.envelope import Matrix, deserialize_matrix
from somactl.core.names import validate_key
from somactl.errors import SomactlError, UsageError
from somactl.runtime import Server, open_server as open_settings
from somactl.store.contract import Store
from somactl.suggestion import Suggestion

_CALLS = {
    "compact": "await store.compact()",
    "compact dry_run": "await store.compact(dry_run=True)",
    "doctor": "await store.diagnose()",
    "init": "await store.init()",
    "log": "await store.log()",
    "log KEY": "await store.history({key!r})",
    "ls": "[stat async for page in store.scan() for stat in page]",
    "ls deleted": "[stat async for page in store.scan(deleted=True) for stat in page]",
    "namespaces": "await store.namespaces()",
    "show KEY": "await store.read({key!r})",
    "status KEY": "await store.commit_status({key!r})",
    "status KEY resolve": "await store.commit_status({key!r}, resolve=True)",
}
"""What a program calls where an operator runs a command. What has no such call is left to the operator."""


@asynccontextmanager
async def open_server(
    url: str = DEFAULT_STORE,
    *,
    cache: str | None = None,
    read_only: bool = False,
    allow_stale: bool = False,
    retry_seconds: float = 5.0,
) -> AsyncIterator[Server]:
    """The database at `url`, for use as `async with somactl.open_server(...) as server:`, closed at its end.

    `server.namespace(name)` gives the store of a namespace. However many there are, they share one pool of
    connections. All else is as in `open_store`.
    """
    try:
        settings = Settings(
            store=_text("url", url), cache=_text("cache", cache or ""), retry_seconds=retry_seconds
        )
        async with open_settings(settings, read_only=read_only, allow_stale=allow_stale) as server:
            yield server
    except SomactlError as error:
        error.during(store=public(str(url)))
        for line in advice(error):  # a traceback prints notes; of nested blocks the inner one has added them
            if line not in getattr(error, "__notes__", ()):
                error.add_note(line)
        raise


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
    tasks of that loop. Raises ConfigurationError for a URL no store knows, InvalidName for a namespace. An
    error that leaves the block carries its hint, and what to call next, as notes.
    """
    async with open_server(
        url, cache=cache, read_only=read_only, allow_stale=allow_stale, retry_seconds=retry_seconds
    ) as server:
        try:
            yield server.namespace(_text("namespace", namespace))
        except SomactlError as error:
            error.during(namespace=namespace)
            raise


def _text(name: str, given: object) -> str:
    if not isinstance(given, str):  # an environment variable that is not set, say
        raise UsageError(f"`{name}` is {type(given).__name__}, no text")
    return given


async def read_matrix(store: Store, key: str, version: int | None = None) -> Matrix:
    """The matrix under `key`, at `version` of the namespace or now; framing, digests and address verified.

    `numpy.asarray(...)` of it is the array; `header` says its kind, dtype, layout and digests. Raises
    KeyNotFound, VersionCompacted, CorruptValue, StoreUnavailable.
    """
    entry = await store.read(validate_key(key), version)
    return await asyncio.to_thread(deserialize_matrix, entry.data, namespace=store.namespace, key=key)


def advice(error: SomactlError) -> list[str]:
    """What to do about an error, in words of Python: its hint, and the calls for the commands it suggests."""
    calls = [call for suggestion in error.next if (call := in_python(suggestion))]
    return [*([f"hint: {error.hint}"] if error.hint else []), *(f"try: {call}" for call in calls)]


def in_python(suggestion: Suggestion) -> str | None:
    """The call that does what the suggested command does, or None."""
    words = [str(suggestion.command), *("KEY" for _ in suggestion.arguments)]
    words += [name for name, value in suggestion.options if value is not None]
    call = _CALLS.get(" ".join(words))
    return call and call.format(key="".join(suggestion.arguments))
