"""What an order deleted comes back bit for bit, and nothing that was written since is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import pytest_asyncio

from prune.orders import carry_out, live, text, tombstones
from prune.stage import KilledError
from somactl.core.retention import Goal
from somactl.core.verdict import Tolerances
from somactl.errors import (
    CommitIdReused,
    CommitNotFound,
    StoreUnavailable,
    UsageError,
    VersionCompacted,
    VersionConflict,
)
from somactl.operations.commit import Request, commit_matrix_update
from somactl.operations.maintenance import compact
from somactl.operations.prune import restore as restoring
from somactl.operations.undo import restore_commit
from somactl.report import RestoreReport
from somactl.runtime import jobs
from somactl.store.contract import Store
from somactl.suggestion import run
from somactl.testing.values import delete, put
from support.sqlite_backend import SqliteBackend
from tests.cli.conftest import density

KEYS = ("a", "b", "c", "d", "e")


@pytest_asyncio.fixture
async def store(sqlite_backend: SqliteBackend) -> AsyncIterator[Store]:
    store = sqlite_backend.open()
    await put(store, *KEYS)
    yield store
    await store.close()


async def values(store: Store) -> Mapping[str, bytes]:
    snapshot = await store.read_many(await live(store))
    return {key: bytes(entry.data) for key, entry in snapshot.entries.items()}


async def restore(store: Any, commit: str, *, partial: bool = False, **options: Any) -> RestoreReport:
    return await restore_commit(store, commit, Request(**options), Tolerances(), jobs(), partial=partial)


async def test_an_order_is_undone_bit_for_bit_on_every_store(any_backend: Any) -> None:
    store = any_backend.open()
    try:
        await store.init()
        await put(store, *KEYS[:4])
        await put(store, "b", seed=1)
        await commit_matrix_update(store, {"rho": density(6, imaginary=True)})
        before = await values(store)
        report = await carry_out(store, text("rho", "b", "zz", "a", "d"), batch=2, order_id="o")
        assert report.deleted_keys == 4
        assert await live(store) == ["c"]
        undone = await restore(store, "o")
        assert (undone.restored_keys, undone.left, undone.complete) == (4, [], True)
        assert await values(store) == before
        assert (await store.read("rho")).verdict is not None
        again = await restore(store, "o")
        assert (again.restored_keys, again.already, again.version) == (0, 4, None)
    finally:
        await store.close()
        await any_backend.dispose()


async def test_one_batch_can_be_undone_alone(store: Store) -> None:
    await carry_out(store, text("a", "b", "c"), batch=1, order_id="o")
    await restore(store, "o/0002")
    assert await live(store) == ["b", "d", "e"]


async def test_an_id_that_later_became_a_commits_too_undoes_neither(store: Store) -> None:
    await carry_out(store, text("a", "b", "c"), batch=2, order_id="night")
    await put(store, "x", commit_id="night")
    with pytest.raises(CommitIdReused, match="prune order and, later, of a commit") as caught:
        await restore(store, "night")
    assert caught.value.facts["order"] == ["night/0001", "night/0002"]
    assert await live(store) == ["d", "e", "x"]
    await restore(store, "night/0001")
    assert await live(store) == ["a", "b", "d", "e", "x"]


async def test_a_commit_whose_id_is_that_of_an_order_without_deletions_is_undone(store: Store) -> None:
    await carry_out(store, text("zz"), order_id="idle")
    await put(store, "x", commit_id="idle")
    await restore(store, "idle")
    assert await live(store) == list(KEYS)


async def test_what_was_written_since_is_named_and_nothing_restored(store: Store) -> None:
    await carry_out(store, text("a", "b", "c"), order_id="o")
    await put(store, "b", seed=4)
    await put(store, "c", seed=4)
    await delete(store, "c")
    with pytest.raises(VersionConflict) as caught:
        await restore(store, "o")
    assert set(caught.value.conflicts) == {"b", "c"}
    assert await live(store) == ["b", "d", "e"]
    report = await restore(store, "o", partial=True)
    assert [(one.key, one.why, one.version) for one in report.left] == [
        ("b", "written since", 3),
        ("c", "deleted again", 5),
    ]
    assert (report.code, report.complete, report.restored_keys) == (4, False, 1)
    assert await live(store) == ["a", "b", "d", "e"]
    assert (await store.stat_many(["b"])).stats["b"].version == 3


async def test_a_key_pruned_again_belongs_to_the_later_order(store: Store) -> None:
    await carry_out(store, text("a"), order_id="one")
    await restore(store, "one")
    await carry_out(store, text("a"), order_id="two")
    with pytest.raises(VersionConflict):
        await restore(store, "one")
    await restore(store, "two")
    assert "a" in await live(store)


async def test_past_its_grace_an_order_cannot_be_undone(store: Store) -> None:
    await carry_out(store, text("a"), order_id="o", grace=0.2)
    await carry_out(store, text("b"), order_id="p")
    await restore(store, "p")
    await asyncio.sleep(0.3)
    report = await compact(store, jobs(), dry_run=False)
    assert report.tombstones == 1
    with pytest.raises(VersionCompacted, match="grace") as caught:
        await restore(store, "o")
    assert caught.value.facts["keys"] == ["a"]
    partial = await restore(store, "o", partial=True)
    assert [(one.key, one.why) for one in partial.left] == [("a", "past its grace")]


async def test_within_its_grace_compact_takes_nothing_of_an_order(store: Store) -> None:
    before = await values(store)
    await store.init(retention=(await store.head()).retention.__class__(versions=1, seconds=0.0))
    await carry_out(store, text("a", "b"), order_id="o")
    await compact(store, jobs(), dry_run=False)
    assert set(await tombstones(store)) == {"a", "b"}
    await restore(store, "o")
    assert await values(store) == before


async def test_what_is_too_much_for_a_commit_comes_back_in_several(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "PORTION_KEYS", 2)
    before = await values(store)
    await carry_out(store, text(*KEYS), order_id="o")
    report = await restore(store, "o", commit_id="back")
    assert [part.commit_id for part in report.commits] == ["back/0001", "back/0002", "back/0003"]
    assert await values(store) == before
    undone = await restore(store, "back")
    assert (await live(store), len(undone.commits)) == ([], 3)
    await restore(store, undone.commit_id)
    assert await values(store) == before


class Meanwhile:
    """A store on which `then` happens once, after the commit `commit_id`."""

    def __init__(self, store: Store, commit_id: str, then: Callable[[], Awaitable[Any]]) -> None:
        self._store, self._commit_id, self._then = store, commit_id, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
        receipt = await self._store.commit_matrix_update(*arguments, **options)
        if options["commit_id"] == self._commit_id:
            await self._then()
        return receipt


@pytest.mark.parametrize("partial", [False, True])
async def test_a_value_that_was_written_and_pruned_during_a_restore_is_not_hidden_by_an_older_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, partial: bool
) -> None:
    monkeypatch.setattr(restoring, "PORTION_KEYS", 2)
    await carry_out(store, text(*KEYS), order_id="o")
    newer: dict[str, bytes] = {}

    async def write_and_prune() -> None:
        await put(store, "c", seed=9)
        newer["c"] = bytes((await store.read("c")).data)
        await carry_out(store, text("c"), order_id="p")

    report = await restore(
        Meanwhile(store, "back/0001", write_and_prune), "o", commit_id="back", partial=partial
    )
    if partial:
        assert [(one.key, one.why, one.commit_id) for one in report.left] == [("c", "deleted again", "p")]
        assert await live(store) == ["a", "b", "d", "e"]
    else:
        assert (report.code, report.complete, report.restored_keys) == (12, False, 2)
        assert await live(store) == ["a", "b"]
    await restore(store, "p")
    assert bytes((await store.read("c")).data) == newer["c"]


async def test_a_restore_that_is_run_again_under_its_id_is_still_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "PORTION_KEYS", 2)
    before = await values(store)
    await carry_out(store, text(*KEYS), order_id="o")

    async def die() -> None:
        raise KilledError

    with pytest.raises(KilledError):
        await restore(Meanwhile(store, "back/0001", die), "o", commit_id="back")
    monkeypatch.setattr(restoring, "PORTION_KEYS", 1)
    report = await restore(store, "o", commit_id="back")
    assert [part.commit_id for part in report.commits] == ["back/0002", "back/0003", "back/0004"]
    assert await values(store) == before
    assert (await restore(store, "o", commit_id="back")).replayed
    await restore(store, "back")
    assert await live(store) == []


async def test_a_signal_between_two_commits_of_a_restore_leaves_its_report(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "PORTION_KEYS", 2)
    await carry_out(store, text(*KEYS), order_id="o")
    await restore(store, "o", commit_id="first")
    await carry_out(store, text(*KEYS), order_id="p")

    async def end() -> None:
        reads.append(1)

    reads: list[int] = []

    class Ended(Meanwhile):
        async def read(self, *arguments: Any) -> Any:
            if reads:
                raise asyncio.CancelledError
            return await self._store.read(*arguments)

    report = await restore(Ended(store, "back/0001", end), "p", commit_id="back")
    assert (report.code, report.complete, report.restored_keys) == (130, False, 2)
    assert (await restore(store, "p", commit_id="back")).restored_keys == 3
    assert await live(store) == list(KEYS)


async def test_the_undo_of_a_restore_that_a_signal_ended_goes_on_under_its_id(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "PORTION_KEYS", 2)
    await carry_out(store, text(*KEYS), order_id="o")
    await restore(store, "o", commit_id="back")

    class Ended:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            if options["commit_id"] == "gone/0002":
                raise asyncio.CancelledError
            return await store.commit_matrix_update(*arguments, **options)

    report = await restore(Ended(), "back", commit_id="gone")
    assert (report.code, report.complete, len(report.commits)) == (130, False, 1)
    assert (await store.commit_status("gone/0002")).state == "aborted"
    for _ in range(2):
        report = await restore(store, "back", commit_id="gone")
        assert [part.commit_id for part in report.commits] == ["gone/0001", "gone/0003", "gone/0004"]
        assert await live(store) == []
    await restore(store, "gone")
    assert await live(store) == list(KEYS)


async def test_the_id_of_a_restore_stands_for_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "PORTION_KEYS", 1)
    await carry_out(store, text("a", "b"), order_id="o")
    await carry_out(store, text("c", "d"), order_id="p")
    for taken in ("o", "p"):
        with pytest.raises(CommitIdReused):
            await restore(store, "o", commit_id=taken)
    await restore(store, "o", commit_id="back")
    with pytest.raises(CommitIdReused, match="to restore o"):
        await restore(store, "p", commit_id="back")
    with pytest.raises(CommitIdReused, match="for a restore"):
        await carry_out(store, text("a"), order_id="back")
    assert await live(store) == ["a", "b", "e"]


async def test_what_was_deleted_again_names_the_commit_that_can_be_undone(store: Store) -> None:
    await carry_out(store, text("a", "b"), order_id="o")
    await restore(store, "o", commit_id="back")
    await restore(store, "back", commit_id="gone")
    with pytest.raises(VersionConflict, match="deleted again by commit gone: 'a', 'b'") as caught:
        await restore(store, "o")
    assert caught.value.next == (run("restore", commit="gone"),)


async def test_no_others_are_promised_where_there_are_none(store: Store) -> None:
    await carry_out(store, text("a"), order_id="o")
    await put(store, "a", seed=2)
    with pytest.raises(VersionConflict) as caught:
        await restore(store, "o")
    assert caught.value.next == (run("log", "a"),)


async def test_portions_are_cut_by_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (await store.stat_many(["a"])).stats["a"].size
    monkeypatch.setattr(restoring, "PORTION_BYTES", 2 * size)
    await carry_out(store, text(*KEYS), order_id="o")
    assert [part.keys for part in (await restore(store, "o")).commits] == [2, 2, 1]


async def test_a_restore_that_fails_in_the_middle_says_what_stands_and_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "PORTION_KEYS", 2)
    before = await values(store)
    await carry_out(store, text(*KEYS), order_id="o")

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            if options["commit_id"].endswith("/0002"):
                raise StoreUnavailable("gone")
            return await store.commit_matrix_update(*arguments, **options)

    report = await restore(Failing(), "o")
    assert (report.code, report.complete, report.restored_keys) == (13, False, 2)
    report = await restore(store, "o")
    assert (report.already, report.restored_keys) == (2, 3)
    assert await values(store) == before


async def test_a_half_done_order_can_be_undone_and_then_goes_on_where_it_was(store: Store) -> None:
    class Dying:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Any:
            if options["commit_id"] == "o/0003":
                raise KilledError
            return await store.commit_matrix_update(*arguments, **options)

    with pytest.raises(KilledError):
        await carry_out(Dying(), text(*KEYS), batch=1, order_id="o")
    assert (await restore(store, "o")).restored_keys == 2
    assert await live(store) == list(KEYS)
    report = await carry_out(store, text(*KEYS), batch=1, order_id="o")
    assert await live(store) == ["a", "b"]  # nothing that was settled is looked at again
    assert report.deleted_keys == 5


async def test_a_dry_run_counts_and_writes_nothing(store: Store) -> None:
    await carry_out(store, text("a", "b"), order_id="o")
    version = (await store.head()).version
    report = await restore(store, "o", dry_run=True)
    assert (report.restored_keys, report.dry_run, report.version) == (2, True, None)
    assert (await store.head()).version == version


async def test_there_is_nothing_to_restore_of_an_order_that_deleted_nothing(store: Store) -> None:
    await carry_out(store, text("zz"), Goal("limit", 1), order_id="o", batch=1)
    with pytest.raises(CommitNotFound, match="deleted nothing"):
        await restore(store, "o")


async def test_partial_is_for_prunes_alone(store: Store) -> None:
    receipt = await put(store, "a", seed=3)
    with pytest.raises(UsageError):
        await restore(store, receipt.commit_id, partial=True)
