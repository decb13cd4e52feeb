"""The ledger never claims what was not proven, whatever happened in whatever order; and it stays small."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from somactl.errors import CorruptValue, SchemaMismatch
from somactl.operations.audit.ledger import (
    KEEP_DOUBTS,
    KEEP_RUNS,
    MAX_RANGE_BYTES,
    MAX_RANGES,
    NEAR_SECONDS,
    Ledger,
    Run,
    Span,
    decode_ledger,
    encode_ledger,
    ledger_name,
    merge,
)
from somactl.operations.audit.ranges import Range
from somactl.store.contract import Note

EXAMPLES = 10_000 if os.environ.get("SOMACTL_TEST_NIGHT") else 100
TOLERANCES = {"psd": 1e-8, "trace": 1e-8, "hermitian": 1e-8}
KEYS = ["a", "a ", "aa", "b:(9.0, 14.0)", "bé", "b\uffff", "b\U0001f600", "z"]
"""In the order of code points, which is that of their UTF-8 bytes."""


def blank(**fields: Any) -> Ledger:
    return Ledger(**{"incarnation": "i1", "tolerances": TOLERANCES, "method": "proof", **fields})


def note(data: bytes) -> Note:
    return Note("audit/ledger/x", 1, len(data), 0.0, data)


def ends(ledger: Ledger) -> list[tuple[str | None, int | None, float | None]]:
    return [(each.upto, each.version, each.read_at) for each in ledger.ranges]


class World:
    """A namespace, its matrices, and for each of its keys what was really proven."""

    def __init__(self, gap: float) -> None:
        self.gap = gap
        self.now = 1000.0
        self.version = 0
        self.live: dict[str, int] = {}
        # Key -> the version in which it was last proven; key -> when it was last read, alive or not.
        self.proven: dict[str, int] = {}
        self.read_at: dict[str, float] = {}
        self.born: dict[str, float] = {}
        self.proven_at: dict[str, float] = {}
        self.ledgers = [blank()]
        self.doubted: list[dict[str, float]] = [
            {}
        ]  # of each ledger: key -> when the last doubt came that it heard of

    def pass_time(self) -> None:
        self.now += self.gap

    def put(self, key: str) -> None:
        self.version += 1
        self.live[key] = self.version
        self.born.setdefault(key, self.now)

    def delete(self, key: str) -> None:
        self.version += 1
        self.live.pop(key, None)
        self.born.pop(key, None)

    def within(self, after: str | None, upto: str | None) -> list[str]:
        return [key for key in KEYS if (after is None or key > after) and (upto is None or key <= upto)]

    def prove(self, key: str) -> None:
        self.proven_at[key] = self.now
        if key in self.live:
            self.proven[key] = self.live[key]

    def audit(self, number: int, after: str | None, upto: str | None) -> None:
        """Read all keys of a range, and record it in one of the ledgers."""
        keys = self.within(after, upto)
        for key in keys:
            self.read_at[key] = self.now
            self.prove(key)
        there = [key for key in keys if key in self.live]
        self.change(
            number,
            lambda ledger: ledger.record(
                after, upto, version=self.version, read_at=self.now, keys=len(there), bytes=100 * len(there)
            ),
        )

    def catch_up(self, number: int, after: str | None, upto: str | None, late: int) -> None:
        """Read what one of the ledgers says is not proven, up to a version of some commits ago."""
        cursor = self.ledgers[number].cursor()
        for key in self.within(after, upto):
            if self.live.get(key, 0) > (cursor.at(key).version or 0):
                self.prove(key)
        version = max(0, self.version - late)
        self.change(number, lambda ledger: ledger.caught_up(after, upto, version))

    def doubt(self, number: int, after: str | None, upto: str | None) -> None:
        self.now += 0.125
        self.doubted[number] |= dict.fromkeys(self.within(after, upto), self.now)
        self.change(number, lambda ledger: ledger.doubt(after, upto, self.now))

    def change(self, number: int, change: Any) -> None:
        self.ledgers[number] = change(self.ledgers[number])

    def fork(self, number: int) -> None:
        """Another audit reads the same note."""
        if len(self.ledgers) < 3:
            self.ledgers.append(self.ledgers[number])
            self.doubted.append(dict(self.doubted[number]))

    def join(self, number: int) -> None:
        if len(self.ledgers) > 1:
            other = self.ledgers.pop()
            number = min(number, len(self.ledgers) - 1)
            for key, at in self.doubted.pop().items():
                self.doubted[number][key] = max(at, self.doubted[number].get(key, 0))
            self.ledgers[number] = merge(self.ledgers[number], other)

    def compact(self, number: int, most: int) -> None:
        self.change(number, lambda ledger: ledger.compacted(most))

    def rewrite(self, number: int) -> None:
        self.change(number, lambda ledger: decode_ledger(note(encode_ledger(ledger))))

    def check(self) -> None:
        for ledger, doubted in zip(self.ledgers, self.doubted, strict=True):
            cursor = ledger.cursor()
            for key in KEYS:
                claim = cursor.at(key)
                version = self.live.get(key)
                if version is not None and claim.version is not None and version <= claim.version:
                    assert self.proven.get(key) == version, f"{key!r} was never proven"
                    assert self.proven_at[key] >= doubted.get(key, 0), f"{key!r} was doubted since"
                if claim.read_at is not None and key in self.live and self.born[key] <= claim.read_at:
                    assert self.read_at.get(key, -1) >= claim.read_at, f"{key!r} was not read since"


places = st.sampled_from([None, *KEYS, "0", "a!", "zz"])


@st.composite
def intervals(draw: st.DrawFn) -> tuple[str | None, str | None]:
    after, upto = draw(places), draw(places)
    if after is not None and upto is not None and after > upto:
        after, upto = upto, after
    return (after, upto) if after is None or after != upto else (None, upto)


numbers = st.integers(0, 2)
keys = st.sampled_from(KEYS)
steps = st.one_of(
    st.tuples(st.just("put"), keys),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("pass_time")),
    st.tuples(st.just("audit"), numbers, intervals()),
    st.tuples(st.just("catch_up"), numbers, intervals(), st.integers(0, 2)),
    st.tuples(st.just("doubt"), numbers, intervals()),
    st.tuples(st.just("fork"), numbers),
    st.tuples(st.just("join"), numbers),
    st.tuples(st.just("compact"), numbers, st.integers(1, 4)),
    st.tuples(st.just("rewrite"), numbers),
)


def act(world: World, step: tuple[Any, ...]) -> None:
    name, *arguments = step
    if name in ("put", "delete"):
        getattr(world, name)(*arguments)
        return
    flat = [
        each for argument in arguments for each in (argument if isinstance(argument, tuple) else [argument])
    ]
    if flat:
        flat[0] = min(flat[0], len(world.ledgers) - 1)
    getattr(world, name)(*flat)


@settings(max_examples=EXAMPLES)
@given(st.sampled_from([1.0, 25.0, 100.0]), st.lists(steps, min_size=20, max_size=50))
def test_no_history_makes_it_claim_what_was_not_proven(gap: float, history: list[tuple[Any, ...]]) -> None:
    world = World(gap)
    for step in history:
        act(world, step)
        world.check()
        for ledger in world.ledgers:
            decode_ledger(note(msgspec.json.encode(ledger)))  # its ranges follow each other
    world.pass_time()
    for ledger in world.ledgers:
        full = ledger.record(None, None, version=world.version, read_at=world.now, keys=3, bytes=300)
        assert ends(full) == [(None, world.version or None, world.now)]
        assert (full.keys, full.bytes, full.oldest_read) == (3, 300, world.now)


def page_keys(count: int, length: int = 45) -> list[str]:
    """The last keys of pages, of a length that is usual."""
    return [
        f"acme:({number // 100}.0, {number % 100}.0):".ljust(length, "x") + f"{number:08}"
        for number in range(count)
    ]


def audited(
    ends: list[str | None], *, seconds: float, since: float = 1.7e9, ledger: Ledger | None = None
) -> Ledger:
    """All of a namespace, read in pages of 256 keys that took `seconds` each, while others committed."""
    ledger, after = ledger or blank(), None
    for number, upto in enumerate(ends):
        read_at = since + seconds * number + 0.123456
        ledger = ledger.record(
            after, upto, version=100_000 + 7 * number, read_at=read_at, keys=256, bytes=256 * 4096
        )
        after = upto
    return ledger


@pytest.mark.parametrize("seconds", [0.05, 61.0])
def test_a_million_keys_take_less_than_a_megabyte(seconds: float) -> None:
    ends = sorted(page_keys(1_000_000 // 256))
    ledger = audited([*ends, None], seconds=seconds)
    data = encode_ledger(ledger)
    assert len(data) < 1_000_000
    kept = decode_ledger(note(data))
    assert len(kept.ranges) <= MAX_RANGES
    assert (kept.keys, kept.bytes) == (ledger.keys, ledger.bytes) == (3907 * 256, 3907 * 256 * 4096)
    assert kept.oldest_read == ledger.oldest_read == 1.7e9 + 0.123456


def test_the_longest_keys_take_less_than_a_megabyte() -> None:
    ends = sorted(f"{number:06}".ljust(1024, '"') for number in range(5000))
    data = encode_ledger(audited([*ends, None], seconds=61.0))
    assert MAX_RANGE_BYTES / 2 < len(data) < MAX_RANGE_BYTES + 4096


def test_pages_read_within_a_minute_are_one_range_read_at_the_first_one_s_time() -> None:
    ledger = audited(["a", "b", "c", "d", None], seconds=NEAR_SECONDS / 2, since=0.0)
    assert ends(ledger) == [("c", 100_000, 0.123456), (None, 100_021, 90.123456)]


def test_what_is_joined_claims_what_both_claim() -> None:
    ranges = (Range("b", 9, 50.0, 2, 20), Range("d", 7, 70.0, 3, 30), Range(None, 8, 60.0, 1, 10))
    assert blank(ranges=ranges).compacted(1).ranges == (Range(None, 7, 50.0, 6, 60),)


def test_known_and_unknown_are_joined_last() -> None:
    far = [Range("a", 1, 0.0, 10**6, 1), Range("b", 10**6, 1e9, 10**6, 1)]
    unknown = [Range("c", None, None, 1, 1), Range("d", 5, None, 1, 1), Range(None, None, None, 1, 1)]
    ledger = blank(ranges=(*far, *unknown))
    assert ends(ledger.compacted(4)) == [("b", 1, 0.0), ("c", None, None), ("d", 5, None), (None, None, None)]
    assert ends(ledger.compacted(2)) == [("b", 1, 0.0), (None, None, None)]
    assert ends(ledger.compacted(1)) == [(None, None, None)]


def test_the_known_are_joined_as_far_as_they_go() -> None:
    known = [Range(key, 1, 100.0 * number, 1, 1) for number, key in enumerate("abcdef")]
    ledger = blank(ranges=(*known, Range(None, None, None, 9, 9)))
    assert ends(ledger.compacted(2)) == [("f", 1, 0.0), (None, None, None)]


def test_what_is_joined_is_spread_over_all_of_it() -> None:
    even = [Range(key, 1, 100.0 * number, 1, 1) for number, key in enumerate([*"abcdefg", None])]
    times = [each.read_at for each in blank(ranges=tuple(even)).compacted(4).ranges]
    assert times == [0.0, 200.0, 400.0, 600.0]


def test_neighbours_that_lose_least_are_joined_first() -> None:
    times = [0.0, 100.0, 110.0, 400.0]
    ranges = tuple(
        Range(key, 1, time, 10, 10) for key, time in zip(["a", "b", "c", None], times, strict=True)
    )
    assert ends(blank(ranges=ranges).compacted(3)) == [("a", 1, 0.0), ("c", 1, 100.0), (None, 1, 400.0)]
    small = (ranges[0], Range("b", 1, 100.0, 1, 1), Range("c", 1, 110.0, 1000, 1), ranges[3])
    assert ends(blank(ranges=small).compacted(3)) == [("b", 1, 0.0), ("c", 1, 110.0), (None, 1, 400.0)]


def test_a_part_that_is_read_again_splits_its_range() -> None:
    ledger = blank().record(None, None, version=5, read_at=0.0, keys=100, bytes=1000)
    ledger = ledger.record(None, "c", version=9, read_at=500.0, keys=10, bytes=100)
    assert ledger.ranges == (Range("c", 9, 500.0, 10, 100), Range(None, 5, 0.0, 90, 900))
    ledger = ledger.record("f", "g", version=9, read_at=500.0, keys=1, bytes=10)
    assert [each.upto for each in ledger.ranges] == ["c", "f", "g", None]
    assert (ledger.keys, ledger.bytes) == (100, 1000)
    ledger = ledger.record("c", None, version=9, read_at=500.0, keys=95, bytes=950)
    assert ledger.ranges == (Range(None, 9, 500.0, 105, 1050),)


def test_a_part_that_is_read_again_at_once_is_not_joined_with_the_rest() -> None:
    ledger = blank().record(None, None, version=5, read_at=0.0, keys=100, bytes=1000)
    ledger = ledger.record("f", "g", version=9, read_at=1.0, keys=1, bytes=10)
    assert ends(ledger) == [("f", 5, 0.0), ("g", 9, 1.0), (None, 5, 0.0)]


def test_a_catch_up_in_pages_leaves_no_trace_of_them() -> None:
    ledger = before = audited(["b", "f", None], seconds=100.0, since=0.0)
    for after, upto in ((None, "a"), ("a", "d"), ("d", "e"), ("e", None)):
        ledger = ledger.caught_up(after, upto, 200_000)
    assert ends(ledger) == [(upto, 200_000, read_at) for upto, _, read_at in ends(before)]
    assert (ledger.keys, ledger.bytes) == (before.keys, before.bytes)


def test_nothing_goes_back() -> None:
    ledger = blank().record(None, None, version=5, read_at=100.0, keys=1, bytes=1)
    assert ends(ledger.caught_up(None, None, 3)) == [(None, 5, 100.0)]
    assert ends(ledger.record(None, None, version=4, read_at=90.0, keys=1, bytes=1)) == [(None, 5, 100.0)]


@pytest.mark.parametrize(("after", "upto"), [("b", "a"), ("b", "b")])
def test_an_interval_without_keys_is_a_mistake(after: str, upto: str) -> None:
    with pytest.raises(ValueError, match="behind"):
        blank().caught_up(after, upto, 1)


def test_a_cursor_finds_the_range_of_each_key() -> None:
    ledger = audited(["b", "b\uffff", None], seconds=100.0)
    cursor = ledger.cursor()
    assert [cursor.at(key).upto for key in KEYS] == ["b"] * 3 + ["b\uffff"] * 3 + [None] * 2


def test_what_was_never_read_comes_first_and_then_the_longest_unread() -> None:
    ranges = (
        Range("a", 9, 300.0, 10, 1000),
        Range("b", 9, 100.0, 20, 500),
        Range("c", None, None, 0, 0),
        Range(None, 9, 200.0, 40, 100),
    )
    ledger = blank(ranges=ranges)
    assert ledger.recheck() == [
        Span("b", "c", None, 0, 0),
        Span("a", "b", 100.0, 20, 500),
        Span("c", None, 200.0, 40, 100),
        Span(None, "a", 300.0, 10, 1000),
    ]
    assert [(span.upto, span.most) for span in ledger.recheck(keys=30)] == [("c", 30), ("b", 30), (None, 10)]
    assert [(span.upto, span.most) for span in ledger.recheck(bytes=500)] == [("c", 500), ("b", 500)]
    assert ledger.recheck(keys=0) == []


def test_by_shares_everything_is_read_again() -> None:
    """Five per cent a run, as `--recheck 5%`: in 20 runs all of it, the first ones first."""
    names = [f"{number:03}" for number in range(200)]
    ledger = blank().record(None, None, version=1, read_at=0.0, keys=200, bytes=200)
    read: list[str] = []
    for run in range(1, 21):
        for span in ledger.recheck(keys=10):
            keys = [name for name in names if (span.after or "") < name <= (span.upto or "999")][: span.most]
            upto = span.upto if len(keys) < (span.most or 0) else keys[-1]
            ledger = ledger.record(
                span.after, upto, version=1, read_at=100.0 * run, keys=len(keys), bytes=len(keys)
            )
            read += keys
        assert ledger.keys == 200
    assert read == names
    assert ledger.oldest_read == 0.0  # behind the last key nothing was read
    assert ledger.recheck(keys=10)[0].after == names[-1]


def test_how_much_is_known() -> None:
    ledger = blank()
    assert (ledger.share_read(0), ledger.share_read(10), ledger.oldest_read) == (0.0, 0.0, None)
    ledger = ledger.record(None, "m", version=1, read_at=5.0, keys=30, bytes=30)
    assert (ledger.share_read(40), ledger.share_read(20), ledger.oldest_read) == (0.75, 1.0, None)
    ledger = ledger.record("m", None, version=1, read_at=500.0, keys=10, bytes=10)
    assert (ledger.share_read(40), ledger.oldest_read) == (1.0, 5.0)
    assert blank().record(None, None, version=0, read_at=5.0, keys=0, bytes=0).share_read(0) == 1.0


def test_when_the_cycle_is_complete() -> None:
    day = 86_400.0
    ledger = blank()
    assert ledger.cycle_seconds(1000) is None
    ledger = ledger.ran(Run(0.0, 10.0, 1000, 0))
    assert ledger.cycle_seconds(1000) is None
    for number in range(1, 4):
        ledger = ledger.ran(Run(number * day, number * day + 10, 50, 0))
    assert ledger.cycle_seconds(1000) == pytest.approx(20 * day)
    idle = blank(runs=(Run(0.0, 10.0, 1000, 0), Run(day, day + 10, 0, 0)))
    assert idle.cycle_seconds(1000) is None
    for number in range(4, KEEP_RUNS + 5):
        ledger = ledger.ran(Run(number * day, number * day + 10, 100 if number > 90 else 50, 0))
    assert [run.started_at for run in ledger.runs] == [number * day for number in range(5, KEEP_RUNS + 5)]
    assert ledger.cycle_seconds(1000) == pytest.approx(10 * day)  # at the pace of the last ten
    assert merge(ledger, ledger.ran(Run(0.0, 5.0, 1, 1))).runs == ledger.runs


def test_two_ledgers_claim_together_what_either_claims() -> None:
    one = blank(ranges=(Range("b", 9, 50.0, 2, 20), Range("d", None, None), Range(None, 7, 90.0, 6, 60)))
    two = blank(ranges=(Range("c", 3, 70.0, 4, 40), Range(None, 8, None, 1, 1)))
    expected = [("b", 9, 70.0), ("c", 3, 70.0), ("d", 8, None), (None, 8, 90.0)]
    assert ends(merge(one, two)) == ends(merge(two, one)) == expected
    assert [each.keys for each in merge(one, two).ranges] == [2, 2, 0, 6]  # the later read's counts
    assert merge(one, one) == one


def test_another_ledger_is_believed_what_it_read_after_the_doubts_it_does_not_know_of() -> None:
    read = blank(ranges=tuple(Range(key, 9, 100.0 * n) for n, key in enumerate(["a", "b", "c", None])))
    doubting = blank().doubt("x", None, at=50.0).doubt("y", None, at=150.0)
    expected = [("b", None, None), ("c", 9, 200.0), (None, 9, 300.0)]
    assert ends(merge(read, doubting)) == ends(merge(doubting, read)) == expected
    knowing = blank(ranges=read.ranges, doubts=(50.0,))
    assert ends(merge(knowing, doubting)) == expected
    assert ends(merge(knowing, blank(doubts=(50.0,)))) == ends(read)
    for number in range(2 * KEEP_DOUBTS):
        doubting = doubting.doubt("x", None, at=200.0 + number)
    assert doubting.doubts == tuple(200.0 + KEEP_DOUBTS + number for number in range(KEEP_DOUBTS))


@pytest.mark.parametrize(
    "other", [{"incarnation": "i2"}, {"method": "values"}, {"tolerances": {"psd": 1e-6}}]
)
def test_ledgers_about_something_else_are_not_merged(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not about the same"):
        merge(blank(), blank(**other))


def test_a_name_is_one_for_equal_tolerances_and_method() -> None:
    name = ledger_name(TOLERANCES, "proof")
    assert name == "audit/ledger/" + name[-16:] == ledger_name(dict(reversed(TOLERANCES.items())), "proof")
    assert ledger_name({"psd": 1}, "proof") == ledger_name({"psd": 1.0}, "proof")
    names = {name, ledger_name(TOLERANCES, "values"), ledger_name({**TOLERANCES, "psd": 1e-7}, "proof")}
    assert len(names) == 3


def test_a_newer_ledger_is_left_alone() -> None:
    with pytest.raises(SchemaMismatch, match="newer somactl"):
        decode_ledger(note(b'{"format": 2}'))


@pytest.mark.parametrize(
    "ranges",
    [
        (),
        (Range("a"),),
        (Range("b"), Range("a"), Range(None)),
        (Range("a"), Range("a"), Range(None)),
        (Range(None), Range(None)),
        (Range(None, -1),),
        (Range(None, 1, 1.0, -1),),
    ],
)
def test_ranges_that_do_not_follow_each_other_are_damage(ranges: tuple[Range, ...]) -> None:
    with pytest.raises(CorruptValue, match="follow each other"):
        decode_ledger(note(msgspec.json.encode(blank(ranges=ranges))))


def test_a_ledger_stays_small_in_memory_too() -> None:
    ledger = audited([*sorted(page_keys(MAX_RANGES * 3)), None], seconds=61.0)
    assert MAX_RANGES <= len(ledger.ranges) <= 2 * MAX_RANGES
    assert encode_ledger(ledger) == encode_ledger(decode_ledger(note(encode_ledger(ledger))))
