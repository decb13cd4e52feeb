"""The Python API's own functions; the other names that `somactl` exports are those of the layers below."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

from somactl.address import public
from somactl.config import SETTINGS, TOLERANCES, Configuration, Settings, examine
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

_LOG = logging.getLogger("somactl")
_OF_STORES = SETTINGS.keys() - {"output", "namespace", *TOLERANCES}


class _Environment:
    def __repr__(self) -> str:
        return "as the environment says"


ENVIRONMENT: Any = _Environment()
"""The default of what the environment may say: `None`, which a variable that is not set gives, is refused."""


@asynccontextmanager
async def open_server(
    url: str = ENVIRONMENT,
    *,
    cache: str | None = ENVIRONMENT,
    read_only: bool = False,
    allow_stale: bool = False,
    retry_seconds: float = ENVIRONMENT,
) -> AsyncIterator[Server]:
    """The database at `url`, for use as `async with somactl.open_server(...) as server:`, closed at its end.

    `server.namespace(name)` gives the store of a namespace. However many there are, they share one pool of
    connections. All else is as in `open_store`.
    """
    with _advised():
        settings = _settings(url, cache=cache, retry_seconds=retry_seconds)
    with _told(settings):
        async with open_settings(settings, read_only=read_only, allow_stale=allow_stale) as server:
            yield server


@asynccontextmanager
async def open_store(
    url: str = ENVIRONMENT,
    *,
    namespace: str = ENVIRONMENT,
    cache: str | None = ENVIRONMENT,
    read_only: bool = False,
    allow_stale: bool = False,
    retry_seconds: float = ENVIRONMENT,
) -> AsyncIterator[Store]:
    """The store at `url`, for use as `async with somactl.open_store(...) as store:`, closed at its end.

    url          sqlite:///relative.db, sqlite:////absolute.db, postgresql://..., redis://...
    cache        a Redis that reads ask first: redis://HOST:PORT/0; None for none
    read_only    a write raises ReadOnlyStore, and reads leave the cache as it is
    allow_stale  cached values are served, and say so, while the store cannot be reached
    retry_seconds  how long a call that may be made again is tried again; 0 for never

    With a `url`, what stands here is all there is: no environment variable and no configuration file is read.
    Without one, what is left out is what the command line would take (docs/CONFIGURATION.md): SOMACTL_STORE,
    SOMACTL_CACHE, SOMACTL_NAMESPACE, POSTGRES_URL with REDIS_URL, SFM_RHO_CACHE_TTL, SFM_RHO_READ_TIMEOUT_MS,
    SOMACTL_RETRY_SECONDS, SFM_DARK_MODE (docs/DARK_MODE.md), and the file that SOMACTL_CONFIG names.

    The store belongs to the event loop in which it was opened: enter and leave the block, and await its
    methods, in tasks of that loop. Raises ConfigurationError for a URL no store knows, and for a setting
    that cannot be used, whose variable it names; InvalidName for a namespace. An error that leaves the block
    carries its hint, and what to call next, as notes.
    """
    with _advised():
        settings = _settings(url, cache=cache, namespace=namespace, retry_seconds=retry_seconds)
    with _told(settings):
        async with open_settings(settings, read_only=read_only, allow_stale=allow_stale) as server:
            try:
                yield server.namespace(settings.namespace)
            except SomactlError as error:
                error.during(namespace=settings.namespace)
                raise


def _settings(url: str, **given: Any) -> Settings:
    """The settings that the arguments name; where no `url` is among them, with what the environment says."""
    left_out = {name for name, value in given.items() if value is ENVIRONMENT}
    explicit = {name: value for name, value in given.items() if name not in left_out}
    if "cache" in explicit:
        explicit["cache"] = _text("cache", "" if explicit["cache"] is None else explicit["cache"])
    if "namespace" in explicit:
        _text("namespace", explicit["namespace"])
    if url is not ENVIRONMENT:
        return Settings(store=_text("url", url), **explicit)
    found = examine({})
    found.require_of((_OF_STORES - given.keys()) | left_out)
    _tell(found, left_out)
    return replace(found.settings, **explicit)


def _tell(found: Configuration, left_out: set[str]) -> None:
    """Log what is opened, and which setting said so: a service that lost its own is not to be silent."""
    store = found.resolved["store"]
    if store.origin.kind == "default":
        _LOG.warning("no store is named (SOMACTL_STORE, POSTGRES_URL, REDIS_URL): %s is used", store.shown)
    if found.settings.dark:
        place = found.resolved["dark_mode"].origin.place
        _LOG.warning("dark mode is on (%s): invariants are measured and refuse nothing", place)
    for name in sorted({"store", *left_out}):
        each = found.resolved[name]
        _LOG.info("%s: %s (%s)", name, each.shown or "none", each.origin.place)


@contextmanager
def _told(settings: Settings) -> Iterator[None]:
    """Errors that leave the block name the store, and carry what to do as notes."""
    with _advised():
        try:
            yield
        except SomactlError as error:
            error.during(store=public(settings.store))
            raise


@contextmanager
def _advised() -> Iterator[None]:
    """Errors that leave the block carry what to do as notes, which a traceback prints."""
    try:
        yield
    except SomactlError as error:
        for line in advice(error):  # of nested blocks the inner one has added them
            if line not in getattr(error, "__notes__", ()):
                error.add_note(line)
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
