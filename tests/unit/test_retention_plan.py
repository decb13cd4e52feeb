"""What an order comes to: rulings, plans and the ids of batches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, strategies as st

from somactl.core.names import validate_commit_id
from somactl.core.order import Item, Order, content_digest, parse_order
from somactl.core.retention import (
    CLOCK_TOLERANCE,
    MAX_BATCH,
    Goal,
    KeyState,
    PrunePlan,
    batch_ids,
    classify_message,
    plan,
)
from somactl.errors import InvalidName, UsageError

NOW = 1_000_000.0


def message(**changes: Any) -> Order:
    fields: dict[str, Any] = {
        "order_id": "o-1",
        "issued_at": NOW - 60,
        "expires_at": NOW + 60,
        "issuer": "manager",
        "sequence": 7,
        "namespace": "acme",
        "keys": ["a"],
    }
    return parse_order(json.dumps(fields | changes).encode())


def judge(order: Order, **changes: Any) -> str:
    facts: dict[str, Any] = {"namespace": "acme", "now": NOW, "last_sequence": 6, "seen_digest": None}
    judgement = classify_message(order, **(facts | changes))
    assert bool(judgement.reason) == (judgement.ruling != "accepted")
    return judgement.ruling


@pytest.mark.parametrize(
    ("changes", "facts", "ruling"),
    [
        ({}, {}, "accepted"),
        ({}, {"last_sequence": None}, "accepted"),
        ({"sequence": 900}, {}, "accepted"),
        ({}, {"namespace": "other"}, "wrong-namespace"),
        ({}, {"seen_digest": "another"}, "reused"),
        ({}, {"seen_digest": message().digest}, "replayed"),
        # The answer to a replay is its first report, however late it comes and whatever came since.
        ({}, {"seen_digest": message().digest, "now": NOW + 10**6, "last_sequence": 99}, "replayed"),
        ({"keys": ["b"]}, {"seen_digest": message().digest}, "reused"),
        ({"namespace": "other"}, {"seen_digest": message().digest}, "wrong-namespace"),
        ({}, {"now": NOW + 59.9}, "accepted"),
        ({}, {"now": NOW + 60}, "expired"),
        ({"issued_at": NOW + CLOCK_TOLERANCE, "expires_at": NOW + 999}, {}, "accepted"),
        ({"issued_at": NOW + CLOCK_TOLERANCE + 1, "expires_at": NOW + 999}, {}, "issued-in-future"),
        ({"issued_at": NOW + 1, "expires_at": NOW + 999}, {"tolerance": 0.0}, "issued-in-future"),
        ({}, {"last_sequence": 7}, "out-of-sequence"),
        ({}, {"last_sequence": 8}, "out-of-sequence"),
        ({"sequence": 0}, {"last_sequence": 0}, "out-of-sequence"),
    ],
)
def test_a_message_is_judged(changes: dict[str, Any], facts: dict[str, Any], ruling: str) -> None:
    assert judge(message(**changes), **facts) == ruling


def test_a_file_says_nothing_to_judge_but_its_content() -> None:
    order = parse_order(b"a\nb\n")
    assert judge(order, namespace="any", last_sequence=99) == "accepted"
    assert judge(order, seen_digest=order.digest) == "replayed"
    assert judge(order, seen_digest=parse_order(b"b\na\n").digest) == "reused"


# Plans, by example.

ABCD = parse_order(b"a\nb\nc\nd\n")
STATES = {key: KeyState(version, 10) for version, key in enumerate("abcd", 1)}


def planned(goal: Goal, order: Order = ABCD, **changes: Any) -> PrunePlan:
    facts: dict[str, Any] = {"states": STATES, "total_keys": 10, "total_bytes": 100} | changes
    return plan(facts.pop("states"), order, goal, **facts)


def names(found: PrunePlan) -> str:
    return "".join(deletion.key for deletion in found.deletes)


@pytest.mark.parametrize(
    ("goal", "deleted"),
    [
        (Goal(), "abcd"),
        (Goal("limit", 0), ""),
        (Goal("limit", 2), "ab"),
        (Goal("limit", 9), "abcd"),
        (Goal("keep", 10), ""),
        (Goal("keep", 11), ""),
        (Goal("keep", 8), "ab"),
        (Goal("keep", 6), "abcd"),
        (Goal("keep", 5), "abcd"),
        (Goal("keep", 0), "abcd"),
        (Goal("max-bytes", 100), ""),
        (Goal("max-bytes", 99), "a"),
        (Goal("max-bytes", 80), "ab"),
        (Goal("max-bytes", 79), "abc"),
        (Goal("max-bytes", 55), "abcd"),
    ],
)
def test_goals(goal: Goal, deleted: str) -> None:
    found = planned(goal)
    assert names(found) == deleted
    assert found.counts() == {
        outcome: count
        for outcome, count in (("delete", len(deleted)), ("beyond-limit", 4 - len(deleted)))
        if count
    }


def test_unknown_and_changed_items_are_passed_over_and_named() -> None:
    order = parse_order(b'"x"\n{"key": "a", "version": 1}\n{"key": "b", "version": 1}\n"c"\n"y"')
    found = planned(Goal("limit", 2), order)
    assert found.outcomes == ("unknown", "delete", "changed", "delete", "beyond-limit")
    assert [(d.index, d.key, d.version) for d in found.deletes] == [(1, "a", 1), (3, "c", 3)]
    assert order.place(found.outcomes.index("changed")) == "line 3"


def test_a_version_ahead_of_the_store_is_changed_too() -> None:
    order = parse_order(b'{"key": "a", "version": 9}')
    assert planned(Goal(), order).outcomes == ("changed",)


@pytest.mark.parametrize(
    ("modes", "offending"),
    [
        ({"missing": "fail"}, (1,)),
        ({"changed": "fail"}, (2,)),
        ({"missing": "fail", "changed": "fail"}, (1, 2)),
    ],
)
def test_failing_modes_delete_nothing(modes: dict[str, Any], offending: tuple[int, ...]) -> None:
    order = parse_order(b'"a"\n"x"\n{"key": "b", "version": 1}\n"c"\n"d"')
    found = planned(Goal("keep", 8), order, **modes)
    assert found.offending == offending
    assert found.deletes == ()
    assert found.outcomes == ("withheld", "unknown", "changed", "withheld", "beyond-limit")
    assert planned(Goal("keep", 9), order, **modes).offending == ()  # no need to look that far


def test_what_earlier_batches_deleted_counts_for_a_limit() -> None:
    assert names(planned(Goal("limit", 3), deleted=1)) == "ab"
    assert names(planned(Goal("limit", 3), deleted=3)) == ""
    assert names(planned(Goal("keep", 8), deleted=3)) == "ab"  # what the namespace holds says it


def test_a_goal_is_not_negative() -> None:
    with pytest.raises(UsageError, match="--keep -1"):
        Goal("keep", -1)


# Plans, by property.

KEYS = [f"k{n}" for n in range(12)]
versions = st.integers(1, 3)
any_states = st.dictionaries(st.sampled_from(KEYS), st.builds(KeyState, versions, st.integers(1, 50)))
any_goal = st.just(Goal()) | st.builds(
    Goal, st.sampled_from(["limit", "keep", "max-bytes"]), st.integers(0, 14) | st.integers(0, 500)
)


def make_order(pairs: list[tuple[str, int | None]]) -> Order:
    items = tuple(Item(key, version, line) for line, (key, version) in enumerate(pairs, 1))
    return Order("ndjson", items, content_digest(items))


any_order = st.lists(
    st.tuples(st.sampled_from(KEYS), st.none() | versions), min_size=1, unique_by=lambda pair: pair[0]
).map(make_order)


def applies(item: Item, states: Mapping[str, KeyState]) -> bool:
    return item.key in states and item.version in (None, states[item.key].version)


def totals(states: Mapping[str, KeyState]) -> dict[str, Any]:
    return {"total_keys": len(states), "total_bytes": sum(state.size for state in states.values())}


def indices(found: PrunePlan, outcome: str) -> list[int]:
    return [index for index, one in enumerate(found.outcomes) if one == outcome]


def met(goal: Goal, deleted: int, keys_left: int, bytes_left: int) -> bool:
    measure = {"limit": -deleted, "keep": keys_left, "max-bytes": bytes_left}
    bound = -goal.amount if goal.kind == "limit" else goal.amount
    return goal.kind != "all" and measure[goal.kind] <= bound


@given(any_states, any_order, any_goal)
def test_the_plan_is_the_shortest_prefix_that_meets_the_goal(
    states: dict[str, KeyState], order: Order, goal: Goal
) -> None:
    before = totals(states)
    found = plan(states, order, goal, **before)
    applicable = [item.key for item in order.items if applies(item, states)]
    deleted = [deletion.key for deletion in found.deletes]
    assert deleted == applicable[: len(deleted)]

    sizes = [states[key].size for key in deleted]

    def reached(count: int) -> bool:
        return met(goal, count, before["total_keys"] - count, before["total_bytes"] - sum(sizes[:count]))

    assert reached(len(deleted)) or deleted == applicable
    assert not any(reached(count) for count in range(len(deleted)))


@given(any_states, any_order, any_goal)
def test_the_plan_adds_up(states: dict[str, KeyState], order: Order, goal: Goal) -> None:
    before = totals(states)
    found = plan(states, order, goal, **before)
    assert len(found.outcomes) == len(order.items) == sum(found.counts().values())
    assert [d.index for d in found.deletes] == indices(found, "delete")
    for deletion in found.deletes:
        assert order.items[deletion.index].key == deletion.key
        assert states[deletion.key] == KeyState(deletion.version, deletion.size)
    for item, outcome in zip(order.items, found.outcomes, strict=True):
        if outcome != "beyond-limit":
            expected = "delete" if applies(item, states) else "changed" if item.key in states else "unknown"
            assert outcome == expected


@given(any_states, any_order, any_goal, st.sampled_from(["missing", "changed"]))
def test_failing_modes_fail_for_what_they_name_and_nothing_else(
    states: dict[str, KeyState], order: Order, goal: Goal, mode: str
) -> None:
    plain = plan(states, order, goal, **totals(states))
    modes: dict[str, Any] = {mode: "fail"}
    strict = plan(states, order, goal, **totals(states), **modes)
    assert list(strict.offending) == indices(plain, "unknown" if mode == "missing" else "changed")
    if not strict.offending:
        assert strict == plain
    else:
        assert strict.deletes == ()
        assert indices(strict, "withheld") == indices(plain, "delete")


# Batches.


def test_batch_ids_are_commit_ids_that_sort() -> None:
    assert batch_ids("o-1", 5, 2) == ("o-1/0001", "o-1/0002", "o-1/0003")
    assert batch_ids("o-1", 4, 2) == ("o-1/0001", "o-1/0002")
    ids = batch_ids("x" * 120, 1_000_000, 1)
    assert len(ids) == 1_000_000
    assert validate_commit_id(ids[-1]) == "x" * 120 + "/1000000"
    assert list(ids) == sorted(ids)


def test_batches_refuse_bad_ids_and_sizes() -> None:
    with pytest.raises(InvalidName):
        batch_ids("o/1", 5, 2)
    for size in (0, -1, MAX_BATCH + 1):
        with pytest.raises(UsageError, match=f"a batch of {size} keys"):
            batch_ids("o", 5, size)
