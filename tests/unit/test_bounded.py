"""Portions: nothing is lost, none is too large, and none is smaller than it must be."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from somactl.core.portions import in_portions


@given(st.lists(st.integers(0, 9)), st.integers(1, 20), st.none() | st.integers(1, 4))
def test_items_come_in_order_in_portions_as_large_as_they_may_be(
    items: list[int], most_bytes: int, most: int | None
) -> None:
    portions = list(in_portions(iter(items), lambda item: item, most_bytes, most))
    assert [item for portion in portions for item in portion] == items
    for portion in portions:
        assert sum(portion) <= most_bytes or len(portion) == 1
        assert most is None or len(portion) <= most
    for portion, following in pairwise(portions):
        assert len(portion) == most or sum(portion) + following[0] > most_bytes


def test_nothing_makes_no_portion() -> None:
    assert list(in_portions([], len, 1)) == []
