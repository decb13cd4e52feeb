"""What the tests of the hybrid's races are made of: an authority of dicts that remembers all it ever was, and
a cache whose every step can be held up.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from unittest import mock

import msgspec

from somactl.errors import (
    KeyNotFound,
    NamespaceNotFound,
    OutcomeUnknown,
    StoreTimeout,
    StoreUnavailable,
)
from somactl.store.cached import Cached, Fill, Filled, View
from somactl.store.contract import Durable, Entry, Head, Receipt, Retention, Snapshot, Stat, Stats
from somactl.store.hybrid import HybridStore, cache_writer
from somactl.store.hybrid.health import Breaker
from somactl.store.redis import cache as redis_cache
from somactl.store.redis.cache import RedisCache
from somactl.store.redis.cache_entries import Names
from somactl.testing.values import content_of, envelope
from store.hybrid_backend import ALL_KINDS, NOWHERE, PATIENT, FakeCacheServer
from store.hybrid_steps import OPERATION, Clock, Steps

T = TypeVar("T")
NAME = "authority"
TTL = 100.0
ENTRIES = Names.of("default")


class State(msgspec.Struct):
    """A value of a key, and when it was the one: by the clock, and by the count of events."""

    incarnation: str
    version: int
    content: str | None
    since_time: float
    since_event: int
    until_time: float = float("inf")
    until_event: float = float("inf")


class Value(msgspec.Struct, frozen=True):
    version: int
    data: bytes | None
    commit_id: str


class Authority:
    """A namespace in dicts. `past` is every state that every key ever had."""

    name = NAME
    namespace = "default"
    degradations = ()
    degraded_since_opened = ()

    def __init__(self, clock: Clock, steps: Steps) -> None:
        self.clock = clock
        self.steps = steps
        self.event = 0
        self.incarnation: str | None = None
        self.incarnations: list[tuple[int, str]] = []
        self.version = 0
        self.values: dict[str, Value] = {}
        self.backup: tuple[int, dict[str, Value]] = (0, {})
        self.past: dict[str, list[State]] = {}
        self.up = True
        self.restored = False
        self.lost_replies = 0
        self.asked: collections.Counter[str] = collections.Counter()
        self.records: dict[str, Receipt] = {}

    async def _call(self, what: str, *, restored_too: bool = False) -> None:
        self.asked[what] += 1
        await self.steps.point(f">{what}")
        if not self.up or (self.restored and not restored_too):
            raise StoreUnavailable("the authority is down")
        if self.incarnation is None and what != "init":
            raise NamespaceNotFound("no namespace yet")

    async def _reply(self, what: str) -> None:
        await self.steps.point(f"<{what}")

    def _become(self, key: str, value: Value | None) -> None:
        """From now on `key` is that (None: what it was, in the present incarnation)."""
        self.event += 1
        states = self.past.setdefault(key, [])
        if states:
            states[-1].until_time, states[-1].until_event = self.clock(), self.event
        value = value or self.values.get(key) or Value(0, None, "")
        content = None if value.data is None else content_of(value.data)
        states.append(State(self.incarnation or "", value.version, content, self.clock(), self.event))

    async def init(self, *, retention: Retention | None = None, new_incarnation: bool = False) -> Head:
        await self._call("init", restored_too=new_incarnation)
        if self.incarnation is None or new_incarnation:
            self.event += 1
            self.incarnation = f"incarnation-{len(self.incarnations)}"
            self.incarnations.append((self.event, self.incarnation))
            self.restored = False
            for key in {*self.values, *self.past}:
                self._become(key, None)
        head = self._head()
        await self._reply("init")
        return head

    def restore_backup(self) -> None:
        """The database is replaced by an older one; it comes up with `init --new-incarnation`."""
        self.version, self.values = self.backup[0], dict(self.backup[1])
        self.restored = True

    def make_backup(self) -> None:
        self.backup = (self.version, dict(self.values))

    def _head(self) -> Head:
        assert self.incarnation is not None
        return Head("default", self.incarnation, self.version, 0.0, Retention())

    async def head(self) -> Head:
        await self._call("head")
        head = self._head()
        await self._reply("head")
        return head

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: Any,
        expected_version: Any = None,
        *,
        commit_id: str,
    ) -> Receipt:
        await self._call("commit")
        if commit_id in self.records:
            receipt = msgspec.structs.replace(self.records[commit_id], replayed=True)
            await self._reply("commit")
            return receipt
        self.version += 1
        for key, data in updates.items():
            value = Value(self.version, None if data is None else bytes(data), commit_id)
            self.values[key] = value
            self._become(key, value)
        assert self.incarnation is not None
        receipt = self.records[commit_id] = Receipt(
            commit_id=commit_id,
            namespace="default",
            incarnation=self.incarnation,
            version=self.version,
            keys={key: None if data is None else content_of(data) for key, data in updates.items()},
            stores=(Durable(NAME, "fsync"),),
            committed_at=self.clock(),
        )
        await self._reply("commit")
        if self.lost_replies:
            self.lost_replies -= 1
            raise OutcomeUnknown("the reply was lost", commit_id=commit_id)
        return receipt

    def _entry(self, key: str) -> Entry | None:
        value = self.values.get(key)
        if value is None or value.data is None:
            return None
        assert self.incarnation is not None
        return Entry(key, value.version, self.incarnation, value.commit_id, 0.0, value.data, None, NAME)

    async def read(self, key: str, version: int | None = None) -> Entry:
        await self._call("read")
        entry = self._entry(key)
        await self._reply("read")
        if entry is None:
            raise KeyNotFound(f"{key!r} is not there")
        return entry

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        await self._call("read_many")
        assert self.incarnation is not None
        found = {key: self._entry(key) for key in keys}
        snapshot = Snapshot(
            self.incarnation,
            self.version,
            {key: entry for key, entry in found.items() if entry},
            tuple(key for key, entry in found.items() if not entry),
        )
        await self._reply("read_many")
        return snapshot

    async def stat_many(self, keys: Sequence[str]) -> Stats:
        await self._call("stat_many")
        assert self.incarnation is not None
        found = {key: self._entry(key) for key in keys}
        stats = Stats(
            self.incarnation,
            self.version,
            {key: _stat(entry) for key, entry in found.items() if entry},
            tuple(key for key, entry in found.items() if not entry),
        )
        await self._reply("stat_many")
        return stats

    async def close(self) -> None:
        pass


def _stat(entry: Entry) -> Stat:
    size, content = len(entry.data), content_of(entry.data)
    return Stat(
        entry.key, entry.version, entry.commit_id, 0.0, size, content, "matrix", "float64", (2, 2), "full"
    )


class HeldUpCache(RedisCache):
    """A cache whose calls are held up on their way to the server and back, and fail while `up` is false."""

    def __init__(self, *arguments: Any, steps: Steps, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.steps = steps
        self.up = True

    async def _before(self, what: str) -> None:
        await self.steps.point(f">{what}")
        if not self.up:
            raise StoreTimeout("the cache is down")

    async def find(self, keys: Sequence[str], *, payloads: bool = True, hurry: bool = False) -> View:
        await self._before("find")
        view = await super().find(keys, payloads=payloads, hurry=hurry)
        await self.steps.point("<find")
        return view

    async def _with_value(self, found: Any, payloads: bool) -> Cached | None:
        await self.steps.point(">value")
        return await super()._with_value(found, payloads)

    async def put(self, fills: Sequence[Fill]) -> Filled:
        await self._before("put")
        done = await super().put(fills)
        await self.steps.point("<put")
        return done

    async def evict(self, entries: Sequence[Cached]) -> int:
        await self._before("evict")
        return await super().evict(entries)

    async def drop(self, keys: Sequence[str]) -> None:
        await self._before("drop")
        await super().drop(keys)

    async def mark(self, expected: str | None, marker: str, *, seconds: float) -> bool:
        await self._before("mark")
        done = await super().mark(expected, marker, seconds=seconds)
        await self.steps.point("<mark")
        return done

    async def block(self, marker: str, *, seconds: float) -> None:
        await self._before("block")
        await super().block(marker, seconds=seconds)
        await self.steps.point("<block")


def value_of(key: str, seed: int, n: int = 2) -> bytes:
    """Small, and another one for each seed."""
    return envelope(key, seed, n=n)


class Held(msgspec.Struct):
    """An operation that goes as far as it is let."""

    number: int
    task: asyncio.Task[Any]


class Scene:
    """Stores before one authority, each with its own way to one cache server, and one clock for all."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.steps = Steps()
        self.server = FakeCacheServer()
        self.authority = Authority(self.clock, self.steps)
        self.caches: list[HeldUpCache] = []
        self.stores: list[HybridStore] = []
        self.held: list[Held] = []
        self._patches = contextlib.ExitStack()

    async def open(self, count: int, **options: Any) -> None:
        """`count` stores on a namespace that exists; from now on every step is held up."""
        self._patches.enter_context(self.clock.as_redis_time())
        self._patches.enter_context(mock.patch.object(cache_writer, "_PAUSE", 0.0))
        # Breakers let one caller try at once, and of the values some come with the first look, others apart.
        pauses = {"first_pause": 0.0, "longest_pause": 0.0}
        self._patches.enter_context(mock.patch.dict(Breaker.__init__.__kwdefaults__, pauses))
        self._patches.enter_context(mock.patch.object(redis_cache, "INLINE_BYTES", 300))
        for _ in range(count):
            self.add(**options)
        await self.stores[0].init()
        self.steps.free = False

    def add(self, *, ttl: float = TTL, **options: Any) -> HybridStore:
        cache = HeldUpCache(NOWHERE, steps=self.steps, link=self.server.link(), ttl=ttl, timeout=PATIENT)
        store = HybridStore(self.authority, cache, clock=self.clock, **{"kinds": ALL_KINDS, **options})
        self.caches.append(cache)
        self.stores.append(store)
        return store

    async def begin(self, call: Coroutine[Any, Any, Any], steps: int | None = 0) -> Held:
        """Start an operation and let it do `steps` steps; None: all."""
        OPERATION.set(len(self.held) + 1)
        held = Held(len(self.held) + 1, asyncio.create_task(call))
        self.held.append(held)
        await self.go_on(held, steps)
        return held

    async def go_on(self, held: Held, steps: int | None = None) -> None:
        left = 200 if steps is None else steps
        await settle()
        while left and self.steps.go_on(held.number):
            left -= 1
            await settle()

    async def go_to(self, held: Held, label: str) -> None:
        """Let it go on until it is held up at `label`, which it must reach."""
        await settle()
        for _ in range(200):
            if self.steps.next(held.number) == label:
                return
            assert self.steps.go_on(held.number), f"never at {label}"
            await settle()

    async def do(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call that is not held up."""
        held = await self.begin(call, None)
        return await held.task

    def sleeping(self) -> list[Held]:
        return [held for held in self.held if self.steps.waiting.get(held.number)]

    def account(self, key: str) -> dict[bytes, bytes]:
        """What lies in the cache under `key`."""
        return dict(self.server.raw.hgetall(ENTRIES.entry(key)))

    def marker(self) -> str | None:
        value = self.server.raw.get(ENTRIES.marker)
        return value and value.decode()

    async def close(self) -> None:
        self.steps.release()
        await asyncio.gather(*(held.task for held in self.held), return_exceptions=True)
        for store in self.stores:
            await store.close()
        self._patches.close()


async def settle() -> None:
    """Let everything run that is not held up."""
    for _ in range(60):
        await asyncio.sleep(0)
