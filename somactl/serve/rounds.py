"""The rounds of one namespace: what is watched is listed, read and proven, and so are its copies in a cache.

Whether the stores answer is asked beside the rounds (`Pulse`), once an interval and with little patience. A
round has much patience with a store that answers so, since a large value takes its time, and none with one
that does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from somactl.core.names import Pattern
from somactl.core.portions import batched
from somactl.errors import NamespaceNotFound, SomactlError, StoreUnavailable
from somactl.operations.audit.model import Check, Task
from somactl.operations.audit.prove import prove_keys
from somactl.serve.clock import moment
from somactl.serve.copies import Copies
from somactl.serve.extras import look_around
from somactl.serve.model import (
    CACHE,
    MAX_WATCHED,
    Found,
    Gone,
    Listed,
    Message,
    Proof,
    Round,
    Services,
    Trouble,
    WatchOptions,
)
from somactl.serve.proofs import as_proof, is_bad
from somactl.serve.pulse import Pulse, told
from somactl.serve.schedule import PORTION_KEYS, Due, Schedule
from somactl.store.cached import cached
from somactl.store.contract import Stat, Store

NAMES = 250
"""In one message: they are long, perhaps."""
READS = 3
READ_BYTES = 32 << 20
"""Ordinary reads of a round, whose latencies are told: how many keys, and how large each is at most."""
SHARE = 0.8
"""Of the interval, in which portions are begun: a round is to end before the next one is due."""
LEAST_PORTIONS = 2
"""One of what is urgent, and one of the rest."""
EXTRAS_SECONDS = 30.0

Tell = Callable[[Message], None]


class Rounds:
    """Round after round about the namespace of `store`.

    tell      passes on what is found
    progress  is called with each thing done
    clock     that of messages
    """

    def __init__(
        self,
        store: Store,
        options: WatchOptions,
        pulse: Pulse,
        tell: Tell,
        *,
        progress: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = moment,
    ) -> None:
        self._store, self._authority = store, pulse.authority
        self._options, self._pulse, self._tell = options, pulse, tell
        self._progress, self._clock = progress, clock
        self._check = Check(tolerances=options.tolerances, every=True)
        self._patterns = [Pattern(text) for text in options.patterns]
        self._schedule = Schedule()
        self._incarnation = ""
        self._too_many = False
        self._turn = 0
        self._extras_at = clock() - EXTRAS_SECONDS
        self._failures: dict[str, str] = {}
        pair = cached(store)
        self._copies = Copies(pair, pulse, self._check, clock) if pair is not None else None

    async def watch(self) -> None:
        """Go on for ever: ask the stores once an interval, and begin a round where none is under way."""
        interval = self._options.interval
        under_way: asyncio.Task[None] | None = None
        due = self._clock()
        while True:
            began = self._clock()
            self._tell(Services(self._store.namespace, await self._pulse.beat()))
            if under_way is None:
                due = began + interval
                under_way = asyncio.create_task(self.one())
            await asyncio.wait({under_way}, timeout=max(0.0, began + interval - self._clock()))
            if under_way.done():
                under_way.result()
                under_way = None
                await asyncio.sleep(max(0.0, due - self._clock()))

    async def one(self) -> None:
        """One round. A store that does not answer ends what is about that store, and nothing else."""
        began = self._clock()
        self._failures.clear()
        reads: list[float] = []
        copies_since: float | None = None
        try:
            if self._pulse.gone:
                raise NamespaceNotFound(f"there is no namespace {self._store.namespace!r}")
            await self._tried(self._authority.name, self._list())
            await self._read_all(began + SHARE * self._options.interval)
            copies_since = await self._strays()
            reads = await self._ordinary_reads()
            await self._look_around()
        except NamespaceNotFound:
            self._forget("")
            self._tell(Gone(self._store.namespace, began))
        self._tell(
            Round(
                namespace=self._store.namespace,
                seconds=self._clock() - began,
                troubles=self._troubles(),
                reads=reads,
                copies_since=copies_since,
            )
        )
        self._progress()

    async def _tried(self, service: str, call: Coroutine[Any, Any, None]) -> None:
        """Make a call about `service`, if it answers; what fails is told at the end of the round.

        Raises NamespaceNotFound.
        """
        if not self._pulse.up(service):
            call.close()
            return
        try:
            await call
        except NamespaceNotFound:
            raise
        except SomactlError as exc:
            self._failures[service] = told(exc)

    def _troubles(self) -> list[Trouble]:
        found = self._copies.troubles(self._incarnation) if self._copies is not None else []
        if self._too_many:
            said = f"more than {MAX_WATCHED} keys match, and no more are watched: name fewer by --watch"
            found.append(Trouble(cause="too-many", message=said, fails=True))
        for service, message in self._failures.items():
            if self._pulse.up(service):  # else that stands for it
                away = Trouble(
                    cause="cache-away" if service == CACHE else "authority-away",
                    message=message,
                    service=service,
                )
                found.append(away)
        return found

    # --- the list

    def _forget(self, incarnation: str) -> None:
        self._incarnation = incarnation
        self._schedule = Schedule()
        self._too_many = False
        if self._copies is not None:
            self._copies.forget()

    async def _list(self) -> None:
        """List what is watched. Raises StoreUnavailable, NamespaceNotFound."""
        at = self._clock()
        head = await self._pulse.while_up(self._authority.name, self._authority.head())
        begin = head.incarnation != self._incarnation
        if begin:
            self._forget(head.incarnation)
        stats = await self._matching()
        change = self._schedule.listed(stats.values())
        parts = [
            *({"new": names} for names in batched(change.new, NAMES)),
            *({"changed": names} for names in batched(change.changed, NAMES)),
            *({"gone": names} for names in batched(change.gone, NAMES)),
        ] or [{}]
        for number, part in enumerate(parts):
            self._tell(
                Listed(
                    namespace=self._store.namespace,
                    incarnation=head.incarnation,
                    at=at,
                    begin=begin and number == 0,
                    end=number == len(parts) - 1,
                    **part,
                )
            )

    async def _matching(self) -> dict[str, Stat]:
        found: dict[str, Stat] = {}
        self._too_many = False
        for pattern in self._options.patterns:
            pages = self._authority.scan(pattern)
            while True:
                page = await self._pulse.while_up(self._authority.name, _next(pages))
                if page is None:
                    break
                for stat in page:
                    if stat.key in found or not self._is_watched(stat):
                        continue
                    if len(found) == MAX_WATCHED:
                        self._too_many = True
                        return found
                    found[stat.key] = stat
        return found

    def _is_watched(self, stat: Stat) -> bool:
        """A rho; and what was one at this very version: no commit has made it anything else."""
        known = self._schedule.due.get(stat.key)
        return stat.kind == "rho" or (known is not None and known.version == stat.version)

    # --- the values

    async def _read_all(self, until: float) -> None:
        for number, portion in enumerate(self._schedule.portions()):
            if number >= LEAST_PORTIONS and self._clock() >= until:
                return
            await self._tried(self._authority.name, self._prove(portion))
            if self._copies is not None:
                await self._tried(CACHE, self._look_at_copies([due.key for due in portion]))
            self._progress()

    async def _prove(self, portion: Sequence[Due]) -> None:
        """Read and prove what the authority holds. Raises StoreUnavailable, NamespaceNotFound."""
        read_at = self._clock()
        for due in portion:
            due.tried_at = read_at
        task = Task([due.key for due in portion], [due.size for due in portion])
        try:
            proven = await self._pulse.while_up(
                self._authority.name, prove_keys(self._authority, task, self._check)
            )
        except (StoreUnavailable, NamespaceNotFound):
            raise
        except SomactlError as exc:
            said = told(exc)
            proofs = [Proof(key, "unreadable", reasons=(said,)) for key in task.keys]
            incarnation, version = self._incarnation, None
        else:
            proofs = [*map(as_proof, proven.results), *(Proof(key, "absent") for key in proven.absent)]
            incarnation, version = proven.incarnation, proven.version
        for proof in proofs:
            self._schedule.read(proof.key, proof.version, bad=is_bad(proof))
        self._tell(
            Found(
                namespace=self._store.namespace,
                store=self._authority.name,
                incarnation=incarnation,
                read_at=read_at,
                version=version,
                proofs=proofs,
            )
        )

    async def _look_at_copies(self, keys: Sequence[str]) -> None:
        assert self._copies is not None
        read_at = self._clock()
        proofs = await self._copies.look(keys)
        for proof in proofs:
            self._schedule.copy_judged(proof.key, bad=is_bad(proof))
        self._tell(
            Found(
                namespace=self._store.namespace,
                store=CACHE,
                incarnation=self._incarnation,
                read_at=read_at,
                proofs=proofs,
            )
        )

    async def _strays(self) -> float | None:
        """Look at copies of keys that the authority does not list: since when all of them were found."""
        if self._copies is None:
            return None
        await self._tried(CACHE, self._copies.find_strays(self._patterns, self._schedule.due))
        for some in batched(sorted(self._copies.strays), PORTION_KEYS):
            await self._tried(CACHE, self._look_at_copies(some))
        return self._copies.whole_since if CACHE not in self._failures else None

    # --- besides

    async def _ordinary_reads(self) -> list[float]:
        """How long reads take that are made as any client makes them, through the cache if there is one."""
        keys = [due.key for due in self._schedule.due.values() if due.size <= READ_BYTES]
        taken: list[float] = []
        for _ in range(min(READS, len(keys))):
            self._turn += 1
            began = self._clock()
            key = keys[self._turn % len(keys)]
            await self._tried(self._authority.name, self._read(key))
            if self._pulse.up(self._authority.name):
                taken.append(self._clock() - began)
        return taken

    async def _read(self, key: str) -> None:
        try:
            await self._pulse.while_up(self._authority.name, self._store.read(key))
        except StoreUnavailable:
            raise
        except SomactlError:
            return  # it is an answer; what is wrong with the value was found elsewhere

    async def _look_around(self) -> None:
        if self._clock() - self._extras_at < EXTRAS_SECONDS or not self._pulse.up(self._authority.name):
            return
        self._extras_at = self._clock()
        self._tell(await look_around(self._authority, self._options, self._pulse))


async def _next(pages: Any) -> list[Stat] | None:
    page: list[Stat] | None = await anext(pages, None)
    return page
