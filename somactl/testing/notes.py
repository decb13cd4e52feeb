"""Notes: what operations remember beside the matrices."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from somactl.errors import VersionConflict
from somactl.store.contract import Note, Retention, Store
from somactl.testing.backend import Backend
from somactl.testing.concurrency import opened
from somactl.testing.contract_tests import ContractTests
from somactl.testing.values import compact_fully, event_versions, listed, put

EVERY_CHARACTER = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/-"


async def all_notes(pages: AsyncIterator[list[Note]]) -> list[Note]:
    found: list[Note] = []
    async for page in pages:
        assert page, "no page is empty"
        found += page
    return found


async def names(pages: AsyncIterator[list[Note]]) -> list[str]:
    return [note.name for note in await all_notes(pages)]


class NoteReadChapter(ContractTests):
    async def test_a_note_comes_back_as_it_was_written(self, store: Store, writer: Store) -> None:
        data = bytes(range(256)) * 3
        before = await writer.clock()
        assert await writer.write_notes({"run/1:state": data, "empty": b""}) == {"run/1:state": 1, "empty": 1}
        after = await writer.clock()
        found = await store.read_notes(["run/1:state", "empty", "never", "empty"])
        assert set(found) == {"run/1:state", "empty"}
        note = found["run/1:state"]
        assert (note.name, note.version, note.size, note.data) == ("run/1:state", 1, len(data), data)
        assert (found["empty"].size, found["empty"].data) == (0, b"")
        assert before - 0.002 <= note.written_at <= after + 0.002
        assert await store.read_notes([]) == await store.read_notes(["never"]) == {}

    async def test_a_large_note_comes_back(self, store: Store, writer: Store) -> None:
        data = random.Random(0).randbytes(3 << 20)
        await writer.write_notes({"large": data})
        assert (await store.read_notes(["large"]))["large"].data == data

    async def test_notes_are_listed_in_byte_order_without_data(self, store: Store, writer: Store) -> None:
        wanted = sorted(
            ["Z", "a", "B", "_", "-", "a/b", "a:b", "a.b", EVERY_CHARACTER, "x" * 256], key=str.encode
        )
        await writer.write_notes({name: name.encode() for name in reversed(wanted)})
        notes = await all_notes(store.scan_notes())
        assert [note.name for note in notes] == wanted
        assert all((n.version, n.size, n.data) == (1, len(n.name), None) for n in notes)
        assert all(n.written_at == notes[0].written_at for n in notes)
        full = await store.read_notes(wanted)
        assert [full[name].data for name in wanted] == [name.encode() for name in wanted]

    @pytest.mark.parametrize(
        ("prefix", "after", "found"),
        [
            ("a", None, ["a", "a-", "a.b", "a/b", "a_b", "ab"]),
            ("a_", None, ["a_b"]),
            ("a.", None, ["a.b"]),
            ("a.b", None, ["a.b"]),
            ("a.bc", None, []),
            ("B", None, ["B"]),
            ("b", None, []),
            ("", "a.b", ["a/b", "a_b", "ab", "c"]),
            ("", "a.a", ["a.b", "a/b", "a_b", "ab", "c"]),
            ("", "c", []),
            ("a", "a/b", ["a_b", "ab"]),
            ("a", "B", ["a", "a-", "a.b", "a/b", "a_b", "ab"]),
            ("a", "c", []),
            ("", "", ["B", "a", "a-", "a.b", "a/b", "a_b", "ab", "c"]),
        ],
    )
    async def test_a_listing_of_notes_by_prefix_and_after_a_name(
        self, store: Store, writer: Store, prefix: str, after: str | None, found: list[str]
    ) -> None:
        await writer.write_notes(dict.fromkeys(["c", "ab", "a_b", "a/b", "a.b", "a-", "a", "B"], b"x"))
        assert await names(store.scan_notes(prefix, after)) == found

    async def test_notes_present_during_a_listing_appear_once(self, store: Store, writer: Store) -> None:
        kept = [f"run/{number:05}" for number in range(2500)]
        await writer.write_notes(dict.fromkeys(kept, b"x"))
        await writer.write_notes({"run0": b"after all with the prefix", "rum": b"before"})
        seen: list[str] = []
        async for page in store.scan_notes("run/"):
            seen += [note.name for note in page]
            last = page[-1].name
            await writer.write_notes({f"{last}.new": b"y", kept[0]: b"z"})
            await writer.write_notes({f"{last}.new": None})
        assert [name for name in seen if name in set(kept)] == kept
        assert set(seen) - set(kept) <= {f"{name}.new" for name in kept}

    async def test_notes_are_no_keys_and_keys_no_notes(self, store: Store, writer: Store) -> None:
        await put(writer, "a")
        await writer.write_notes({"b": b"x"})
        assert [stat.key for stat in await listed(store.scan())] == ["a"]
        assert await names(store.scan_notes()) == ["b"]
        assert await store.read_notes(["a"]) == {}


class NoteChapter(ContractTests):
    async def test_a_note_counts_its_writes_and_begins_anew_once_deleted(self, writer: Store) -> None:
        for version in (1, 2, 3):
            assert await writer.write_notes({"n": bytes(version)}) == {"n": version}
        assert (await writer.read_notes(["n"]))["n"].version == 3
        assert await writer.write_notes({"n": None}) == {"n": 0}
        assert (await writer.read_notes(["n"]), await names(writer.scan_notes())) == ({}, [])
        assert await writer.write_notes({"n": b"again"}) == {"n": 1}

    async def test_the_last_writer_wins_who_expects_nothing(self, backend: Backend, writer: Store) -> None:
        async with opened(backend, 2) as (one, two):
            await one.write_notes({"n": b"one"})
            await two.write_notes({"n": b"two"}, {})
            assert (await one.read_notes(["n"]))["n"].data == b"two"

    async def test_deleting_an_absent_note_is_nothing(self, writer: Store) -> None:
        assert await writer.write_notes({"never": None, "n": b"x"}) == {"never": 0, "n": 1}
        assert await writer.write_notes({"never": None}, {"never": 0}) == {"never": 0}

    async def test_notes_are_written_where_they_are_expected(self, writer: Store) -> None:
        assert await writer.write_notes({"a": b"1", "b": b"1"}, {"a": 0, "b": 0}) == {"a": 1, "b": 1}
        assert await writer.write_notes({"a": b"2"}, {"a": 1, "b": 1, "c": 0}) == {"a": 2}
        assert await writer.write_notes({"a": None, "c": b"1"}, {"a": 2}) == {"a": 0, "c": 1}
        assert await writer.write_notes({"a": b"1"}, {"a": 0}) == {"a": 1}

    async def test_a_conflict_names_every_note_and_writes_nothing(self, writer: Store) -> None:
        await writer.write_notes({"moved": b"1", "kept": b"1", "guard": b"1"})
        await writer.write_notes({"moved": b"2"})
        before = await writer.read_notes(["moved", "kept", "guard"])
        expected = {"moved": 1, "kept": 1, "guard": 7, "never": 1, "new": 0}
        with pytest.raises(VersionConflict) as caught:
            await writer.write_notes({"new": b"x", "moved": b"x", "kept": None}, expected)
        assert caught.value.conflicts == {
            "moved": {"expected": {"version": 1}, "found": {"version": 2}},
            "guard": {"expected": {"version": 7}, "found": {"version": 1}},
            "never": {"expected": {"version": 1}, "found": {"version": 0}},
        }
        assert await writer.read_notes(["moved", "kept", "guard", "new"]) == before

    async def test_a_write_of_many_notes_is_one_write(self, writer: Store) -> None:
        many = {f"part/{number}": b"%d" % number for number in range(3000)}
        assert set((await writer.write_notes(many, dict.fromkeys(many, 0))).values()) == {1}
        with pytest.raises(VersionConflict):
            await writer.write_notes(dict.fromkeys(many), {**dict.fromkeys(many, 1), "part/7": 2})
        found = await writer.read_notes([*many])
        assert {name: note.data for name, note in found.items()} == many
        assert set((await writer.write_notes(dict.fromkeys(many))).values()) == {0}
        assert await names(writer.scan_notes()) == []

    async def test_notes_touch_no_version_record_or_event(self, backend: Backend, writer: Store) -> None:
        await put(writer, "a")
        before = (await writer.head(), await writer.log(), await writer.summary())
        await writer.write_notes({"n": b"x"})
        assert (await writer.head(), await writer.log(), await writer.summary()) == before
        assert await event_versions(writer) == [1]

    async def test_a_note_outlives_compaction_and_incarnation(self, backend: Backend, writer: Store) -> None:
        await writer.init(retention=Retention(1, 0.0, 0.0))
        await put(writer, "a")
        await writer.write_notes({"n": b"kept"})
        (written,) = (await writer.read_notes(["n"])).values()
        await backend.age("default", 1e6)
        await compact_fully(writer)
        await writer.init(new_incarnation=True)
        (aged,) = (await writer.read_notes(["n"])).values()
        assert (aged.version, aged.data) == (1, b"kept")
        assert aged.written_at == pytest.approx(written.written_at - 1e6, abs=1e-3)
        assert await writer.write_notes({"n": b"more"}, {"n": 1}) == {"n": 2}

    async def test_notes_of_one_namespace_are_not_another_s(self, backend: Backend, writer: Store) -> None:
        other = backend.open("other")
        await other.init()
        await writer.write_notes({"n": b"mine"})
        assert (await other.read_notes(["n"]), await names(other.scan_notes())) == ({}, [])
        assert await other.write_notes({"n": None, "m": b"its"}, {"n": 0}) == {"n": 0, "m": 1}
        assert await names(writer.scan_notes()) == ["n"]
        await other.close()

    async def test_a_note_is_seen_on_another_connection(self, backend: Backend, writer: Store) -> None:
        await writer.write_notes({"n": b"x"})
        await writer.close()
        async with opened(backend, 1) as (other,):
            assert (await other.read_notes(["n"]))["n"].data == b"x"

    async def test_of_many_writers_of_a_note_one_wins(self, backend: Backend, writer: Store) -> None:
        async with opened(backend, 3) as stores:
            for version in range(5):
                attempts = [
                    stores[number % 3].write_notes({"n": b"%d" % number}, {"n": version})
                    for number in range(9)
                ]
                outcomes = await asyncio.gather(*attempts, return_exceptions=True)
                (winner,) = [number for number, o in enumerate(outcomes) if isinstance(o, dict)]
                assert outcomes[winner] == {"n": version + 1}
                assert sum(isinstance(o, VersionConflict) for o in outcomes) == 8
                assert (await writer.read_notes(["n"]))["n"].data == b"%d" % winner

    async def test_notes_written_together_are_seen_together(self, backend: Backend, writer: Store) -> None:
        await writer.write_notes({"a": b"0", "b": b"0"})
        done = asyncio.Event()

        async def write_on() -> None:
            for number in range(1, 30):
                await writer.write_notes({"a": b"%d" % number, "b": b"%d" % number})
            done.set()

        async def watch(store: Store) -> None:
            while not done.is_set():
                found = await store.read_notes(["a", "b"])
                assert found["a"].data == found["b"].data
                assert found["a"].version == found["b"].version

        async with opened(backend, 2) as stores:
            await asyncio.gather(write_on(), *(watch(store) for store in stores))

    async def test_a_cancelled_write_of_notes_happens_whole_or_not_at_all(self, writer: Store) -> None:
        dice = random.Random(11)
        for number in range(30):
            pair = (f"a{number}", f"b{number}")
            task = asyncio.create_task(writer.write_notes(dict.fromkeys(pair, b"x")))
            for _ in range(dice.randrange(6)):
                await asyncio.sleep(dice.choice([0, 0, 0.0005]))
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            found = await writer.read_notes(pair)
            assert len(found) in (0, 2)
            assert len(found) == 2 or not isinstance(outcome, dict)

    async def test_close_finishes_a_cancelled_write_of_notes(self, backend: Backend, writer: Store) -> None:
        store = backend.open()
        await store.head()
        task = asyncio.create_task(store.write_notes({"a": b"x", "b": b"x"}))
        await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()
        found = await writer.read_notes(["a", "b"])
        assert len(found) in (0, 2)
        await asyncio.sleep(0.05)
        assert await writer.read_notes(["a", "b"]) == found
