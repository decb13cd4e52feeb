"""Finalizing and reverting that fail at the worst moments: a repetition ends as if nothing had been."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from migration.forms import density, text
from migration.places import LEFT, RHO, VALUES, fill, same, shown
from migration.running import DISCOVER, Migration
from somactl.config import Settings
from somactl.errors import LockHeld, OutcomeUnknown, SomactlError, StoreUnavailable
from somactl.legacy import batches
from somactl.legacy.journal import Journal
from source.backends import Backend, RedisBackend

Swap = Callable[[Any, Any], Awaitable[list[bool]]]


def failing(swap: Swap, when: str) -> Swap:
    """A `swap` whose server dies before it did anything, in the middle, or before it could say so."""

    async def fails(self: Any, changes: Any) -> list[bool]:
        if when == "in the middle":
            await swap(self, changes[: len(changes) // 2])
        elif when == "after":
            await swap(self, changes)
            raise OutcomeUnknown("no reply came", commit_id="", hint="run it again")
        raise StoreUnavailable("the server is gone")

    return fails


async def finalized(backend: Backend, migration: Migration) -> bool:
    found = {key: shown(await backend.read(key)) for key in VALUES}
    return found == LEFT


@pytest.mark.parametrize("when", ["before", "in the middle", "after"])
async def test_a_source_that_dies_while_values_are_taken_out(
    legacy: Backend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    await fill(legacy)
    migration = Migration(legacy.open, sqlite, DISCOVER)
    await migration.copy()
    source_type = type(legacy.open())
    with monkeypatch.context() as patch:
        patch.setattr(source_type, "swap", failing(source_type.swap, when))
        with pytest.raises(SomactlError) as caught:
            await migration.finalize()
        assert caught.value.exit_code in (13, 14)
    report = await migration.finalize()
    assert (report.phase, report.finalized, report.left_alone, report.code) == ("finalized", 5, {}, 0)
    assert await finalized(legacy, migration)
    with monkeypatch.context() as patch:
        patch.setattr(source_type, "swap", failing(source_type.swap, when))
        with pytest.raises(SomactlError):
            await migration.revert()
    reverted = await migration.revert()
    assert (reverted.phase, reverted.left_alone, reverted.code) == ("reverted", {}, 0)
    for key, value in VALUES.items():
        assert same(legacy, await legacy.read(key), value)
    assert await migration.contents() == {}


@pytest.mark.parametrize("when", ["before", "in the middle", "after"])
async def test_a_finalizing_that_died_can_be_reverted_at_once(
    legacy: Backend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    await fill(legacy)
    migration = Migration(legacy.open, sqlite, DISCOVER)
    await migration.copy()
    source_type = type(legacy.open())
    with monkeypatch.context() as patch:
        patch.setattr(source_type, "swap", failing(source_type.swap, when))
        with pytest.raises(SomactlError):
            await migration.finalize()
    reverted = await migration.revert()
    assert (reverted.phase, reverted.left_alone, reverted.withdrawn, reverted.code) == ("reverted", {}, 6, 0)
    for key, value in VALUES.items():
        assert same(legacy, await legacy.read(key), value)
    assert await migration.contents() == {}


async def test_a_forgetting_that_died_is_finished_and_is_no_way_back(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    await migration.finalize()
    async with migration.store() as store:
        store_type = type(store)
    write, calls = store_type.write_notes, 0

    async def dies(self: Any, *arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreUnavailable("the server is gone")
        return await write(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(store_type, "write_notes", dies)
        with pytest.raises(StoreUnavailable):
            await migration.forget()
    forgotten = await migration.forget()
    assert forgotten.phase == "forgotten"
    async with migration.store() as store:
        assert [note async for page in store.scan_notes("migration/") for note in page] == []


async def test_of_two_finalizings_at_once_both_leave_the_same(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_VALUES", 1)
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    results = await asyncio.gather(migration.finalize(), migration.finalize(), return_exceptions=True)
    for result in results:
        assert not isinstance(result, BaseException) or isinstance(result, LockHeld), result
    report = await migration.finalize()
    assert (report.finalized, report.left_alone, report.code) == (5, {}, 0)
    assert await finalized(redis_values, migration)
    assert (await migration.revert()).code == 0
    for key, value in VALUES.items():
        assert await redis_values.read(key) == value


async def test_twins_are_both_taken_out_and_both_come_back(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """Two values whose matrices go to one key of the store."""
    values = {"K": text({"rho": RHO.tolist()}), "K#/rho": text(RHO.tolist())}
    await redis_values.put(dict(values))
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    assert (await migration.finalize()).finalized == 2
    assert await redis_values.read("K#/rho") is None
    assert shown(await redis_values.read("K")) == {"rho": "K#/rho"}
    reverted = await migration.revert()
    assert (reverted.restored, reverted.withdrawn, reverted.code) == (2, 1, 0)
    for key, value in values.items():
        assert await redis_values.read(key) == value


async def test_a_reference_that_somebody_spelt_anew_is_still_recognised(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """A client that reads and writes the value prints the same JSON otherwise; the original is not lost."""
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    await migration.finalize()
    value = json.loads(await redis_values.read("embedded") or b"")
    respelt = json.dumps(value, indent=1, sort_keys=True).encode()
    await redis_values.put({"embedded": respelt})
    again = await migration.finalize()
    assert (again.finalized, again.left_alone) == (5, {})
    reverted = await migration.revert()
    assert (set(reverted.left_alone), reverted.code) == ({"embedded"}, 4)
    assert await redis_values.read("embedded") == respelt
    assert set(await migration.contents()) == {"embedded#/rho"}


async def test_a_target_stays_to_which_a_twin_still_refers(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """Both went to one key, and only the one that did not bring it there was changed since."""
    values = {"A": text({"x#": {"y": RHO.tolist()}}), "A#/x": text({"y": RHO.tolist(), "n": 1})}
    await redis_values.put(dict(values))
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    assert (await migration.finalize()).finalized == 2
    left = await redis_values.read("A#/x") or b""
    assert shown(left) == {"y": "A#/x#/y", "n": 1}
    await redis_values.put({"A#/x": left.replace(b'"n": 1', b'"n": 2')})
    reverted = await migration.revert()
    assert (reverted.restored, reverted.withdrawn, set(reverted.left_alone)) == (1, 0, {"A#/x"})
    assert set(await migration.contents()) == {"A#/x#/y"}
    assert await redis_values.read("A") == values["A"]


async def kept_originals(migration: Migration) -> int:
    async with migration.store() as store:
        notes = [note.name async for page in store.scan_notes("migration/") for note in page]
    return sum("/original/" in name for name in notes)


async def test_original_bytes_are_kept_until_they_are_forgotten_reverted_or_not(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    for _ in range(2):
        await migration.copy()
        assert (await migration.finalize()).finalized == 5
        assert (await migration.revert()).restored == 5
        assert await kept_originals(migration) == 5
        for key, value in VALUES.items():
            assert await redis_values.read(key) == value
    assert (await migration.forget()).forgotten == 5
    async with migration.store() as store:
        assert [note async for page in store.scan_notes("migration/") for note in page] == []


async def test_an_original_that_was_not_put_back_gives_its_place_to_none(
    redis_values: RedisBackend, sqlite: Settings
) -> None:
    """Of two reverts, each puts back what it can, and what one has put back may be taken out anew."""
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    await migration.finalize()
    left = await redis_values.read("whole")
    newer = text(density(4, seed=5).tolist())
    await redis_values.put({"whole": newer})
    reverted = await migration.revert()
    assert (reverted.restored, set(reverted.left_alone)) == (4, {"whole"})
    await migration.copy()
    assert (await migration.finalize()).finalized == 4
    assert await redis_values.read("whole") == newer
    await redis_values.put({"whole": left})
    assert (await migration.revert()).restored == 5
    for key, value in VALUES.items():
        assert await redis_values.read(key) == value


@pytest.mark.parametrize("meanwhile", ["nothing", "a revert", "a revert that was forgotten"])
async def test_a_finalizing_that_cannot_ask_whether_it_was_overtaken_puts_back_what_it_took(
    redis_values: RedisBackend, sqlite: Settings, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    await fill(redis_values)
    migration = Migration(redis_values.open, sqlite, DISCOVER)
    await migration.copy()
    source_type = type(redis_values.open())
    swap = source_type.swap

    async def late(self: Any, changes: Any) -> list[bool]:
        monkeypatch.setattr(source_type, "swap", swap)
        if meanwhile != "nothing":
            await migration.revert()
        if meanwhile == "a revert that was forgotten":
            await migration.forget()
        done: list[bool] = await swap(self, changes)
        if meanwhile != "a revert that was forgotten":
            monkeypatch.setattr(Journal, "overtaken", away)
        return done

    async def away(self: Journal) -> None:
        raise StoreUnavailable("the store is gone")

    monkeypatch.setattr(source_type, "swap", late)
    with pytest.raises((StoreUnavailable, LockHeld)):
        await migration.finalize()
    for key, value in VALUES.items():
        assert await redis_values.read(key) == value, key
    monkeypatch.undo()
    if meanwhile == "nothing":
        assert (await migration.finalize()).finalized == 5
        assert (await migration.revert()).restored == 5
