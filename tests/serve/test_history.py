"""One day of each watched key: the worst of each five minutes, in bounded memory."""

from __future__ import annotations

import gc
import math
import tracemalloc
from typing import Any

import pytest

from somactl.report.health import WatchedKey
from somactl.serve.history import BUCKET_SECONDS, BUCKETS, KEY_BYTES, MAX_KEYS, History, Point, severity

DAY = BUCKETS * BUCKET_SECONDS
START = 16_667.0 * BUCKET_SECONDS
MINUTE = 60.0


def found(key: str = "a", outcome: str = "valid", **fields: Any) -> WatchedKey:
    return WatchedKey(key=key, outcome=outcome, store="postgres", **fields)


def points(history: History, now: float, key: str = "a") -> list[Point]:
    series = history.of("default", key)
    assert series is not None
    return series.points(now)


def test_a_bucket_keeps_the_worst_that_was_found_in_it() -> None:
    history = History()
    history.take("default", "x", [found(lambda_min_bound=-1e-12, trace_error=2e-12)], START)
    bad = found(outcome="violated", lambda_min_bound=-0.5, trace_error=1e-12)
    history.take("default", "x", [bad], START + MINUTE)
    history.take("default", "x", [found(lambda_min_bound=-1e-13, trace_error=3e-12)], START + 2 * MINUTE)
    day = points(history, START + 2 * MINUTE)
    assert len(day) == BUCKETS
    assert {each.outcome for each in day[:-1]} == {""}
    assert day[-1].outcome == "violated"
    assert day[-1].lambda_min_bound == pytest.approx(-0.5)
    assert day[-1].trace_error == pytest.approx(3e-12)


def test_a_day_later_it_is_gone_and_what_was_not_read_is_a_gap() -> None:
    history = History()
    history.take("default", "x", [found(outcome="corrupt")], START)
    history.take("default", "x", [found(trace_error=0.0)], START + 10 * BUCKET_SECONDS)
    day = points(history, START + 10 * BUCKET_SECONDS)
    assert [each.outcome for each in day[-11:]] == ["corrupt", *[""] * 9, "valid"]
    assert points(history, START + DAY - 1)[0].outcome == "corrupt"
    assert points(history, START + DAY)[0].outcome == ""
    history.take("default", "x", [found(outcome="undecided")], START + DAY)  # in the slot of the first
    assert [each.outcome for each in points(history, START + DAY) if each.outcome] == ["valid", "undecided"]
    assert points(history, START + DAY)[-1] == Point("undecided", None, None)


def test_what_comes_late_goes_to_its_own_bucket_and_a_day_late_nowhere() -> None:
    history = History()
    history.take("default", "x", [found()], START + 2 * DAY)
    history.take("default", "x", [found(outcome="violated")], START + 2 * DAY - BUCKET_SECONDS)
    history.take("default", "x", [found(outcome="corrupt")], START)
    assert [each.outcome for each in points(history, START + 2 * DAY)[-3:]] == ["", "violated", "valid"]
    assert "corrupt" not in {each.outcome for each in points(history, START + 2 * DAY)}


@pytest.mark.parametrize("value", [math.nan, None])
def test_what_is_no_number_is_not_known(value: float | None) -> None:
    history = History()
    history.take("default", "x", [found(lambda_min_bound=value, trace_error=value)], START)
    assert points(history, START)[-1] == Point("valid", None, None)


def test_what_no_small_float_holds_becomes_the_largest() -> None:
    history = History()
    history.take("default", "x", [found(lambda_min_bound=-1e300, trace_error=math.inf)], START)
    point = points(history, START)[-1]
    assert (point.lambda_min_bound, point.trace_error) == pytest.approx((-3.4e38, 3.4e38))


def test_the_worst_of_a_namespace_has_all_its_keys() -> None:
    history = History(max_keys=1)
    keys = [
        found("a", lambda_min_bound=-1e-12, trace_error=5e-9),
        found("b", "clampable", lambda_min_bound=-2e-9),
    ]
    history.take("default", "x", keys, START)
    worst = history.worst("default")
    assert worst is not None
    outcome, lowest, trace = worst.points(START)[-1]
    assert (outcome, lowest, trace) == ("clampable", pytest.approx(-2e-9), pytest.approx(5e-9))
    assert history.worst("other") is None


def test_another_incarnation_begins_anew_and_an_unknown_one_does_not() -> None:
    history = History()
    for namespace in ("default", "other"):
        history.take(namespace, "x", [found(outcome="violated")], START)
    history.take("default", None, [found("b", "unreadable")], START)
    assert points(history, START)[-1].outcome == "violated"
    history.take("default", "y", [found()], START)
    assert points(history, START)[-1].outcome == "valid"
    assert history.of("default", "b") is None
    kept, other = history.worst("default"), history.of("other", "a")
    assert kept is not None
    assert other is not None
    assert (kept.points(START)[-1].outcome, other.points(START)[-1].outcome) == ("valid", "violated")


def test_where_there_is_no_room_the_bad_displace_the_good_and_never_the_bad() -> None:
    history = History(max_keys=3)
    history.take("default", "x", [found("a"), found("b", "violated"), found("c")], START)
    history.take("default", "x", [found("d"), found("e", "corrupt")], START)
    assert {key for key in "abcde" if history.of("default", key)} == {"a", "b", "e"}
    history.take("default", "x", [found("f", "violated"), found("g", "violated")], START)
    assert {key for key in "abcdefg" if history.of("default", key)} == {"b", "e", "f"}
    assert len(history) == 3


def test_a_key_that_was_bad_is_displaced_once_that_is_a_day_ago() -> None:
    history = History(max_keys=1)
    history.take("default", "x", [found("a", "violated")], START)
    history.take("default", "x", [found("a")], START + DAY - BUCKET_SECONDS)
    history.take("default", "x", [found("b", "violated")], START + DAY - BUCKET_SECONDS)
    assert history.of("default", "b") is None
    history.take("default", "x", [found("a")], START + DAY)
    history.take("default", "x", [found("b", "violated")], START + DAY)
    assert history.of("default", "b") is not None


def test_a_key_that_is_not_there_any_more_is_forgotten_after_a_day() -> None:
    history = History(max_keys=1)
    history.take("default", "x", [found("a", "violated")], START)
    history.take("default", "x", [found("b")], START + DAY - BUCKET_SECONDS)
    assert history.of("default", "b") is None
    history.take("default", "x", [found("b")], START + DAY)
    assert history.of("default", "b") is not None


def test_a_key_that_is_absent_adds_nothing() -> None:
    history = History()
    history.take("default", "x", [found(outcome="absent")], START)
    assert history.of("default", "a") is None


def test_an_outcome_that_is_not_known_counts_as_undecided() -> None:
    assert severity("of a later release") == severity("undecided") > severity("clampable")


def test_memory_stays_below_the_bound_however_many_keys_there_are() -> None:
    """Of names with one character that makes Python hold each of theirs in four bytes."""
    history = History()
    gc.collect()
    tracemalloc.start()
    try:
        for at in (START, START + BUCKET_SECONDS, START + DAY):
            for number in range(2 * MAX_KEYS):
                key = f"{number:0>1020}\N{GRINNING FACE}"
                history.take("default", "x", [found(key, "violated" if number % 3 else "valid")], at)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(history) == MAX_KEYS
    assert MAX_KEYS * 9 * BUCKETS < used < MAX_KEYS * KEY_BYTES
