"""Whatever the order, the goal, other writers and crashes: a prefix of what applies is deleted."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from prune.stage import Event, KilledError, Stage, check_prefix
from somactl.core.order import Item, Order, content_digest
from somactl.core.retention import Goal
from somactl.operations.prune import PruneRequest, prune
from somactl.testing.values import listed
from support.sqlite_backend import SqliteBackend

KEYS = [f"k{i}" for i in range(6)]
SIZE = 200  # about that of one value; a limit in bytes then falls between two keys, or on one

_numbers = itertools.count()

goals = st.one_of(
    st.just(Goal()),
    st.builds(Goal, st.just("limit"), st.integers(0, 7)),
    st.builds(Goal, st.just("keep"), st.integers(0, 7)),
    st.builds(Goal, st.just("max-bytes"), st.integers(0, 7 * SIZE)),
)
orders = st.lists(
    st.tuples(st.sampled_from([*KEYS, "absent"]), st.sampled_from([None, None, 1, 2, 3])),
    min_size=3,
    unique_by=lambda item: item[0],
)
MOMENTS = {"commit_matrix_update": 3, "stat_many": 3, "summary": 2, "write_notes": 4}
moments = st.sampled_from([(method, number) for method, count in MOMENTS.items() for number in range(count)])
happenings = st.tuples(st.sampled_from(["put", "put", "rm", "die", "die-after"]), st.sampled_from(KEYS))
events = st.lists(
    st.builds(lambda moment, happening: Event(*moment, *happening), moments, happenings),
    max_size=4,  # fewer than a slice is tried
)


def order_of(items: list[tuple[str, int | None]]) -> Order:
    made = tuple(Item(key, version, line) for line, (key, version) in enumerate(items, 1))
    return Order("ndjson", made, content_digest(made))


async def scenario(
    backend: Any, items: list[tuple[str, int | None]], goal: Goal, batch: int | None, script: list[Event]
) -> None:
    order = order_of(items)
    store = backend.open(f"prefix-{next(_numbers)}")
    try:
        await store.init()
        stage = Stage(store)
        await stage.put(*KEYS[:5])
        await stage.put(*KEYS[:2])
        stage.script = script
        request = PruneRequest(goal=goal, batch=batch, order_id="the-order")
        report = None
        for _ in range(len(script) + 1):
            try:
                report = await prune(stage, order, request)  # type: ignore[arg-type]
            except KilledError:
                continue
            break
        assert report is not None
        deleted = check_prefix(stage, order, goal)
        assert report.complete
        assert report.deleted_keys == len(deleted)
        assert sum(batch.keys for batch in report.batches) == len(deleted)
        assert sum(report.counts.values()) == report.items == len(items)
        assert {stat.key: stat.version for stat in await listed(store.scan())} == {
            key: version for key, (version, _) in stage.live.items()
        }
        again = await prune(store, order, request)
        assert again.replayed
        assert (again.counts, again.batches) == (report.counts, report.batches)
    finally:
        await store.close()


@settings(max_examples=200)
@given(orders, goals, st.sampled_from([None, 1, 2, 3, 100]), events)
def test_a_prefix_of_what_applies_is_deleted(
    sqlite_directory: Any, items: Any, goal: Goal, batch: int | None, script: list[Event]
) -> None:
    asyncio.run(scenario(sqlite_directory, items, goal, batch, script))


@pytest.fixture(scope="module")
def sqlite_directory(tmp_path_factory: pytest.TempPathFactory) -> SqliteBackend:
    return SqliteBackend(tmp_path_factory.mktemp("prefix") / "store.db")


def test_a_prefix_of_what_applies_is_deleted_on_every_store(any_backend: Any) -> None:
    @settings(max_examples=40)
    @given(orders, goals, st.sampled_from([None, 1, 2]), events)
    def check(items: Any, goal: Goal, batch: int | None, script: list[Event]) -> None:
        asyncio.run(scenario(any_backend, items, goal, batch, script))

    check()
