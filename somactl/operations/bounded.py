"""Bounded concurrency (`each_of`) and batching by count or bytes (`batched`, `in_portions`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
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
