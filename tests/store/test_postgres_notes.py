"""Notes: large ones, writers that meet, replies that are lost, and tables that are not there yet."""

from __future__ import annotations

import asyncio
import os

import pytest

from somactl.errors import OutcomeUnknown, StoreBusy, VersionConflict
from somactl.store.postgres import PostgresStore, notes, reading
from somactl.testing.values import put
from store.postgres_backend import (
    Opener,
    PostgresBackend,
    backend as backend,
    opener as opener,
    store as store,
)


async def test_of_many_who_make_a_note_one_does(opener: Opener, store: PostgresStore) -> None:
    """Two notes, named in either order: no two writers wait for each other."""
    crowd = [opener() for _ in range(8)]
    done = await asyncio.gather(
        *(
            writer.write_notes(
                dict.fromkeys(("a", "b") if number % 2 else ("b", "a"), b"%d" % number), {"a": 0, "b": 0}
            )
            for number, writer in enumerate(crowd)
        ),
        return_exceptions=True,
    )
    won = [number for number, result in enumerate(done) if not isinstance(result, BaseException)]
    assert len(won) == 1
    assert all(isinstance(result, VersionConflict) for number, result in enumerate(done) if number not in won)
    found = await store.read_notes(["a", "b"])
    assert {note.data for note in found.values()} == {b"%d" % won[0]}
    assert {note.version for note in found.values()} == {1}


async def test_writers_under_a_stricter_isolation_take_turns_too(
    backend: PostgresBackend, opener: Opener
) -> None:
    await backend.rows(
        f"ALTER DATABASE {backend.database} SET default_transaction_isolation = 'serializable'"
    )
    crowd = [opener() for _ in range(4)]
    await crowd[0].init()
    done = await asyncio.gather(
        *(writer.write_notes({"a": b"x"}, {"a": 0}) for writer in crowd), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in done) == ["VersionConflict"] * 3 + ["dict"]


async def test_a_commit_does_not_wait_for_notes(backend: PostgresBackend, store: PostgresStore) -> None:
    async with backend.raw() as other:
        await other.execute("BEGIN")
        await other.fetch("SELECT pg_advisory_xact_lock(1852798053, (SELECT id FROM somactl.namespace))")
        assert (await put(store, "a")).version == 1


async def test_a_writer_that_waits_too_long_is_told(backend: PostgresBackend, opener: Opener) -> None:
    store = opener(timeout=1.0)
    await store.init()
    async with backend.raw() as other:
        await other.execute("BEGIN")
        await other.fetch("SELECT pg_advisory_xact_lock(1852798053, (SELECT id FROM somactl.namespace))")
        with pytest.raises(StoreBusy):
            await store.write_notes({"a": b"x"})
    assert await store.read_notes(["a"]) == {}


async def test_notes_that_are_large_come_in_portions(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order of sizes, empty ones too, and each as of the same moment."""
    monkeypatch.setattr(reading, "AT_ONCE_BYTES", 100)
    values = {
        f"n{number}": bytes([number]) * size for number, size in enumerate([0, 60, 60, 250, 0, 30, 100])
    }
    await store.write_notes(values)
    found = await store.read_notes([*values, "absent"])
    assert {name: note.data for name, note in found.items()} == values
    assert {name: note.size for name, note in found.items()} == {n: len(data) for n, data in values.items()}


async def test_a_note_of_many_megabytes(store: PostgresStore) -> None:
    large = os.urandom(1 << 20) * 40
    assert await store.write_notes({"large": large, "small": b"s"}) == {"large": 1, "small": 1}
    assert (await store.read_notes(["large"]))["large"].data == large
    assert await store.write_notes({"large": large[:-1]}, {"large": 1, "small": 1}) == {"large": 2}
    found = await store.read_notes(["small", "large"])
    assert (found["large"].size, found["small"].data) == (len(large) - 1, b"s")
    assert found["large"].data == large[:-1]


async def test_pages_of_notes_go_on_where_the_last_one_ended(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "_PAGE_NOTES", 3)
    names = [f"p/{number}" for number in range(6)] + ["p0", "o/9", "P/1"]
    await store.write_notes(dict.fromkeys(names, b""))
    pages = [[note.name for note in page] async for page in store.scan_notes("p/")]
    assert pages == [names[:3], names[3:6]]
    assert [note.name async for page in store.scan_notes(after="p/4") for note in page] == ["p/5", "p0"]
    assert [note.name async for page in store.scan_notes() for note in page] == sorted(names)


async def test_a_connection_lost_while_notes_are_written(
    backend: PostgresBackend, store: PostgresStore
) -> None:
    await store.write_notes({"a": b"1"})
    async with backend.raw() as other:
        await other.execute("BEGIN")
        await other.fetch("SELECT pg_advisory_xact_lock(1852798053, (SELECT id FROM somactl.namespace))")
        writing = asyncio.create_task(store.write_notes({"a": b"2"}, {"a": 1}))
        process = await backend.until_one_waits_for_a_lock()
        await backend.rows("SELECT pg_terminate_backend($1)", process)
        with pytest.raises(OutcomeUnknown) as caught:
            await writing
    assert (caught.value.exit_code, caught.value.facts["commit_id"]) == (14, "")
    assert (await store.read_notes(["a"]))["a"].data == b"1"
    assert await store.write_notes({"a": b"2"}, {"a": 1}) == {"a": 2}
