"""Which orders are carried out, which are not, and that a refused one leaves no trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from prune.orders import carry_out, live, message, text, tombstones
from somactl.core.retention import Goal
from somactl.errors import (
    CommitAborted,
    CommitExpired,
    CommitIdReused,
    CorruptValue,
    KeyNotFound,
    LockHeld,
    NamespaceNotFound,
    OrderRefused,
    SchemaMismatch,
    SomactlError,
    UsageError,
    VersionConflict,
)
from somactl.operations.prune import PruneRequest
from somactl.operations.prune.record import OrderRecord, issuer_note, order_note
from somactl.store.contract import DAY, Retention, Store
from somactl.store.wrapper import ReadOnly
from somactl.testing.values import commit_id_of_age, put
from support.sqlite_backend import SqliteBackend


@pytest_asyncio.fixture
async def store(sqlite_backend: SqliteBackend) -> AsyncIterator[Store]:
    store = sqlite_backend.open()
    await put(store, "a", "b", "c", "d")
    yield store
    await store.close()


async def notes(store: Store) -> list[str]:
    return [note.name async for page in store.scan_notes() for note in page]


async def refused(
    store: Store, expected: type[SomactlError], *arguments: Any, **options: Any
) -> SomactlError:
    """The error; nothing was deleted, remembered or announced, and a dry run foresaw it."""
    with pytest.raises(expected):
        await carry_out(ReadOnly(store), *arguments, **options, dry_run=True)
    before, remembered = await live(store), await notes(store)
    sent: list[str] = []
    with pytest.raises(expected) as caught:
        await carry_out(store, *arguments, **options)
    assert (await live(store), await notes(store)) == (before, remembered)
    assert not sent
    return caught.value


async def test_a_message_is_carried_out_once(store: Store) -> None:
    order = message("c", "zz", "a", now=await store.clock())
    first = await carry_out(store, order)
    assert (first.order_id, first.issuer, first.sequence) == ("order-7", "manager-1", 7)
    assert first.counts == {"deleted": 2, "unknown": 1}
    await put(store, "a", seed=9)
    again = await carry_out(store, order)
    assert again == msgspec.structs.replace(first, replayed=True)
    assert await live(store) == ["a", "b", "d"]


async def test_the_commit_id_of_an_order_is_its_own(store: Store) -> None:
    await carry_out(store, text("a", "b"), order_id="night-1")
    record = (await store.commit_status("night-1")).record
    assert record is not None
    assert record.metadata is not None
    assert record.metadata.command == "prune"
    assert record.metadata.facts["order"] == "night-1"
    assert set(await tombstones(store)) == {"a", "b"}


async def test_the_grace_of_what_is_deleted_is_the_one_asked_for(store: Store) -> None:
    report = await carry_out(store, text("a"), grace=123.0)
    until = (await tombstones(store))["a"].recoverable_until
    assert report.recoverable_until == until
    assert until is not None
    assert 100 < until - await store.clock() <= 123


@pytest.mark.parametrize(
    ("fields", "ruling"),
    [
        ({"namespace": "other"}, "wrong-namespace"),
        ({"issued_at": -100, "expires_at": -1}, "expired"),
        ({"issued_at": 4000, "expires_at": 5000}, "issued-in-future"),
    ],
)
async def test_a_message_that_does_not_apply_now_is_refused(
    store: Store, fields: dict[str, Any], ruling: str
) -> None:
    now = await store.clock()
    times = {name: now + value for name, value in fields.items() if name.endswith("_at")}
    error = await refused(store, OrderRefused, message("a", now=now, **(fields | times)))
    assert error.facts["ruling"] == ruling
    assert error.hint


@pytest.mark.parametrize("sequence", [6, 7])
async def test_a_message_behind_an_accepted_one_is_refused(store: Store, sequence: int) -> None:
    now = await store.clock()
    await carry_out(store, message("a", now=now))
    late = message("b", now=now, order_id="late", sequence=sequence)
    error = await refused(store, OrderRefused, late)
    assert error.facts["ruling"] == "out-of-sequence"


async def test_sequences_of_other_issuers_and_namespaces_do_not_matter(
    store: Store, sqlite_backend: SqliteBackend
) -> None:
    now = await store.clock()
    await carry_out(store, message("a", now=now))
    await carry_out(store, message("b", now=now, order_id="x", issuer="manager 2, née 1", sequence=0))
    other = sqlite_backend.open("other")
    await put(other, "a")
    await carry_out(other, message("a", now=now, namespace="other", sequence=1))
    assert await live(other) == []
    await other.close()


async def test_an_id_stands_for_one_order(store: Store) -> None:
    await carry_out(store, text("a"), order_id="one")
    await refused(store, CommitIdReused, text("b"), order_id="one")
    await refused(store, CommitIdReused, text("b", "a"), order_id="one")


@pytest.mark.parametrize(
    "options",
    [{"goal": Goal("limit", 1)}, {"grace": 5.0}, {"batch": 1}, {"missing": "fail"}, {"changed": "fail"}],
    ids=str,
)
async def test_an_id_stands_for_the_flags_too(store: Store, options: dict[str, Any]) -> None:
    await carry_out(store, text("a"), order_id="one")
    await refused(store, CommitIdReused, text("a"), order_id="one", **options)


async def test_the_id_of_a_commit_is_no_id_for_an_order(store: Store) -> None:
    await put(store, "x", commit_id="taken")
    await refused(store, CommitIdReused, text("a"), order_id="taken")
    await store.commit_status("given-up", resolve=True)
    await refused(store, CommitAborted, text("a"), order_id="given-up")


@pytest.mark.parametrize("taken", ["night", "night/0002"])
async def test_no_part_of_a_batched_order_may_have_the_id_of_a_commit(store: Store, taken: str) -> None:
    await put(store, "x", commit_id=taken)
    error = await refused(store, CommitIdReused, text("a", "b", "c"), batch=2, order_id="night")
    assert f"commit {taken}" in error.message


async def test_a_slice_that_was_given_up_is_no_slice_of_a_new_order(store: Store) -> None:
    await store.commit_status("night/0002", resolve=True)
    await refused(store, CommitAborted, text("a", "b", "c"), batch=2, order_id="night")


async def test_a_generated_id_older_than_the_records_is_refused(store: Store) -> None:
    await refused(store, CommitExpired, text("a"), order_id=commit_id_of_age(31 * 86_400))


async def test_a_message_brings_its_own_id(store: Store) -> None:
    now = await store.clock()
    await refused(store, UsageError, message("a", now=now), order_id="mine")
    report = await carry_out(store, message("a", now=now), order_id="order-7")
    assert report.deleted_keys == 1


async def test_a_grace_that_outlives_the_records_of_the_commits_is_refused(store: Store) -> None:
    error = await refused(store, UsageError, text("a"), grace=30 * DAY + 1)
    assert "--keep-records" in (error.hint or "")
    assert (await carry_out(store, text("a"), grace=30 * DAY)).deleted_keys == 1
    await store.init(retention=Retention(record_seconds=60 * DAY))
    assert (await carry_out(store, text("b"), grace=30 * DAY + 1)).deleted_keys == 1


async def test_a_dry_run_too_asks_whether_the_order_was_meant_for_this_namespace(store: Store) -> None:
    report = await carry_out(ReadOnly(store), text("x", "y"), dry_run=True)
    assert "another namespace" in report.warnings[0]


async def test_lists_get_a_fresh_id_each_time_and_announce_it_first(store: Store) -> None:
    sent: list[tuple[str, list[str]]] = []
    for _ in range(2):
        ids: list[str] = []
        report = await carry_out(store, text("a"), announce=ids.append)
        assert ids == [report.order_id]
        sent.append((ids[0], await live(store)))
    assert sent[0][0] != sent[1][0]


async def test_an_order_of_which_nothing_applies_makes_no_commit_but_a_record(store: Store) -> None:
    version = (await store.head()).version
    report = await carry_out(store, text("x", "y"), order_id="idle")
    assert (await store.head()).version == version
    assert (report.batches, report.counts) == ([], {"unknown": 2})
    assert "another namespace" in report.warnings[0]
    assert (await store.commit_status("idle")).state == "unseen"
    assert (await carry_out(store, text("x", "y"), order_id="idle")).replayed


async def test_missing_fail_deletes_nothing_at_all(store: Store) -> None:
    error = await refused(
        store, KeyNotFound, text("a", "b", "zz", "c"), missing="fail", batch=1, order_id="o"
    )
    assert "line 3" in error.message
    assert error.facts["lines"] == [3]
    report = await carry_out(store, text("a", "b", "zz", "c"), Goal("limit", 2), missing="fail", order_id="o")
    assert report.deleted_keys == 2  # the unknown one comes after the goal, and has no influence


async def test_changed_fail_deletes_nothing_at_all(store: Store) -> None:
    await put(store, "b", seed=5)
    order = b'["a", {"key": "b", "version": 1}, "c"]'
    error = await refused(store, VersionConflict, order, changed="fail", batch=1)
    assert isinstance(error, VersionConflict)
    assert list(error.conflicts) == ["b"]
    report = await carry_out(store, order, batch=1)
    assert report.counts == {"deleted": 2, "changed": 1}
    item = report.not_applied[0]
    assert (item.place, item.key, item.ranked, item.found) == ("item 2 (line 1)", "b", 1, 2)


async def test_more_items_than_a_commit_takes_want_batches(store: Store) -> None:
    order = text(*(f"k{i}" for i in range(10_001)))
    error = await refused(store, UsageError, order)
    assert "--batch 2000" in (error.hint or "")
    assert (await carry_out(store, order, batch=10_000)).counts == {"unknown": 10_001}
    for batch in (0, -1, 10_001):
        await refused(store, UsageError, text("a"), batch=batch)


async def test_there_is_no_namespace_to_prune(sqlite_backend: SqliteBackend) -> None:
    store = sqlite_backend.open("nowhere")
    with pytest.raises(NamespaceNotFound):
        await carry_out(store, text("a"))
    await store.close()
    assert not sqlite_backend.path.exists() or await sqlite_backend.open().namespaces() == []


async def test_a_record_that_a_newer_somactl_wrote_is_left_alone(store: Store) -> None:
    await store.write_notes({order_note("o"): b'{"format": 2}'})
    await refused(store, SchemaMismatch, text("a"), order_id="o")


async def test_an_order_that_a_newer_somactl_was_asked_otherwise_is_left_alone(store: Store) -> None:
    await carry_out(store, text("a"), order_id="o")
    note = (await store.read_notes([order_note("o")]))[order_note("o")]
    record = msgspec.json.decode(note.data or b"")
    newer = record | {"request": {**record["request"], "patience": 5}}
    await store.write_notes({order_note("o"): msgspec.json.encode(newer)})
    await refused(store, SchemaMismatch, text("a"), order_id="o")


def test_what_a_commit_of_an_order_stands_for_is_written_down() -> None:
    """Of another value, no order that is under way could be continued."""
    asked = PruneRequest(goal=Goal("keep", 5), batch=2, grace=60)
    record = OrderRecord(order_id="o", digest="d", request=asked.written(directed=True), items=3, batch=2)
    assert record.request == {"format": 1, "goal": "keep", "amount": 5, "grace": 60.0, "batch": 2}
    assert record.idempotency_key(0, 2) == (
        "acc5c104921ac19e7201add5b0267dc0fdda6ca3eea52ecd87ab20f35bd83f60"
    )


async def test_a_damaged_record_is_said_to_be_one(store: Store) -> None:
    await store.write_notes({order_note("o"): b"rubbish"})
    await refused(store, CorruptValue, text("a"), order_id="o")


async def test_of_two_orders_at_once_the_issuers_sequence_decides(
    store: Store, sqlite_backend: SqliteBackend
) -> None:
    now = await store.clock()
    other = sqlite_backend.open()
    orders = [message("a", now=now), message("b", now=now, order_id="order-8", sequence=8)]
    done = await asyncio.gather(
        carry_out(store, orders[0]), carry_out(other, orders[1]), return_exceptions=True
    )
    await other.close()
    last = (await store.read_notes([issuer_note("manager-1")]))[issuer_note("manager-1")]
    assert b"order-8" in (last.data or b"")
    assert not isinstance(done[1], BaseException)
    if isinstance(done[0], BaseException):
        assert isinstance(done[0], OrderRefused)


async def test_one_order_sent_twice_at_once_is_carried_out_once(
    store: Store, sqlite_backend: SqliteBackend
) -> None:
    order = message("a", "b", now=await store.clock())
    others = [sqlite_backend.open() for _ in range(4)]
    done = await asyncio.gather(*(carry_out(each, order) for each in others), return_exceptions=True)
    for each in others:
        await each.close()
    reports = [one for one in done if not isinstance(one, BaseException)]
    assert reports
    assert all(report.complete or 16 in report.codes for report in reports)
    assert all(isinstance(one, LockHeld) for one in done if isinstance(one, BaseException))
    assert await live(store) == ["c", "d"]
    assert len([c for c in await store.log() if c.metadata and c.metadata.command == "prune"]) == 1
    final = await carry_out(store, order)
    assert (final.replayed, final.deleted_keys) == (True, 2)


async def test_records_say_what_was_accepted(store: Store) -> None:
    await carry_out(store, message("a", "b", now=await store.clock()), batch=1)
    note = (await store.read_notes([order_note("order-7")]))[order_note("order-7")]
    record = msgspec.json.decode(note.data or b"", type=OrderRecord)
    assert (record.items, record.batch) == (2, 1)
    assert record.report is not None
    assert record.request == {"format": 1, "batch": 1}
    assert [batch.commit_id for batch in record.batches] == ["order-7/0001", "order-7/0002"]
