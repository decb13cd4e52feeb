"""The hybrid store's face: the authority's contract, with a cache before its reads."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from somactl.core.names import validate_key
from somactl.errors import (
    NamespaceNotFound,
    OutcomeUnknown,
    SchemaMismatch,
    SomactlError,
    StoreUnavailable,
)
from somactl.store.cached import Cache, Fill, Filled, View, naming_allow_stale
from somactl.store.calls import Tasks
from somactl.store.contract import (
    CommitMetadata,
    CommitStatus,
    Degradation,
    Durable,
    Entry,
    Expected,
    Finding,
    Head,
    PastDegradation,
    Receipt,
    Retention,
    Snapshot,
    Store,
)
from somactl.store.hybrid import fills, incarnation
from somactl.store.hybrid.cache_writer import CacheWriter
from somactl.store.hybrid.health import AuthorityGuard, Breaker
from somactl.store.hybrid.tasks import Background, SingleFlight
from somactl.store.wrapper import StoreWrapper

T = TypeVar("T")

CACHED_KINDS = frozenset({"rho", "sketch"})
FILL_SECONDS = 30.0
_ATTEMPTS = 3
"""How often a snapshot is begun, before the authority alone is read."""


class HybridStore(StoreWrapper):
    """`authority` with `cache` before it; see `docs/STORE_HYBRID.md` for each promise.

    Whatever is not here is asked of the authority alone; notes above all, which are read to be acted on.

    allow_stale   whether copies are served, and said to be degraded, when the authority does not answer
    kinds         of which matrices copies are kept
    fill_seconds  how long a read that many wait for may take
    clock         counts seconds and never goes back
    """

    def __init__(
        self,
        authority: Store,
        cache: Cache,
        *,
        allow_stale: bool = False,
        kinds: frozenset[str] = CACHED_KINDS,
        fill_seconds: float = FILL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(authority)
        self.name = f"{authority.name}+redis"
        self.authority = authority
        self.cache = cache
        self._allow_stale = allow_stale
        self.kinds = kinds
        self._truth = AuthorityGuard(authority.name, Breaker(clock))
        self._background = Background()
        self._copies = CacheWriter(cache, kinds, Breaker(clock), self.head, self._background, clock)
        self._reads: SingleFlight[tuple[str, int], Entry] = SingleFlight(fill_seconds, cache.ttl, clock)
        self._writes: Tasks[str] = Tasks()

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self._truth.ask(call)

    def _pages(
        self,
        pages: Callable[[str | None], AsyncIterator[list[T]]],
        after: str | None,
        name: Callable[[T], str],
    ) -> AsyncIterator[list[T]]:
        return self._truth.pages(pages(after))

    @property
    def degradations(self) -> tuple[Degradation, ...]:
        own = self._copies.degradations(self.authority.name)
        down = self._truth.troubles.present
        if down is not None:
            own += (Degradation(self.authority.name, self._truth.breaker.state, down),)
        return (*self.authority.degradations, *own)

    @property
    def degraded_since_opened(self) -> tuple[PastDegradation, ...]:
        own = (*self._copies.troubles.since_opened, *self._truth.troubles.since_opened)
        return (*self.authority.degraded_since_opened, *own)

    async def diagnose(self) -> list[Finding]:
        findings = await self.authority.diagnose() + await self.cache.diagnose()
        try:
            marker = (await self.cache.find([])).marker
            head = await self.authority.head()
        except NamespaceNotFound:
            return [*findings, *incarnation.orphaned(self.cache, marker)]
        except SomactlError:
            return findings  # what cannot be reached has said so above
        return [*findings, incarnation.compared(self.cache, marker, head.incarnation)]

    async def init(self, *, retention: Retention | None = None, new_incarnation: bool = False) -> Head:
        """As the contract says; where the namespace is to get an incarnation, the cache must be reachable.

        Raises StoreUnavailable, and changes nothing, where it is not.
        """
        change = partial(super().init, retention=retention, new_incarnation=new_incarnation)
        exists = await self._exists(renewing=new_incarnation)
        if new_incarnation and exists is False:
            return await change()  # which refuses it, before the cache is told anything
        if not new_incarnation and exists:
            return await change()
        head, error = await incarnation.renew(self.cache, change, self.head)
        self._copies.learn(head.incarnation)
        if error is not None:
            self._copies.trouble(error)
        return head

    async def _exists(self, *, renewing: bool) -> bool | None:
        """Whether there is such a namespace; None where that cannot be told, which `init` then finds out."""
        try:
            await self.head()
        except NamespaceNotFound:
            return False
        except SchemaMismatch:  # a schema that is not migrated yet: `init` does that
            return None
        except SomactlError:
            if not renewing:
                raise
            return None
        return True

    async def head(self) -> Head:
        head = await super().head()
        self._copies.learn(head.incarnation)
        return head

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        """As the contract says: the authority first. A cache that fails changes nothing about the commit;
        it then does not stand in the receipt, and `degradations` says why.
        """
        return await self._writes.run(commit_id, self._commit(updates, metadata, expected_version, commit_id))

    async def _commit(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected,
        commit_id: str,
    ) -> Receipt:
        view = await self._copies.inspect([])  # its time, from before the commit, is where ages count from
        try:
            receipt = await super().commit_matrix_update(
                updates, metadata, expected_version, commit_id=commit_id
            )
        except OutcomeUnknown:
            await self._copies.distrust(list(updates))
            raise
        finally:
            # Reads that began before the commit may bring what was there before it: no caller joins them now.
            self._reads.forsake(lambda name: name[0] in updates)
        took = await self._copies.keep(await self._states(receipt, updates, metadata, view))
        return (
            replace(receipt, stores=(*receipt.stores, Durable(self.cache.name, "memory")))
            if took
            else receipt
        )

    async def _states(
        self,
        receipt: Receipt,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        view: View | None,
    ) -> Sequence[Fill]:
        """What the cache is to be told. A replayed commit says nothing about now: the keys are read again.

        They are the receipt's: an order that is sent again may name others by now.
        """
        if not receipt.replayed:
            self._copies.learn(receipt.incarnation)
            if view is None:
                return fills.unwritten(receipt)
            return fills.of_commit(receipt, updates, metadata, view.now, self.kinds)
        self._reads.forsake(lambda name: name[0] in receipt.keys)
        try:
            now = await super().read_many(list(receipt.keys))
        except SomactlError:
            return fills.unwritten(receipt)  # the commit stands, whatever became of this question
        self._copies.learn(now.incarnation)
        return fills.of_snapshot(now, view.now if view else fills.NEVER, self.kinds)

    async def read(self, key: str, version: int | None = None) -> Entry:
        """As the contract says, where `version` is given. Otherwise a copy from the cache may be served: the
        value as the authority had it at most the cache's `ttl` seconds ago, by the cache's clock.
        """
        if version is not None:
            return await super().read(key, version)
        view = await self._copies.inspect([validate_key(key)])
        copied = self._copies.servable(view, key)
        if copied is None:
            self._copies.count(misses=1)
            return await self._fetch_or_copy(key, view)
        if self._allow_stale and self._truth.failing:
            return self._stale(copied)
        if not self._truth.breaker.suspect:
            self._copies.count(hits=1)
            return copied
        return await self._fetch_or_copy(key, view)

    async def _fetch_or_copy(self, key: str, view: View | None) -> Entry:
        """The value from the authority; where that is down, the copy if stale ones are allowed, and else an
        error that says so if there is one."""
        try:
            return await self._fetch(key, view)
        except StoreUnavailable as exc:
            # There is nothing better to wait for now, so the cache may take its time to answer.
            copied = self._copies.servable(await self._copies.inspect([key], hurry=False), key)
            if copied is None:
                raise
            if not self._allow_stale:
                raise naming_allow_stale(exc, copied) from exc
            return self._stale(copied)

    def _stale(self, copied: Entry) -> Entry:
        self._copies.count(hits=1)
        self._truth.served_stale(self.cache.ttl)
        return replace(copied, degraded=True)

    async def _fetch(self, key: str, view: View | None) -> Entry:
        """The value from the authority, asked once for all who miss the same; the cache gets a copy."""
        held = view.entries.get(key) if view else None

        async def ask() -> Entry:
            entry = await self._truth.ask_if_up(lambda: self.authority.read(key))
            self._copies.learn(entry.incarnation)
            self._copies.keep_later(view, [entry])
            return entry

        # A caller that saw another version in the cache, a tombstone above all, joins no older question.
        return await self._reads.share((key, held.version if held else 0), ask)

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        """As the contract says. The authority is always asked, for the versions; so it must be up."""
        wanted = list(dict.fromkeys(map(validate_key, keys)))
        for _ in range(_ATTEMPTS if self._copies.answering() else 0):
            snapshot = await self._snapshot(wanted)
            if snapshot is not None:
                return snapshot
        return await super().read_many(wanted)

    async def _snapshot(self, keys: list[str]) -> Snapshot | None:
        """Many keys as of one version, as many as possible from the cache.

        The authority fixes the version first: at which version of the namespace each key has which version.
        A copy is used only where it is of that very version, so it does not matter when it was made. What is
        missing is read from the authority; None where the namespace has moved on by then.
        """
        stats = await self.stat_many(keys)
        self._copies.learn(stats.incarnation)
        cachable = [key for key, stat in stats.stats.items() if stat.kind in self.kinds]
        view = await self._copies.inspect(cachable) if cachable else None
        entries: dict[str, Entry] = {}
        for key in cachable:
            entry = self._copies.servable(view, key)
            wanted = (stats.incarnation, stats.stats[key].version)
            if entry is not None and (entry.incarnation, entry.version) == wanted:
                entries[key] = entry
        copied = len(entries)
        missing = [key for key in keys if key in stats.stats and key not in entries]
        corrupt = {}
        if missing:
            rest = await super().read_many(missing)
            if (rest.incarnation, rest.version) != (stats.incarnation, stats.version):
                return None
            corrupt = dict(rest.corrupt)
            self._copies.keep_later(view, [rest.entries[key] for key in cachable if key in rest.entries])
            entries |= rest.entries
        self._copies.count(hits=copied, misses=len(missing))
        return Snapshot(
            incarnation=stats.incarnation,
            version=stats.version,
            entries={key: entries[key] for key in keys if key in entries},
            absent=stats.absent,
            corrupt=corrupt,
        )

    async def fill(self, fills: Sequence[Fill]) -> Filled:
        """See `CachedStore.fill`. For operations about the cache: its errors are theirs to report."""
        return await self._copies.put(fills)

    async def adopt(self) -> bool:
        """See `CachedStore.adopt`."""
        serving = (await self.cache.find([])).serving
        if serving is None or serving == (await self.head()).incarnation:
            return False
        return await incarnation.adopt(self.cache, serving, self.head)

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> CommitStatus:
        await self._writes.wait_for(commit_id)
        return await super().commit_status(commit_id, resolve=resolve)

    async def close(self) -> None:
        """Finish commits, reads that others wait for, and copies under way; then release both."""
        try:
            await self._writes.drain()
            await self._reads.drain()
            await self._background.drain()
        finally:
            try:
                await self.cache.close()
            finally:
                await self.authority.close()
