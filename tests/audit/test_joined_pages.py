"""Consecutive pages made into one, for workers that want more work at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from somactl.operations.audit import pages as module
from somactl.operations.audit.model import Task
from somactl.operations.audit.pages import Bounds, Page, joined


def page(number: int, keys: int = 2, size: int = 10, *, recheck: bool = False, whole: bool = True) -> Page:
    """The page number `number` of the namespace: the keys up to `k<number + 1>`."""
    names = [f"k{number}-{each}" for each in range(keys)]
    after = f"k{number}" if number else None
    return Page(
        Bounds(after, f"k{number + 1}"),
        Task(names, [size] * keys),
        {name: name for name in names},  # type: ignore[misc]
        keys=keys,
        bytes_=keys * size,
        recheck=recheck,
        whole=whole,
        listed_at=float(number),
    )


async def read(given: Sequence[Page]) -> AsyncGenerator[Page, None]:
    for each in given:
        yield each


async def collected(given: Sequence[Page], *wanted: int) -> list[Page]:
    """The joined pages; what is wanted is asked for anew each time, and at last stays as it is."""
    left = list(wanted)
    return [each async for each in joined(read(given), lambda: left.pop(0) if len(left) > 1 else left[0])]


def shape(found: Sequence[Page]) -> list[int]:
    return [len(each.task.keys) for each in found]


async def test_pages_are_joined_until_a_task_is_large_enough() -> None:
    given = [page(number) for number in range(7)]
    assert shape(await collected(given, 60)) == [6, 6, 2]
    assert shape(await collected(given, 59)) == [4, 4, 4, 2]
    assert await collected(given, 0) == given
    assert shape(await collected(given, 0, 0, 60)) == [2, 2, 6, 4]


async def test_a_joined_page_is_the_sum_of_its_pages() -> None:
    given = [page(0), page(1, 0, whole=False), page(2, 3)]
    (found,) = await collected(given, 1000)
    assert found.bounds == Bounds(None, "k3")
    assert found.task == Task([*given[0].task.keys, *given[2].task.keys], [10] * 5)
    assert found.stats == {**given[0].stats, **given[2].stats}
    assert (found.keys, found.bytes_, found.whole, found.listed_at) == (5, 50, False, 0.0)


async def test_what_is_skipped_or_absent_is_kept() -> None:
    skipped: Any = object()
    first, second = page(0), page(1)
    first.skipped.append(skipped)
    second.absent.append("gone")
    (found,) = await collected([first, second], 1000)
    assert (found.skipped, found.absent) == ([skipped], ["gone"])


async def test_pages_that_do_not_follow_each_other_stay_apart() -> None:
    gap = [page(0), page(2)]
    assert await collected(gap, 1000) == gap
    kinds = [page(0), page(1, recheck=True), page(2)]
    assert await collected(kinds, 1000) == kinds
    drawn = [Page(None, Task(["a"], [1]), {}), Page(None, Task(["b"], [1]), {})]
    assert await collected(drawn, 1000) == drawn


async def test_where_nothing_is_wanted_pages_stay_as_they_are() -> None:
    """And each is handed on at once, not when the next one has been read."""
    given = [page(0, 0), page(1, 0), page(2), page(3, 0)]
    assert await collected(given, 0) == given
    assert [each.bounds for each in await collected(given, 20)] == [Bounds(None, "k3"), Bounds("k3", "k4")]
    assert await anext(joined(read(given), lambda: 0)) == given[0]


async def test_the_number_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOINED_KEYS", 5)
    assert shape(await collected([page(number) for number in range(5)], 1 << 40)) == [4, 4, 2]


async def test_the_reader_is_closed_with_it() -> None:
    ended = False

    async def reading() -> AsyncGenerator[Page, None]:
        nonlocal ended
        try:
            for number in range(9):
                yield page(number)
        finally:
            ended = True

    joining = joined(reading(), lambda: 0)
    await anext(joining)
    await joining.aclose()
    assert ended
