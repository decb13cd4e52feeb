"""commit_matrix_update: what is written, what is refused, and expectations."""

from __future__ import annotations

import pytest

from somactl.errors import KeyNotFound, VersionConflict
from somactl.store.contract import Expect, Expected, Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import VALID, content_of, delete, envelope, listed, proof, put, refused, write

GOOD = envelope("a")
RHO = envelope("a", kind="rho")


class CommitChapter(ContractTests):
    async def test_a_commit_is_one_version_for_all_its_keys(self, writer: Store) -> None:
        first = await put(writer, "a", "b")
        second = await put(writer, "b", "c", seed=1)
        assert (first.version, second.version) == (1, 2)
        snapshot = await writer.read_many(["a", "b", "c"])
        assert {key: entry.version for key, entry in snapshot.entries.items()} == {"a": 1, "b": 2, "c": 2}

    async def test_the_receipt_tells_what_was_written(self, writer: Store) -> None:
        await put(writer, "gone")
        data = envelope("a")
        receipt = await write(writer, {"a": data, "gone": None, "never": None}, commit_id="the-id")
        head = await writer.head()
        assert (receipt.commit_id, receipt.namespace, receipt.version) == ("the-id", "default", 2)
        assert (receipt.incarnation, head.version) == (head.incarnation, 2)
        assert receipt.keys == {"a": content_of(data), "gone": None, "never": None}
        assert (receipt.noops, receipt.replayed) == (("never",), False)
        authority, *copies = receipt.stores
        assert (authority.store, authority.durability) == (
            writer.name.split("+")[0],
            await writer.durability(),
        )
        assert [copy.durability for copy in copies] == ["memory"] * writer.name.count("+")
        assert receipt.committed_at == (await writer.read("a")).committed_at

    async def test_a_delete_hides_the_value_and_a_put_brings_the_key_back(self, writer: Store) -> None:
        await put(writer, "a")
        await delete(writer, "a")
        await refused(KeyNotFound, writer.read("a"))
        await put(writer, "a", seed=1)
        assert (await writer.read("a")).version == 3
        assert [r.content is None for r in await writer.history("a")] == [False, True, False]

    async def test_deleting_what_is_absent_is_a_recorded_noop(self, writer: Store) -> None:
        receipt = await delete(writer, "never")
        assert (receipt.version, receipt.noops, receipt.keys) == (1, ("never",), {"never": None})
        await put(writer, "a")
        await delete(writer, "a")
        again = await delete(writer, "a")
        assert (again.version, again.noops) == (4, ("a",))
        assert [r.version for r in await writer.history("a")] == [3, 2]
        assert [s.version for s in await listed(writer.scan(deleted=True))] == [3]
        await refused(KeyNotFound, writer.history("never"))

    async def test_the_same_content_again_is_a_version_of_its_own(self, writer: Store) -> None:
        await put(writer, "a")
        assert (await put(writer, "a")).version == 2
        assert (await writer.read("a")).version == 2

    async def test_a_memoryview_is_as_good_as_bytes(self, writer: Store) -> None:
        await write(writer, {"a": memoryview(GOOD)})
        entry = await writer.read("a")
        assert bytes(entry.data) == GOOD
        await write(writer, {"a": entry.data})
        assert bytes((await writer.read("a")).data) == GOOD

    async def test_verdicts_stay_with_what_they_judged(self, writer: Store) -> None:
        verdicts = {**proof(RHO, GOOD)}
        await write(writer, {"a": RHO, "b": envelope("b", kind="sketch")}, verdicts=verdicts)
        assert (await writer.read("a")).verdict == VALID
        assert (await writer.read("b")).verdict is None
        assert (await writer.history("a"))[0].verdict == VALID
        (record,) = await writer.log()
        assert record.metadata is not None
        assert record.metadata.verdicts == proof(RHO)

    async def test_expectations_that_hold(self, writer: Store) -> None:
        incarnation = (await writer.head()).incarnation
        await put(writer, "a", "b", expected=0)
        await put(writer, "a", "b", expected=1)
        await put(writer, "a", expected={"a": 2, "b": 2, "c": 0})
        await put(writer, "a", expected=Expect(3, incarnation, content_of(envelope("a"))))
        await delete(writer, "a", expected=4)
        await put(writer, "a", expected={"a": Expect(version=0), "b": Expect()})
        await put(writer, "c", expected={"b": 2})
        assert (await writer.head()).version == 7

    async def test_a_conflict_names_every_key_and_its_state(self, backend: Backend, writer: Store) -> None:
        await put(writer, "kept", "moved", "deleted")
        await put(writer, "moved", seed=1)
        await delete(writer, "deleted")
        expected: Expected = {"kept": 1, "moved": 1, "deleted": 1, "never": 2}
        with pytest.raises(VersionConflict) as caught:
            await put(writer, "kept", "moved", "deleted", expected=expected, commit_id="refused")
        conflicts = caught.value.conflicts
        assert list(conflicts) == ["moved", "deleted", "never"]
        assert all(conflict["expected"] == {"version": 1} for conflict in list(conflicts.values())[:2])
        found = {key: conflict["found"] for key, conflict in conflicts.items()}
        assert (found["moved"]["version"], found["moved"]["content"]) == (2, content_of(envelope("moved", 1)))
        assert (found["deleted"]["version"], found["deleted"]["deleted_since"]) == (0, 3)
        assert (found["never"]["version"], found["never"]["deleted_since"]) == (0, None)
        assert (await writer.head()).version == 3
        assert (await writer.commit_status("refused")).state == "unseen"
        assert len(await backend.stored("default")) == 4

    @pytest.mark.parametrize(
        "expected",
        [
            0,
            2,
            Expect(incarnation="0" * 32),
            Expect(content="0" * 32),
            Expect(1, None, "0" * 32),
            {"guard": 1},
        ],
        ids=["absent", "other version", "other incarnation", "other content", "one part wrong", "guard"],
    )
    async def test_a_failed_expectation_writes_nothing(self, writer: Store, expected: Expected) -> None:
        await put(writer, "a")
        await refused(VersionConflict, put(writer, "a", seed=1, expected=expected))
        assert (await writer.head()).version == 1
        assert (await writer.read("a")).version == 1

    async def test_one_conflict_stops_the_whole_commit(self, writer: Store) -> None:
        await put(writer, "a")
        await refused(VersionConflict, put(writer, "a", "b", expected={"b": 1}))
        assert [s.key for s in await listed(writer.scan())] == ["a"]

    async def test_a_deleted_key_counts_as_absent(self, writer: Store) -> None:
        await put(writer, "a")
        await delete(writer, "a")
        await refused(VersionConflict, put(writer, "a", expected=1), put(writer, "a", expected=2))
        await put(writer, "a", expected=0)
