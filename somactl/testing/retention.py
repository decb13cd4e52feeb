"""compact: what goes, what stays, and what a read says about what is gone."""

from __future__ import annotations

import pytest

from somactl.errors import KeyNotFound, VersionCompacted
from somactl.store.contract import Compaction, Retention, Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import (
    compact_by_one,
    compact_fully,
    delete,
    envelope,
    event_versions,
    listed,
    put,
    put_versions,
    refused,
    removed,
    write,
)

SHORT = Retention(versions=3, seconds=1000.0, record_seconds=5000.0)


class RetentionChapter(ContractTests):
    async def test_nothing_is_removed_before_its_time(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put_versions(writer, 3, "a")
        await put(writer, "b")
        await delete(writer, "b")
        await backend.age("default", 900)
        assert await writer.compact() == Compaction()
        assert await writer.compact(dry_run=True) == Compaction()
        assert await backend.stored("default") == {("a", 1), ("a", 2), ("a", 3), ("b", 4)}

    async def test_only_compact_removes(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put_versions(writer, 9, "a")
        await backend.age("default", 100_000)
        await put(writer, "a", seed=9)
        for version in range(1, 11):
            assert bytes((await writer.read("a", version)).data) == envelope("a", version - 1)

    async def test_versions_beyond_the_number_kept_go(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put_versions(writer, 5, "a")
        size = len(envelope("a"))
        assert await writer.compact() == Compaction(revisions=2, bytes_freed=2 * size)
        assert await backend.stored("default") == {("a", 3), ("a", 4), ("a", 5)}
        for version in (1, 2):
            with pytest.raises(VersionCompacted) as caught:
                await writer.read("a", version)
            assert caught.value.exit_code == 15
        assert bytes((await writer.read("a", 3)).data) == envelope("a", 2)
        assert [r.compacted for r in await writer.history("a")] == [False, False, False, True, True]

    async def test_versions_superseded_long_ago_go(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "a")
        await put(writer, "a", seed=1)
        await backend.age("default", 1500)
        await put(writer, "a", seed=2)
        await compact_fully(writer)
        # Version 2 is old, but it was superseded only now.
        assert await backend.stored("default") == {("a", 2), ("a", 3)}
        await refused(VersionCompacted, writer.read("a", 1))

    async def test_live_values_are_never_removed(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=Retention(1, 0.0, 0.0))
        await put(writer, "a", "b")
        await put(writer, "a", seed=1)
        await backend.age("default", 1e6)
        await compact_fully(writer)
        assert await backend.stored("default") == {("a", 2), ("b", 1)}
        assert bytes((await writer.read("a")).data) == envelope("a", 1)
        assert bytes((await writer.read("b", 2)).data) == envelope("b")
        assert (await writer.head()).version == 2
        assert (await put(writer, "a", expected=2)).version == 3

    async def test_a_tombstone_keeps_its_value_for_a_time(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=Retention(1, 1000.0, 5000.0))
        await put(writer, "a")
        await backend.age("default", 2000)
        await delete(writer, "a")
        await compact_fully(writer)
        assert bytes((await writer.read("a", 1)).data) == envelope("a")
        assert [s.key for s in await listed(writer.scan(deleted=True))] == ["a"]

    async def test_an_expired_tombstone_is_forgotten(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "a")
        await put(writer, "a", seed=1)
        await delete(writer, "a")
        await put(writer, "b")
        await backend.age("default", 1500)
        step = await writer.compact()
        assert (step.revisions, step.tombstones, step.more) == (2, 1, False)
        assert await listed(writer.scan(deleted=True)) == []
        assert await backend.stored("default") == {("b", 4)}
        await refused(KeyNotFound, writer.read("a"))
        await refused(VersionCompacted, *(writer.read("a", version) for version in (1, 2)))
        await refused(KeyNotFound, *(writer.read("a", version) for version in (3, 4)))
        await refused(KeyNotFound, writer.history("a"))
        await put(writer, "a", seed=2, expected=0)
        await refused(VersionCompacted, writer.read("a", 2))
        assert (await writer.read("a", 5)).version == 5

    async def test_a_gap_in_a_key_s_life_stays_a_gap(self, backend: Backend, writer: Store) -> None:
        """Once the tombstone between two lives is gone, nothing of the first shines through."""
        await writer.init(retention=SHORT)
        await put(writer, "a")
        await delete(writer, "a")
        await put(writer, "other")
        await put(writer, "a", seed=1)
        await backend.age("default", 6000)
        await compact_fully(writer)
        await refused((VersionCompacted, KeyNotFound), *(writer.read("a", version) for version in (1, 2, 3)))
        await refused(VersionCompacted, writer.read("a", 1))
        assert [r.version for r in await writer.history("a")] == [4]

    async def test_history_entries_outlive_their_bytes(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "a")
        await put(writer, "a", seed=1)
        await backend.age("default", 4000)
        await compact_fully(writer)
        assert [(r.version, r.compacted) for r in await writer.history("a")] == [(2, False), (1, True)]
        await backend.age("default", 2000)
        await compact_fully(writer)
        assert [r.version for r in await writer.history("a")] == [2]
        await refused(VersionCompacted, writer.read("a", 1))

    async def test_history_entries_of_a_deleted_key_stay(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put_versions(writer, 5, "a")
        await delete(writer, "a")
        await backend.age("default", 500)
        assert (await writer.compact()).revisions == 2
        history = await writer.history("a")
        assert [r.version for r in history if r.compacted] == [2, 1]
        assert [r.version for r in history if not r.compacted] == [6, 5, 4, 3]

    async def test_records_and_events_go_after_their_time(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put(writer, "a", commit_id="old")
        await writer.commit_status("given-up", resolve=True)
        await backend.age("default", 6000)
        await put(writer, "b", commit_id="new")
        step = await writer.compact()
        assert (step.records, step.events) == (2, 1)
        assert [record.commit_id for record in await writer.log()] == ["new"]
        assert (await writer.commit_status("old")).state == "unseen"
        assert (await writer.commit_status("given-up")).state == "unseen"
        assert await event_versions(writer) == [2]
        assert (await writer.read("a")).commit_id == "old"

    async def test_a_receipt_outlives_the_values_it_tells_of(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        receipt = await put(writer, "a", commit_id="old")
        await delete(writer, "a")
        await backend.age("default", 2000)
        await compact_fully(writer)
        status = await writer.commit_status("old")
        assert status.record is not None
        assert status.record.receipt is not None
        assert status.record.receipt.keys == receipt.keys
        assert (await put(writer, "a", commit_id="old")).replayed

    @pytest.mark.parametrize("limit", [1, 2, 3, 500])
    async def test_batches_add_up_to_the_dry_run(self, backend: Backend, writer: Store, limit: int) -> None:
        await writer.init(retention=SHORT)
        await put_versions(writer, 4, "a", "b")
        await delete(writer, "b")
        await backend.age("default", 6000)
        await put(writer, "a", seed=9)
        before = await backend.stored("default")
        plan = await writer.compact(dry_run=True, limit=limit)
        assert await backend.stored("default") == before
        assert not plan.more
        assert await compact_fully(writer, limit) == removed(plan)
        assert plan.revisions == len(before) - 2
        assert plan.tombstones == 1
        assert await writer.compact() == Compaction()
        assert await backend.stored("default") == {("a", 4), ("a", 6)}

    async def test_every_batch_leaves_true_answers(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=SHORT)
        await put_versions(writer, 4, "a")
        await delete(writer, "a")
        await backend.age("default", 6000)
        await compact_by_one(writer)

    async def test_compacting_leaves_other_namespaces_alone(self, backend: Backend, writer: Store) -> None:
        other = backend.open("other")
        await other.init(retention=SHORT)
        await writer.init(retention=Retention(1, 0.0, 0.0))
        for seed in range(5):
            await write(other, {"a": envelope("a", seed, namespace="other")})
            await put(writer, "a", seed=seed)
        await compact_fully(writer)
        assert len(await backend.stored("other")) == 5
        assert len(await other.log()) == 5
        await other.close()
