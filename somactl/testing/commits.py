"""commit_matrix_update: what is written, what is refused, and expectations."""

from __future__ import annotations

from typing import Any

import pytest

from somactl.core.framing import MAX_ENVELOPE_BYTES
from somactl.errors import (
    BadMagic,
    DigestMismatch,
    EmptyCommit,
    InputRejected,
    InvalidName,
    KeyNotFound,
    LimitExceeded,
    SomactlError,
    TrailingBytes,
    Truncated,
    VerdictMissing,
    VersionConflict,
    WrongAddress,
)
from somactl.store.contract import CommitMetadata, Expect, Expected, Store
from somactl.testing.backend import Backend
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import VALID, content_of, delete, envelope, fresh_id, listed, proof, put, write

GOOD = envelope("a")
RHO = envelope("a", kind="rho")
ENDLESS: dict[str, Any] = {}
ENDLESS["x"] = [ENDLESS]


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


BAD_REQUESTS: dict[str, tuple[dict[str, Any], type[SomactlError]]] = {
    "no updates": ({}, EmptyCommit),
    "empty key": ({"": None}, InvalidName),
    "newline in a key": ({"a\nb": None}, InvalidName),
    "NUL in a key": ({"a\0": None}, InvalidName),
    "long key": ({"k" * 1025: None}, InvalidName),
    "surrogate in a key": ({"\ud800": None}, InvalidName),
    "no envelope": ({"a": b"[[1, 0], [0, 0]]"}, BadMagic),
    "truncated": ({"a": GOOD[:-1]}, Truncated),
    "nothing": ({"a": b""}, Truncated),
    "extended": ({"a": GOOD + b"\0"}, TrailingBytes),
    "flipped in the payload": ({"a": flipped(GOOD, len(GOOD) - 1)}, DigestMismatch),
    "flipped in the header": ({"a": flipped(GOOD, 40)}, DigestMismatch),
    "another key's": ({"b": GOOD}, WrongAddress),
    "another namespace's": ({"a": envelope("a", namespace="other")}, WrongAddress),
    "rho without a verdict": ({"a": RHO}, VerdictMissing),
    "bad among good": ({"a": GOOD, "b": GOOD}, WrongAddress),
}


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
        with pytest.raises(KeyNotFound):
            await writer.read("a")
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
        with pytest.raises(KeyNotFound):
            await writer.history("never")

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

    @pytest.mark.parametrize("case", BAD_REQUESTS)
    async def test_a_bad_request_writes_nothing(self, backend: Backend, writer: Store, case: str) -> None:
        updates, error = BAD_REQUESTS[case]
        with pytest.raises(error) as caught:
            await write(writer, updates, commit_id="refused")
        assert caught.value.exit_code == 11
        await self.nothing_written(backend, writer, "refused")

    async def test_the_refusal_names_the_key(self, writer: Store) -> None:
        with pytest.raises(Truncated, match="'a'"):
            await write(writer, {"a": GOOD[:-1]})

    async def test_too_large_an_envelope_is_refused_by_its_size_alone(
        self, backend: Backend, writer: Store
    ) -> None:
        with pytest.raises(LimitExceeded):
            await write(writer, {"a": bytes(MAX_ENVELOPE_BYTES + 1)}, commit_id="refused")
        await self.nothing_written(backend, writer, "refused")

    async def test_too_large_a_commit_is_refused_by_its_size_alone(
        self, backend: Backend, writer: Store
    ) -> None:
        quarter = memoryview(bytes(MAX_ENVELOPE_BYTES))
        with pytest.raises(LimitExceeded):
            await write(writer, {f"k{i}": quarter for i in range(5)}, commit_id="refused")
        await self.nothing_written(backend, writer, "refused")

    @pytest.mark.parametrize("commit_id", ["", "with space", "x" * 129, "new\nline"])
    async def test_a_bad_commit_id_is_refused(self, writer: Store, commit_id: str) -> None:
        with pytest.raises(InvalidName):
            await writer.commit_matrix_update({"a": GOOD}, CommitMetadata(), commit_id=commit_id)
        with pytest.raises(InvalidName):
            await writer.commit_status(commit_id)

    @pytest.mark.parametrize("status", ["clampable", "violated", "undecided", None])
    async def test_a_rho_needs_a_valid_verdict(
        self, backend: Backend, writer: Store, status: str | None
    ) -> None:
        verdicts = {content_of(RHO): {"status": status}}
        with pytest.raises(VerdictMissing):
            await write(writer, {"a": RHO}, verdicts=verdicts, commit_id="refused")
        await self.nothing_written(backend, writer, "refused")

    async def test_a_verdict_for_another_matrix_is_none(self, writer: Store) -> None:
        with pytest.raises(VerdictMissing):
            await write(writer, {"a": RHO}, verdicts=proof(envelope("a", 1, kind="rho")))

    async def test_verdicts_stay_with_what_they_judged(self, writer: Store) -> None:
        verdicts = {**proof(RHO, GOOD)}
        await write(writer, {"a": RHO, "b": envelope("b", kind="sketch")}, verdicts=verdicts)
        assert (await writer.read("a")).verdict == VALID
        assert (await writer.read("b")).verdict is None
        assert (await writer.history("a"))[0].verdict == VALID
        (record,) = await writer.log()
        assert record.metadata is not None
        assert record.metadata.verdicts == proof(RHO)

    @pytest.mark.parametrize(
        "metadata",
        [
            CommitMetadata(user={"n": 1}),  # type: ignore[dict-item]
            CommitMetadata(user={"n": "\ud800"}),
            CommitMetadata(user={"n": "x" * 100_000}),
            CommitMetadata(verdicts={content_of(RHO): {"status": "valid", "x": float("nan")}}),
            CommitMetadata(verdicts={content_of(RHO): {"status": "valid", "x": object()}}),
            CommitMetadata(verdicts=proof(RHO), facts={"x": float("nan")}),
            CommitMetadata(verdicts=proof(RHO), facts={"x": [float("-inf")]}),
            CommitMetadata(verdicts=proof(RHO), facts={"x": object()}),
            CommitMetadata(verdicts=proof(RHO), facts={"x": "\ud800"}),
            CommitMetadata(verdicts=proof(RHO), facts={"x": "x" * 100_000}),
            CommitMetadata(verdicts=proof(RHO), facts={1: "x"}),  # type: ignore[dict-item]
            CommitMetadata(verdicts=proof(RHO), facts=ENDLESS),
            CommitMetadata(verdicts=proof(RHO), idempotency_key=""),
            CommitMetadata(verdicts=proof(RHO), idempotency_key="x" * 257),
            CommitMetadata(verdicts=proof(RHO), idempotency_key="a\nb"),
            CommitMetadata(verdicts=proof(RHO), idempotency_key="\u00e9"),
            CommitMetadata(verdicts=proof(RHO), idempotency_key=7),  # type: ignore[arg-type]
        ],
    )
    async def test_metadata_that_are_no_json_or_too_large_are_refused(
        self, backend: Backend, writer: Store, metadata: CommitMetadata
    ) -> None:
        with pytest.raises(InputRejected):
            await writer.commit_matrix_update({"a": RHO}, metadata, commit_id="refused")
        await self.nothing_written(backend, writer, "refused")

    @pytest.mark.parametrize("expected", [-1, True, {"a": 1.5}, {"a\n": 1}, {"a": Expect(version=-2)}])
    async def test_an_expectation_that_means_nothing_is_refused(self, writer: Store, expected: Any) -> None:
        with pytest.raises(InputRejected):
            await put(writer, "a", expected=expected)
        assert (await writer.head()).version == 0

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

    async def test_a_conflict_names_every_key_with_what_is_there(
        self, backend: Backend, writer: Store
    ) -> None:
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
    async def test_an_expectation_that_does_not_hold_writes_nothing(
        self, writer: Store, expected: Expected
    ) -> None:
        await put(writer, "a")
        with pytest.raises(VersionConflict):
            await put(writer, "a", seed=1, expected=expected)
        assert (await writer.head()).version == 1
        assert (await writer.read("a")).version == 1

    async def test_one_conflict_stops_the_whole_commit(self, writer: Store) -> None:
        await put(writer, "a")
        with pytest.raises(VersionConflict):
            await put(writer, "a", "b", expected={"b": 1})
        assert [s.key for s in await listed(writer.scan())] == ["a"]

    async def test_a_deleted_key_counts_as_absent(self, writer: Store) -> None:
        await put(writer, "a")
        await delete(writer, "a")
        with pytest.raises(VersionConflict):
            await put(writer, "a", expected=1)
        with pytest.raises(VersionConflict):
            await put(writer, "a", expected=2)
        await put(writer, "a", expected=0)

    async def test_every_commit_leaves_one_event(self, backend: Backend, writer: Store) -> None:
        await put(writer, "a")
        await put(writer, "a", commit_id="twice")
        await put(writer, "a", commit_id="twice")
        with pytest.raises(VersionConflict):
            await put(writer, "a", expected=0)
        await delete(writer, "never")
        if backend.outbox:
            assert await backend.events("default") == [1, 2, 3]

    async def nothing_written(self, backend: Backend, store: Store, commit_id: str) -> None:
        assert (await store.head()).version == 0
        assert (await store.commit_status(commit_id)).state == "unseen"
        assert await backend.stored("default") == set()
        assert not backend.outbox or await backend.events("default") == []
        assert (await put(store, "a", commit_id=fresh_id())).version == 1
