"""Which watched keys are read next."""

from __future__ import annotations

from somactl.serve.schedule import PORTION_BYTES, PORTION_KEYS, Schedule
from somactl.store.contract import Stat


def stat(key: str, version: int = 1, size: int = 100) -> Stat:
    return Stat(key, version, "id", 0.0, size, "digest", "rho", "float64", (2, 2), "full")


def order(schedule: Schedule) -> list[list[str]]:
    return [[due.key for due in portion] for portion in schedule.portions()]


def read(schedule: Schedule, *keys: str, at: float, version: int = 1, bad: bool = False) -> None:
    for key in keys:
        schedule.due[key].tried_at = at
        schedule.read(key, version, bad=bad)


def test_a_listing_says_what_is_new_written_and_gone() -> None:
    schedule = Schedule()
    assert schedule.listed([stat("a"), stat("b")]) == (["a", "b"], [], [])
    assert schedule.listed([stat("a", 2), stat("b")]) == ([], [], [])  # neither was read yet
    read(schedule, "a", "b", at=1)
    assert schedule.listed([stat("a", 2), stat("c")]) == (["c"], ["a"], ["b"])


def test_a_key_that_went_back_to_an_older_version_is_changed() -> None:
    """As after a restore of the store's files, with which the namespace keeps its incarnation."""
    schedule = Schedule()
    size = PORTION_BYTES
    schedule.listed([stat("a", 7, size), stat("b", 7, size)])
    read(schedule, "a", at=2, version=7)
    read(schedule, "b", at=1, version=7)
    assert schedule.listed([stat("a", 3, size), stat("b", 7, size)]) == ([], ["a"], [])
    assert order(schedule) == [["a"], ["b"]]


def test_bad_first_then_changed_and_longest_unread_in_turn() -> None:
    schedule = Schedule()
    size = PORTION_BYTES  # each is a portion of its own
    schedule.listed([stat(key, size=size) for key in "abcdef"])
    read(schedule, "c", at=1)
    read(schedule, "b", at=2)
    read(schedule, "a", at=3)
    read(schedule, "f", at=4, bad=True)
    schedule.copy_judged("b", bad=True)
    schedule.listed([stat("a", 2, size), *(stat(key, size=size) for key in "bcdef")])
    assert order(schedule) == [["b"], ["f"], ["d"], ["c"], ["e"], ["a"]]
    schedule.copy_judged("b", bad=False)
    read(schedule, "a", at=5, version=2)
    read(schedule, "d", "e", "f", at=5)
    assert order(schedule) == [["c"], ["b"], ["a"], ["d"], ["e"], ["f"]]


def test_one_that_could_not_be_read_lets_others_go_before_it() -> None:
    schedule = Schedule()
    schedule.listed([stat("a", size=PORTION_BYTES), stat("b", size=PORTION_BYTES)])
    schedule.due["a"].tried_at = 1
    assert order(schedule) == [["b"], ["a"]]


def test_portions_are_small() -> None:
    schedule = Schedule()
    schedule.listed([stat(f"{number:04}") for number in range(2 * PORTION_KEYS + 1)])
    assert [len(portion) for portion in order(schedule)] == [PORTION_KEYS, PORTION_KEYS, 1]
