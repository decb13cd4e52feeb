"""Graces: how long a commit lets its deletes be undone, whatever the retention says."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from somactl.errors import KeyNotFound, VersionCompacted
from somactl.store.contract import Compaction, Retention, Stat, Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import (
    compact_by_one,
    compact_fully,
    delete,
    envelope,
    listed,
    prune,
    put,
    put_versions,
    refused,
    removed,
    write,
)

SHORT = Retention(versions=3, seconds=1000.0, record_seconds=5000.0)
EVERY_LIMIT = [1, 2, 3, 500]


def frees_itself(backend: Backend) -> bool:
    """A backend written before there was this attribute frees nothing by itself."""
    return getattr(backend, "frees_itself", False)


async def gone(store: Store, key: str, versions: Iterable[int]) -> None:
    """Nothing answers for the key as of these versions, and the reason is the retention."""
    await refused(VersionCompacted, *(store.read(key, version) for version in versions))


async def tombstones(store: Store) -> list[Stat]:
    return await listed(store.scan(deleted=True))


class GraceChapter(ContractTests):
    async def test_a_tombstone_shows_its_own_deadline(self, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "longer", "plain", "shorter")
        longer = await prune(writer, "longer", grace=2000.0)
        plain = await delete(writer, "plain")
        shorter = await prune(writer, "shorter", grace=0.5)
        receipts = {"longer": (longer, 2000.0), "plain": (plain, 1000.0), "shorter": (shorter, 0.5)}
        for stat in await tombstones(writer):
            receipt, seconds = receipts.pop(stat.key)
            assert (stat.deleted, stat.size) == (True, len(envelope(stat.key)))
            assert stat.recoverable_until == pytest.approx(receipt.committed_at + seconds, abs=1e-3)
        assert not receipts

    async def test_another_retention_does_not_move_a_deadline(self, writer: Store) -> None:
        await put(writer, "a")
        receipt = await prune(writer, "a", grace=50.0)
        await writer.init(retention=SHORT)
        (stat,) = await tombstones(writer)
        assert stat.recoverable_until == pytest.approx(receipt.committed_at + 50.0, abs=1e-3)

    async def test_a_replay_does_not_begin_the_grace_anew(self, backend: Backend, writer: Store) -> None:
        await put(writer, "a")
        receipt = await prune(writer, "a", grace=100.0, commit_id="order")
        await backend.age("default", 40.0)
        assert (await prune(writer, "a", grace=500.0, commit_id="order")).replayed
        (stat,) = await tombstones(writer)
        assert stat.recoverable_until == pytest.approx(receipt.committed_at + 60.0, abs=1e-3)

    async def test_a_second_delete_leaves_the_deadline_alone(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "plain", "pruned")
        plain = await delete(writer, "plain")
        pruned = await prune(writer, "pruned", grace=500.0)
        assert set((await prune(writer, "plain", "pruned", grace=0.0)).noops) == {"plain", "pruned"}
        await delete(writer, "pruned")
        first, second = await tombstones(writer)
        assert first.recoverable_until == pytest.approx(plain.committed_at + 1000.0, abs=1e-3)
        assert second.recoverable_until == pytest.approx(pruned.committed_at + 500.0, abs=1e-3)
        assert await writer.compact(past_grace=True) == Compaction()
        assert len(await backend.stored("default")) == 2

    async def test_nothing_goes_before_the_deadline(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "a")
        await put(writer, "a", seed=1)
        await prune(writer, "a", grace=500.0)
        await backend.age("default", 400)
        for past_grace in (False, True):
            assert await writer.compact(past_grace=past_grace) == Compaction()
            assert await writer.compact(past_grace=past_grace, dry_run=True) == Compaction()
        assert await backend.stored("default") == {("a", 1), ("a", 2)}
        assert bytes((await writer.read("a", 2)).data) == envelope("a", 1)

    async def test_within_its_grace_a_value_comes_back(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=Retention(1, 0.0, 0.0))
        await put(writer, "a")
        await prune(writer, "a", grace=500.0)
        await backend.age("default", 400)
        await compact_fully(writer)
        data = bytes((await writer.read("a", 1)).data)
        assert data == envelope("a")
        assert (await write(writer, {"a": data}, expected=0)).version == 3
        assert bytes((await writer.read("a")).data) == envelope("a")

    async def test_a_grace_longer_than_the_retention_keeps_the_hidden_value(
        self, backend: Backend, writer: Store
    ) -> None:
        await writer.init(retention=Retention(1, 1000.0, 5000.0))
        await put(writer, "a")
        await backend.age("default", 2000)
        receipt = await prune(writer, "a", grace=20_000.0)
        await backend.age("default", 12_000)  # beyond the records' time too
        await compact_fully(writer)
        assert bytes((await writer.read("a", 1)).data) == envelope("a")
        assert [r.version for r in await writer.history("a")] == [2, 1]
        (stat,) = await tombstones(writer)
        assert stat.recoverable_until == pytest.approx(receipt.committed_at + 8000.0, abs=1e-3)
        await backend.age("default", 9000)
        await compact_fully(writer)
        await gone(writer, "a", [1])
        assert (await tombstones(writer), await backend.stored("default")) == ([], set())

    async def test_a_grace_keeps_the_newest_value_alone(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put_versions(writer, 5, "a")
        await prune(writer, "a", grace=20_000.0)
        assert (await writer.compact()).revisions == 2
        assert await backend.stored("default") == {("a", 3), ("a", 4), ("a", 5)}
        await backend.age("default", 1500)
        assert (await writer.compact()).revisions == 2
        assert await backend.stored("default") == {("a", 5)}
        await gone(writer, "a", [1, 2, 3, 4])
        assert bytes((await writer.read("a", 5)).data) == envelope("a", 4)

    async def test_past_a_short_grace_the_key_is_forgotten(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "a")
        await put(writer, "a", seed=1)
        await prune(writer, "a", grace=500.0)
        await put(writer, "b")
        await backend.age("default", 600)
        step = await writer.compact()
        assert (step.tombstones, step.more) == (1, False)
        if not frees_itself(backend):
            assert (step.revisions, step.bytes_freed) == (2, 2 * len(envelope("a")))
        assert await backend.stored("default") == {("b", 4)}
        assert await tombstones(writer) == []
        await gone(writer, "a", [1, 2])
        await refused(KeyNotFound, *(writer.read("a", version) for version in (None, 3, 4)))
        await refused(KeyNotFound, writer.history("a"))
        assert (await put(writer, "a", seed=2, expected=0)).version == 5
        await gone(writer, "a", [1, 2])

    async def test_past_its_grace_a_value_is_itself_or_gone(self, backend: Backend, writer: Store) -> None:
        """A store may free the bytes by itself; it never serves others, and never says `not found`."""
        await put(writer, "a")
        await prune(writer, "a", grace=500.0)
        await backend.age("default", 600)
        try:
            data = (await writer.read("a", 1)).data
        except VersionCompacted:
            assert frees_itself(backend)
        else:
            assert bytes(data) == envelope("a")
        await refused(KeyNotFound, writer.read("a"))

    async def test_no_grace_at_all_can_be_freed_at_once(self, backend: Backend, writer: Store) -> None:
        await put(writer, "a", "b")
        await put(writer, "a", seed=1)
        await prune(writer, "a", grace=0.0)
        plan = await writer.compact(past_grace=True, dry_run=True)
        step = await writer.compact(past_grace=True)
        assert step == plan
        assert (step.tombstones, step.events, step.more) == (1, 0, False)
        assert step.revisions == 2 or frees_itself(backend)
        assert await backend.stored("default") == {("b", 1)}
        await gone(writer, "a", [1, 2])
        await refused(KeyNotFound, writer.read("a"))
        assert await writer.compact(past_grace=True) == Compaction()

    async def test_past_grace_looks_at_nothing_else(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put_versions(writer, 5, "live")
        await put(writer, "plain", "waiting", "again")
        await delete(writer, "plain")
        await prune(writer, "again", grace=0.0)
        await put(writer, "again")
        await prune(writer, "waiting", grace=20_000.0)
        await backend.age("default", 6000)
        before = await backend.stored("default")
        assert await writer.compact(past_grace=True, dry_run=True) == Compaction()
        assert await writer.compact(past_grace=True) == Compaction()
        assert await backend.stored("default") == before
        assert [s.key for s in await tombstones(writer)] == ["plain", "waiting"]
        assert len(await writer.log()) == 10
        await compact_fully(writer)
        assert [s.key for s in await tombstones(writer)] == ["waiting"]
        assert await writer.log() == []
        assert await backend.stored("default") == {("again", 9), ("live", 5), ("waiting", 6)}

    async def test_a_restored_key_is_under_the_retention(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "longer", "shorter")
        await prune(writer, "longer", grace=20_000.0)
        await prune(writer, "shorter", grace=100.0)
        await put(writer, "longer", "shorter", seed=1)
        await backend.age("default", 500)
        assert await writer.compact() == Compaction()
        assert await writer.compact(past_grace=True) == Compaction()
        for key in ("longer", "shorter"):
            assert bytes((await writer.read(key, 1)).data) == envelope(key)
        await backend.age("default", 600)
        assert (await writer.compact()).revisions == 2
        assert await backend.stored("default") == {("longer", 4), ("shorter", 4)}
        await gone(writer, "longer", [1])
        await gone(writer, "shorter", [1])

    async def test_a_later_delete_has_no_own_deadline(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "a")
        await prune(writer, "a", grace=100.0)
        await put(writer, "a", seed=1)
        receipt = await delete(writer, "a")
        (stat,) = await tombstones(writer)
        assert stat.recoverable_until == pytest.approx(receipt.committed_at + 1000.0, abs=1e-3)
        await backend.age("default", 500)
        assert await writer.compact(past_grace=True) == Compaction()
        assert bytes((await writer.read("a", 3)).data) == envelope("a", 1)

    async def test_what_the_same_commit_writes_has_no_deadline(self, backend: Backend, writer: Store) -> None:
        await put(writer, "a", "b")
        await prune(writer, "b", grace=0.0, writes={"a": envelope("a", 1)})
        await compact_fully(writer)
        assert await backend.stored("default") == {("a", 1), ("a", 2)}
        assert bytes((await writer.read("a", 1)).data) == envelope("a")

    @pytest.mark.parametrize("past_grace", [False, True])
    @pytest.mark.parametrize("limit", EVERY_LIMIT)
    async def test_batches_add_up_to_the_dry_run_whatever_is_deleted_how(
        self, backend: Backend, writer: Store, limit: int, past_grace: bool
    ) -> None:
        await writer.init(retention=SHORT)
        await put_versions(writer, 4, "live", "over", "plain", "waiting")
        await delete(writer, "plain")
        await prune(writer, "over", grace=3000.0)
        await prune(writer, "waiting", grace=20_000.0)
        await backend.age("default", 6000)
        before = await backend.stored("default")
        plan = await writer.compact(dry_run=True, limit=limit, past_grace=past_grace)
        assert (await backend.stored("default"), plan.more) == (before, False)
        assert await compact_fully(writer, limit, past_grace=past_grace) == removed(plan)
        assert await writer.compact(past_grace=past_grace) == Compaction()
        assert [s.key for s in await tombstones(writer)] == (
            ["plain", "waiting"] if past_grace else ["waiting"]
        )
        kept = {(key, version) for key, version in before if past_grace and key != "over"}
        assert await backend.stored("default") == kept | {("live", 4), ("waiting", 4)}
        assert bytes((await writer.read("waiting", 4)).data) == envelope("waiting", 3)

    async def test_each_batch_past_a_grace_leaves_true_answers(self, backend: Backend, writer: Store) -> None:
        await put_versions(writer, 4, "a")
        await prune(writer, "a", grace=500.0)
        await backend.age("default", 600)
        await compact_by_one(writer, past_grace=True)
        await gone(writer, "a", [1, 2, 3, 4])

    async def test_graces_are_those_of_one_namespace(self, backend: Backend, writer: Store) -> None:
        other = backend.open("other")
        await other.init()
        await write(other, {"a": envelope("a", namespace="other")})
        await prune(other, "a", grace=0.0)
        assert await writer.compact(past_grace=True) == Compaction()
        assert [s.key for s in await tombstones(other)] == ["a"]
        await other.close()
