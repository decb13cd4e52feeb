"""Bounded concurrency (`each_of`) and batching by count or bytes (`batched`, `in_portions`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
A = TypeVar("A")


async def each_of(call: Callable[[A], Awaitable[T]], arguments: Iterable[A], *, at_once: int) -> list[T]:
    """`call` of each argument, in their order, `at_once` under way. The first error ends all of them."""
    gate = asyncio.Semaphore(at_once)

    async def one(argument: A) -> T:
        async with gate:
            return await call(argument)

    tasks = [asyncio.create_task(one(argument)) for argument in arguments]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def batched(values: Iterable[A], size: int) -> Iterator[list[A]]:
    """`values` in lists of `size`, the last one maybe shorter."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


def in_portions(
    items: Iterable[A], size: Callable[[A], int], most_bytes: int, most: int | None = None
) -> Iterator[list[A]]:
    """`items` in lists of at most `most` with at most `most_bytes` in sum; a single one may be larger."""
    portion: list[A] = []
    held = 0
    for item in items:
        more = size(item)
        if portion and (len(portion) == most or held + more > most_bytes):
            yield portion
            portion, held = [], 0
        portion.append(item)
        held += more
    if portion:
        yield portion
