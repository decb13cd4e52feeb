"""Shards hold every key exactly once, whenever they start and whatever is written meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from somactl.config import Settings
from somactl.errors import ConfigurationError, UsageError
from somactl.operations.audit import shards
from somactl.operations.audit.pages import Bounds, pages
from somactl.operations.audit.shards import LEAST_KEY, Placed, Shard, bounds
from somactl.runtime import open_store
from somactl.store.contract import Store
from somactl.store.wrapper import ReadOnly
from somactl.testing.values import envelope, proof, put, write
from support.sqlite_backend import SqliteBackend


async def fill(store: Store, sizes: dict[str, int]) -> None:
    """A valid matrix of that order under each key."""
    some = {key: envelope(key, namespace=store.namespace, kind="rho", n=n) for key, n in sizes.items()}
    await write(store, some, verdicts=proof(*some.values()))


async def all_of(store: Store, of: int, run: str | None = None, notes: Store | None = None) -> list[Bounds]:
    notes = notes or store
    found = [await bounds(store, Shard(number, of), notes, run) for number in range(1, of + 1)]
    assert {each.warning for each in found} == {""}
    return [each.bounds for each in found]


def join(parts: Sequence[Bounds]) -> bool:
    """Whether these ranges, in order, hold every key there may be, and none twice."""
    ends = [(one.upto, other.after) for one, other in pairwise(parts)]
    whole = parts[0].after is None and parts[-1].upto is None
    return whole and all(upto is not None and upto == after for upto, after in ends)


async def held(store: Store, part: Bounds) -> list[str]:
    return [key async for page in pages(store, part) for key in page.task.keys]


async def test_every_key_is_in_one_shard_while_others_commit(settings: Settings) -> None:
    async with open_store(settings) as store, open_store(settings) as other:
        await store.init()
        before = {f"k{number:04}": 2 + number % 5 for number in range(300)}
        await fill(store, before)
        over = asyncio.Event()

        async def commit() -> None:
            number = 0
            while not over.is_set():
                number += 1
                await fill(other, {f"k{number * 7 % 300:04}-{number}": 4})

        writing = asyncio.create_task(commit())
        placed = await asyncio.gather(*(bounds(store, Shard(n, 5), store, "night") for n in range(1, 6)))
        parts = [each.bounds for each in placed]
        found = Counter([key for part in parts for key in await held(store, part)])
        over.set()
        await writing
    assert join(parts)
    assert set(before) <= set(found)
    assert set(found.values()) == {1}


async def test_shards_are_equal_by_bytes(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.init()
        sizes = {f"k{number:04}": 40 if number < 50 else 4 for number in range(400)}
        await fill(store, sizes)
        parts = await all_of(store, 4)
        weights = [sum([page.bytes_ async for page in pages(store, part)]) for part in parts]
    assert max(weights) < 1.1 * min(weights)


@pytest.mark.parametrize("fineness", [8, 256])
async def test_a_plan_of_few_pieces(sqlite: Store, monkeypatch: pytest.MonkeyPatch, fineness: int) -> None:
    """However many keys there are, no more pieces are in memory than a plan needs."""
    monkeypatch.setattr(shards, "FINENESS", fineness)
    pieces = shards._Pieces(fineness * 4)
    for number in range(20_000):
        pieces.add(f"k{number:05}", number % 7)
        assert len(pieces._pieces) <= 8 * fineness
    ends = [int(key[1:]) for key in pieces.cut(4)]
    assert ends == pytest.approx([5000, 10_000, 15_000], abs=3 * 20_000 / (4 * fineness))
    for number in range(20_000):
        pieces.add(f"l{number:05}", 0)
    assert len(pieces._pieces) <= 8 * fineness


@pytest.fixture
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return SqliteBackend(tmp_path_factory.mktemp("shards") / "store.db").open()


async def test_more_shards_than_keys(sqlite: Store) -> None:
    await fill(sqlite, {"a": 3, "b": 3})
    parts = await all_of(sqlite, 7)
    assert join(parts)
    assert [await held(sqlite, part) for part in parts if await held(sqlite, part)] == [["a"], ["b"]]
    await sqlite.close()


async def test_a_namespace_without_keys(sqlite: Store) -> None:
    await sqlite.init()
    parts = await all_of(sqlite, 3)
    assert parts == [Bounds(None, LEAST_KEY), Bounds(LEAST_KEY, LEAST_KEY), Bounds(LEAST_KEY, None)]
    await put(sqlite, LEAST_KEY, "a")
    assert await all_of(sqlite, 3) == parts
    await sqlite.close()


async def test_one_shard_is_everything(sqlite: Store) -> None:
    await fill(sqlite, {"a": 3, "b": 3})
    assert await all_of(sqlite, 1) == [Bounds()]
    await sqlite.close()


async def test_a_plan_is_kept_for_its_run_alone(sqlite: Store) -> None:
    await fill(sqlite, {f"a{number}": 3 for number in range(10)})
    first = await all_of(sqlite, 2, "one")
    await fill(sqlite, {f"b{number}": 3 for number in range(90)})
    assert await all_of(sqlite, 2, "one") == first
    assert await all_of(sqlite, 2, "two") != first
    assert await all_of(sqlite, 2) != first  # that of the day
    names = [note.name async for page in sqlite.scan_notes("audit/") for note in page]
    day = [name for name in names if name.startswith("audit/shards/20")]
    assert sorted(set(names) - set(day)) == ["audit/shards/one-2", "audit/shards/two-2"]
    assert len(day) == 1
    await sqlite.close()


async def test_a_restored_namespace_gets_a_plan_of_its_own(sqlite: Store) -> None:
    await fill(sqlite, {f"a{number}": 3 for number in range(10)})
    first = await all_of(sqlite, 2, "one")
    await fill(sqlite, {f"b{number}": 3 for number in range(90)})
    await sqlite.init(new_incarnation=True)
    assert await all_of(sqlite, 2, "one") != first
    await sqlite.close()


async def test_old_plans_are_forgotten(tmp_path_factory: pytest.TempPathFactory) -> None:
    backend = SqliteBackend(tmp_path_factory.mktemp("old") / "store.db")
    store = backend.open()
    await fill(store, {"a": 3, "b": 3})
    await all_of(store, 2, "old")
    await backend.age(store.namespace, shards.KEEP_SECONDS + 1)
    await all_of(store, 2, "new")
    names = [note.name async for page in store.scan_notes("audit/") for note in page]
    assert names == ["audit/shards/new-2"]
    await store.close()


async def test_of_two_plans_made_at_once_the_first_counts(sqlite: Store) -> None:
    await fill(sqlite, {f"a{number}": 3 for number in range(10)})

    class Late:
        """Another shard's plan comes between this one's reading and its writing."""

        def __init__(self) -> None:
            self.first: Bounds | None = None

        async def read_notes(self, names: Sequence[str]) -> object:
            return await sqlite.read_notes(names)

        async def write_notes(self, changes: object, expected: object) -> object:
            if self.first is None:
                self.first = (await bounds(sqlite, Shard(1, 2), sqlite, "one")).bounds
                await fill(sqlite, {f"b{number}": 3 for number in range(90)})
            return await sqlite.write_notes(changes, expected)  # type: ignore[arg-type]

    late = Late()
    found = await bounds(sqlite, Shard(1, 2), late, "one")  # type: ignore[arg-type]
    assert found == Placed(late.first or Bounds(), "one")
    await sqlite.close()


async def test_without_the_right_to_write_a_plan(sqlite: Store) -> None:
    await fill(sqlite, {f"a{number}": 3 for number in range(10)})
    kept = await all_of(sqlite, 2, "kept")
    reading = ReadOnly(sqlite)
    found = [await bounds(reading, Shard(number, 2), reading, "one") for number in (1, 2)]
    assert [each.bounds for each in found] == kept
    assert all("may not fit" in each.warning for each in found)
    assert await bounds(reading, Shard(1, 2), reading, "kept") == Placed(kept[0], "kept")
    assert "no notes are kept" in (await bounds(reading, Shard(1, 2), None, "kept")).warning
    await sqlite.close()


async def test_a_run_that_cannot_be_a_name(sqlite: Store) -> None:
    await sqlite.init()
    with pytest.raises(UsageError, match="the run 'a/b' cannot be a name"):
        await bounds(sqlite, Shard(1, 2), sqlite, "a/b")
    await sqlite.close()


@pytest.mark.parametrize(
    "text", ["", "1", "0/4", "5/4", "1/0", "a/b", "1/4/2", "-1/4", "1/99999", " 1/4", "1/4\n"]
)
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError):
        Shard.parse(text)


def test_how_a_shard_is_written() -> None:
    assert Shard.parse("2/8") == Shard(2, 8)
    assert (str(Shard(2, 8)), Shard(2, 8).scope) == ("2/8", "2-of-8")


def test_the_shard_of_a_kubernetes_job() -> None:
    assert [Shard.of_job(str(index), "3") for index in range(3)] == [Shard(n, 3) for n in (1, 2, 3)]
    for index, count in ((None, "3"), ("0", None), ("3", "3"), ("x", "3"), ("0", ""), ("-1", "3")):
        with pytest.raises(ConfigurationError):
            Shard.of_job(index, count)
