"""Clients that commit and read at the same time, while a test makes things fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Self, TypeAlias

from faults.checker import Place
from faults.history import History
from faults.marked import LARGE, SMALL
from somactl.store.contract import Store

GROUPS = tuple(tuple(f"{name}-{part}" for part in "xyz") for name in "abcd")
"""The keys of a group are always written together, so they always agree."""
KEYS = tuple(key for group in GROUPS for key in group)
Client: TypeAlias = "Callable[[Store, int, random.Random], Awaitable[None]]"
STALL_SECONDS = 15.0
"""Nothing takes this long; a test that waits longer has failed."""


class Load:
    """Writers and readers, each a task with a store object of its own, from `async with` to its end."""

    def __init__(
        self, place: Place, history: History, dice: random.Random, *, writers: int = 4, readers: int = 2
    ) -> None:
        self._place = place
        self._history = history
        self._seeds = [dice.random() for _ in range(writers + readers)]
        self._writers = writers
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    async def __aenter__(self) -> Self:
        for number, seed in enumerate(self._seeds):
            dice = random.Random(seed)
            client = self._write if number < self._writers else self._read
            self._tasks.append(asyncio.create_task(self._run(client, number, dice)))
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._stopped = True
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def progress(self, commits: int) -> None:
        """Return when that many more commits are acknowledged."""
        await self.until(more(lambda: self._history.acknowledged, commits), f"{commits} more commits")

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Return when `condition()` is true; fails where a client fails or nothing moves on."""
        deadline = asyncio.get_running_loop().time() + STALL_SECONDS
        while not condition():
            for task in self._tasks:
                if task.done():
                    task.result()
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(
                    f"waited {STALL_SECONDS} s for {what}; {len(self._history.attempts)} sent"
                )
            await asyncio.sleep(0.002)

    async def _run(self, client: Client, number: int, dice: random.Random) -> None:
        store = self._place.open()
        try:
            await client(store, number, dice)
        finally:
            await store.close()

    async def _write(self, store: Store, number: int, dice: random.Random) -> None:
        writer = Writer(store, self._history, f"w{number}", dice)
        count = 0
        while not self._stopped:
            count += 1
            await writer.commit(count)

    async def _read(self, store: Store, number: int, dice: random.Random) -> None:
        name = f"r{number}"
        while not self._stopped:
            if dice.random() < 0.7:
                keys = dice.choice(GROUPS) if dice.random() < 0.8 else KEYS
                look = await self._history.snapshot(store, name, keys)
            else:
                look = await self._history.read(store, name, dice.choice(KEYS))
            # The writers are what is tested: leave the processor to them, most of all while nothing answers.
            await asyncio.sleep(0.003 if look else 0.05)


def more(count: Callable[[], int], by: int) -> Callable[[], bool]:
    """Whether `count()` has grown by so much since now."""
    goal = count() + by
    return lambda: count() >= goal


class Writer:
    """One client that commits: plain puts, deletes, expectations, guards, and now and then it gives up."""

    def __init__(self, store: Store, history: History, name: str, dice: random.Random) -> None:
        self._store = store
        self._history = history
        self._name = name
        self._dice = dice

    async def commit(self, number: int) -> None:
        dice = self._dice
        commit_id = f"{self._name}-{number}"
        # Unique among all commits, and exact as a float64.
        marker = None if dice.random() < 0.1 else int(self._name.lstrip("w")) * 1_000_000 + number
        groups = dice.sample(GROUPS, 2 if dice.random() < 0.2 else 1)
        keys = [key for group in groups for key in group]
        expected = await self._expectation(keys)
        side = LARGE if dice.random() < 0.1 else SMALL
        sending = asyncio.create_task(
            self._history.commit(self._store, commit_id, dict.fromkeys(keys, marker), expected, side=side)
        )
        if dice.random() < 0.05:
            await asyncio.wait({sending}, timeout=dice.random() * 0.01)
            sending.cancel()
        with suppress(asyncio.CancelledError):
            attempt = await sending
            if attempt.outcome == "refused":
                await asyncio.sleep(0.05)

    async def _expectation(self, keys: Sequence[str]) -> int | dict[str, int] | None:
        choice = self._dice.random()
        if choice < 0.5:
            return None
        guard = self._dice.choice(KEYS)
        look = await self._history.snapshot(self._store, self._name, [*keys, guard])
        if look is None:
            return None
        versions = {key: seen[0] if seen else 0 for key, seen in look.seen.items()}
        if choice < 0.7:
            return versions
        # Of all keys the version of the first: right for one group, and often wrong for two.
        return versions[keys[0]]
