"""Much of something, but not all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

A = TypeVar("A")


def batched(values: Iterable[A], size: int) -> Iterator[list[A]]:
    """`values` in lists of `size`, the last one maybe shorter."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


def in_portions(
    items: Iterable[A],
    size: Callable[[A], int],
    most_bytes: int,
    most: int | None = None,
    *,
    name: Callable[[A], Hashable] | None = None,
) -> Iterator[list[A]]:
    """`items` in lists of at most `most` with at most `most_bytes` in sum; a single one may be larger.

    With `name`, no two of a list have the same name.
    """
    portion: list[A] = []
    names: set[Hashable] = set()
    held = 0
    for item in items:
        more, called = size(item), name and name(item)
        if portion and (len(portion) == most or held + more > most_bytes or (name and called in names)):
            yield portion
            portion, names, held = [], set(), 0
        portion.append(item)
        names.add(called)
        held += more
    if portion:
        yield portion
