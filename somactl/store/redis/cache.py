"""A Redis as a cache: copies with an expiry, newest wins, and a marker that says which incarnation counts.

It decides nothing about truth: see `somactl.store.cached`, and `docs/STORE_HYBRID.md` for each race.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from itertools import chain
from typing import Any, TypeVar

from somactl.core.names import validate_namespace
from somactl.core.portions import in_portions
from somactl.errors import ReadOnlyStore, SomactlError, StoreTimeout
from somactl.store.cached import Cached, Counts, Fill, Filled, Memory, Outcome, View
from somactl.store.calls import Home, Tasks, reads_replies
from somactl.store.contract import Finding
from somactl.store.redis import cache_diagnosis
from somactl.store.redis.cache_entries import (
    ANYTHING_TOKEN,
    NAME,
    Account,
    Names,
    account,
    fields,
    micros,
    verified,
)
from somactl.store.redis.connection import parse
from somactl.store.redis.link import Link, Nodes, parse_info
from somactl.store.redis.pool import Call, Command, Script

T = TypeVar("T")

READ = Script("cache_read")
PUT = Script("cache_put")
EVICT = Script("cache_evict")
MARK = Script("cache_mark")

INLINE_BYTES = 64 << 10
"""Envelopes up to this size come with the first look; a longer one is fetched straight, without a script."""
BYTES_PER_SECOND = 20e6
"""Once the server has answered, bytes may take this long: a slow network is no dead server."""
UNHURRIED_SECONDS = 1.0
"""What may be waited for where there is no alternative; more, where more is allowed for a read."""
FIRST = 2
"""The first look of all may take this many times as long: it makes the connection."""
STAGED_MS = 60_000
CONNECTION_SECONDS = 10.0
"""Bounds what a connection does; each call has a deadline of its own, which is shorter."""
_BATCH_KEYS = 64
_BATCH_BYTES = 32 << 20
_PARALLEL_FETCHES = 4
SLICES = 4
MOST = 4
"""However busy all are, nothing waits longer than this many times its deadline."""


def nodes(url: str) -> Nodes:
    """The connections to the Redis at `url`, for the caches of any number of namespaces.

    Raises ConfigurationError.
    """
    return Nodes(parse(url, "cache"), timeout=CONNECTION_SECONDS, connect_timeout=CONNECTION_SECONDS)


@reads_replies("somactl.store.redis", __name__ + ".")
class RedisCache:
    """The cache of one namespace; see `somactl.store.cached.Cache`. Nothing is touched before the first call.

    server   connections shared with other caches, or a URL for some of its own
    ttl      seconds that a copy may live, by Redis's clock; what others put there is not served older either
    timeout  seconds within which Redis must begin to answer
    link     an open way to a server, to use instead of `server`
    """

    name = NAME

    def __init__(
        self,
        server: str | Nodes,
        namespace: str = "default",
        *,
        ttl: float = 300.0,
        timeout: float = 0.020,
        read_only: bool = False,
        link: Link | None = None,
    ) -> None:
        self.namespace = validate_namespace(namespace)
        self.ttl = ttl
        self.timeout = timeout
        self.read_only = read_only
        self.counts = Counts()
        shared = server if isinstance(server, Nodes) else nodes(server)
        self._own = None if shared is server else shared
        self.server = shared.server
        self.place = self.server.place
        self._link = link or shared.link()
        self._names = Names.of(namespace)
        self._patience = BusyAwareTimeout()
        self._fetches = asyncio.Semaphore(_PARALLEL_FETCHES)
        self._cleaning: Tasks[None] = Tasks()
        self._home = Home(self._leave)
        self._closed = False

    async def _within(
        self, work: Coroutine[Any, Any, T], *, size: int = 0, seconds: float | None = None
    ) -> T:
        """The result of `work`; raises StoreTimeout after `seconds`, and what `size` bytes may take."""
        self._home.enter(work)
        if seconds is None:
            seconds = max(UNHURRIED_SECONDS, 5 * self.timeout)
        try:
            return await self._patience.within(seconds + size / BYTES_PER_SECOND, work)
        except TimeoutError as exc:
            raise StoreTimeout(
                f"the cache at {self.place} did not answer: {exc}",
                hint="SFM_RHO_READ_TIMEOUT_MS says how long a read waits",
            ) from exc

    async def _ask(self, *commands: Command | Call, size: int = 0) -> list[Any]:
        """The replies to commands sent in one round trip; an error among them is raised."""
        return self._link.values(await self._within(self._link.ask(*commands), size=size))

    async def _call(
        self, script: Script, names: Sequence[str], arguments: Sequence[str | int | bytes]
    ) -> Any:
        """The reply of a script that writes."""
        return await self._within(self._link.call(script, names, arguments))

    async def find(self, keys: Sequence[str], *, payloads: bool = True, hurry: bool = False) -> View:
        """See `Cache.find`. Larger values come by a second call, with more time for more bytes."""
        wanted = list(dict.fromkeys(keys))
        view = await self._inspect(wanted[:_BATCH_KEYS], payloads, hurry)
        for start in range(_BATCH_KEYS, len(wanted), _BATCH_KEYS):
            more = await self._inspect(wanted[start : start + _BATCH_KEYS], payloads, hurry)
            # The latest time makes nothing look younger; a marker that changed serves nothing of this.
            marker = view.marker if more.marker == view.marker else None
            view = View(more.now, marker, {**view.entries, **more.entries})
        return view

    async def _inspect(self, keys: Sequence[str], payloads: bool, hurry: bool) -> View:
        names = [self._names.marker, *map(self._names.entry, keys)]
        inline = INLINE_BYTES if payloads else -1
        soon = self.timeout * (1 if self._link.connects[1] else FIRST)
        whole, fraction, marker, *replies = await self._within(
            self._link.call(READ, names, [inline]), seconds=soon if hurry else None
        )
        now = int(whole) + int(fraction) / 1e6
        found = [
            account(self.namespace, key, reply)
            for key, reply in zip(keys, replies, strict=True)
            if reply is not None
        ]
        entries = await asyncio.gather(*(self._with_value(one, payloads) for one in found))
        return View(now, marker and marker.decode(errors="replace"), {one.key: one for one in entries if one})

    async def _with_value(self, found: Cached, payloads: bool) -> Cached | None:
        """The entry with its value; None where it has gone or changed since the look."""
        if not isinstance(found, Account) or not payloads or not found.content:
            return found
        if found.envelope is not None:
            return verified(self.namespace, found, found.envelope)
        fields_ = ("version", "incarnation", "content", "filled_at", "envelope")
        async with self._fetches:
            (reply,) = await self._ask(("HMGET", self._names.entry(found.key), *fields_), size=found.size)
        *state, data = reply
        if tuple(state) != found.token:
            return None
        return verified(self.namespace, found, data)

    async def put(self, fills: Sequence[Fill]) -> Filled:
        """See `Cache.put`; all are of one incarnation. What is staged first, a script swings in."""
        if self.read_only:
            return Filled(refusal="read-only")
        outcomes: list[Outcome] = []
        for batch in in_portions(fills, _size, _BATCH_BYTES, _BATCH_KEYS):
            done = await self._put(batch)
            if done.refusal is not None:
                return Filled(tuple(outcomes), done.refusal)
            outcomes += done.outcomes
        for outcome in outcomes:
            self._count(outcome)
        return Filled(tuple(outcomes))

    async def _put(self, batch: Sequence[Fill]) -> Filled:
        nonce = os.urandom(8).hex()
        numbers = range(len(batch))
        staged = [self._names.staged(nonce, number) for number in numbers]
        displaced = [self._names.displaced(nonce, number) for number in numbers]
        keys = [self._names.marker]
        arguments: list[str | int] = [batch[0].incarnation, _ms(2 * self.ttl), _ms(self.ttl)]
        for number, fill in enumerate(batch):
            keys += [self._names.entry(fill.key), staged[number], displaced[number]]
            life = self.ttl if fill.ttl is None else min(self.ttl, fill.ttl)
            arguments += [fill.version, fill.content, micros(fill.read_at), _ms(fill.read_at + life)]
        commands = [*self._staging(staged, batch), Call(PUT, keys, arguments)]
        *_, reply = await self._ask(*commands, size=sum(map(_size, batch)))
        word, *rest = reply
        outcomes: list[Outcome] = [outcome.decode() for outcome in rest]
        stored = [outcome == "stored" for outcome in outcomes] or [False] * len(batch)
        self._clean([displaced[n] if stored[n] else staged[n] for n in numbers])
        return Filled(tuple(outcomes), None if word == b"ok" else word.decode())

    def _staging(self, names: Sequence[str], batch: Sequence[Fill]) -> list[Command | Call]:
        """Put the entries under names of their own, with an expiry in case no script follows."""
        commands: list[Command | Call] = []
        for name, fill in zip(names, batch, strict=True):
            pairs = fields(self.namespace, fill).items()
            commands.append(("HSET", name, *chain.from_iterable(pairs)))
            commands.append(("PEXPIRE", name, STAGED_MS))
        return commands

    def _count(self, outcome: Outcome) -> None:
        if outcome == "older":
            self.counts.older += 1
        elif outcome == "late":
            self.counts.late += 1
        elif outcome == "stored":
            self.counts.stored += 1

    async def evict(self, entries: Sequence[Cached]) -> int:
        return await self._evict([entry.key for entry in entries], [entry.token for entry in entries])

    async def drop(self, keys: Sequence[str]) -> None:
        await self._evict(keys, [ANYTHING_TOKEN] * len(keys))

    async def _evict(self, keys: Sequence[str], tokens: Sequence[tuple[bytes, ...]]) -> int:
        if self.read_only or not keys:
            return 0
        gone = 0
        for start in range(0, len(keys), _BATCH_KEYS):
            part = slice(start, start + _BATCH_KEYS)
            nonce = os.urandom(8).hex()
            displaced = [self._names.displaced(nonce, number) for number in range(len(keys[part]))]
            names = [
                name
                for pair in zip(map(self._names.entry, keys[part]), displaced, strict=True)
                for name in pair
            ]
            arguments = [field for token in tokens[part] for field in token]
            moved = await self._call(EVICT, names, arguments)
            self._clean([name for name, went in zip(displaced, moved, strict=True) if went])
            gone += sum(moved)
        self.counts.evicted += gone
        return gone

    async def mark(self, expected: str | None, marker: str, *, seconds: float) -> bool:
        self._refuse_if_read_only()
        return bool(await self._call(MARK, [self._names.marker], [expected or "", marker, _ms(seconds)]))

    async def block(self, marker: str, *, seconds: float) -> None:
        self._refuse_if_read_only()
        await self._ask(("SET", self._names.marker, marker, "PX", _ms(seconds)))

    def _refuse_if_read_only(self) -> None:
        """A fill may be left out silently. What decides which incarnation is served may not."""
        if self.read_only:
            raise ReadOnlyStore(f"setting the incarnation of {self.name}, which was opened read-only")

    async def keys(self) -> AsyncIterator[list[str]]:
        cursor: bytes | int = 0
        while True:
            cursor, names = await self._of_server("SCAN", cursor, "MATCH", self._names.pattern, "COUNT", 1000)
            page = [key for key in map(self._names.key, names) if key is not None]
            if page:
                yield page
            if int(cursor) == 0:
                return

    async def memory(self) -> Memory:
        info = await self.info("memory")
        return Memory(int(info["used_memory"]), int(info["maxmemory"]), info["maxmemory_policy"])

    async def info(self, section: str) -> dict[str, str]:
        """A section of the server's INFO, as text."""
        return parse_info(await self._of_server("INFO", section))

    async def _of_server(self, *command: str | bytes | int) -> Any:
        """The reply of the server that holds this namespace to a command that names no key."""
        await self._ask(("EXISTS", self._names.marker))  # in a cluster, this finds it
        (reply,) = await self._ask(command)
        return reply

    async def diagnose(self) -> list[Finding]:
        return await cache_diagnosis.diagnose(self)

    def _clean(self, names: Sequence[str]) -> None:
        """Free what is no longer in the way, beside the caller; it has an expiry in any case."""

        async def unlink() -> None:
            try:
                await self._ask(("UNLINK", *names))
            except SomactlError:
                self.counts.failures += 1

        if names:
            self._cleaning.start(None, unlink())

    def _leave(self) -> object:
        left, self._fetches = self._fetches, asyncio.Semaphore(_PARALLEL_FETCHES)
        return left

    async def close(self) -> None:
        """Wait for what is still being freed, release connections; harmless when repeated."""
        if self._closed:
            return
        self._home.enter()
        await self._cleaning.drain()
        await self._patience.drain()
        self._closed = True
        if self._own is not None:
            await self._own.close()


def _size(fill: Fill) -> int:
    return 0 if fill.entry is None else len(fill.entry.data)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


class BusyAwareTimeout:
    """Waits for calls to one server, and gives up those that take too long.

    A deadline of a few milliseconds is to find out that a server is dead. Where this very process is what is
    slow, because other tasks keep the event loop from looking at its sockets, or where the server is just
    sending megabytes to another client, a plain timeout would blame the wrong one. So the time is cut into
    slices, after each of which the loop has looked at what arrived. A slice that took more than twice its
    time does not count, nor one in which the server answered another call.
    """

    def __init__(self) -> None:
        self._answers = 0
        self._tasks: Tasks[None] = Tasks()

    async def within(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; raises TimeoutError. What is given up is cancelled."""
        task = self._tasks.start(None, work)
        try:
            await self._wait(task, seconds / SLICES)
            if task.done():
                self._answers += 1
                return task.result()
        finally:
            task.cancel()  # means nothing once it is done
        raise TimeoutError(f"no answer within {seconds:g} s")

    async def _wait(self, task: asyncio.Task[Any], slice_: float) -> None:
        clock = asyncio.get_running_loop().time
        counted = 0
        for _ in range(SLICES * MOST):
            began, answers = clock(), self._answers
            await asyncio.wait({task}, timeout=slice_)
            counted += clock() - began < 2 * slice_ and answers == self._answers
            if task.done() or counted == SLICES:
                return

    async def drain(self) -> None:
        """Return when what was given up has let go of its connection."""
        await self._tasks.drain()
