"""A checkpoint: moved by compare-and-set, found again after a lost reply, and never guessed at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from somactl.core.retention import Goal
from somactl.errors import (
    CommitAborted,
    CorruptValue,
    InputRejected,
    LockHeld,
    OutcomeUnknown,
    SchemaMismatch,
    StoreDamaged,
    VersionConflict,
)
from somactl.operations.jobs.checkpoint import Checkpoint, arrived, decode_note
from somactl.operations.jobs.wire import Wire, from_wire, identity, to_wire
from somactl.store.contract import Note, Store
from somactl.testing.values import put
from support.sqlite_backend import SqliteBackend


class State(msgspec.Struct, frozen=True):
    done: int
    format: int = 1


def taken() -> LockHeld:
    return LockHeld("another run goes on with it")


async def opened(store: Any) -> Checkpoint[State]:
    return await Checkpoint.open(store, "job/7", State, taken)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteBackend(tmp_path / "store.db").open()
    await put(store, "a")
    yield store
    await store.close()


class NoReply:
    """A store whose first write of notes gets no reply, and did or did not happen; or another's did."""

    def __init__(self, store: Store, *, happens: bool, instead: bytes | None = None) -> None:
        self._store = store
        self._happens = happens
        self._instead = instead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write_notes(self, changes: Any, expected: Any = None) -> Any:
        if self._instead is not None:
            await self._store.write_notes({"job/7": self._instead}, expected)
        if self._happens:
            await self._store.write_notes(changes, expected)
        raise OutcomeUnknown("no reply came", commit_id="")


async def test_of_two_runs_one_stops(store: Store) -> None:
    first, second = await opened(store), await opened(store)
    await first.save(State(1))
    with pytest.raises(LockHeld):
        await second.save(State(1))
    assert await second.overtaken() == State(1)
    await first.save(State(2))
    assert (await opened(store)).state == State(2)
    assert await first.overtaken() is None


async def test_a_state_and_the_notes_beside_it_are_written_together_or_not_at_all(store: Store) -> None:
    checkpoint = await opened(store)
    await checkpoint.save(State(1), {"job/7/page": b"one"}, guards={"issuer": 0})
    await store.write_notes({"issuer": b"moved"})
    with pytest.raises(VersionConflict):
        await checkpoint.save(State(2), {"job/7/page": b"two"}, guards={"issuer": 0})
    assert (await store.read_notes(["job/7/page"]))["job/7/page"].data == b"one"
    await checkpoint.save(None, {"job/7/page": None})
    assert not await store.read_notes(["job/7", "job/7/page"])
    with pytest.raises(LockHeld):
        await (await opened(store)).overtaken()


@pytest.mark.parametrize("state", [State(1), None])
async def test_a_save_without_a_reply_is_found_in_the_store(store: Store, state: State | None) -> None:
    if state is None:
        await (await opened(store)).save(State(1))
    checkpoint = await opened(NoReply(store, happens=True))
    await checkpoint.save(state, {"job/7/page": b"one"})
    assert checkpoint.state == state
    checkpoint._store = store
    await checkpoint.save(State(3))  # from the version that was found


@pytest.mark.parametrize("instead", [None, msgspec.json.encode(State(9))])
async def test_a_save_that_did_not_happen_is_not_taken_for_one(store: Store, instead: bytes | None) -> None:
    checkpoint = await opened(NoReply(store, happens=False, instead=instead))
    with pytest.raises(OutcomeUnknown):
        await checkpoint.save(State(1))
    assert checkpoint.state is None


async def test_an_announced_commit_is_there_or_never_will_be(store: Store) -> None:
    receipt = await put(store, "b")
    record = await arrived(store, receipt.commit_id)
    assert record is not None
    assert record.receipt == receipt
    assert await arrived(store, "never-sent") is None
    with pytest.raises(CommitAborted):
        await put(store, "c", commit_id="never-sent")


@pytest.mark.parametrize("data", [b"", b"{", b'{"done": "1"}', b"\xff", b"[" * 100_000])
def test_a_note_that_no_somactl_wrote_is_damage(data: bytes) -> None:
    note = Note("job/7", 1, len(data), 0.0, data)
    with pytest.raises(CorruptValue, match="job/7"):
        decode_note(note, State)
    with pytest.raises(StoreDamaged, match="job/7"):
        decode_note(note, State, StoreDamaged)


def test_a_newer_format_is_left_to_the_somactl_that_wrote_it() -> None:
    note = Note("job/7", 1, 0, 0.0, b'{"format": 2, "what": "is this"}')
    with pytest.raises(SchemaMismatch, match="newer somactl"):
        decode_note(note, State)


class Asked(Wire, frozen=True, kw_only=True):
    digest: str
    goal: Goal = Goal()
    rate: float | None = None
    pointers: tuple[str, ...] = ()


class AskedLater(Asked, frozen=True, kw_only=True):
    """The same request in a release that knows one thing more."""

    patience: float = 5.0


def test_a_request_is_written_without_its_defaults_and_read_back() -> None:
    asked = Asked(digest="d", rate=5)
    assert to_wire(asked) == {"format": 1, "digest": "d", "rate": 5.0}
    assert from_wire(to_wire(asked), Asked) == Asked(digest="d", rate=5.0)


def test_a_new_option_at_its_default_changes_no_identity() -> None:
    now, later = to_wire(Asked(digest="d", rate=5.0)), to_wire(AskedLater(digest="d", rate=5.0))
    assert identity("audit", now, "of") == identity("audit", later, "of")
    assert identity("audit", now, "of") == identity("audit", dict(reversed(now.items())), "of")
    assert identity("audit", now, "of") != identity("audit", to_wire(Asked(digest="d", rate=5.5)), "of")
    assert identity("audit", now, "of") != identity("audit", now, "another")


# Saved requests and the ids of jobs must outlive this code: a failure here breaks every job under way.
def test_an_identity_is_the_one_that_was_written_down() -> None:
    asked = to_wire(Asked(digest="d", pointers=("/a",)))
    assert identity("audit", asked, "of") == (
        "f53e476ad9f9fffe68309d038a95393f8f712e02788d07daa7b5ef2e18476dd1"
    )


@pytest.mark.parametrize(
    "written",
    [{"format": 2, "digest": "d"}, to_wire(AskedLater(digest="d", patience=6.0))],
    ids=["format", "option"],
)
def test_what_a_newer_somactl_asked_for_is_refused_by_name(written: dict[str, Any]) -> None:
    with pytest.raises(SchemaMismatch, match=r"format 2|'patience'"):
        from_wire(written, Asked)


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"format": "1", "digest": "d"},
        {"format": True, "digest": "d"},
        {"format": 1},
        {"format": 1, "digest": 7},
    ],
)
def test_what_is_no_request_is_refused(written: dict[str, Any]) -> None:
    with pytest.raises(InputRejected):
        from_wire(written, Asked)
