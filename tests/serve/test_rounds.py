"""Rounds of one namespace in SQLite, in this process and by a clock that the test holds."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from somactl.config import Settings
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.errors import InvalidName, StoreDamaged
from somactl.runtime import open_store
from somactl.serve import rounds as module
from somactl.serve.model import Found, Gone, Listed, Message, Round, WatchOptions
from somactl.serve.pulse import Pulse
from somactl.serve.rounds import Rounds
from somactl.serve.schedule import PORTION_KEYS
from somactl.store.contract import CommitMetadata, Store


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(Settings(store=f"sqlite:///{tmp_path / 'store.db'}")) as store:
        yield store


async def commit(store: Store, keys: Iterable[str], kind: Any = "rho") -> None:
    updates = {key: serialize_matrix(np.eye(2) / 2, key=key, kind=kind) for key in keys}
    verdicts = {peek(data).content: {"status": "valid"} for data in updates.values()}
    await store.commit_matrix_update(updates, CommitMetadata(verdicts=verdicts), commit_id=uuid.uuid4().hex)


class Bench:
    """Rounds whose every look at the clock takes `step` seconds, and what they told."""

    def __init__(self, store: Store, **options: Any) -> None:
        watch = WatchOptions(**{"interval": 5.0, **options})
        self.now, self.step = 1000.0, 0.0
        self.told: list[Message] = []
        self.pulse = Pulse(store, watch.interval, 0.02)
        self.rounds = Rounds(store, watch, self.pulse, self.told.append, clock=self.clock)

    def clock(self) -> float:
        self.now += self.step
        return self.now

    async def one(self) -> list[Message]:
        self.told.clear()
        await self.pulse.beat()
        await self.rounds.one()
        return self.told

    def of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.told if isinstance(message, kind)]

    @property
    def read(self) -> list[str]:
        return [proof.key for found in self.of(Found) for proof in found.proofs]


async def test_what_does_not_fit_in_a_round_is_read_in_the_next(store: Store) -> None:
    keys = [f"{number:04}" for number in range(3 * PORTION_KEYS)]
    await commit(store, keys)
    bench = Bench(store)
    bench.step = 10.0
    await bench.one()
    assert bench.read == keys[: 2 * PORTION_KEYS]
    await bench.one()
    assert bench.read == [*keys[2 * PORTION_KEYS :], *keys[:PORTION_KEYS]]
    bench.step = 0.0
    await bench.one()
    assert sorted(bench.read) == keys


async def test_only_what_matches_and_is_a_rho_is_watched(store: Store) -> None:
    await commit(store, ["a:1", "a:2", "b:1", "c:1"])
    await commit(store, ["a:3"], kind="matrix")
    bench = Bench(store, patterns=("a:*", "*:1"))
    await bench.one()
    (listed,) = bench.of(Listed)
    assert (sorted(listed.new), listed.begin, listed.end) == (["a:1", "a:2", "b:1", "c:1"], True, True)
    assert sorted(bench.read) == ["a:1", "a:2", "b:1", "c:1"]


async def test_a_row_that_calls_a_rho_something_else_hides_nothing(store: Store, tmp_path: Path) -> None:
    await commit(store, ["a"])
    bench = Bench(store)
    await bench.one()
    with sqlite3.connect(tmp_path / "store.db") as database:
        database.execute("UPDATE revision SET kind = 'sketch'")
    await bench.one()
    assert [each.gone for each in bench.of(Listed)] == [[]]
    assert [(proof.key, proof.outcome) for found in bench.of(Found) for proof in found.proofs] == [
        ("a", "valid")
    ]
    await commit(store, ["a"], kind="sketch")  # in earnest
    await bench.one()
    assert [each.gone for each in bench.of(Listed)] == [["a"]]


async def test_a_second_listing_tells_what_is_another(store: Store) -> None:
    await commit(store, ["a", "b"])
    bench = Bench(store)
    await bench.one()
    await commit(store, ["a", "c"])
    await store.commit_matrix_update({"b": None}, CommitMetadata(), commit_id=uuid.uuid4().hex)
    await bench.one()
    listed = bench.of(Listed)
    assert [key for each in listed for key in each.new] == ["c"]
    assert [key for each in listed for key in each.changed] == ["a"]
    assert [key for each in listed for key in each.gone] == ["b"]
    assert [each.end for each in listed] == [False, False, True]
    assert not any(each.begin for each in listed)


async def test_more_keys_than_can_be_watched_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WATCHED", 2)
    await commit(store, ["a", "b", "c"])
    bench = Bench(store)
    await bench.one()
    (ended,) = bench.of(Round)
    assert [(each.cause, each.fails) for each in ended.troubles] == [("too-many", True)]
    assert bench.read == ["a", "b"]


async def test_a_namespace_that_is_not_there_is_gone_and_begins_anew(store: Store) -> None:
    bench = Bench(store)
    await bench.one()
    assert [type(message) for message in bench.told] == [Gone, Round]
    await commit(store, ["a"])
    await bench.one()
    assert bench.of(Listed)[0].begin
    assert bench.read == ["a"]


async def test_a_store_that_answers_and_cannot_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await commit(store, ["a"])
    bench = Bench(store)

    async def damaged(keys: Any) -> Any:
        raise StoreDamaged("a page is torn")

    monkeypatch.setattr(bench.pulse.authority, "read_many", damaged)
    await bench.one()
    (ended,) = bench.of(Round)
    (trouble,) = ended.troubles
    assert (trouble.cause, trouble.service, trouble.message) == ("authority-away", "sqlite", "a page is torn")
    assert bench.of(Found) == []


async def test_a_read_that_says_something_else_is_unreadable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await commit(store, ["a"])
    bench = Bench(store)

    async def refused(keys: Any) -> Any:
        raise InvalidName("no such name")

    monkeypatch.setattr(bench.pulse.authority, "read_many", refused)
    await bench.one()
    (found,) = bench.of(Found)
    assert [(each.key, each.outcome, each.reasons) for each in found.proofs] == [
        ("a", "unreadable", ("no such name",))
    ]
