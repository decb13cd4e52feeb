"""What every source promises, as tests. Subclasses bring a backend."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeAlias

import pytest
import pytest_asyncio
from msgspec.structs import replace

from somactl.core.names import Pattern
from somactl.errors import ReadOnlyStore
from somactl.legacy.source.contract import FETCH_BYTES, Change, Source, Value
from source.backends import Backend

Opener: TypeAlias = Callable[..., Source]
MEGABYTE = 1 << 20
HOSTILE_KEYS = [
    "acme:(9.0, 14.0, 43.0):data",
    "acme:wal:7c5b",
    " ",
    "a=b",
    "new\nline and\ttab",
    "quotes \"double\" and 'single'; DROP TABLE kv_store; --",
    "back\\slash",
    "%s like_ {braces} $1",
    "*",
    "*star*",
    "[ab]",
    "a",
    "q?",
    "é",
    "e\u0301",
    "ünïcödé ✓ 🎉 \u202e",
    "-",
    "x" * 40 + "".join(random.Random(4).choices("0123456789abcdef", k=1960)),
]
PATTERNS = [
    "*", "acme:*", "acme:(*", "*:data", "[ab]", "[*", "[ab]*", "\\*", "\\**", "*\\**", "q?", "q\\?", "?",
    "back\\\\*", "back*slash", "new*", "é", "e*", "%*", "*like_*", "none*", "x" * 41 + "*", "a=?", "*🎉*",
]  # fmt: skip


def value_of(key: str, size: int = 0) -> bytes:
    """JSON in the form that JSONB too gives back, of at least `size` bytes."""
    return b'{"n": %d, "pad": "%s"}' % (sum(key.encode()), b"0" * size)


async def all_names(source: Source, match: str | None = None) -> list[str]:
    pattern = None if match is None else Pattern(match)
    return [name async for page in source.names(pattern) for name in page]


def plain(values: Sequence[Value]) -> list[Value]:
    """Without what each kind of source says of its values in words of its own."""
    return [replace(value, attributes="") for value in values]


async def all_values(source: Source, keys: Sequence[str]) -> list[Value]:
    """What a caller gets who asks again for what did not come."""
    values: list[Value] = []
    while len(values) < len(keys):
        came = await source.fetch(keys[len(values) :])
        assert came, "each call brings one value at least"
        values += came
    return plain(values)


class ReadingContract:
    """Subclasses give a fixture `backend`, and the source's `module`, whose limits some tests lower."""

    module: str
    largest = 100 * MEGABYTE

    @pytest_asyncio.fixture
    async def opener(self, backend: Backend) -> AsyncIterator[Opener]:
        """Opens the backend's source, and closes it after the test, twice, which is to be harmless."""
        opened: list[Source] = []

        def open_source(*, read_only: bool = True) -> Source:
            opened.append(backend.open(read_only=read_only))
            return opened[-1]

        yield open_source
        for source in [*opened, *opened]:
            await source.close()

    async def test_every_key_is_named_and_has_its_value(self, backend: Backend, opener: Opener) -> None:
        await backend.put({key: value_of(key) for key in HOSTILE_KEYS})
        source = opener()
        names = await all_names(source)
        assert sorted(set(names)) == sorted(HOSTILE_KEYS)
        values = await all_values(source, HOSTILE_KEYS)
        assert values == [Value(key, "text", value_of(key)) for key in HOSTILE_KEYS]

    async def test_a_source_without_values_has_no_names(self, opener: Opener) -> None:
        assert await all_names(opener()) == []

    async def test_patterns_match_as_everywhere_in_somactl(self, backend: Backend, opener: Opener) -> None:
        await backend.put(dict.fromkeys(HOSTILE_KEYS, b"1"))
        source = opener()
        for pattern in PATTERNS:
            wanted = {key for key in HOSTILE_KEYS if Pattern(pattern).matches(key)}
            assert set(await all_names(source, pattern)) == wanted, pattern

    async def test_names_come_in_pages(self, backend: Backend, opener: Opener) -> None:
        keys = {f"key {number}" for number in range(4500)}
        await backend.put(dict.fromkeys(keys, b"1"))
        source = opener()
        assert set(await all_names(source)) == keys
        assert set(await all_names(source, "key 44??")) == {f"key {number}" for number in range(4400, 4500)}

    async def test_values_come_in_the_order_asked_and_as_often(
        self, backend: Backend, opener: Opener
    ) -> None:
        await backend.put({"a": b"1", "b": b"2"})
        values = await all_values(opener(), ["b", "missing", "a", "b"])
        assert values == [
            Value("b", "text", b"2"),
            Value("missing", "gone"),
            Value("a", "text", b"1"),
            Value("b", "text", b"2"),
        ]

    async def test_a_key_that_the_source_could_not_hold_is_gone(self, opener: Opener) -> None:
        keys = ["nul \x00", "surrogate \udc80", ""]
        assert await all_values(opener(), keys) == [Value(key, "gone") for key in keys]

    async def test_many_values_are_asked_for_at_once(self, backend: Backend, opener: Opener) -> None:
        keys = [f"{number:04d}" for number in range(2500)]
        await backend.put(dict.fromkeys(keys, b"[1]"))
        assert await all_values(opener(), keys) == [Value(key, "text", b"[1]") for key in keys]

    async def test_a_call_brings_no_more_than_its_bytes(self, backend: Backend, opener: Opener) -> None:
        keys = [f"key {number}" for number in range(7)]
        await backend.put({key: value_of(key, 5 * MEGABYTE) for key in keys})
        source = opener()
        values = await source.fetch(["missing", *keys])
        assert [value.key for value in values] == ["missing", *keys[:3]]
        assert sum(len(value.data) for value in values) <= FETCH_BYTES
        assert plain(await source.fetch(keys[5:])) == [
            Value(key, "text", value_of(key, 5 * MEGABYTE)) for key in keys[5:]
        ]

    async def test_a_value_larger_than_that_comes_alone(self, backend: Backend, opener: Opener) -> None:
        large = value_of("large", FETCH_BYTES)
        await backend.put({"small": b"1", "large": large, "other": b"2"})
        source = opener()
        assert plain(await source.fetch(["small", "large", "other"])) == [Value("small", "text", b"1")]
        assert plain(await source.fetch(["large", "other"])) == [Value("large", "text", large)]

    async def test_a_very_large_value_comes_whole(self, backend: Backend, opener: Opener) -> None:
        large = value_of("large", self.largest)
        await backend.put({"large": large})
        (value,) = await opener().fetch(["large"])
        assert (value.state, len(value.data), value.data == large) == ("text", len(large), True)

    async def test_a_value_that_is_too_large_is_said_and_not_fetched(
        self, backend: Backend, opener: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(f"{self.module}.MAX_VALUE_BYTES", 2 * MEGABYTE)
        keys = ["first", "large", "other"]
        await backend.put({"first": b"1", "large": value_of("large", 3 * MEGABYTE), "other": b"2"})
        values = await all_values(opener(), keys)
        assert [value.state for value in values] == ["text", "unreadable", "text"]
        assert values[1].data == b""
        assert values[1].detail.startswith("3 MB")

    async def test_read_only_refuses_to_swap(self, backend: Backend, opener: Opener) -> None:
        await backend.put({"a": b"1"})
        with pytest.raises(ReadOnlyStore):
            await opener().swap([Change("a", b"1", b"2")])
        assert await backend.read("a") == b"1"

    async def test_a_report_may_show_its_name_and_its_identity(self, opener: Opener) -> None:
        source = opener()
        assert "secret" not in source.name + source.identity
        assert "127.0.0.1" not in source.name
        assert source.identity == opener().identity

    async def test_one_source_serves_many_tasks_at_once(self, backend: Backend, opener: Opener) -> None:
        keys = [f"key {number}" for number in range(64)]
        await backend.put({key: value_of(key, 10_000) for key in keys})
        source = opener()
        answers = await asyncio.gather(*(source.fetch([key]) for key in keys), all_names(source))
        assert [plain(values) for values in answers[:-1]] == [
            [Value(key, "text", value_of(key, 10_000))] for key in keys
        ]
        assert set(answers[-1]) == set(keys)


class SwappingContract(ReadingContract):
    """For sources whose values can be replaced."""

    async def test_a_value_is_replaced_removed_and_put_back(self, backend: Backend, opener: Opener) -> None:
        await backend.put({"a": b"1", "b": b"2", "c": None})
        source = opener(read_only=False)
        assert source.replaceable
        changes = [
            Change("a", b"1", b'{"n": [1, 2]}'),
            Change("b", b"2", None),
            Change("c", None, b"[3]"),
        ]
        assert await source.swap(changes) == [True, True, True]
        assert [await backend.read(key) for key in "abc"] == [b'{"n": [1, 2]}', None, b"[3]"]
        back = [Change(each.key, each.after, each.before) for each in changes]
        assert await source.swap(back) == [True, True, True]
        assert [await backend.read(key) for key in "abc"] == [b"1", b"2", None]

    async def test_every_key_can_be_swapped(self, backend: Backend, opener: Opener) -> None:
        await backend.put({key: value_of(key) for key in HOSTILE_KEYS})
        source = opener(read_only=False)
        changes = [Change(key, value_of(key), b"[2]") for key in HOSTILE_KEYS]
        assert await source.swap(changes) == [True] * len(changes)
        assert {await backend.read(key) for key in HOSTILE_KEYS} == {b"[2]"}

    async def test_a_value_that_changed_is_left_alone(self, backend: Backend, opener: Opener) -> None:
        await backend.put({"a": b"10", "b": b"20", "c": b"30", "d": None, "e": b"50"})
        source = opener(read_only=False)
        changes = [
            Change("a", b"1", b"2"),
            Change("b", b"2", None),
            Change("c", None, b"3"),
            Change("d", b"4", b"5"),
            Change("e", b"50", b"51"),
        ]
        assert await source.swap(changes) == [False, False, False, False, True]
        assert [await backend.read(key) for key in "abcde"] == [b"10", b"20", b"30", None, b"51"]

    async def test_a_repetition_tells_the_same(self, backend: Backend, opener: Opener) -> None:
        await backend.put({"a": b"1", "b": b"2", "c": None, "d": None})
        source = opener(read_only=False)
        changes = [
            Change("a", b"1", b"10"),
            Change("b", b"2", None),
            Change("c", None, b"3"),
            Change("d", None, None),
        ]
        assert await source.swap(changes) == [True] * 4
        assert await source.swap(changes) == [True] * 4
        assert [await backend.read(key) for key in "abcd"] == [b"10", None, b"3", None]

    async def test_changes_of_one_key_are_made_one_after_another(
        self, backend: Backend, opener: Opener
    ) -> None:
        await backend.put({"a": b"1"})
        changes = [
            Change("a", b"1", b"2"),
            Change("a", b"2", None),
            Change("a", b"1", b"9"),
            Change("a", None, b"3"),
        ]
        assert await opener(read_only=False).swap(changes) == [True, True, False, True]
        assert await backend.read("a") == b"3"

    async def test_any_changes_do_what_a_dict_would(self, backend: Backend, opener: Opener) -> None:
        dice = random.Random(20)
        values = (None, b"1", b"[2]", b'{"a": 3}')
        model: dict[str, bytes | None] = dict.fromkeys("abcd")
        await backend.put(model)
        source = opener(read_only=False)
        outcomes = []
        for _ in range(60):
            changes = [
                Change(dice.choice("abcd"), dice.choice(values), dice.choice(values))
                for _ in range(dice.randint(1, 8))
            ]
            expected = []
            for change in changes:
                now = model[change.key]
                expected.append(now in (change.before, change.after))
                if now == change.before:
                    model[change.key] = change.after
            assert await source.swap(changes) == expected, changes
            outcomes += expected
        assert {key: await backend.read(key) for key in "abcd"} == model
        assert 50 < sum(outcomes) < len(outcomes) - 50

    async def test_a_cancelled_swap_can_be_repeated_and_its_reply_reaches_nobody_else(
        self, backend: Backend, opener: Opener
    ) -> None:
        dice = random.Random(21)
        keys = [f"key {number}" for number in range(40)]
        await backend.put(dict.fromkeys(keys, b"0"))
        source = opener(read_only=False)
        for turn in range(12):
            changes = [Change(key, b"%d" % turn, b"%d" % (turn + 1)) for key in keys]
            task = asyncio.create_task(source.swap(changes))
            await asyncio.sleep(dice.random() * 0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            values = await all_values(source, keys)
            assert {value.data for value in values} <= {b"%d" % turn, b"%d" % (turn + 1)}
            assert await source.swap(changes) == [True] * len(keys)
        assert {value.data for value in await all_values(source, keys)} == {b"12"}

    async def test_no_changes_are_no_work(self, opener: Opener) -> None:
        assert await opener(read_only=False).swap([]) == []

    async def test_many_changes_are_made_at_once(self, backend: Backend, opener: Opener) -> None:
        keys = [f"key {number}" for number in range(600)]
        await backend.put({key: value_of(key) for key in keys})
        source = opener(read_only=False)
        changes = [Change(key, value_of(key), None if i % 2 else b"[1]") for i, key in enumerate(keys)]
        assert await source.swap(changes) == [True] * len(keys)
        assert set(await all_names(source)) == set(keys[::2])

    async def test_a_large_value_is_swapped(self, backend: Backend, opener: Opener) -> None:
        large, other = value_of("large", 24 * MEGABYTE), value_of("other", 24 * MEGABYTE)
        await backend.put({"large": large})
        source = opener(read_only=False)
        assert await source.swap([Change("large", other, b"1")]) == [False]
        assert await source.swap([Change("large", large, other)]) == [True]
        (value,) = await source.fetch(["large"])
        assert value.data == other

    async def test_of_writers_that_race_one_wins_each_round(self, backend: Backend, opener: Opener) -> None:
        await backend.put({"a": b"0"})
        sources = [opener(read_only=False) for _ in range(4)]
        before = b"0"
        for turn in range(10):
            offers = [b"[%d, %d]" % (turn, number) for number in range(len(sources))]
            answers = await asyncio.gather(
                *(
                    source.swap([Change("a", before, offer)])
                    for source, offer in zip(sources, offers, strict=True)
                )
            )
            found = await backend.read("a")
            assert [answer for (answer,) in answers] == [offer == found for offer in offers]
            assert found in offers
            before = found
