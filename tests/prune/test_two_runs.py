"""Runs that die, hang or come twice: no slice is committed twice, and none beyond what the order allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from prune.orders import carry_out, live, message, text, tombstones
from prune.stage import Event, KilledError, Stage
from somactl.core.retention import Goal
from somactl.core.verdict import Tolerances
from somactl.errors import CommitAborted, CommitIdReused, StoreUnavailable
from somactl.operations.commit import Request
from somactl.operations.undo import restore_commit
from somactl.runtime import jobs
from somactl.store.contract import Store
from somactl.store.wrapper import ReadOnly
from somactl.testing.values import delete, put
from support.sqlite_backend import SqliteBackend


@pytest_asyncio.fixture
async def store(sqlite_backend: SqliteBackend) -> AsyncIterator[Store]:
    store = sqlite_backend.open()
    await put(store, "a", "b", "c", "d", "e", "f")
    yield store
    await store.close()


class Stranded:
    """A run whose `number`-th commit stays on its way when it dies; `arrive` lets it come through."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._left = number
        self.held: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
        if self._left == 0:
            self.held = (arguments, options)
            raise KilledError
        self._left -= 1
        return await self._store.commit_matrix_update(*arguments, **options)

    async def arrive(self) -> Any:
        arguments, options = self.held
        return await self._store.commit_matrix_update(*arguments, **options)


async def stranded(store: Store, number: int, *arguments: Any, **options: Any) -> Stranded:
    run = Stranded(store, number)
    with pytest.raises(KilledError):
        await carry_out(run, *arguments, **options)
    return run


async def test_a_commit_that_arrives_after_its_slice_was_sent_again_changes_nothing(store: Store) -> None:
    run = await stranded(store, 1, text("a", "b", "c"), batch=1, order_id="o")
    report = await carry_out(store, text("a", "b", "c"), batch=1, order_id="o")
    assert (report.resumed, report.deleted_keys) == (True, 3)
    await put(store, "b", seed=3)
    assert (await run.arrive()).replayed
    assert await live(store) == ["b", "d", "e", "f"]


async def test_a_commit_that_arrives_after_its_slice_was_passed_over_is_refused(store: Store) -> None:
    order, goal = text("a", "b", "c"), Goal("keep", 4)
    run = await stranded(store, 1, order, goal, batch=1, order_id="o")
    await delete(store, "f")  # the namespace fits now, without b
    report = await carry_out(store, order, goal, batch=1, order_id="o")
    assert (report.deleted_keys, report.keys_left) == (1, 4)
    with pytest.raises(CommitAborted):
        await run.arrive()
    assert await live(store) == ["b", "c", "d", "e"]


async def test_a_run_that_dies_while_it_closes_off_a_slice_is_continued(store: Store) -> None:
    order, goal = text("a", "b", "c"), Goal("keep", 4)
    run = await stranded(store, 1, order, goal, batch=1, order_id="o")
    await delete(store, "f")

    class DyingOnceClosedOff(Stranded):
        async def commit_status(self, commit_id: str, *, resolve: bool = False) -> Any:
            status = await self._store.commit_status(commit_id, resolve=resolve)
            if resolve:
                raise KilledError
            return status

    with pytest.raises(KilledError):
        await carry_out(DyingOnceClosedOff(store, 9), order, goal, batch=1, order_id="o")
    await put(store, "f")  # b would have to go now, but its slice was settled
    report = await carry_out(store, order, goal, batch=1, order_id="o")
    assert report.deleted_keys == 1
    with pytest.raises(CommitAborted):
        await run.arrive()
    assert await live(store) == ["b", "c", "d", "e", "f"]


async def test_a_commit_that_arrives_in_between_counts_by_its_own_account(store: Store) -> None:
    order, goal = text("a", "b", "c"), Goal("keep", 4)
    run = await stranded(store, 0, order, goal, order_id="o")
    await delete(store, "f")  # only a has to go now

    class Overtaken(Stranded):
        async def commit_matrix_update(self, updates: Any, *arguments: Any, **options: Any) -> Any:
            assert set(updates) == {"a"}
            await run.arrive()
            return await super().commit_matrix_update(updates, *arguments, **options)

    report = await carry_out(Overtaken(store, 9), order, goal, order_id="o")
    assert (report.deleted_keys, report.batches[0].keys) == (2, 2)
    assert report.counts == {"deleted": 2, "beyond-limit": 1}
    assert await live(store) == ["c", "d", "e"]


@pytest.mark.parametrize("batch", [None, 2])
async def test_an_id_that_was_given_up_does_not_stop_the_order(store: Store, batch: int | None) -> None:
    order, first = text("a", "b", "c"), "o" if batch is None else "o/0001"
    run = await stranded(store, 0, order, batch=batch, order_id="o")
    await store.commit_status(first, resolve=True)

    class GivenUpAgain(Stranded):
        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            if options["commit_id"] == f"{first}/again-1":
                await store.commit_status(options["commit_id"], resolve=True)
            return await super().commit_matrix_update(*arguments, **options)

    report = await carry_out(GivenUpAgain(store, 9), order, batch=batch, order_id="o")
    assert (report.complete, report.deleted_keys) == (True, 3)
    assert report.batches[0].commit_id == f"{first}/again-2"
    with pytest.raises(CommitAborted):
        await run.arrive()
    await restore_commit(store, "o", Request(), Tolerances(), jobs())
    assert await live(store) == ["a", "b", "c", "d", "e", "f"]


async def test_a_run_that_lost_its_order_to_another_stops(
    store: Store, sqlite_backend: SqliteBackend
) -> None:
    order = text("a", "b", "c", "d")
    other = sqlite_backend.open()

    class Overtaken(Stranded):
        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            receipt = await super().commit_matrix_update(*arguments, **options)
            if options["commit_id"] == "o/0001":
                self.whole = await carry_out(other, order, batch=1, order_id="o")
            return receipt

    run = Overtaken(store, 9)
    report = await carry_out(run, order, batch=1, order_id="o")
    assert (report.code, report.complete, report.deleted_keys) == (16, False, 1)
    assert run.whole.deleted_keys == 4
    assert [batch.commit_id for batch in run.whole.batches] == [f"o/000{i}" for i in range(1, 5)]
    await other.close()


async def test_a_newer_order_of_the_issuer_ends_the_older_one(
    store: Store, sqlite_backend: SqliteBackend
) -> None:
    now = await store.clock()
    older = message("a", "b", "c", now=now)
    newer = message("f", now=now, order_id="order-8", sequence=8)
    other = sqlite_backend.open()

    class Superseded(Stranded):
        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            receipt = await super().commit_matrix_update(*arguments, **options)
            if options["commit_id"] == "order-7/0001":
                await carry_out(other, newer)
            return receipt

    report = await carry_out(Superseded(store, 9), older, batch=1)
    assert (report.code, report.complete, report.deleted_keys) == (4, False, 1)
    assert "order-8" in (report.stopped or "")
    assert await live(store) == ["b", "c", "d", "e"]
    again = await carry_out(store, older, batch=1)
    assert (again.replayed, again.code, again.stopped) == (True, 4, report.stopped)
    await other.close()


async def test_a_half_done_order_that_was_superseded_is_not_taken_up_again(store: Store) -> None:
    now = await store.clock()
    older = message("a", "b", "c", now=now)
    run = await stranded(store, 1, older, batch=1)
    await carry_out(store, message("f", now=now, order_id="order-8", sequence=8))
    report = await carry_out(store, older, batch=1)
    assert (report.code, report.deleted_keys) == (4, 1)
    with pytest.raises(CommitAborted):
        await run.arrive()
    assert await live(store) == ["b", "c", "d", "e"]


async def test_what_an_order_had_deleted_when_it_was_superseded_counts(store: Store) -> None:
    now = await store.clock()
    older = message("a", "b", "c", now=now)
    run = await stranded(store, 1, older, batch=1)
    await carry_out(store, message("f", now=now, order_id="order-8", sequence=8))
    await run.arrive()
    report = await carry_out(store, older, batch=1)
    assert (report.code, report.deleted_keys, len(report.batches)) == (4, 2, 2)


async def test_a_half_done_order_that_expired_is_not_taken_up_again(store: Store) -> None:
    now = await store.clock()
    order = message("a", "b", "c", now=now, expires_at=now + 0.5)
    await stranded(store, 1, order, batch=1)
    await asyncio.sleep(0.6)
    report = await carry_out(store, order, batch=1)
    assert (report.code, report.stopped) == (4, "the order expired before it was done")
    assert await live(store) == ["b", "c", "d", "e", "f"]


async def test_a_store_that_fails_in_the_middle_leaves_what_stands_and_goes_on_later(store: Store) -> None:
    class Failing(Stranded):
        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            if options["commit_id"] == "o/0003":
                raise StoreUnavailable("gone")
            return await super().commit_matrix_update(*arguments, **options)

    order = text("a", "zz", "b", "c")
    report = await carry_out(Failing(store, 9), order, batch=1, order_id="o")
    assert (report.code, report.complete, report.deleted_keys) == (13, False, 1)
    assert "gone" in (report.stopped or "")
    report = await carry_out(store, order, batch=1, order_id="o")
    assert (report.resumed, report.complete, report.counts) == (True, True, {"deleted": 3, "unknown": 1})
    assert [item.key for item in report.not_applied] == ["zz"]


async def test_a_store_that_fails_before_anything_was_deleted_is_an_error(store: Store) -> None:
    class Failing(Stranded):
        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        await carry_out(Failing(store, 9), text("zz", "a"), batch=1, order_id="o")


class FailingAfterwards:
    """Fails in `method`, once everything was deleted."""

    def __init__(self, store: Store, method: str, error: BaseException) -> None:
        self._store, self._method, self._error = store, method, error
        self._writes = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name != self._method:
            return found

        async def failing(*arguments: Any, **options: Any) -> Any:
            self._writes += 1
            if (
                name == "write_notes" and self._writes < 3
            ):  # one for each batch, the first of which accepts the order
                return await found(*arguments, **options)
            raise self._error

        return failing


@pytest.mark.parametrize("method", ["summary", "write_notes", "compact"])
async def test_what_was_deleted_is_reported_though_the_end_of_the_run_fails(
    store: Store, method: str
) -> None:
    order, grace = text("a", "b"), 0.0 if method == "compact" else 60.0
    failing = FailingAfterwards(store, method, StoreUnavailable("gone"))
    report = await carry_out(failing, order, batch=1, order_id="o", grace=grace)
    assert (report.code, report.complete, report.final, report.deleted_keys) == (13, False, False, 2)
    assert report.stopped == "StoreUnavailable: gone"
    assert len(report.batches) == 2
    again = await carry_out(store, order, batch=1, order_id="o", grace=grace)
    assert (again.code, again.complete, again.resumed, again.deleted_keys) == (0, True, True, 2)


async def test_a_signal_at_the_end_of_a_run_leaves_its_report(store: Store) -> None:
    failing = FailingAfterwards(store, "summary", asyncio.CancelledError())
    report = await carry_out(failing, text("a", "b"), order_id="o")
    assert (report.complete, report.stopped, report.deleted_keys) == (False, "interrupted", 2)


async def test_a_superseded_order_whose_last_commit_cannot_be_settled_says_what_stands(
    store: Store, sqlite_backend: SqliteBackend
) -> None:
    now = await store.clock()
    other = sqlite_backend.open()

    class Superseded(Stranded):
        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            receipt = await super().commit_matrix_update(*arguments, **options)
            if options["commit_id"] == "order-7/0001":
                await carry_out(other, message("f", now=now, order_id="order-8", sequence=8))
            return receipt

        async def commit_status(self, commit_id: str, *, resolve: bool = False) -> Any:
            if resolve:
                raise StoreUnavailable("gone")
            return await self._store.commit_status(commit_id, resolve=resolve)

    report = await carry_out(Superseded(store, 9), message("a", "b", now=now), batch=1)
    assert (report.code, report.final, report.deleted_keys) == (13, False, 1)
    report = await carry_out(store, message("a", "b", now=now), batch=1)
    assert (report.code, report.final, report.deleted_keys) == (4, True, 1)
    await other.close()


async def test_a_superseded_order_frees_what_has_no_grace_and_stays_over_its_limit(store: Store) -> None:
    now, goal = await store.clock(), Goal("keep", 2)
    over = await carry_out(store, None, goal)
    older = message("a", "b", "c", now=now)
    await stranded(store, 1, older, goal, batch=1, grace=0.0)
    await carry_out(store, message("f", now=now, order_id="order-8", sequence=8))
    report = await carry_out(store, older, goal, batch=1, grace=0.0)
    assert (report.code, report.final, report.deleted_keys) == (4, True, 1)
    assert report.freed_now == report.deleted_bytes > 0
    assert set(await tombstones(store)) == {"f"}
    assert (report.keys_left, report.short_by, report.over_since) == (4, 2, over.over_since)


async def test_a_lost_reply_to_the_commit_under_way_is_not_taken_for_an_answer(store: Store) -> None:
    """The commit may still arrive, so its id is claimed: then the report is true for good."""

    class Cancelled(Stranded):
        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            try:
                return await super().commit_matrix_update(*arguments, **options)
            except KilledError:
                raise asyncio.CancelledError from None

    run = Cancelled(store, 1)
    report = await carry_out(run, text("a", "b"), batch=1, order_id="o")
    assert (report.stopped, report.deleted_keys) == ("interrupted", 1)
    with pytest.raises(CommitAborted):
        await store.commit_matrix_update(*run.held[0], **run.held[1])
    assert "b" in await live(store)
    report = await carry_out(store, text("a", "b"), batch=1, order_id="o")
    assert (report.complete, report.deleted_keys) == (True, 2)


async def test_items_that_did_not_apply_are_told_again_on_resuming_and_on_replay(store: Store) -> None:
    order = text("zz", "a", "yy", "b")
    await stranded(store, 1, order, batch=2, order_id="o")
    for _ in range(2):
        told: list[Any] = []
        await carry_out(store, order, batch=2, order_id="o", each=told.append)
        assert [item.key for item in told if item.outcome == "unknown"] == ["zz", "yy"]


async def test_a_dry_run_foresees_that_an_order_is_not_taken_up_again(store: Store) -> None:
    now = await store.clock()
    older = message("a", "b", "c", now=now)
    await stranded(store, 1, older, batch=1)
    await carry_out(store, message("f", now=now, order_id="order-8", sequence=8))
    report = await carry_out(ReadOnly(store), older, batch=1, dry_run=True)
    assert (report.code, report.final, report.deleted_keys) == (4, True, 0)
    assert "order-8" in (report.stopped or "")


async def test_a_busy_key_is_tried_again_and_never_lost(store: Store) -> None:
    script = [Event("commit_matrix_update", number, "put", "b") for number in range(3)]
    stage = Stage(store, script)
    await stage.put("a", "b", "c", "d", "e", "f")
    report = await carry_out(stage, text("a", "b"))
    assert (report.complete, report.deleted_keys) == (True, 2)  # the order ranked no version of b


async def test_a_key_that_is_written_for_ever_ends_the_run(store: Store) -> None:
    script = [Event("commit_matrix_update", number, "put", "b") for number in range(1, 20)]
    stage = Stage(store, script)
    await stage.put("a", "b", "c", "d", "e", "f")
    report = await carry_out(stage, text("a", "b", "c"), batch=1, order_id="o")
    assert (report.code, report.complete, report.deleted_keys) == (12, False, 1)
    assert await live(store) == ["b", "c", "d", "e", "f"]
    report = await carry_out(store, text("a", "b", "c"), batch=1, order_id="o")
    assert (report.complete, report.deleted_keys) == (True, 3)


class Overtaken:
    """A store on which, while this run looks whether the order's id is free, another one does it all."""

    def __init__(self, store: Store, *arguments: Any, **options: Any) -> None:
        self._store = store
        self._other: Any = (arguments, options)
        self._turn = asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit_status(self, commit_id: str, *, resolve: bool = False) -> Any:
        async with self._turn:
            if self._other is not None:
                (arguments, options), self._other = self._other, None
                await carry_out(self._store, *arguments, **options)
        return await self._store.commit_status(commit_id, resolve=resolve)


async def test_an_order_that_another_run_carries_out_meanwhile_is_told_from_one_whose_id_is_used(
    store: Store,
) -> None:
    order = text("a", "b", "c")
    report = await carry_out(Overtaken(store, order, batch=1, order_id="o"), order, batch=1, order_id="o")
    assert (report.deleted_keys, report.replayed, report.code) == (3, True, 0)
    other = text("d", "e")
    with pytest.raises(CommitIdReused):
        await carry_out(Overtaken(store, other, batch=1, order_id="p"), order, batch=1, order_id="p")
    assert await live(store) == ["f"]
