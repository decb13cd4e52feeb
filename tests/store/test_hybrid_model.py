"""The hybrid against a model: random orders of every step of reads, commits, fills and faults.

Several stores share one cache and one authority, and each of their steps is held up until the test lets it
go on. Whatever the order, a read must never return

- a state that the authority did not commit, or not in an incarnation that was current during the read;
- a state that was replaced more than the cache's ttl before the read began, by the cache's clock;
- less than what the same store had committed before the read began;
- less than a commit that any store had finished, if the receipt says that the cache took it and the cache
  has lost nothing since;

and `read_many` must return exactly one version.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from somactl.errors import KeyNotFound, OutcomeUnknown, StoreUnavailable
from somactl.store.contract import CommitMetadata, Entry, Receipt, Snapshot
from somactl.store.redis.cache_entries import NAME as CACHE
from somactl.testing.values import content_of
from store.hybrid_model import ENTRIES, TTL, Authority, Held, Scene, value_of

T = TypeVar("T")
KEYS = ("a", "b")
STORES = 2
STORE = st.integers(0, STORES - 1)
STEPS = st.none() | st.none() | st.integers(0, 8)
"""How far an operation goes before it sleeps; None: to its end."""
RARELY = st.sampled_from([True, False, False, False])
OPERATIONS = st.sampled_from(["read", "read", "read_many", "put", "put", "delete", "init"])
KEY_SETS = st.sampled_from([{"a"}, {"b"}, {"a", "b"}])


class Operation(msgspec.Struct):
    """A call under way, and what must hold of its result."""

    store: int
    kind: str
    keys: tuple[str, ...]
    held: Held
    began_time: float
    began_event: int
    losses: Counter[str]
    floors: list[tuple[str, str, int]]


class HybridMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.scene = Scene()
        self.running: dict[int, Operation] = {}
        self.number = 0
        # What each store has committed, and what is known to be in the cache: key -> (incarnation, version).
        self.own: list[dict[str, tuple[str, int]]] = [{} for _ in range(STORES)]
        self.shared: dict[str, tuple[str, int]] = {}
        self.losses: Counter[str] = Counter()
        self.waited = 0.0

    def lost(self, *keys: str) -> None:
        """The cache may have lost what it took: no caller may count on that, nor on what is being put."""
        for key in keys or KEYS:
            self.shared.pop(key, None)
            self.losses[key] += 1

    @property
    def authority(self) -> Authority:
        return self.scene.authority

    @property
    def raw(self) -> Any:
        return self.scene.server.raw

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.scene.close())
        self.collect()
        self.runner.close()

    @initialize()
    def open(self) -> None:
        self.run(self.scene.open(STORES))
        self.commit(0, set(KEYS), False, None)

    def begin(self, store: int, kind: str, keys: tuple[str, ...], call: Any, steps: int | None) -> Held:
        known = [(key, known.get(key)) for key in keys for known in (self.own[store], self.shared)]
        floors = [(key, *mark) for key, mark in known if mark]
        began = (self.scene.clock(), self.authority.event)
        held = self.run(self.scene.begin(call, 0))
        self.running[held.number] = Operation(store, kind, keys, held, *began, self.losses.copy(), floors)
        self.go_on(held, steps)
        return held

    def go_on(self, held: Held, steps: int | None) -> None:
        self.run(self.scene.go_on(held, steps))
        self.collect()

    @rule(store=STORE, key=st.sampled_from(KEYS), steps=STEPS)
    def read(self, store: int, key: str, steps: int | None) -> None:
        self.start("read", store, key, steps)

    @rule(store=STORE, steps=STEPS)
    def read_many(self, store: int, steps: int | None) -> None:
        self.start("read_many", store, KEYS[0], steps)

    @rule(store=STORE, keys=KEY_SETS, delete=RARELY, steps=STEPS)
    def commit(self, store: int, keys: set[str], delete: bool, steps: int | None) -> None:
        self.number += 1
        updates = dict.fromkeys(sorted(keys), None if delete else self.number)
        self.send(store, updates, f"id-{self.number}", steps)

    def send(self, store: int, updates: dict[str, int | None], commit_id: str, steps: int | None) -> Held:
        data = {key: None if seed is None else value_of(key, seed) for key, seed in updates.items()}
        call = self.scene.stores[store].commit_matrix_update(data, CommitMetadata(), commit_id=commit_id)
        return self.begin(store, "commit", tuple(updates), call, steps)

    @precondition(lambda self: self.authority.records)
    @rule(store=STORE, data=st.data(), steps=STEPS)
    def replay(self, store: int, data: st.DataObject, steps: int | None) -> None:
        """A client that lost the reply, or died between the two stores, sends its commit again."""
        commit_id = data.draw(st.sampled_from(sorted(self.authority.records)))
        number = int(commit_id.removeprefix("id-"))
        contents = self.authority.records[commit_id].keys
        updates = {key: None if content is None else number for key, content in contents.items()}
        self.send(store, updates, commit_id, steps)

    @rule(store=STORE, really=RARELY, steps=STEPS)
    def new_incarnation(self, store: int, really: bool, steps: int | None) -> None:
        if really or self.authority.restored:
            self.start("init", store, KEYS[0], steps)

    @rule(
        sleeper=OPERATIONS,
        other=OPERATIONS,
        key=st.sampled_from(KEYS),
        steps=st.integers(0, 11),
        missing=st.booleans(),
        lost=RARELY,
    )
    def sleep_while_another_acts(
        self, sleeper: str, other: str, key: str, steps: int, missing: bool, lost: bool
    ) -> None:
        """What races are made of: one falls asleep half-way, another acts, and the first wakes up again."""
        if missing:
            self.lose_an_entry(key)
        asleep = self.start(sleeper, 0, key, steps)
        self.start(other, 1, key, None)
        if lost:
            self.lose_an_entry(key)
        self.go_on(asleep, None)
        for store in range(STORES):
            self.start("read", store, key, None)

    def start(self, what: str, store: int, key: str, steps: int | None) -> Held:
        if what == "read":
            return self.begin(store, "read", (key,), self.scene.stores[store].read(key), steps)
        if what == "read_many":
            return self.begin(store, "read_many", KEYS, self.scene.stores[store].read_many(KEYS), steps)
        if what == "init":
            return self.begin(store, "init", (), self.scene.stores[store].init(new_incarnation=True), steps)
        self.number += 1
        updates = {key: None if what == "delete" else self.number}
        return self.send(store, updates, f"id-{self.number}", steps)

    @precondition(lambda self: self.scene.sleeping())
    @rule(data=st.data(), steps=STEPS)
    def wake(self, data: st.DataObject, steps: int | None) -> None:
        """A process that slept goes on."""
        sleeping = self.scene.sleeping()
        self.go_on(sleeping[data.draw(st.integers(0, len(sleeping) - 1))], steps)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        held = self.running[data.draw(st.sampled_from(sorted(self.running)))].held
        held.task.cancel()
        self.go_on(held, 0)

    @rule(seconds=st.sampled_from([0.5, 0.5, 30.0, 80.0, 250.0]))
    def wait(self, seconds: float) -> None:
        self.scene.clock.now += seconds
        self.waited += seconds
        if self.waited > TTL:  # what was there may have expired, and stores remember their commits no longer
            self.waited = 0.0
            self.lost()
            for own in self.own:
                own.clear()

    @rule(key=st.sampled_from(KEYS))
    def lose_an_entry(self, key: str) -> None:
        """As a Redis that is short of memory does."""
        self.raw.delete(ENTRIES.entry(key))
        self.lost(key)

    @rule(key=st.sampled_from(KEYS), field=st.sampled_from(["envelope", "version", "content"]))
    def damage_an_entry(self, key: str, field: str) -> None:
        name = ENTRIES.entry(key)
        value = self.raw.hget(name, field)
        if value:
            middle = len(value) // 2
            self.raw.hset(name, field, value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :])
            self.lost(key)

    @rule(data=st.data())
    def lose_anything(self, data: st.DataObject) -> None:
        """Be it the marker, or what is on its way in."""
        names = sorted(self.raw.keys())
        if names:
            self.raw.delete(data.draw(st.sampled_from(names)))
            self.lost()

    @rule()
    def flush(self) -> None:
        self.raw.flushall()
        self.lost()

    @rule(fault=st.sampled_from(["cache", "authority", "reply"]), store=STORE, really=RARELY)
    def a_service_goes(self, fault: str, store: int, really: bool) -> None:
        if not really:
            return
        if fault == "cache":
            self.scene.caches[store].up = False
        elif fault == "authority":
            self.authority.up = False
        else:
            self.authority.lost_replies = 1

    @rule(really=RARELY)
    def restore(self, really: bool) -> None:
        """The authority goes back to an earlier state; it is down until `init --new-incarnation`."""
        if really:
            self.authority.restore_backup()

    @rule()
    def all_services_come_back(self) -> None:
        self.authority.up = True
        for cache in self.scene.caches:
            cache.up = True

    @rule()
    def back_up(self) -> None:
        if not self.authority.restored:
            self.authority.make_backup()

    def collect(self) -> None:
        """Judge what has come to an end."""
        for number in [number for number, one in self.running.items() if one.held.task.done()]:
            self.judge(self.running.pop(number))

    def judge(self, one: Operation) -> None:
        if one.held.task.cancelled():
            return
        error = one.held.task.exception()
        if isinstance(error, KeyNotFound):
            self.was_absent(one, one.keys[0])
        elif isinstance(error, StoreUnavailable | OutcomeUnknown):
            return  # there were faults
        elif error is not None:
            raise error
        elif one.kind == "read":
            self.was_there(one, one.held.task.result())
        elif one.kind == "read_many":
            self.was_one_version(one, one.held.task.result())
        elif one.kind == "commit":
            self.committed(one, one.held.task.result())

    def committed(self, one: Operation, receipt: Receipt) -> None:
        if receipt.replayed:
            return
        took = any(durable.store == CACHE for durable in receipt.stores)
        for key in one.keys:
            kept = took and one.losses[key] == self.losses[key]
            for marks in (self.own[one.store], *([self.shared] if kept else [])):
                incarnation, version = marks.get(key, ("", 0))
                if incarnation != receipt.incarnation or version < receipt.version:
                    marks[key] = receipt.incarnation, receipt.version

    def was_absent(self, one: Operation, key: str) -> None:
        """Only the authority says so: then it was so at some moment since all that is known had happened."""
        states = self.authority.past.get(key, [])
        assert not states or any(s.content is None and self.is_no_older(one, key, s) for s in states)

    def is_no_older(self, one: Operation, key: str, state: Any) -> bool:
        """Than what was known when the operation began."""
        return all(
            state.incarnation != incarnation or state.version >= version
            for name, incarnation, version in one.floors
            if name == key
        )

    def was_there(self, one: Operation, entry: Entry) -> None:
        content = content_of(entry.data)
        states = [
            s
            for s in self.authority.past.get(entry.key, [])
            if (s.incarnation, s.version, s.content) == (entry.incarnation, entry.version, content)
        ]
        assert states, f"{entry} was never committed"
        assert max(s.until_time for s in states) >= one.began_time - TTL, f"{entry} is too old"
        if entry.served_by == CACHE:
            assert self.was_current(one, entry.incarnation), f"{entry} is of another incarnation"
        assert self.is_no_older(one, entry.key, entry), f"{entry} is older than what was known"

    def was_current(self, one: Operation, incarnation: str) -> bool:
        """Whether the authority was in that incarnation at some moment since the operation began."""
        turns = self.authority.incarnations
        for number, (_, name) in enumerate(turns):
            until = turns[number + 1][0] if number + 1 < len(turns) else float("inf")
            if name == incarnation:
                return until > one.began_event
        return False

    def was_one_version(self, one: Operation, snapshot: Snapshot) -> None:
        for key in KEYS:
            entry = snapshot.entries.get(key)
            content = content_of(entry.data) if entry else None
            states = [
                s
                for s in self.authority.past.get(key, [])
                if s.incarnation == snapshot.incarnation and s.version <= snapshot.version
            ]
            newest = max(states, key=lambda s: s.since_event, default=None)
            assert (newest.content if newest else None) == content
            assert entry is None or newest is None or entry.version == newest.version


SETTINGS = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_no_order_of_steps_and_faults_breaks_a_promise() -> None:
    run_state_machine_as_test(HybridMachine, settings=SETTINGS)
