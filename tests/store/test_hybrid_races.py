"""Each race that docs/STORE_HYBRID.md tells of, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from somactl.errors import KeyNotFound, OutcomeUnknown, StoreUnavailable
from somactl.store.cached import INITIALISING
from somactl.store.contract import CommitMetadata, Entry, Receipt, Snapshot
from somactl.store.hybrid import HybridStore
from somactl.store.redis.cache_entries import NAME as CACHE
from store.hybrid_model import NAME as AUTHORITY, TTL, Held, Scene, value_of

MOMENT = 0.001
"""Redis keeps a key to the very end of its last millisecond."""


class Play(Scene):
    """Two stores, and shorthands for what they do."""

    @property
    def one(self) -> HybridStore:
        return self.stores[0]

    @property
    def two(self) -> HybridStore:
        return self.stores[1]

    async def put(self, store: HybridStore, seed: int, *keys: str) -> Receipt:
        return await self.do(self.putting(store, seed, *keys))

    def putting(self, store: HybridStore, seed: int, *keys: str) -> Any:
        updates = {key: value_of(key, seed) for key in keys or ("a",)}
        return store.commit_matrix_update(updates, CommitMetadata(), commit_id=f"put-{seed}")

    async def delete(self, store: HybridStore, number: int) -> Receipt:
        return await self.do(
            store.commit_matrix_update({"a": None}, CommitMetadata(), commit_id=f"delete-{number}")
        )

    async def read(self, store: HybridStore) -> tuple[int, str]:
        """Which version was read, and who served it."""
        entry: Entry = await self.do(store.read("a"))
        return entry.version, entry.served_by

    async def held_at(self, label: str, call: Any) -> Held:
        held = await self.begin(call)
        await self.go_to(held, label)
        return held

    def lose(self) -> None:
        """The server drops the entry, as one that is short of memory does."""
        self.server.raw.delete("somactl:cache:{default}:a")

    def seconds_left(self) -> float:
        left: int = self.server.raw.pttl("somactl:cache:{default}:a")
        return left / 1000


@pytest_asyncio.fixture
async def play() -> AsyncIterator[Play]:
    play = Play()
    await play.open(2)
    yield play
    await play.close()


async def test_a_commit_is_read_from_the_cache_by_all(play: Play) -> None:
    receipt = await play.put(play.one, 1)
    assert [(d.store, d.durability) for d in receipt.stores] == [(AUTHORITY, "fsync"), (CACHE, "memory")]
    assert await play.read(play.one) == (1, CACHE)
    assert await play.read(play.two) == (1, CACHE)
    assert play.one.degradations == ()


async def test_a_miss_is_filled_and_the_next_read_is_a_hit(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    assert await play.read(play.two) == (1, AUTHORITY)
    assert await play.read(play.two) == (1, CACHE)


async def test_a_late_fill_does_not_displace_a_newer_commit(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    late = await play.held_at(">put", play.two.read("a"))
    await play.put(play.one, 2)
    await play.go_on(late)
    assert (await late.task).version == 1
    assert await play.read(play.two) == (2, CACHE)
    assert play.caches[1].counts.older == 1


async def test_a_late_fill_does_not_bring_a_deleted_key_back(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    late = await play.held_at(">put", play.two.read("a"))
    await play.delete(play.one, 2)
    await play.go_on(late)
    for store in play.stores:
        with pytest.raises(KeyNotFound):
            await play.do(store.read("a"))
    assert b"envelope" not in play.account("a")


async def test_a_commit_that_sleeps_before_the_cache_does_not_displace_a_newer_one(play: Play) -> None:
    late = await play.held_at(">put", play.putting(play.one, 1))
    await play.put(play.two, 2)
    await play.go_on(late)
    receipt = await late.task
    assert receipt.version == 1
    assert receipt.stores[-1].store == CACHE  # it holds nothing older than this commit
    assert await play.read(play.one) == (2, CACHE)


async def test_the_age_of_a_copy_counts_from_before_the_authority_was_asked(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    reader = await play.held_at("<read", play.two.read("a"))  # the authority has answered
    play.clock.now += 0.6 * TTL
    await play.put(play.one, 2)
    play.lose()
    await play.go_on(reader)
    assert play.seconds_left() == pytest.approx(0.4 * TTL)
    assert await play.read(play.two) == (1, CACHE)  # outdated, and within the bound
    play.clock.now += 0.4 * TTL + MOMENT
    assert await play.read(play.two) == (2, AUTHORITY)


async def test_a_fill_whose_time_is_up_is_refused(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    late = await play.held_at(">put", play.two.read("a"))
    play.clock.now += TTL
    await play.go_on(late)
    assert play.account("a") == {}
    assert play.caches[1].counts.late == 1


async def test_the_age_of_a_commit_counts_from_before_it_was_sent(play: Play) -> None:
    late = await play.held_at("<commit", play.putting(play.one, 1))
    play.clock.now += 0.7 * TTL
    await play.go_on(late)
    assert play.seconds_left() == pytest.approx(0.3 * TTL)


async def test_a_commit_that_comes_too_late_for_the_cache_still_displaces_what_is_older(play: Play) -> None:
    await play.put(play.one, 1)
    late = await play.held_at(">put", play.putting(play.one, 2))
    play.clock.now += 0.9 * TTL
    play.lose()
    outdated = await play.held_at("<read", play.two.read("a"))
    assert outdated.number
    play.clock.now += 0.2 * TTL
    await play.go_on(late)
    assert [d.store for d in (await late.task).stores] == [AUTHORITY]
    assert play.account("a")[b"version"] == b"2"
    assert play.account("a")[b"content"] == b""


async def test_every_entry_expires(play: Play) -> None:
    await play.put(play.one, 1, "a", "b")
    await play.delete(play.one, 2)
    await play.do(play.two.read("b"))
    names = play.server.raw.keys()
    assert len(names) == 3
    assert all(0 < play.server.raw.ttl(name) <= 2 * TTL for name in names)
    play.clock.now += 2 * TTL + MOMENT
    assert play.server.raw.keys() == []


async def test_a_reader_with_a_shorter_ttl_takes_nothing_older(play: Play) -> None:
    hasty = play.add(ttl=0.1 * TTL)
    await play.put(play.one, 1)
    play.clock.now += 0.05 * TTL
    assert await play.read(hasty) == (1, CACHE)
    play.clock.now += 0.1 * TTL
    assert await play.read(play.two) == (1, CACHE)
    assert await play.read(hasty) == (1, AUTHORITY)


async def test_a_clock_that_was_set_back_makes_no_copy_younger(play: Play) -> None:
    await play.put(play.one, 1)
    play.clock.now -= 3600
    assert await play.read(play.two) == (1, AUTHORITY)


async def test_a_confirmed_copy_lives_longer(play: Play) -> None:
    """The authority was asked again: the same version is the newest still."""
    await play.put(play.one, 1)
    play.clock.now += 0.05 * TTL
    hasty = play.add(ttl=0.02 * TTL)
    await play.do(hasty.read("a"))  # too old for it, so it asks, and tells
    assert play.seconds_left() == pytest.approx(0.95 * TTL)
    assert int(play.account("a")[b"filled_at"]) == pytest.approx(play.clock.now * 1e6)


async def test_a_value_that_changes_between_look_and_fetch_is_a_miss(play: Play) -> None:
    """Larger values come by a second call; by then another one may lie there."""
    big = {"a": value_of("a", 1, n=10)}
    await play.do(play.one.commit_matrix_update(big, CommitMetadata(), commit_id="big"))
    reader = await play.held_at(">value", play.two.read("a"))
    await play.put(play.one, 2)
    await play.go_on(reader)
    entry = await reader.task
    assert (entry.version, entry.served_by) == (2, AUTHORITY)
    assert play.caches[1].counts.corrupt == 0


# Deaths and outages.


async def test_a_client_that_dies_between_the_two_leaves_a_copy_that_was_committed_and_expires(
    play: Play,
) -> None:
    await play.put(play.one, 1)
    dead = await play.held_at(">put", play.putting(play.one, 2))
    assert await play.read(play.two) == (1, CACHE)
    play.clock.now += TTL + MOMENT
    assert await play.read(play.two) == (2, AUTHORITY)
    assert not dead.task.done()


async def test_the_repetition_of_a_commit_repairs_the_cache(play: Play) -> None:
    await play.put(play.one, 1)
    await play.held_at(">put", play.putting(play.one, 2))  # it dies there
    receipt = await play.put(play.two, 2)
    assert receipt.replayed
    assert await play.read(play.two) == (2, CACHE)


async def test_the_repetition_of_an_order_repairs_the_keys_that_it_deleted_first(play: Play) -> None:
    """Computed anew, its deletes are others: `a` is gone already. What the first run did is what counts."""
    await play.put(play.one, 1, "a", "b")
    order = CommitMetadata(idempotency_key="the order")

    def send(store: HybridStore, key: str) -> Any:
        return store.commit_matrix_update({key: None}, order, commit_id="order")

    await play.held_at(">put", send(play.one, "a"))  # it dies there
    assert await play.read(play.two) == (1, CACHE)
    receipt = await play.do(send(play.two, "b"))
    assert (receipt.replayed, list(receipt.keys)) == (True, ["a"])
    with pytest.raises(KeyNotFound):
        await play.read(play.two)
    assert (await play.do(play.two.read("b"))).version == 1


async def test_the_repetition_of_an_old_commit_brings_no_old_value_back(play: Play) -> None:
    await play.put(play.one, 1)
    await play.put(play.one, 2)
    play.lose()
    assert (await play.put(play.two, 1)).replayed
    assert await play.read(play.two) == (2, CACHE)
    await play.delete(play.one, 3)
    play.lose()
    assert (await play.put(play.two, 1)).replayed
    with pytest.raises(KeyNotFound):
        await play.do(play.two.read("a"))


async def test_commits_acknowledged_out_of_order_are_not_read_back_in_that_order(play: Play) -> None:
    """The older one of two commits of a store sleeps before the cache, and the newer one is evicted."""
    late = await play.held_at(">put", play.putting(play.one, 1))
    await play.put(play.one, 2)
    play.lose()
    await play.go_on(late)
    assert (await late.task).version == 1
    assert await play.read(play.one) == (2, AUTHORITY)


async def test_nobody_joins_a_question_that_is_older_than_a_copy_may_be(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    slow = await play.held_at("<read", play.two.read("a"))
    await play.put(play.one, 2)
    play.lose()
    play.clock.now += TTL + MOMENT
    assert await play.read(play.two) == (2, AUTHORITY)
    await play.go_on(slow)
    assert (await slow.task).version == 1


async def test_a_commit_under_an_outage_is_durable_and_not_read_stale_by_its_own_process(play: Play) -> None:
    await play.put(play.one, 1)
    play.caches[0].up = False
    receipt = await play.put(play.one, 2)
    assert [d.store for d in receipt.stores] == [AUTHORITY]
    (degraded,) = play.one.degradations
    assert degraded.service == CACHE
    assert "of 1 key" in degraded.detail
    assert "100 s" in degraded.detail
    assert await play.read(play.two) == (1, CACHE)  # to others, for at most the ttl
    play.caches[0].up = True
    assert await play.read(play.one) == (2, AUTHORITY)
    assert await play.read(play.two) == (2, CACHE)


async def test_a_cache_that_is_back_is_told_what_it_missed_before_anybody_reads_from_it(play: Play) -> None:
    await play.put(play.one, 1, "a", "b")
    play.caches[0].up = False
    await play.put(play.one, 2, "a", "b")
    for _ in range(3):
        assert await play.read(play.one) == (2, AUTHORITY)
    assert play.one.degradations[0].breaker == "open"
    play.caches[0].up = True
    assert await play.read(play.one) == (2, AUTHORITY)  # this one finds out beside itself
    assert play.one.degradations == ()
    (past,) = play.one.degraded_since_opened
    assert (past.service, past.count) == (CACHE, play.caches[0].counts.failures)
    assert [play.account(key)[b"content"] for key in ("a", "b")] == [b"", b""]
    assert await play.read(play.two) == (2, AUTHORITY)
    assert await play.read(play.two) == (2, CACHE)


async def test_while_the_breaker_is_open_nothing_is_asked_of_the_cache(play: Play) -> None:
    await play.put(play.one, 1)
    play.caches[0].up = False
    for _ in range(3):
        await play.read(play.one)
    breaker = play.one._copies.breaker
    breaker._until = play.clock.now + 1000
    assert breaker.state == "open"
    failures = play.caches[0].counts.failures
    assert await play.read(play.one) == (1, AUTHORITY)
    await play.put(play.one, 2)
    assert play.caches[0].counts.failures == failures == 3


async def test_a_lost_reply_leaves_no_copy_in_doubt(play: Play) -> None:
    await play.put(play.one, 1)
    play.authority.lost_replies = 1
    with pytest.raises(OutcomeUnknown):
        await play.put(play.one, 2)
    assert await play.read(play.two) == (2, AUTHORITY)
    assert await play.read(play.one) == (2, AUTHORITY)


async def test_a_cancelled_commit_still_reaches_the_cache(play: Play) -> None:
    await play.put(play.one, 1)
    commit = await play.held_at("<commit", play.putting(play.one, 2))
    commit.task.cancel()
    await play.go_on(commit)
    assert commit.task.cancelled()
    assert await play.read(play.two) == (2, CACHE)


async def test_a_damaged_entry_is_a_counted_miss_and_repaired(play: Play) -> None:
    await play.put(play.one, 1)
    name = "somactl:cache:{default}:a"
    data = play.account("a")[b"envelope"]
    play.server.raw.hset(name, "envelope", data[:-1] + bytes([data[-1] ^ 1]))
    assert await play.read(play.two) == (1, AUTHORITY)
    assert (play.caches[1].counts.corrupt, play.caches[1].counts.evicted) == (1, 1)
    assert await play.read(play.two) == (1, CACHE)
    assert bytes((await play.do(play.two.read("a"))).data) == value_of("a", 1)


async def test_a_foreign_value_under_our_name_is_a_counted_miss_and_repaired(play: Play) -> None:
    await play.put(play.one, 1)
    play.server.raw.set("somactl:cache:{default}:a", "mine")
    assert await play.read(play.two) == (1, AUTHORITY)
    assert play.caches[1].counts.corrupt == 1
    assert await play.read(play.two) == (1, CACHE)


async def test_of_other_kinds_no_copies_are_kept_and_no_older_ones_left(play: Play) -> None:
    await play.put(play.one, 1)
    choosy = play.add(kinds=frozenset({"rho"}))
    receipt = await play.put(choosy, 2)
    assert receipt.stores[-1].store == CACHE
    assert play.account("a")[b"content"] == b""
    for _ in range(2):
        assert await play.read(choosy) == (2, AUTHORITY)
    assert await play.read(play.one) == (2, AUTHORITY)
    assert await play.read(play.one) == (2, CACHE)  # this one keeps copies of all kinds


# Reads that share a fill.


async def test_concurrent_misses_share_one_question(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    first = await play.held_at("<read", play.two.read("a"))
    others = [await play.begin(play.two.read("a"), None) for _ in range(3)]
    assert not any(other.task.done() for other in others)
    asked = play.authority.asked["read"]
    await play.go_on(first)
    assert [(await held.task).version for held in (first, *others)] == [1] * 4
    assert play.authority.asked["read"] == asked


async def test_the_cancellation_of_one_does_not_poison_the_others(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    first = await play.held_at("<read", play.two.read("a"))
    other = await play.begin(play.two.read("a"), None)
    first.task.cancel()
    await play.go_on(first)
    assert first.task.cancelled()
    assert (await other.task).version == 1
    assert await play.read(play.two) == (1, CACHE)


async def test_nobody_joins_a_question_from_before_their_own_commit(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    slow = await play.held_at("<read", play.one.read("a"))
    play.caches[0].up = False
    await play.put(play.one, 2)
    assert await play.read(play.one) == (2, AUTHORITY)
    await play.go_on(slow)
    assert (await slow.task).version == 1


async def test_nobody_joins_a_question_from_before_a_delete_that_the_cache_tells_of(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    slow = await play.held_at("<read", play.two.read("a"))
    await play.delete(play.one, 2)
    with pytest.raises(KeyNotFound):
        await play.do(play.two.read("a"))
    await play.go_on(slow)
    assert (await slow.task).version == 1


# One version for many keys.


async def test_read_many_takes_copies_of_the_right_version_alone(play: Play) -> None:
    await play.put(play.one, 1, "a", "b")
    play.caches[0].up = False
    await play.put(play.one, 2, "a")  # the cache does not learn of it
    snapshot: Snapshot = await play.do(play.two.read_many(["a", "b"]))
    assert {k: (e.version, e.served_by) for k, e in snapshot.entries.items()} == {
        "a": (2, AUTHORITY),
        "b": (1, CACHE),
    }
    assert snapshot.version == 2


async def test_read_many_never_mixes_versions(play: Play) -> None:
    await play.put(play.one, 1, "a", "b")
    play.lose()
    reader = await play.held_at(">read_many", play.two.read_many(["a", "b"]))
    await play.put(play.one, 2, "a", "b")  # after the versions were fixed, before the rest is read
    await play.go_on(reader)
    snapshot = await reader.task
    assert {entry.version for entry in snapshot.entries.values()} == {2} == {snapshot.version}


async def test_read_many_gives_up_on_the_cache_where_versions_do_not_stand_still(play: Play) -> None:
    await play.put(play.one, 1, "a", "b")
    play.lose()
    reader = await play.begin(play.two.read_many(["a", "b"]))
    for seed in range(2, 5):
        await play.go_to(reader, ">read_many")
        await play.put(play.one, seed, "b")
        play.lose()
        await play.go_on(reader, 1)
    await play.go_on(reader)
    snapshot = await reader.task
    assert {key: entry.version for key, entry in snapshot.entries.items()} == {"a": 1, "b": 4}
    assert {entry.served_by for entry in snapshot.entries.values()} == {AUTHORITY}


async def test_read_many_needs_the_authority(play: Play) -> None:
    await play.put(play.one, 1)
    play.authority.up = False
    with pytest.raises(StoreUnavailable):
        await play.do(play.two.read_many(["a"]))


# Incarnations.


async def test_after_a_restore_nothing_from_before_it_is_served(play: Play) -> None:
    await play.put(play.one, 1)
    play.authority.make_backup()
    await play.put(play.one, 2)
    play.authority.restore_backup()
    await play.do(play.one.init(new_incarnation=True))
    for store, served_by in ((play.two, AUTHORITY), (play.one, CACHE)):
        entry = await play.do(store.read("a"))
        assert (entry.version, entry.incarnation, entry.served_by) == (1, "incarnation-1", served_by)


async def test_a_reader_that_slept_through_a_restore_fills_nothing(play: Play) -> None:
    await play.put(play.one, 1)
    play.authority.make_backup()
    await play.put(play.one, 2)
    play.lose()
    late = await play.held_at(">put", play.two.read("a"))
    play.authority.restore_backup()
    await play.do(play.one.init(new_incarnation=True))
    await play.go_on(late)
    assert play.account("a") == {}
    assert await play.read(play.one) == (1, AUTHORITY)


async def test_while_init_is_at_work_the_cache_serves_nothing(play: Play) -> None:
    await play.put(play.one, 1)
    init = await play.held_at("<init", play.one.init(new_incarnation=True))  # the authority has changed
    assert (play.marker() or "").startswith(INITIALISING)
    entry = await play.do(play.two.read("a"))
    assert (entry.incarnation, entry.served_by) == ("incarnation-1", AUTHORITY)
    await play.go_on(init)
    assert play.marker() == (await init.task).incarnation == "incarnation-1"
    assert await play.read(play.two) == (1, AUTHORITY)
    assert await play.read(play.two) == (1, CACHE)


async def test_an_init_that_died_leaves_a_cache_that_serves_nothing_until_all_old_entries_are_gone(
    play: Play,
) -> None:
    await play.put(play.one, 1)
    await play.held_at("<init", play.one.init(new_incarnation=True))
    play.clock.now += 0.5 * TTL
    assert (await play.read(play.two))[1] == AUTHORITY
    assert (await play.read(play.two))[1] == AUTHORITY
    assert "init" in play.two.degradations[0].detail
    play.clock.now += 1.5 * TTL + MOMENT
    assert (await play.read(play.two))[1] == AUTHORITY
    assert (await play.read(play.two))[1] == CACHE
    assert play.marker() == "incarnation-1"


async def test_init_refuses_to_change_anything_where_the_cache_cannot_be_told(play: Play) -> None:
    await play.put(play.one, 1)
    play.caches[0].up = False
    with pytest.raises(StoreUnavailable) as caught:
        await play.do(play.one.init(new_incarnation=True))
    assert "--cache" in (caught.value.hint or "")
    assert play.authority.incarnation == "incarnation-0"
    assert await play.read(play.two) == (1, CACHE)


async def test_init_that_fails_at_the_authority_leaves_the_cache_as_it_was(play: Play) -> None:
    await play.put(play.one, 1)
    init = await play.held_at(">init", play.one.init(new_incarnation=True))
    play.authority.up = False
    await play.go_on(init, 1)
    play.authority.up = True
    await play.go_on(init)
    with pytest.raises(StoreUnavailable):
        await init.task
    assert play.marker() == "incarnation-0"
    assert await play.read(play.two) == (1, CACHE)


async def test_of_two_inits_at_once_the_cache_serves_the_last(play: Play) -> None:
    """One is overtaken between its block and its change, so it finds a marker that it did not set."""
    await play.put(play.one, 1)
    slow = await play.held_at(">init", play.one.init(new_incarnation=True))
    await play.do(play.two.init(new_incarnation=True))
    assert play.marker() == "incarnation-1"
    await play.go_on(slow)
    assert (await slow.task).incarnation == "incarnation-2" == play.marker()


async def test_an_init_that_is_overtaken_after_its_change_notices(play: Play) -> None:
    slow = await play.held_at(">mark", play.one.init(new_incarnation=True))  # it has seen incarnation-1
    second = await play.held_at(">init", play.two.init(new_incarnation=True))
    await play.go_on(slow, 2)
    await play.go_on(second)
    await play.go_on(slow)
    assert play.authority.incarnation == play.marker() == "incarnation-2"


async def test_an_init_that_is_overtaken_by_one_without_a_cache_notices(play: Play) -> None:
    slow = await play.held_at(">mark", play.one.init(new_incarnation=True))  # it has seen incarnation-1
    await play.do(play.authority.init(new_incarnation=True))
    await play.go_on(slow)
    assert play.authority.incarnation == play.marker() == "incarnation-2"


async def test_a_flushed_cache_learns_its_incarnation_from_the_authority_not_from_who_comes_late(
    play: Play,
) -> None:
    """The authority was restored, init run without the cache, and the cache flushed."""
    await play.put(play.one, 1)
    play.authority.make_backup()
    await play.put(play.one, 2)
    play.lose()
    late = await play.held_at(">put", play.two.read("a"))  # holds what the restored authority never had
    play.authority.restore_backup()
    await play.do(play.authority.init(new_incarnation=True))
    play.server.raw.flushall()
    await play.go_on(late)
    assert play.marker() == "incarnation-1"
    assert play.account("a") == {}
    assert await play.read(play.two) == (1, AUTHORITY)


async def test_whoever_is_overtaken_while_establishing_establishes_nothing(play: Play) -> None:
    await play.put(play.one, 1)
    play.server.raw.flushall()
    slow = await play.held_at("<head", play.two.read("a"))  # about to say incarnation-0
    await play.do(play.one.init(new_incarnation=True))
    await play.go_on(slow)
    assert play.marker() == "incarnation-1"
    assert await play.read(play.two) == (1, AUTHORITY)


async def test_a_store_that_has_seen_the_authority_serves_no_other_incarnation(play: Play) -> None:
    """init was run without the cache, which was not flushed: a mistake, and still bounded."""
    await play.put(play.one, 1)
    await play.do(play.authority.init(new_incarnation=True))
    assert await play.read(play.two) == (1, CACHE)  # it has not asked the authority since
    await play.do(play.two.head())
    assert await play.read(play.two) == (1, AUTHORITY)
    assert await play.read(play.two) == (1, AUTHORITY)  # nor does the cache take it
    assert "another incarnation" in play.two.degradations[0].detail
    assert await play.do(play.two.adopt())
    assert await play.read(play.two) == (1, AUTHORITY)
    assert play.two.degradations == ()
    assert await play.read(play.two) == (1, CACHE)
    assert not await play.do(play.two.adopt())


async def test_a_new_namespace_is_a_new_incarnation(play: Play) -> None:
    """The database was dropped and made anew, and the cache remembers the old one."""
    await play.put(play.one, 1)
    play.authority.incarnation, play.authority.values, play.authority.version = None, {}, 0
    await play.do(play.one.init())
    assert play.marker() == "incarnation-1"
    with pytest.raises(KeyNotFound):
        await play.do(play.two.read("a"))


# The authority is down.


async def test_copies_are_served_until_the_authority_is_seen_to_fail(play: Play) -> None:
    await play.put(play.one, 1)
    play.authority.up = False
    assert await play.read(play.two) == (1, CACHE)
    with pytest.raises(StoreUnavailable):
        await play.do(play.two.head())
    with pytest.raises(StoreUnavailable) as caught:
        await play.do(play.two.read("a"))
    assert "`allow_stale`" in (caught.value.hint or "")
    play.authority.up = True
    assert await play.read(play.two) == (1, AUTHORITY)
    assert await play.read(play.two) == (1, CACHE)


async def test_with_allow_stale_they_are_served_and_said_to_be_degraded(play: Play) -> None:
    store = play.add(allow_stale=True)
    await play.put(play.one, 1)
    play.authority.up = False
    with pytest.raises(StoreUnavailable):
        await play.do(store.head())
    entry = await play.do(store.read("a"))
    assert (entry.version, entry.served_by, entry.degraded) == (1, CACHE, True)
    (degraded,) = store.degradations
    assert degraded.service == AUTHORITY
    play.authority.up = True
    await play.do(store.head())
    assert store.degradations == ()
    assert [past.service for past in store.degraded_since_opened] == [AUTHORITY]
    play.authority.up = False
    play.lose()
    with pytest.raises(StoreUnavailable):
        await play.do(store.read("a"))


async def test_an_authority_known_to_be_down_is_not_waited_for_by_each_read(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    play.authority.up = False
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await play.do(play.two.read("a"))
    breaker = play.two._truth.breaker
    breaker._until = play.clock.now + 1000
    assert breaker.state == "open"
    asked = play.authority.asked["read"]
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await play.do(play.two.read("a"))
    assert play.authority.asked["read"] == asked
    play.authority.up = True
    await play.put(play.two, 2)  # a commit is always tried, and its success tells that it is back
    assert (await play.read(play.one))[0] == 2


async def test_close_waits_for_copies_under_way(play: Play) -> None:
    await play.put(play.one, 1)
    play.lose()
    reader = await play.held_at(">put", play.two.read("a"))
    assert reader.task.done()  # the caller has its answer; the copy is made beside it
    closing = asyncio.create_task(play.two.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    await play.go_on(reader)
    await closing
    assert play.account("a")[b"version"] == b"1"
