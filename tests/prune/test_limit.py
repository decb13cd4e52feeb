"""A namespace over its limit: it is said, for how long, and nothing is deleted that was not ordered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from prune.orders import carry_out, live, text, tombstones
from somactl.core.retention import Goal
from somactl.errors import CorruptValue, UsageError
from somactl.operations.maintenance import compact
from somactl.operations.prune.operation import report_without_order
from somactl.operations.prune.request import PruneRequest
from somactl.runtime import jobs
from somactl.store.contract import Retention, Store
from somactl.store.wrapper import ReadOnly
from somactl.testing.values import put
from support.sqlite_backend import SqliteBackend


@pytest_asyncio.fixture
async def store(sqlite_backend: SqliteBackend) -> AsyncIterator[Store]:
    store = sqlite_backend.open()
    for key in ("e", "d", "c", "b", "a"):
        await put(store, key)
    yield store
    await store.close()


async def test_without_an_order_nothing_is_deleted_and_the_report_is_degraded(store: Store) -> None:
    report = await carry_out(store, None, Goal("keep", 3))
    assert (report.code, report.degraded, report.directed, report.short_by) == (4, True, False, 2)
    assert (report.keys_left, report.deleted_keys) == (5, 0)
    assert len(await live(store)) == 5


async def test_the_report_says_since_when_the_limit_is_exceeded(store: Store) -> None:
    first = await carry_out(store, None, Goal("keep", 3))
    await asyncio.sleep(0.2)
    second = await carry_out(store, None, Goal("keep", 3))
    assert second.over_since == first.over_since
    assert (second.over_seconds or 0) >= 0.2
    assert (await carry_out(store, None, Goal("keep", 5))).code == 0
    assert (await carry_out(store, None, Goal("keep", 4))).over_seconds == 0  # another limit


async def test_two_limits_that_are_asked_for_in_turn_do_not_forget_each_others_time(store: Store) -> None:
    first = [await carry_out(store, None, Goal("keep", amount)) for amount in (3, 2)]
    await asyncio.sleep(0.05)
    again = [await carry_out(store, None, Goal("keep", amount)) for amount in (3, 2)]
    assert [report.over_since for report in again] == [report.over_since for report in first]


async def test_a_fallback_is_chosen_anew_and_has_no_id_to_go_on_with(store: Store) -> None:
    with pytest.raises(UsageError, match="--order-id"):
        await carry_out(store, None, Goal("keep", 3), fallback="oldest", order_id="o")
    assert len(await live(store)) == 5


async def test_once_it_fits_again_the_time_is_forgotten(store: Store) -> None:
    first = await carry_out(store, None, Goal("keep", 3))
    await asyncio.sleep(0.05)
    assert (await carry_out(store, text("a", "b"), Goal("keep", 3))).code == 0
    await put(store, "a")
    again = await carry_out(store, None, Goal("keep", 3))
    assert (again.over_since or 0) > (first.over_since or 0)


async def test_a_dry_run_remembers_nothing(store: Store) -> None:
    report = await carry_out(ReadOnly(store), None, Goal("keep", 3), dry_run=True)
    assert report.code == 4
    assert [page async for page in store.scan_notes()] == []


async def test_an_order_that_does_not_suffice_leaves_the_namespace_over_its_limit(store: Store) -> None:
    report = await carry_out(store, text("a", "zz"), Goal("keep", 2), order_id="o")
    assert (report.code, report.degraded, report.short_by, report.complete) == (4, True, 2, True)
    assert len(await live(store)) == 4
    assert (await carry_out(store, text("a", "zz"), Goal("keep", 2), order_id="o")).code == 4


async def test_bytes_are_limited_alike(store: Store) -> None:
    size = (await store.summary()).stored_bytes
    report = await carry_out(store, None, Goal("max-bytes", size - 1))
    assert (report.short_by, report.code) == (1, 4)
    report = await carry_out(store, text("a", "b", "c"), Goal("max-bytes", size - 1))
    assert (report.deleted_keys, report.code) == (1, 0)


@pytest.mark.parametrize("goal", [Goal(), Goal("limit", 3)], ids=str)
async def test_without_an_order_and_a_limit_there_is_nothing_to_do(store: Store, goal: Goal) -> None:
    for options in ({}, {"fallback": "oldest"}):
        with pytest.raises(UsageError):
            await carry_out(store, None, goal, **options)


async def test_the_fallback_takes_what_was_written_longest_ago_and_says_so(store: Store) -> None:
    await put(store, "e", seed=2)
    report = await carry_out(store, None, Goal("keep", 3), fallback="oldest")
    assert (report.directed, report.form, report.deleted_keys, report.code) == (False, "oldest", 2, 0)
    assert "no order directed this" in report.warnings[0]
    assert await live(store) == ["a", "b", "e"]
    again = await carry_out(store, None, Goal("keep", 3), fallback="oldest")
    assert (again.order_id, again.code) == (None, 0)


async def test_the_fallback_breaks_ties_by_key(sqlite_backend: SqliteBackend) -> None:
    store = sqlite_backend.open("ties")
    await put(store, "b", "a", "é", "c")
    await carry_out(store, None, Goal("keep", 2), fallback="oldest")
    assert await live(store) == ["c", "é"]
    await store.close()


async def test_the_fallback_stands_beside_no_order(store: Store) -> None:
    with pytest.raises(UsageError):
        await carry_out(store, text("a"), Goal("keep", 3), fallback="oldest")
    assert len(await live(store)) == 5


async def test_a_grace_of_zero_frees_at_once_and_for_good(store: Store) -> None:
    size = (await store.stat_many(["a"])).stats["a"].size
    report = await carry_out(store, text("a", "b"), grace=0.0)
    assert (report.freed_now, report.freed_after_grace, report.recoverable_until) == (2 * size, 0, None)
    assert await tombstones(store) == {}


async def test_with_a_grace_the_bytes_stay(any_backend: Any) -> None:
    store = any_backend.open()
    try:
        await store.init()
        await put(store, "a", "b")
        for key in ("a", "b"):
            await store.read(key)
        size = (await store.stat_many(["a"])).stats["a"].size
        report = await carry_out(store, text("a", "b"))
        cached = 2 * size if store.name.endswith("+redis") else 0
        assert (report.freed_now, report.freed_after_grace) == (cached, 2 * size)
        for key, stat in (await tombstones(store)).items():
            assert stat.recoverable_until == report.recoverable_until, key
    finally:
        await store.close()
        await any_backend.dispose()


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"since": "x"}', b"\xff", b"[" * 100_000])
async def test_a_note_that_is_damaged_is_named(store: Store, data: bytes) -> None:
    await store.write_notes({"retention/over/keep/1": data})
    with pytest.raises(CorruptValue, match="retention/over/keep/1"):
        await report_without_order(store, PruneRequest(goal=Goal("keep", 1)))


async def test_compact_forgets_orders_with_the_records_of_their_commits(store: Store) -> None:
    await carry_out(store, text("a"), order_id="o")
    assert (await compact(store, jobs(), dry_run=False)).orders == 0
    await store.init(retention=Retention(record_seconds=0.0))
    await asyncio.sleep(0.01)
    assert (await compact(store, jobs(), dry_run=True)).orders == 1
    assert (await compact(store, jobs(), dry_run=False)).orders == 1
    assert [page async for page in store.scan_notes("order/")] == []
