"""Commit ids: replay, reuse, aborting, expiry."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from somactl.errors import CommitAborted, CommitExpired, CommitIdReused, VersionConflict
from somactl.store.contract import CommitMetadata, Expect, Expected, Receipt, Retention, Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import (
    VALID,
    commit_id_of_age,
    compact_fully,
    content_of,
    delete,
    envelope,
    event_versions,
    on_record,
    proof,
    put,
    refused,
    write,
)

HOUR = 3600.0


class IdentityChapter(ContractTests):
    async def test_the_same_request_returns_the_first_receipt(self, backend: Backend, writer: Store) -> None:
        updates = {"a": envelope("a"), "b": None}
        first = await write(writer, updates, commit_id="once", user={"who": "me"})
        again = await write(writer, updates, commit_id="once", user={"who": "me"})
        assert again == replace(first, replayed=True)
        assert (await writer.head()).version == 1
        assert await backend.stored("default") == {("a", 1)}

    async def test_a_replay_is_answered_before_versions_are_looked_at(self, writer: Store) -> None:
        first = await put(writer, "a", expected=0, commit_id="once")
        await put(writer, "a", seed=1)
        await delete(writer, "a")
        again = await put(writer, "a", expected=0, commit_id="once")
        assert again == replace(first, replayed=True)
        assert (await writer.head()).version == 3

    async def test_a_replay_may_use_another_connection(self, backend: Backend, writer: Store) -> None:
        first = await put(writer, "a", commit_id="once")
        other = backend.open()
        assert await put(other, "a", commit_id="once") == replace(first, replayed=True)
        await other.close()

    async def test_what_is_no_part_of_the_request_may_differ_in_a_replay(self, writer: Store) -> None:
        rho = envelope("a", kind="rho")
        relabelled = envelope("a", kind="rho", timestamp=5.0, layout="hermitian", compression="zstd")
        assert content_of(rho) == content_of(relabelled)
        await writer.commit_matrix_update({"a": rho}, CommitMetadata({}, proof(rho), "commit"), commit_id="x")
        other = CommitMetadata({}, {content_of(rho): {**VALID, "more": 1}}, "restore")
        assert (await writer.commit_matrix_update({"a": relabelled}, other, commit_id="x")).replayed
        assert bytes((await writer.read("a")).data) == rho

    async def test_guards_are_compared_and_are_no_part_of_the_request(self, writer: Store) -> None:
        await put(writer, "a")
        update = {"a": envelope("a", seed=1), "b": envelope("b")}
        with pytest.raises(VersionConflict):
            await writer.commit_matrix_update(update, CommitMetadata(guards={"b": 1}), commit_id="x")
        right = CommitMetadata(guards={"a": 1, "b": 0})
        first = await writer.commit_matrix_update(update, right, commit_id="x")
        again = await writer.commit_matrix_update(update, CommitMetadata(guards={"a": 7}), commit_id="x")
        assert again == replace(first, replayed=True)
        with pytest.raises(VersionConflict):  # what the caller expects stands beside what guards him
            await writer.commit_matrix_update({"a": None}, CommitMetadata(guards={"b": 1}), 2, commit_id="y")

    async def test_a_commit_that_stands_for_something_is_known_by_that(self, writer: Store) -> None:
        """The deletes of an order are computed anew when it is sent again, and find another state."""
        await put(writer, "a", "b", "c")
        order = CommitMetadata({"k": "v"}, idempotency_key="the order", grace=100.0, facts={"run": 1})
        first = await writer.commit_matrix_update(
            {"a": None, "b": None}, order, {"a": 1, "b": 1}, commit_id="order"
        )
        again = CommitMetadata({"k": "v"}, idempotency_key="the order", facts={"run": 2}, command="prune")
        for updates, expected in (({"c": None}, {"c": 1}), ({"a": None}, 1), ({"c": envelope("c")}, 7)):
            receipt = await writer.commit_matrix_update(updates, again, expected, commit_id="order")
            assert receipt == replace(first, replayed=True)
        assert (await writer.head()).version == 2
        assert (await writer.read("c")).version == 1

    @pytest.mark.parametrize(
        "other",
        [
            CommitMetadata({"k": "v"}, idempotency_key="another order"),
            CommitMetadata({"k": "v"}),
            CommitMetadata({"k": "w"}, idempotency_key="the order"),
            CommitMetadata(idempotency_key="the order"),
        ],
    )
    async def test_the_same_id_for_what_stands_for_something_else_is_refused(
        self, writer: Store, other: CommitMetadata
    ) -> None:
        order = CommitMetadata({"k": "v"}, idempotency_key="the order")
        await writer.commit_matrix_update({"a": None}, order, commit_id="order")
        await refused(CommitIdReused, writer.commit_matrix_update({"a": None}, other, commit_id="order"))
        await writer.commit_matrix_update({"a": None}, CommitMetadata({"k": "v"}), commit_id="plain")
        await refused(CommitIdReused, writer.commit_matrix_update({"a": None}, order, commit_id="plain"))
        assert (await writer.head()).version == 2

    async def test_neither_facts_nor_grace_are_part_of_a_plain_request(self, writer: Store) -> None:
        await writer.commit_matrix_update({"a": None}, CommitMetadata(facts={"n": 1}), commit_id="x")
        other = CommitMetadata(facts={"n": 2}, grace=7.0)
        assert (await writer.commit_matrix_update({"a": None}, other, commit_id="x")).replayed
        (record,) = await writer.log()
        assert record.metadata == CommitMetadata(facts={"n": 1})

    async def test_the_record_keeps_idempotency_key_grace_and_facts(self, writer: Store) -> None:
        facts = {"lines": [1, 2.5, None, True, "\u00e9\n"], "of": {"nested": {"deep": []}}, "": ""}
        metadata = CommitMetadata(
            {"k": "v"}, {}, "prune", idempotency_key="sha256:0 / --limit 7", grace=86_400.5, facts=facts
        )
        await writer.commit_matrix_update({"a": None}, metadata, commit_id="x")
        (record,) = await writer.log()
        assert record.metadata == metadata
        status = await writer.commit_status("x")
        assert status.record == record

    @pytest.mark.parametrize(
        ("expected", "same"),
        [
            (None, {}),
            (0, {"a": 0, "b": 0}),
            (Expect(version=0), 0),
            ({"a": 0, "b": Expect()}, {"a": Expect(version=0)}),
        ],
    )
    async def test_expectations_that_mean_the_same_are_the_same(
        self, writer: Store, expected: Expected, same: Expected
    ) -> None:
        await put(writer, "a", "b", expected=expected, commit_id="once")
        assert (await put(writer, "b", "a", expected=same, commit_id="once")).replayed

    async def test_the_same_id_for_another_request_is_refused(self, writer: Store) -> None:
        await put(writer, "a", "b", expected=0, commit_id="once", user={"k": "v"})
        others = (
            put(writer, "a", expected=0, commit_id="once", user={"k": "v"}),
            put(writer, "a", "b", seed=1, expected=0, commit_id="once", user={"k": "v"}),
            put(writer, "a", "b", commit_id="once", user={"k": "v"}),
            put(writer, "a", "b", expected={"a": 0}, commit_id="once", user={"k": "v"}),
            put(writer, "a", "b", expected=0, commit_id="once", user={"k": "w"}),
            put(writer, "a", "b", expected=0, commit_id="once"),
            write(writer, {"a": None, "b": None}, expected=0, commit_id="once", user={"k": "v"}),
        )
        await refused(CommitIdReused, *others)
        assert (await writer.head()).version == 1

    async def test_the_id_is_looked_at_before_expectations(self, writer: Store) -> None:
        await put(writer, "a", commit_id="once")
        await refused(CommitIdReused, put(writer, "a", seed=1, expected=7, commit_id="once"))

    async def test_a_conflict_does_not_use_up_the_id(self, writer: Store) -> None:
        await put(writer, "a")
        await refused(VersionConflict, put(writer, "a", expected=0, commit_id="later"))
        assert (await put(writer, "a", expected=1, commit_id="later")).version == 2

    async def test_status_tells_committed_and_unseen(self, writer: Store) -> None:
        receipt = await put(writer, "a", commit_id="done", user={"k": "v"})
        status = await writer.commit_status("done")
        assert status.state == "committed"
        assert status.record is not None
        assert status.record.receipt == on_record(receipt)
        assert status.record.recorded_at == receipt.committed_at
        assert status.record.metadata is not None
        assert status.record.metadata.user == {"k": "v"}
        unseen = await writer.commit_status("other")
        assert (unseen.state, unseen.record) == ("unseen", None)

    async def test_resolve_claims_an_unseen_id_for_good(self, backend: Backend, writer: Store) -> None:
        for _ in range(2):
            status = await writer.commit_status("late", resolve=True)
            assert status.state == "aborted"
            assert status.record is not None
            assert (status.record.receipt, status.record.metadata) == (None, None)
        await refused(CommitAborted, put(writer, "a", commit_id="late"))
        assert (await writer.commit_status("late")).state == "aborted"
        assert (await writer.head()).version == 0
        assert await writer.log() == []
        assert await event_versions(writer) == []

    async def test_resolve_leaves_a_committed_id_alone(self, writer: Store) -> None:
        receipt = await put(writer, "a", commit_id="done")
        status = await writer.commit_status("done", resolve=True)
        assert status.record is not None
        assert (status.state, status.record.receipt) == ("committed", on_record(receipt))

    async def test_ids_differ_where_their_case_differs(self, writer: Store) -> None:
        await put(writer, "a", commit_id="ID")
        assert (await put(writer, "a", commit_id="id")).version == 2

    async def test_the_log_lists_commits_newest_first(self, writer: Store) -> None:
        receipts = [on_record(await put(writer, "a", seed=i, user={"i": str(i)})) for i in range(4)]
        log = await writer.log()
        assert [record.receipt for record in log] == receipts[::-1]
        assert [record.metadata.user["i"] for record in log if record.metadata] == ["3", "2", "1", "0"]
        assert [r.receipt for r in await writer.log(before=3, limit=1)] == [receipts[1]]
        assert await writer.log(before=1) == []
        assert await writer.log(limit=0) == []
        assert len(await writer.log(before=10**30, limit=10**30)) == 4

    async def test_the_log_keeps_the_label_of_what_made_a_commit(self, writer: Store) -> None:
        metadata = CommitMetadata(command="restore")
        await writer.commit_matrix_update({"a": envelope("a")}, metadata, commit_id="x")
        (record,) = await writer.log()
        assert record.metadata == metadata

    async def test_a_generated_id_older_than_the_records_is_refused(self, writer: Store) -> None:
        await writer.init(retention=Retention(record_seconds=HOUR))
        await refused(CommitExpired, put(writer, "a", commit_id=commit_id_of_age(2 * HOUR)))
        assert (await writer.head()).version == 0
        assert (await put(writer, "a", commit_id=commit_id_of_age(HOUR / 2))).version == 1
        assert (await put(writer, "a", commit_id="any-other-id")).version == 2

    async def test_a_known_id_is_answered_however_old_it_is(self, writer: Store) -> None:
        commit_id = commit_id_of_age(2 * HOUR)
        first = await put(writer, "a", commit_id=commit_id)
        await writer.init(retention=Retention(record_seconds=HOUR))
        assert await put(writer, "a", commit_id=commit_id) == replace(first, replayed=True)

    async def test_a_record_outlives_every_usable_id(self, backend: Backend, writer: Store) -> None:
        """An id from a client whose clock is ahead has not expired when its record grows old."""
        await writer.init(retention=Retention(record_seconds=HOUR))
        ahead = commit_id_of_age(-HOUR / 2)
        first = await put(writer, "a", commit_id=ahead)
        await put(writer, "a", commit_id="no-time-in-it")
        await backend.age("default", 2 * HOUR)
        await compact_fully(writer)
        assert (await writer.commit_status("no-time-in-it")).state == "unseen"
        again = await put(writer, "a", commit_id=ahead)
        assert (again.replayed, again.version) == (True, first.version)

    async def test_a_longer_retention_revives_no_expired_id(self, backend: Backend, writer: Store) -> None:
        commit_id = commit_id_of_age(3 * HOUR)
        first: Receipt = await put(writer, "a", commit_id=commit_id)
        await writer.init(retention=Retention(record_seconds=2 * HOUR))
        await backend.age("default", 3 * HOUR)
        await compact_fully(writer)
        assert (await writer.commit_status(commit_id)).state == "unseen"
        await writer.init(retention=Retention(record_seconds=10 * HOUR))
        await refused(CommitExpired, put(writer, "a", commit_id=commit_id))
        assert (await writer.head()).version == first.version
