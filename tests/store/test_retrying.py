"""The retrying wrapper: held to the contract while calls fail at random, and its outcomes one by one."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from somactl.errors import (
    KeyNotFound,
    OutcomeUnknown,
    StoreBusy,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
)
from somactl.store.contract import Receipt, Store
from somactl.store.sqlite import SqliteStore
from somactl.store.wrapper import Retrying
from somactl.testing import StoreContract
from somactl.testing.notes import names
from somactl.testing.values import envelope, listed, put, write
from support.sqlite_backend import SqliteBackend

Fault = Callable[[str], Exception | None]


class Flaky:
    """A store that asks `before` and `after` each call whether to fail; a scan asks before each page."""

    def __init__(
        self, store: Store, before: Fault = lambda name: None, after: Fault = lambda name: None
    ) -> None:
        self._store = store
        self._before = before
        self._after = after

    def __getattr__(self, name: str) -> Any:
        target = getattr(self._store, name)
        if name in ("name", "namespace", "degradations", "degraded_since_opened", "close"):
            return target
        if name in ("scan", "scan_notes"):
            return partial(self._pages, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            self._maybe(self._before, name)
            result = await target(*arguments, **options)
            self._maybe(self._after, name)
            return result

        return call

    async def _pages(self, name: str, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        self._maybe(self._before, name)
        async for page in getattr(self._store, name)(*arguments, **options):
            yield page
            self._maybe(self._before, name)

    @staticmethod
    def _maybe(fault: Fault, name: str) -> None:
        error = fault(name)
        if error is not None:
            raise error


def faults(*errors: Exception | None) -> Fault:
    """These outcomes in order, then no more."""
    queue = iter(errors)
    return lambda name: next(queue, None)


class FlakyBackend(SqliteBackend):
    """Every third call fails before it does anything."""

    def open(self, namespace: str = "default") -> Any:
        dice = random.Random(namespace)
        flaky: Any = Flaky(
            SqliteStore(self.path, namespace),
            before=lambda name: StoreBusy("try again") if dice.random() < 0.33 else None,
        )
        return Retrying(flaky, seconds=30.0, dice=lambda: 0.01)


class TestRetrying(StoreContract):
    state_machine_examples = 10

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], FlakyBackend]:
        numbers = itertools.count()
        return lambda: FlakyBackend(tmp_path / f"flaky-{next(numbers)}.db")


@pytest.fixture
def inner(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "store.db")


def retrying(
    inner: Store,
    before: Fault = lambda name: None,
    after: Fault = lambda name: None,
    *,
    seconds: float = 5.0,
) -> Retrying:
    flaky: Any = Flaky(inner, before, after)
    return Retrying(flaky, seconds=seconds, dice=lambda: 0.01)


def unknown(commit_id: str = "once") -> OutcomeUnknown:
    return OutcomeUnknown("no reply", commit_id=commit_id)


async def test_a_lost_reply_is_settled_by_the_same_id(inner: SqliteStore) -> None:
    store = retrying(inner, after=faults(unknown()))
    receipt = await put(store, "a", commit_id="once")
    assert (receipt.version, receipt.replayed) == (1, True)
    assert (await store.head()).version == 1
    await store.close()


async def test_a_lost_request_is_sent_again(inner: SqliteStore) -> None:
    store = retrying(inner, before=faults(unknown(), StoreUnavailable("down")))
    receipt = await put(store, "a", commit_id="once")
    assert (receipt.version, receipt.replayed) == (1, False)
    await store.close()


async def test_what_stays_unknown_is_unknown_even_if_the_store_is_down_later(inner: SqliteStore) -> None:
    store = retrying(
        inner, before=lambda name: StoreUnavailable("down") if next(calls) else unknown(), seconds=0.2
    )
    calls = itertools.count()
    with pytest.raises(OutcomeUnknown) as caught:
        await put(store, "a", commit_id="once")
    assert (caught.value.exit_code, caught.value.commit_id) == (14, "once")
    assert next(calls) > 2
    await store.close()


async def test_a_conflict_after_a_lost_request_closes_the_door_first(inner: SqliteStore) -> None:
    """Another writer wins between the two attempts; the first one must not arrive any more."""
    await put(inner, "a")

    def lose_and_overtake(name: str) -> Exception | None:
        return unknown() if next(attempts) == 0 else None

    attempts = itertools.count()
    store = retrying(inner, before=lose_and_overtake)
    with pytest.raises(VersionConflict):
        await put(store, "a", commit_id="once", expected=7)
    assert (await inner.commit_status("once")).state == "aborted"
    await store.close()


async def test_a_refusal_after_a_lost_reply_finds_the_commit(inner: SqliteStore) -> None:
    """The record is there, though the repetition was refused: what happened counts."""
    store = retrying(inner, before=faults(None, StoreFull("full")), after=faults(unknown()))
    receipt = await put(store, "a", commit_id="once")
    assert (receipt.version, receipt.replayed) == (1, True)
    await store.close()


async def test_a_refusal_that_cannot_be_settled_stays_unknown(inner: SqliteStore) -> None:
    errors = faults(unknown(), StoreFull("full"), StoreFull("full"))
    store = retrying(inner, before=errors)
    with pytest.raises(OutcomeUnknown):
        await put(store, "a", commit_id="once")
    await store.close()


# Notes have no ids: what is there settles what became of a write.


async def test_a_lost_reply_about_notes_is_settled_by_what_is_there(inner: SqliteStore) -> None:
    await inner.write_notes({"a": b"0", "gone": b"0"})
    store = retrying(inner, after=faults(unknown("")))
    assert await store.write_notes({"a": b"1", "gone": None, "new": b"1"}, {"a": 1, "gone": 1, "new": 0}) == {
        "a": 2,
        "gone": 0,
        "new": 1,
    }
    await store.close()


async def test_a_lost_reply_about_notes_without_expectations_too(inner: SqliteStore) -> None:
    calls: list[str] = []
    errors = faults(unknown(""))
    store = retrying(inner, before=lambda name: calls.append(name), after=errors)
    assert await store.write_notes({"a": b"1", "never": None}) == {"a": 1, "never": 0}
    assert calls == ["write_notes", "read_notes"]
    await store.close()


async def test_a_lost_write_of_notes_is_sent_again_where_it_cannot_be_done_twice(inner: SqliteStore) -> None:
    store = retrying(inner, before=faults(unknown(""), StoreUnavailable("down")))
    assert await store.write_notes({"a": b"1", "b": None}, {"a": 0, "b": 0, "guard": 0}) == {"a": 1, "b": 0}
    await store.close()


async def test_a_lost_write_of_notes_is_not_sent_again_where_it_could_undo_a_later_one(
    inner: SqliteStore,
) -> None:
    await inner.write_notes({"b": b"0"})
    for expected in (None, {"a": 0}):
        store = retrying(inner, before=faults(unknown("")))
        with pytest.raises(OutcomeUnknown) as caught:
            await store.write_notes({"a": b"1", "b": b"1"}, expected)
        assert (caught.value.exit_code, caught.value.commit_id) == (14, "")
    assert [note.data for note in (await inner.read_notes(["a", "b"])).values()] == [b"0"]
    await inner.close()


@pytest.mark.parametrize("theirs", [[b"theirs"], [b"theirs", b"ours"], [b"ours", b"ours"]])
async def test_notes_that_another_writer_moved_on_meanwhile_stay_unknown(
    inner: SqliteStore, theirs: list[bytes]
) -> None:
    """Whether ours was there in between cannot be told any more."""
    store = retrying(inner, before=faults(unknown("")))
    for data in theirs:
        await inner.write_notes({"a": data})
    with pytest.raises(OutcomeUnknown) as caught:
        await store.write_notes({"a": b"ours"}, {"a": 0})
    assert isinstance(caught.value.__cause__, VersionConflict)
    assert (await inner.read_notes(["a"]))["a"].version == len(theirs)
    await inner.close()


async def test_a_conflict_of_notes_that_was_first_is_a_conflict(inner: SqliteStore) -> None:
    store = retrying(inner, before=faults(StoreBusy("busy")))
    with pytest.raises(VersionConflict):
        await store.write_notes({"a": b"x"}, {"a": 1})
    await store.close()


async def test_notes_that_stay_unknown_are_unknown(inner: SqliteStore) -> None:
    errors = iter([unknown(""), *(StoreUnavailable("down") for _ in range(1000))])
    store = retrying(inner, before=lambda name: next(errors), seconds=0.1)
    with pytest.raises(OutcomeUnknown):
        await store.write_notes({"a": b"1"}, {"a": 0})
    await inner.close()


async def test_a_listing_of_notes_goes_on_after_the_last_page(inner: SqliteStore) -> None:
    wanted = [f"n{number:04}" for number in range(2500)]
    await inner.write_notes(dict.fromkeys(wanted, b""))
    errors = faults(None, StoreBusy("again"), StoreBusy("again"), None, StoreBusy("again"))
    store = retrying(inner, before=errors)
    assert await names(store.scan_notes("n")) == wanted
    await store.close()


async def test_what_is_not_retryable_comes_at_once(inner: SqliteStore) -> None:
    await put(inner, "a")
    calls: list[str] = []
    store = retrying(inner, before=lambda name: calls.append(name))
    with pytest.raises(KeyNotFound):
        await store.read("b")
    with pytest.raises(VersionConflict):
        await put(store, "a", expected=7)
    assert calls == ["read", "commit_matrix_update"]
    await store.close()


async def test_the_time_bounds_the_attempts(inner: SqliteStore) -> None:
    calls = itertools.count()

    def down(name: str) -> Exception:
        return StoreUnavailable(f"attempt {next(calls)}")

    store = retrying(inner, before=down, seconds=0.0)
    with pytest.raises(StoreUnavailable, match="attempt 0"):
        await store.head()
    store = retrying(inner, before=down, seconds=0.1)
    with pytest.raises(StoreUnavailable) as caught:
        await store.head()
    assert caught.value.message != "attempt 1"
    await store.close()


async def test_a_scan_goes_on_after_the_last_page(inner: SqliteStore) -> None:
    keys = [f"k{number:02}" for number in range(20)]
    await write(inner, {key: envelope(key) for key in keys})
    dice = random.Random(3)
    store = retrying(inner, before=lambda name: StoreBusy("again") if dice.random() < 0.5 else None)
    assert [stat.key for stat in await listed(store.scan(page_keys=3))] == keys
    await store.close()


async def test_full_jitter_grows_to_its_ceiling(inner: SqliteStore) -> None:
    store: Retrying = Retrying(inner, seconds=60.0, dice=lambda: 1.0)
    pauses = list(itertools.islice(store._fresh_pauses(), 7))
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert isinstance(await put(store, "a"), Receipt)
    await store.close()
