"""A source is asked again where that may help, and not where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from servers.postgres import PostgresServer
from somactl.core.names import Pattern
from somactl.errors import AccessDenied, OutcomeUnknown, SomactlError, StoreUnavailable
from somactl.legacy.source.contract import Change, Value
from somactl.legacy.source.retrying import MOST_LISTINGS, Retrying
from source.backends import PostgresBackend
from source.suite import all_names, all_values, value_of

GONE = StoreUnavailable("gone")
UNKNOWN = OutcomeUnknown("no reply", commit_id="")


class Failing:
    """Fails with each of `errors` before it answers. `pages` come before a listing fails."""

    name = "failing"
    identity = "failing://"
    replaceable = True

    def __init__(self, *errors: SomactlError, pages: int = 1) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.pages = pages
        self.closed = False

    def _fail(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    async def names(self, match: Pattern | None) -> AsyncIterator[list[str]]:
        for number in range(self.pages):
            yield [f"key {number}"]
        self._fail()
        yield ["last"]

    async def fetch(self, keys: Sequence[str]) -> list[Value]:
        self._fail()
        return [Value(key, "gone") for key in keys]

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        self._fail()
        return [True for _ in changes]

    async def close(self) -> None:
        self.closed = True


async def test_what_may_pass_is_asked_again() -> None:
    failing = Failing(GONE, GONE)
    assert await Retrying(failing, seconds=5).fetch(["a"]) == [Value("a", "gone")]
    assert failing.calls == 3


async def test_a_swap_without_a_confirmation_is_repeated() -> None:
    failing = Failing(UNKNOWN, GONE)
    assert await Retrying(failing, seconds=5).swap([Change("a", b"1", b"2")]) == [True]
    assert failing.calls == 3


async def test_a_listing_begins_again() -> None:
    source = Retrying(Failing(GONE, GONE), seconds=5)
    assert set(await all_names(source)) == {"key 0", "last"}


async def test_what_will_not_pass_is_not_asked_again() -> None:
    failing = Failing(AccessDenied("no"), GONE)
    with pytest.raises(AccessDenied):
        await Retrying(failing, seconds=5).fetch(["a"])
    assert failing.calls == 1


async def test_when_the_time_is_up_the_last_error_is_raised() -> None:
    failing = Failing(*[GONE] * 1000)
    with pytest.raises(StoreUnavailable):
        await Retrying(failing, seconds=0.2).swap([])
    assert 2 <= failing.calls < 1000


async def test_a_listing_that_breaks_off_for_ever_is_given_up() -> None:
    """Each time a page comes before: that alone is no progress."""
    failing = Failing(*[GONE] * 100_000, pages=2)
    with pytest.raises(StoreUnavailable):
        await all_names(Retrying(failing, seconds=0.1))
    assert MOST_LISTINGS <= failing.calls < 1000


async def test_it_stands_for_its_source() -> None:
    failing = Failing()
    source = Retrying(failing, seconds=5)
    assert (source.name, source.identity, source.replaceable) == ("failing", "failing://", True)
    await source.close()
    assert failing.closed


async def test_a_server_that_is_killed_meanwhile_costs_nothing_but_time(tmp_path: Path) -> None:
    values = {f"key {number:04d}": value_of("k", 40_000) for number in range(500)}
    with PostgresServer(tmp_path / "own", settings={"fsync": "on", "full_page_writes": "on"}) as server:
        backend = PostgresBackend(server)
        await backend.put(values)
        source = Retrying(backend.open(read_only=False), seconds=60)

        async def kill_and_start() -> None:
            for _ in range(2):
                await asyncio.sleep(0.15)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)

        killing = asyncio.create_task(kill_and_start())
        turns = 0
        while not killing.done() or turns < 2:
            names = await all_names(source)
            assert sorted(set(names)) == sorted(values)
            found = await all_values(source, sorted(values))
            assert all(value.data == values[value.key] for value in found)
            marks = dict.fromkeys(("key 0000", "key 0001"), b'{"turn": %d}' % turns)
            assert all(await source.swap([Change(key, values[key], new) for key, new in marks.items()]))
            values |= marks
            turns += 1
        await killing
        await source.close()


async def test_a_refusal_after_a_lost_answer_stays_unknown() -> None:
    """The change may have been made, and another value been written behind it."""

    class Overtaken(Failing):
        async def swap(self, changes: Sequence[Change]) -> list[bool]:
            await super().swap(changes)
            return [False for _ in changes]

    changes = [Change("a", b"1", None)]
    assert await Retrying(Overtaken(), seconds=5).swap(changes) == [False]
    overtaken = Overtaken(UNKNOWN)
    with pytest.raises(OutcomeUnknown):
        await Retrying(overtaken, seconds=5).swap(changes)
    assert overtaken.calls == 2
