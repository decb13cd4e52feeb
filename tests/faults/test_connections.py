"""Connections that are cut, broken, or silently dead, at every phase of a commit.

A commit is *decided* by one message: Redis's script, Postgres's COMMIT. Until that is sent nothing can have
been written, so a lost connection is StoreUnavailable; from then on the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from faults.checker import judge
from faults.history import Attempt, History
from faults.load import GROUPS
from faults.marked import LARGE, SMALL
from faults.places import Place, RedisPlace
from faults.proxy import Direction, How, Proxy
from somactl.errors import OutcomeUnknown, StoreUnavailable
from somactl.store.contract import Store
from somactl.store.wrapper import Retrying

CUTS = 8
"""How many places of a conversation are cut in each direction, besides its ends."""


class Line:
    """A client whose connections lead through a proxy, and what it committed."""

    def __init__(self, place: Place, proxy: Proxy) -> None:
        self.place = place
        self.proxy = proxy
        self.history = History(place.namespace)
        self.store = place.through(proxy.port).open()
        self._count = 0

    async def commit(self, *, side: int = SMALL, store: Store | None = None) -> Attempt:
        self._count += 1
        group = GROUPS[self._count % len(GROUPS)]
        updates: dict[str, int | None] = dict.fromkeys(group, self._count)
        return await self.history.commit(store or self.store, f"c-{self._count}", updates, side=side)

    async def warm(self, side: int = SMALL) -> None:
        """Have a connection that works, and over which all was asked that is asked once, so that the next
        such commit says nothing but itself."""
        self.proxy.forget()
        if self.proxy.dropped:  # the store may find that out by the next call alone
            self.proxy.dropped = False
            await self.commit(side=side)
        for _ in range(2):
            attempt = await self.commit(side=side)
            assert attempt.outcome == "acknowledged", attempt

    async def conversation(self, side: int) -> tuple[bytes, bytes]:
        """What is sent and received in a commit that nothing disturbs."""
        await self.warm(side)
        self.proxy.forget()
        await self.commit(side=side)
        assert self.proxy.connections == 0
        return bytes(self.proxy.sent), bytes(self.proxy.received)

    async def state(self, attempt: Attempt) -> str:
        """What became of it, as another client is told who goes straight to the server."""
        store = self.place.open()
        try:
            return (await store.commit_status(attempt.commit_id)).state
        finally:
            await store.close()


@asynccontextmanager
async def line_to(place: Place) -> AsyncIterator[Line]:
    await place.init()
    async with Proxy(place.server.port) as proxy:
        line = Line(place, proxy)
        try:
            yield line
        finally:
            proxy.forget()
            proxy.drop()
            await line.store.close()


DECIDING = (b"COMMIT\0", b"EVALSHA", b"somactl_commit")
"""Each stands in a message that decides about a commit: a COMMIT, a script, a function."""


def decided(place: Place, side: int, offered: bytes | bytearray) -> bool:
    """Whether the message that decides about the commit is among what the client sent."""
    if side == SMALL:  # it is one exchange, and all of it is sent at once
        return bool(offered)
    return (b"EVALSHA" if isinstance(place, RedisPlace) else b"COMMIT\0") in offered


def decisive(place: Place, side: int, sent: bytes, received: bytes) -> dict[Direction, int]:
    """About where the deciding exchange begins; ids and versions may be a few digits longer next time."""
    if side == SMALL:
        return {"sent": 0, "received": 0}
    if isinstance(place, RedisPlace):
        return {"sent": sent.index(b"EVALSHA") - 10, "received": received.index(b"*")}
    return {"sent": sent.rindex(b"COMMIT\0") - 5, "received": received.rindex(b"COMMIT\0") - 5}


def cuts(begin: int, end: int, dice: random.Random) -> list[int]:
    """Some of the bytes from `begin` to `end`, its ends above all."""
    if begin == end:
        return []
    return sorted({begin, begin + 1, end - 1, *(dice.randrange(begin, end) for _ in range(CUTS))})


async def check_cut(line: Line, side: int, direction: Direction, after: int, how: How) -> None:
    """A commit during which the connection fails after so many bytes ends in just the right error."""
    await line.warm(side)
    line.proxy.cut(direction, after, how)
    attempt = await line.commit(side=side)
    assert line.proxy.happened.is_set()
    if not decided(line.place, side, line.proxy.offered):
        assert isinstance(attempt.error, StoreUnavailable), (after, attempt)
        return
    assert isinstance(attempt.error, OutcomeUnknown), (after, attempt)
    if direction == "received":  # only the answer was lost, so it had arrived
        assert await line.state(attempt) == "committed"


@pytest.mark.parametrize("direction", ["sent", "received"])
@pytest.mark.parametrize("side", [SMALL, LARGE], ids=["small", "large"])
async def test_a_connection_cut_at_any_byte(
    authority: Callable[..., Place], side: int, direction: Direction, cut_seed: int
) -> None:
    place = authority(f"cut-{direction}-{side}-{cut_seed}")
    dice = random.Random(cut_seed)
    async with line_to(place) as line:
        sent, received = await line.conversation(side)
        turn = decisive(place, side, sent, received)[direction]
        end = len(sent if direction == "sent" else received)
        for after in [*cuts(0, turn, dice), *cuts(turn, end, dice)]:
            await check_cut(line, side, direction, after, dice.choice(["close", "reset"]))
        assert line.history.count("unknown") > 0
        assert side == SMALL or line.history.count("refused") > 0
    assert await judge(place, line.history) == []


@pytest.mark.parametrize("how", ["freeze", "swallow"])
@pytest.mark.parametrize("side", [SMALL, LARGE], ids=["small", "large"])
async def test_a_connection_that_falls_silent(authority: Callable[..., Place], side: int, how: How) -> None:
    """Half-open: nothing says that it is dead. The store's own patience ends it, and names what is known."""
    place = authority(f"silent-{how}-{side}", timeout=0.25)
    async with line_to(place) as line:
        turns = decisive(place, side, *await line.conversation(side))
        for direction, turn in turns.items():
            for after in sorted({0, turn // 2, turn, turn + 1}):
                await check_cut(line, side, direction, after, how)
                line.proxy.drop()  # some day the server hears of it as well
    assert await judge(place, line.history) == []


@pytest.mark.parametrize("side", [SMALL, LARGE], ids=["small", "large"])
async def test_retrying_makes_a_receipt_of_every_cut(
    authority: Callable[..., Place], side: int, cut_seed: int
) -> None:
    place = authority(f"retried-{side}-{cut_seed}")
    dice = random.Random(cut_seed)
    directions: tuple[Direction, ...] = ("sent", "received")
    async with line_to(place) as line:
        lengths = dict(zip(directions, map(len, await line.conversation(side)), strict=True))
        retrying = Retrying(line.store, seconds=10.0, dice=dice.random)
        replayed = 0
        for _ in range(2 * CUTS):
            await line.warm(side)
            direction = dice.choice(directions)
            length = lengths[direction]
            # Anywhere, and often near the end, where the commit is decided.
            after = dice.randrange(length) if dice.random() < 0.5 else length - 1 - dice.randrange(10)
            line.proxy.cut(direction, after, dice.choice(["close", "reset"]))
            attempt = await line.commit(side=side, store=retrying)
            assert line.proxy.happened.is_set()
            assert attempt.receipt is not None, attempt
            replayed += attempt.receipt.replayed
        assert replayed > 0
    assert await judge(place, line.history) == []


async def test_reads_through_cut_connections_are_right_or_refused(
    authority: Callable[..., Place], cut_seed: int
) -> None:
    place = authority(f"cut-reads-{cut_seed}")
    dice = random.Random(cut_seed)
    directions: tuple[Direction, ...] = ("sent", "received")
    async with line_to(place) as line:
        for side in (SMALL, LARGE, SMALL, LARGE):  # each group once
            await line.commit(side=side)
        keys = [key for group in GROUPS for key in group]
        retrying = Retrying(line.store, seconds=10.0, dice=dice.random)
        for _ in range(4 * CUTS):
            line.proxy.cut(dice.choice(directions), int(2 ** dice.uniform(0, 20)))
            line.proxy.received.clear()
            store = dice.choice([line.store, retrying])
            looks = await asyncio.gather(
                *(line.history.read(store, f"r-{key}", key) for key in dice.sample(keys, 4)),
                line.history.snapshot(store, "r", keys),
            )
            assert store is line.store or all(looks)
        assert line.history.failed_reads > 0
    assert await judge(place, line.history) == []


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_idle_connections_that_were_dropped_are_replaced(
    authority: Callable[..., Place], how: Literal["close", "reset"]
) -> None:
    place = authority(f"dropped-{how}")
    async with line_to(place) as line:
        retrying = Retrying(line.store, seconds=10.0)
        for _ in range(10):
            await line.warm()
            line.proxy.drop(how)
            # At the very moment of the drop the commit may already be under way; the next one is not.
            await line.commit(store=retrying)
            look = await line.history.snapshot(retrying, "r", GROUPS[0])
            assert look is not None
        assert line.history.count("acknowledged") == len(line.history.attempts)
    assert await judge(place, line.history) == []


async def test_a_server_that_is_not_there_was_sent_nothing(authority: Callable[..., Place]) -> None:
    place = authority("nowhere")
    await place.init()
    history = History(place.namespace)
    store = place.through(1).open()  # nothing listens on port 1
    try:
        attempt = await history.commit(store, "never", {"a": 1})
        assert isinstance(attempt.error, StoreUnavailable)
        assert attempt.error.retryable
        assert await history.read(store, "r", "a") is None
    finally:
        await store.close()
    assert await judge(place, history) == []


async def test_a_network_that_delivers_nothing_ends_in_time(authority: Callable[..., Place]) -> None:
    """Old connections and new ones alike: every call ends with an error, and works again afterwards."""
    place = authority("dead-network", timeout=0.25)
    async with line_to(place) as line:
        await line.warm()
        line.proxy.freeze()
        async with asyncio.timeout(20):
            for _ in range(2):
                attempt, look, snapshot = await asyncio.gather(
                    line.commit(),
                    line.history.read(line.store, "r", "a-x"),
                    line.history.snapshot(line.store, "s", GROUPS[0]),
                )
                assert isinstance(attempt.error, StoreUnavailable | OutcomeUnknown)
                assert (look, snapshot) == (None, None)
        line.proxy.drop()
        await line.warm()
        assert await line.history.snapshot(line.store, "s", GROUPS[0]) is not None
    assert await judge(place, line.history) == []


@pytest.mark.parametrize("side", [SMALL, LARGE], ids=["small", "large"])
async def test_a_commit_that_arrives_after_it_was_given_up_is_refused(
    authority: Callable[..., Place], side: int
) -> None:
    """Its deciding message lies in the network while another client resolves the id."""
    place = authority(f"late-arrival-{side}", timeout=0.25)
    async with line_to(place) as line:
        sent, _ = await line.conversation(side)
        await line.warm(side)
        line.proxy.cut("sent", next(word for word in DECIDING if word in sent), "freeze")
        attempt = await line.commit(side=side)
        assert isinstance(attempt.error, OutcomeUnknown), attempt
        assert await line.state(attempt) == "unseen"
        other = Retrying(place.open(), seconds=10.0)
        try:
            # A transaction that was left hanging may hold others up, but not for long.
            assert (await other.commit_status(attempt.commit_id, resolve=True)).state == "aborted"
            assert (await line.commit(store=other)).receipt is not None
        finally:
            await other.close()
        assert line.proxy.offered not in line.proxy.sent
        await line.store.close()
        line.proxy.thaw()
        await line.proxy.quiet()
        assert line.proxy.offered == line.proxy.sent
    assert await judge(place, line.history) == []
