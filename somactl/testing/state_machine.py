"""Random sequences of commands, on the store and on a model made of dicts; they must never differ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import pytest
from hypothesis import HealthCheck, settings, stateful, strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from somactl.core.names import Pattern
from somactl.errors import CommitAborted, CommitIdReused, KeyNotFound, VersionCompacted, VersionConflict
from somactl.store.contract import CommitMetadata, Expect, Expected, Receipt, Retention, Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.grace import frees_itself
from somactl.testing.values import compact_fully, content_of, envelope, listed, removed

T = TypeVar("T")
Changes: TypeAlias = dict[str, int | None]
"""Key -> the seed of the matrix to put, or None to delete."""

KEYS = ("a", "a b", "[b]", "\u00e9")
RETENTION = Retention(versions=3, seconds=1000.0, record_seconds=2650.0)
# No sum of these comes near a limit of RETENTION or a grace, so that the seconds a test takes decide nothing.
AGES = (400.0, 700.0)
GRACES = (0.0, 550.0, 1750.0)

keys = st.sampled_from(KEYS)
updates = st.dictionaries(keys, st.none() | st.integers(0, 3), min_size=1)


@dataclass(slots=True)
class Write:
    """One entry of a key's history in the model; `seed` is None for a delete.

    `deadline`: until when a delete with a grace can be undone. `loose`: the grace of the delete that hid it
    has been over, so the store may have freed its bytes by itself.
    """

    version: int
    at: float
    seed: int | None
    deadline: float | None = None
    superseded: tuple[int, float] | None = None
    compacted: bool = False
    loose: bool = False


@dataclass(slots=True)
class Sent:
    """A commit that the model has accepted, as it was sent."""

    updates: Changes
    expected: dict[str, int | Expect]
    at: float
    receipt: Receipt
    idempotency_key: str | None = None


@dataclass(slots=True)
class Model:
    """What a namespace should be. Times are seconds of artificial ageing."""

    now: float = 0.0
    version: int = 0
    floor: int = 0
    history: dict[str, list[Write]] = field(default_factory=dict)
    sent: dict[str, Sent] = field(default_factory=dict)
    aborted: dict[str, float] = field(default_factory=dict)
    forgotten: dict[str, list[Write]] = field(default_factory=dict)
    published: int = 0
    keep: int | None = None
    dropped: int = 0

    def newest(self, key: str) -> Write | None:
        return self.history[key][-1] if self.history.get(key) else None

    def live(self, *, deleted: bool = False) -> dict[str, Write]:
        """The newest entry of each key that is there, or of each that is deleted, in byte order."""
        newest = {key: self.newest(key) for key in sorted(self.history, key=str.encode)}
        return {key: write for key, write in newest.items() if write and (write.seed is None) == deleted}

    def plain(self) -> list[str]:
        """The ids of commits without an idempotency key."""
        return [commit_id for commit_id, sent in self.sent.items() if sent.idempotency_key is None]

    def orders(self) -> list[str]:
        return [commit_id for commit_id, sent in self.sent.items() if sent.idempotency_key is not None]

    def live_version(self, key: str) -> int:
        write = self.live().get(key)
        return write.version if write else 0

    def past_grace(self, key: str) -> bool:
        """Whether the key is deleted with a grace of its own that is over."""
        newest = self.newest(key)
        return newest is not None and newest.deadline is not None and newest.deadline <= self.now

    def loosen(self) -> None:
        """Time has passed: from now on a store may free by itself what is past its grace."""
        for key in filter(self.past_grace, self.history):
            for write in self.history[key]:
                write.loose = write.seed is not None

    def apply(self, changes: Changes, grace: float | None = None) -> set[str]:
        """Advance by one commit; returns the deletes that found nothing."""
        self.version += 1
        noops = set()
        for key, seed in changes.items():
            if seed is None and not self.live_version(key):
                noops.add(key)
                continue
            newest = self.newest(key)
            if newest:
                newest.superseded = (self.version, self.now)
            deadline = None if seed is not None or grace is None else self.now + grace
            self.history.setdefault(key, []).append(Write(self.version, self.now, seed, deadline))
        self.loosen()
        return noops

    def compact(self, past_grace: bool) -> list[Write]:
        """Apply graces and, unless they are all that is looked at, the retention; returns the values that
        lose their bytes."""
        removed = []
        for key, writes in list(self.history.items()):
            if not writes or (past_grace and not self.past_grace(key)):
                continue
            puts = [write for write in writes if write.seed is not None]
            for rank, write in enumerate(reversed(puts)):
                if write.superseded and not write.compacted and self._expired(key, rank, write):
                    write.compacted = True
                    removed.append(write)
            self._forget_entries(key, writes)
        if not past_grace:
            self._forget_records()
        return removed

    def _expired(self, key: str, rank: int, write: Write) -> bool:
        newest = self.history[key][-1]
        if self.past_grace(key):
            return True
        if newest.deadline is not None and rank == 0:
            return False  # what the tombstone hides
        assert write.superseded
        return self.now - write.superseded[1] >= RETENTION.seconds or rank >= RETENTION.versions

    def _forget_records(self) -> None:
        spared = self.version if self.keep is None else max(self.published, self.version - self.keep)
        for commit_id, sent in list(self.sent.items()):
            version = sent.receipt.version
            if self.now - sent.at >= RETENTION.record_seconds and version <= spared:
                del self.sent[commit_id]
                self.dropped += self.keep is not None and version > self.published
        for commit_id, at in list(self.aborted.items()):
            if self.now - at >= RETENTION.record_seconds:
                del self.aborted[commit_id]

    def _forget_entries(self, key: str, writes: list[Write]) -> None:
        newest = writes[-1]
        if newest.deadline is not None:
            dead = self.past_grace(key)
        else:
            dead = newest.seed is None and self.now - newest.at >= RETENTION.seconds
        kept = []
        for write in writes:
            end = write.superseded
            bare = end is not None and (write.seed is None or write.compacted)
            if dead or (bare and end and self.now - end[1] >= RETENTION.record_seconds):
                self.floor = max(self.floor, end[0] if end else write.version)
                self.forgotten.setdefault(key, []).append(write)
            else:
                kept.append(write)
        self.history[key] = kept

    def as_of(self, key: str, version: int) -> Write | None:
        """The value that was live, None if there was none."""
        if version > self.version:
            return None
        writes = sorted([*self.forgotten.get(key, []), *self.history.get(key, [])], key=lambda w: w.version)
        past = [write for write in writes if write.version <= version]
        return past[-1] if past and past[-1].seed is not None else None


class StoreMachine(stateful.RuleBasedStateMachine):
    """Drives one store of `make_backend()` from its own event loop."""

    make_backend: Callable[[], Backend]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.backend = type(self).make_backend()
        self.store: Store = self.backend.open()
        self.frees_itself = frees_itself(self.backend)
        self.model = Model()
        self.number = 0

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.run(self.backend.dispose())
        self.runner.close()

    @initialize()
    def init(self) -> None:
        self.run(self.store.init(retention=RETENTION))

    def send(self, commit_id: str, changes: Changes, expected: Expected = None, **metadata: Any) -> Receipt:
        data = {key: None if seed is None else envelope(key, seed) for key, seed in changes.items()}
        sent = CommitMetadata(**metadata)
        return self.run(self.store.commit_matrix_update(data, sent, expected, commit_id=commit_id))

    def fresh(self) -> str:
        self.number += 1
        return f"commit-{self.number}"

    def commit(
        self,
        changes: Changes,
        expected: dict[str, int | Expect] | None = None,
        grace: float | None = None,
        **metadata: Any,
    ) -> None:
        commit_id, expected = self.fresh(), expected or {}
        receipt = self.send(commit_id, changes, expected, grace=grace, **metadata)
        noops = self.model.apply(changes, grace)
        assert (receipt.version, receipt.replayed) == (self.model.version, False)
        assert set(receipt.noops) == noops
        key = metadata.get("idempotency_key")
        self.model.sent[commit_id] = Sent(changes, expected, self.model.now, receipt, key)

    def replayed(self, receipt: Receipt, sent: Sent) -> None:
        assert (receipt.replayed, receipt.version) == (True, sent.receipt.version)
        assert (receipt.keys, receipt.noops) == (sent.receipt.keys, sent.receipt.noops)

    def any_of(self, data: st.DataObject, ids: Iterable[str]) -> tuple[str, Sent]:
        commit_id = data.draw(st.sampled_from(sorted(ids)))
        return commit_id, self.model.sent[commit_id]

    @rule(changes=updates)
    def write(self, changes: Changes) -> None:
        self.commit(changes)

    @rule(changes=updates, guards=st.sets(keys))
    def write_expecting_the_truth(self, changes: Changes, guards: set[str]) -> None:
        self.commit(changes, {key: self.model.live_version(key) for key in guards | set(changes)})

    @rule(changes=updates, guards=st.dictionaries(keys, st.integers(0, 12), min_size=1))
    def write_expecting_anything(self, changes: Changes, guards: dict[str, int]) -> None:
        wrong = {key for key, version in guards.items() if version != self.model.live_version(key)}
        if not wrong:
            self.commit(changes, dict(guards))
            return
        with pytest.raises(VersionConflict) as caught:
            self.send(self.fresh(), changes, dict(guards))
        found = {key: conflict["found"]["version"] for key, conflict in caught.value.conflicts.items()}
        assert found == {key: self.model.live_version(key) for key in wrong}

    @precondition(lambda self: self.model.plain())
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        commit_id, sent = self.any_of(data, self.model.plain())
        self.replayed(self.send(commit_id, sent.updates, sent.expected), sent)

    @precondition(lambda self: self.model.sent)
    @rule(data=st.data(), changes=updates)
    def reuse_an_id(self, data: st.DataObject, changes: Changes) -> None:
        commit_id, sent = self.any_of(data, self.model.sent)
        if (changes, {}, None) != (sent.updates, sent.expected, sent.idempotency_key):
            with pytest.raises(CommitIdReused):
                self.send(commit_id, changes)

    @rule()
    def give_up_an_id(self) -> None:
        commit_id = self.fresh()
        assert self.run(self.store.commit_status(commit_id, resolve=True)).state == "aborted"
        self.model.aborted[commit_id] = self.model.now

    @rule(chosen=st.sets(keys, min_size=1), grace=st.sampled_from(GRACES))
    def prune(self, chosen: set[str], grace: float) -> None:
        """As the operation does: deletes with a grace, with the order as their idempotency key."""
        facts = {"keys": len(chosen)}
        changes: Changes = dict.fromkeys(sorted(chosen))
        self.commit(changes, grace=grace, idempotency_key=f"order {self.number}", facts=facts)

    @precondition(lambda self: self.model.orders())
    @rule(data=st.data(), changes=updates)
    def send_an_order_again(self, data: st.DataObject, changes: Changes) -> None:
        """Whatever its deletes are by now, it is the same order."""
        commit_id, sent = self.any_of(data, self.model.orders())
        order = sent.idempotency_key
        receipt = self.send(commit_id, dict.fromkeys(changes), 99, idempotency_key=order, grace=0.0)
        self.replayed(receipt, sent)

    @precondition(lambda self: self.model.aborted)
    @rule(data=st.data(), changes=updates)
    def arrive_late(self, data: st.DataObject, changes: Changes) -> None:
        commit_id = data.draw(st.sampled_from(sorted(self.model.aborted)))
        with pytest.raises(CommitAborted):
            self.send(commit_id, changes)

    @rule(key=keys, data=st.data())
    def restore(self, key: str, data: st.DataObject) -> None:
        there = self.model.as_of(key, data.draw(st.integers(0, self.model.version)))
        if there is not None and not there.compacted and not there.loose:
            entry = self.run(self.store.read(key, there.version))
            assert there.seed is not None
            assert bytes(entry.data) == envelope(key, there.seed)
            self.commit({key: there.seed})

    @rule(key=keys, data=st.data())
    def read_as_of(self, key: str, data: st.DataObject) -> None:
        version = data.draw(st.integers(0, self.model.version + 1))
        expected = self.model.as_of(key, version)
        try:
            entry = self.run(self.store.read(key, version))
        except VersionCompacted:
            if expected is None:
                assert version < self.model.floor
            else:
                assert expected.compacted or (expected.loose and self.frees_itself)
        except KeyNotFound:
            assert expected is None
        else:
            assert expected is not None
            assert expected.seed is not None
            assert not expected.compacted
            assert bytes(entry.data) == envelope(key, expected.seed)

    @rule(seconds=st.sampled_from(AGES))
    def age(self, seconds: float) -> None:
        self.run(self.backend.age("default", seconds))
        self.model.now += seconds
        self.model.loosen()

    @rule(limit=st.sampled_from([1, 2, 500]), past_grace=st.booleans())
    def compact(self, limit: int, past_grace: bool) -> None:
        plan = self.run(self.store.compact(dry_run=True, past_grace=past_grace))
        done = self.run(compact_fully(self.store, limit, past_grace=past_grace))
        assert done == removed(plan)
        lost = self.model.compact(past_grace)
        already = sum(write.loose for write in lost) if self.frees_itself else 0
        assert len(lost) - already <= plan.revisions <= len(lost)

    @rule(pattern=st.sampled_from(["*", "a*", "?", "[b]", "\u00e9", "b"]), after=st.none() | keys)
    def scan(self, pattern: str, after: str | None) -> None:
        for deleted in (False, True):
            there = self.model.live(deleted=deleted)
            stats = self.run(listed(self.store.scan(pattern, after, deleted=deleted, page_keys=2)))
            matching = {
                key: write.version
                for key, write in there.items()
                if Pattern(pattern).matches(key) and (after is None or key.encode() > after.encode())
            }
            assert [(s.key, s.version) for s in stats] == list(matching.items())

    @rule(key=keys)
    def list_history(self, key: str) -> None:
        expected = self.model.history.get(key, [])[::-1]
        try:
            history = self.run(self.store.history(key))
        except KeyNotFound:
            assert not expected
            return
        assert [(r.version, r.content) for r in history] == [
            (w.version, None if w.seed is None else content_of(envelope(key, w.seed))) for w in expected
        ]
        for revision, write in zip(history, expected, strict=True):
            assert revision.compacted == write.compacted or (write.loose and self.frees_itself)

    @rule()
    def list_log(self) -> None:
        records = self.run(self.store.log(limit=1000))
        expected = sorted(self.model.sent, key=lambda i: -self.model.sent[i].receipt.version)
        assert [record.commit_id for record in records] == expected

    @rule(data=st.data(), keep=st.sampled_from([None, 0, 2, 100]))
    def publish(self, data: st.DataObject, keep: int | None) -> None:
        """Turn publishing on or off, mark some version, and be told so."""
        model = self.model
        if keep is not None or model.keep is not None:
            model.keep, model.dropped = keep, model.dropped if keep is None else 0
            self.run(self.store.set_publishing(keep))
            version = data.draw(st.integers(0, model.version))
            model.published = max(model.published, version)
            self.run(self.store.mark_published(version))
        told = self.run(self.store.publishing())
        waiting = [s for s in model.sent.values() if s.receipt.version > model.published]
        assert (told.version, told.published, told.keep) == (model.version, model.published, model.keep)
        assert (told.dropped, told.backlog) == (model.dropped, 0 if model.keep is None else len(waiting))

    @rule(data=st.data(), limit=st.sampled_from([1, 3, 1000]))
    def list_events(self, data: st.DataObject, limit: int) -> None:
        """One page: the events that there are behind a version, up to a gap, and what is gone before them."""
        after = data.draw(st.integers(0, self.model.version))
        page = self.run(self.store.events(after, limit))
        there = sorted((s.receipt.version, i) for i, s in self.model.sent.items())
        there = [each for each in there if each[0] > after]
        first = there[0][0] if there else self.model.version + 1
        whole = [each for number, each in enumerate(there[:limit]) if each[0] == first + number]
        assert [(event.version, event.commit_id) for event in page.events] == whole
        assert page.gone == ((after + 1, first - 1) if first > after + 1 else None)
        assert (page.head, page.after) == (self.model.version, first + len(whole) - 1)

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.backend.open()

    @invariant()
    def live_values_are_the_model_s(self) -> None:
        snapshot = self.run(self.store.read_many(KEYS))
        assert snapshot.version == self.model.version
        assert not snapshot.corrupt
        live = self.model.live()
        assert {key: e.version for key, e in snapshot.entries.items()} == {
            key: write.version for key, write in live.items()
        }
        for key, entry in snapshot.entries.items():
            seed = live[key].seed
            assert seed is not None
            assert bytes(entry.data) == envelope(key, seed)


class StateMachineChapter(ContractTests):
    state_machine_examples = 40
    state_machine_steps = 30

    def test_the_store_never_differs_from_a_dict(self, make_backend: Callable[[], Backend]) -> None:
        machine = type("Machine", (StoreMachine,), {"make_backend": staticmethod(make_backend)})
        stateful.run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=self.state_machine_examples,
                stateful_step_count=self.state_machine_steps,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
