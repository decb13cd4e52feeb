"""The composition root: settings become an opened store. The only module that names the concrete stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import BinaryIO

from somactl.address import is_address, parse, refuse_cache
from somactl.config import Settings, source_url
from somactl.errors import UsageError
from somactl.legacy.source.contract import Source
from somactl.store.contract import Store


@asynccontextmanager
async def open_store(
    settings: Settings, *, read_only: bool = False, fills: bool | None = None, allow_stale: bool = False
) -> AsyncIterator[Store]:
    """The store that `settings` name, with its cache if they name one, closed again on the way out.

    read_only makes every leaf raise ReadOnlyStore on a write, the cache's included. fills: whether reads may
    write what they found into the cache; by default they do unless read_only. allow_stale: whether cached
    values are served, and said to be degraded, as soon as the authority does not answer: it is then asked
    once, and not again for some seconds. Raises
    ConfigurationError for a URL no store knows.
    """
    retried = not (allow_stale and settings.cache)
    store = _authority(settings, read_only=read_only, retried=retried)
    if settings.cache:
        fills = not read_only if fills is None else fills
        store = _with_cache(store, settings, fills=fills, allow_stale=allow_stale)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_source(
    words: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    read_only: bool = True,
    retry_seconds: float = 5.0,
) -> AsyncIterator[Source]:
    """The legacy values that `words` name: one URL (or `env:NAME`, where it stands), or files, or `-` or
    nothing for lines of JSON on `stdin`. All of these are read before the block begins. What fails for a
    reason that may pass is tried again for `retry_seconds`, 0 for never.

    Raises UsageError, ConfigurationError, SecretExposed for a password in a URL of the command line,
    InvalidFile for a file that is not there.
    """
    source = _source(words, stdin, read_only=read_only)
    if retry_seconds:
        from somactl.legacy.source.retrying import Retrying

        source = Retrying(source, seconds=retry_seconds)
    try:
        yield source
    finally:
        await source.close()


def _source(words: Sequence[str], stdin: BinaryIO | None, *, read_only: bool) -> Source:
    if list(words) in ([], ["-"]):
        from somactl.legacy.source.ndjson import NdjsonSource

        if stdin is None:
            raise UsageError("no source is named", hint="write a URL, PATH.json, or - for standard input")
        return NdjsonSource(stdin)
    from somactl.legacy.source.files import FilesSource, names_file, parse_words

    if any(word.startswith("env:") or (is_address(word) and not names_file(word)) for word in words):
        return _source_of_url(words, read_only=read_only)
    return FilesSource(parse_words(words), read_only=read_only)


def _source_of_url(words: Sequence[str], *, read_only: bool) -> Source:
    if len(words) > 1:
        raise UsageError("a URL names a whole source: it cannot stand beside another", hint="run it for each")
    url = source_url(words[0])
    if parse(url, "source").kind == "postgres":
        from somactl.legacy.source.postgres import PostgresSource

        return PostgresSource(url, read_only=read_only)
    from somactl.legacy.source.redis import RedisSource

    return RedisSource(url, read_only=read_only)


def _authority(settings: Settings, *, read_only: bool, retried: bool) -> Store:
    """The leaf that holds the truth: retried where a server is behind it, read-only where asked."""
    store = _store(settings)
    if retried and settings.retry_seconds and parse(settings.store).kind != "sqlite":
        from somactl.store.retrying import Retrying

        store = Retrying(store, seconds=settings.retry_seconds)
    if read_only:
        from somactl.store.wrapper import ReadOnly

        store = ReadOnly(store)
    return store


def _with_cache(authority: Store, settings: Settings, *, fills: bool, allow_stale: bool) -> Store:
    """Every read of a rho or a sketch then asks the cache first."""
    refuse_cache(settings.store)
    from somactl.store.hybrid import HybridStore
    from somactl.store.redis.cache import RedisCache

    cache = RedisCache(
        settings.cache,
        settings.namespace,
        ttl=settings.cache_ttl,
        timeout=settings.read_timeout,
        read_only=not fills,
    )
    return HybridStore(authority, cache, allow_stale=allow_stale)


def _store(settings: Settings) -> Store:
    address = parse(settings.store)
    if address.kind == "sqlite":
        from somactl.store.sqlite import SqliteStore

        return SqliteStore(address.path, settings.namespace)
    if address.kind == "postgres":
        from somactl.store.postgres import PostgresStore

        return PostgresStore(settings.store, settings.namespace)
    from somactl.store.redis import RedisStore

    return RedisStore(settings.store, settings.namespace)
