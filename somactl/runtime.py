"""The composition root: settings become an opened store. The only module that names the concrete stores, and
the kinds of jobs that leave notes in them."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, BinaryIO
from weakref import WeakSet

from somactl.address import Address, entry_points, is_address, parse, refuse_cache
from somactl.config import Settings, load, source_url
from somactl.errors import ConfigurationError, SomactlError, UsageError
from somactl.legacy.source.contract import Source
from somactl.operations.jobs.registry import Job
from somactl.report import MigrationSummary
from somactl.store.contract import Store, StoreServer

if TYPE_CHECKING:
    from somactl.store.redis.link import Nodes


STORES = {
    "sqlite": "somactl.store.sqlite.store:server",
    "postgres": "somactl.store.postgres.store:PostgresServer",
    "redis": "somactl.store.redis.store:RedisServer",
}
"""Kind of server -> what opens one, given its URL, written as the entry points of other packages are."""


@dataclass(eq=False)
class Server:
    """One database, with its cache if it has one: the stores of its namespaces share the connections.

    Nothing is touched before a store of it is used. The options are those of `open_server`.
    """

    settings: Settings
    read_only: bool = False
    fills: bool | None = None
    allow_stale: bool = False

    def __post_init__(self) -> None:
        self._database = _database(self.settings.store)
        self._cache = _cache_nodes(self.settings) if self.settings.cache else None
        # Those of the database itself stay for as long as a write of theirs is under way, those around them
        # for as long as they are used.
        self._inner: WeakSet[Store] = WeakSet()
        self._outer: WeakSet[Store] = WeakSet()

    def namespace(self, name: str) -> Store:
        """The store of one namespace. Closing it finishes its writes, and leaves the connections open.

        Raises InvalidName.
        """
        store = self._authority(name)
        if self._cache is not None:
            from somactl.store.hybrid import HybridStore
            from somactl.store.redis.cache import RedisCache

            cache = RedisCache(
                self._cache,
                name,
                ttl=self.settings.cache_ttl,
                timeout=self.settings.read_timeout,
                read_only=self.read_only if self.fills is None else not self.fills,
            )
            store = HybridStore(store, cache, allow_stale=self.allow_stale)
        self._outer.add(store)
        return store

    def _authority(self, name: str) -> Store:
        """The leaf that holds the truth: retried where a server is behind it, read-only where asked."""
        store = self._database.namespace(name)
        self._inner.add(store)
        if self.settings.dark:
            from somactl.store.wrapper import Dark

            store = Dark(store)
        one_try = parse(self.settings.store).kind == "sqlite" or (self.allow_stale and self._cache)
        if self.settings.retry_seconds and not one_try:
            from somactl.store.wrapper import Retrying

            store = Retrying(store, seconds=self.settings.retry_seconds)
        if self.read_only:
            from somactl.store.wrapper import ReadOnly

            store = ReadOnly(store)
        return store

    async def close(self) -> None:
        """Finish what the stores have under way, then close all connections; harmless when repeated."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._database.close)
            if self._cache is not None:
                stack.push_async_callback(self._cache.close)
            for store in (*self._inner, *self._outer):  # the last one is closed first
                stack.push_async_callback(store.close)


@asynccontextmanager
async def open_server(
    settings: Settings, *, read_only: bool = False, fills: bool | None = None, allow_stale: bool = False
) -> AsyncIterator[Server]:
    """The database that `settings` name, with its cache if they name one, closed again on the way out.

    read_only makes every leaf raise ReadOnlyStore on a write, the cache's included. fills: whether reads may
    write what they found into the cache; by default they do unless read_only. allow_stale: whether cached
    values are served, and said to be degraded, as soon as the authority does not answer: it is then asked
    once, and not again for some seconds. Raises ConfigurationError for a URL no store knows, or whose store
    cannot be loaded.
    """
    server = Server(settings, read_only=read_only, fills=fills, allow_stale=allow_stale)
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def open_store(
    settings: Settings, *, read_only: bool = False, fills: bool | None = None, allow_stale: bool = False
) -> AsyncIterator[Store]:
    """The store of the namespace that `settings` name; all else as in `open_server`."""
    async with open_server(settings, read_only=read_only, fills=fills, allow_stale=allow_stale) as server:
        yield server.namespace(settings.namespace)


@dataclass(frozen=True, slots=True)
class AuthorityOpener:
    """Opens, in whatever process it is called, what the store of `settings` has committed: read-only, and no
    cache before it."""

    settings: Settings = field(repr=False)

    def __call__(self) -> AbstractAsyncContextManager[Store]:
        return open_store(replace(self.settings, cache=""), read_only=True)


@dataclass(frozen=True, slots=True)
class RemoteOpener:
    """Opens on another machine what `AuthorityOpener` opens on this one. No secret travels there.

    A machine whose own settings name the same database uses those, with their password. Any other one uses
    the address that was asked for, unless that holds a secret here.

    address   the URL, without its secret if it holds one
    identity  what is equal for all spellings of that database
    """

    address: str
    identity: str
    has_secret: bool
    namespace: str
    retry_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> RemoteOpener:
        address, url = parse(settings.store), settings.store
        if address.kind == "sqlite":
            address = replace(address, path=os.path.abspath(address.path))
            url = address.public
        return cls(
            address.public if address.has_secret else url,
            address.identity,
            address.has_secret,
            settings.namespace,
            settings.retry_seconds,
        )

    def __call__(self) -> AbstractAsyncContextManager[Store]:
        return AuthorityOpener(self._settings(load({})))()

    def _settings(self, own: Settings) -> Settings:
        """Raises ConfigurationError where the password is not known on this machine."""
        found = parse(own.store)
        store = own.store if found.identity == self.identity else self.address
        if store is self.address and self.has_secret:
            raise ConfigurationError(
                f"the worker on {socket.gethostname()} does not know the password of {self.address}, which "
                f"is not sent: its settings name {found.public}",
                hint="set SOMACTL_STORE where the workers are started, to this URL with its password",
            )
        return replace(own, store=store, namespace=self.namespace, retry_seconds=self.retry_seconds)


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
    if _name_url(words):
        return _source_of_url(words, read_only=read_only)
    from somactl.legacy.source.files import FilesSource, parse_words

    return FilesSource(parse_words(words), read_only=read_only)


def _name_url(words: Sequence[str]) -> bool:
    from somactl.legacy.source.files import names_file

    return any(word.startswith("env:") or (is_address(word) and not names_file(word)) for word in words)


def lasting_words(words: Sequence[str]) -> list[str]:
    """The words for a source as a journal keeps them: they name the same from any folder, and tell no secret,
    since `open_source` refuses those that do. None for standard input."""
    if list(words) in ([], ["-"]) or _name_url(words):
        return [word for word in words if word != "-"]
    from somactl.legacy.source import files

    return files.lasting_words(words)


def _source_of_url(words: Sequence[str], *, read_only: bool) -> Source:
    if len(words) > 1:
        raise UsageError("a URL names a whole source: it cannot stand beside another", hint="run it for each")
    url = source_url(words[0])
    if parse(url, "source").kind == "postgres":
        from somactl.legacy.source.postgres import PostgresSource

        return PostgresSource(url, read_only=read_only)
    from somactl.legacy.source.redis import RedisSource

    return RedisSource(url, read_only=read_only)


def _database(url: str) -> StoreServer:
    """What opens the stores at `url`: ours by its kind, that of an installed package by its scheme."""
    address = parse(url)
    if address.kind in STORES:
        home, _, name = STORES[address.kind].partition(":")
        server: StoreServer = getattr(import_module(home), name)(url)
        return server
    return PackagedServer(address, url)


class PackagedServer:
    """A server that an installed package opens. All that goes wrong until a store is there becomes one error.

    Raises ConfigurationError where the package cannot be loaded, or gives no server and stores.
    """

    def __init__(self, address: Address, url: str) -> None:
        self._address = address
        found = [each for each in entry_points() if each.name.lower() == address.scheme]
        self._packages = " and ".join(sorted(each.dist.name if each.dist else each.value for each in found))
        if len(found) > 1:
            raise ConfigurationError(
                f"{self._packages} each open {address.scheme}:// stores", hint="keep one of them installed"
            )
        with self._told():
            self._server = found[0].load()(url)
        self._refuse_incomplete(self._server, StoreServer)

    def namespace(self, name: str) -> Store:
        with self._told():
            store: Store = self._server.namespace(name)
        self._refuse_incomplete(store, Store)
        return store

    async def close(self) -> None:
        await self._server.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SomactlError:
            raise
        except Exception as exc:
            said = "" if self._address.has_secret else f": {exc}"  # it may repeat the URL
            raise self._error(f"cannot be opened: {type(exc).__name__}{said}") from exc

    def _refuse_incomplete(self, given: object, contract: type) -> None:
        promised = {*vars(contract), *getattr(contract, "__annotations__", {})}
        missing = sorted(n for n in promised if not n.startswith("_") and not hasattr(given, n))
        if missing:
            raise self._error(
                f"gives a {type(given).__name__}, which lacks {', '.join(missing)} of {contract.__name__}"
            )

    def _error(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"the store for {self._address.scheme}:// URLs, of the package {self._packages}, {what}",
            hint=f"repair, update or uninstall {self._packages}, which is no part of somactl",
        )


def _cache_nodes(settings: Settings) -> Nodes:
    """The connections of the cache that stands before every read of a rho or a sketch."""
    refuse_cache(settings.store)
    from somactl.store.redis.cache import nodes

    return nodes(settings.cache)


async def migrations(store: Store) -> list[MigrationSummary]:
    """Every migration that is recorded in the namespace."""
    from somactl.legacy.journal import recorded

    return await recorded(store)


def jobs() -> tuple[Job, ...]:
    """Every kind of job that `status`, `restore --commit` and `compact` know of."""
    from somactl.operations.prune.record import PruneJob

    return (PruneJob(),)
