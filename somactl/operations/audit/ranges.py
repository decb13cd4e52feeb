"""Ranges of keys with what is claimed of them: how they are cut, joined, laid over each other and thinned.

A sequence of ranges covers all keys: each begins behind the one before, and the last one has no end. Keys are
in the order of their UTF-8 bytes; Python compares texts by code points, which is the same order.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

Number = TypeVar("Number", int, float)


class Range(msgspec.Struct, frozen=True, array_like=True):
    """What is claimed of the keys behind the previous range's `upto`, up to this one's; see `ledger`.

    upto         the last key of the range; None: there is no key behind it
    version      None: nothing is known
    read_at      None: never read
    keys, bytes  about how many live matrices it held when it was read, and their size; 0 where not known
    """

    upto: str | None
    version: int | None = None
    read_at: float | None = None
    keys: int = 0
    bytes: int = 0


class Cut(NamedTuple):
    """Ranges in three parts, and whether a range was cut in two where the inner part begins and ends."""

    before: list[Range]
    inside: list[Range]
    behind: list[Range]
    begins_in_a_range: bool
    ends_in_a_range: bool


def highest(one: Number | None, other: Number | None) -> Number | None:
    """None is below every number."""
    return other if one is None else one if other is None else max(one, other)


def lowest(one: Number | None, other: Number | None) -> Number | None:
    return None if one is None or other is None else min(one, other)


def weakest(ranges: Iterable[Range]) -> Range:
    """Neighbours as one range, which claims what all of them claim: unknown where one is."""
    first, *others = ranges
    for each in others:
        first = Range(
            each.upto,
            lowest(first.version, each.version),
            lowest(first.read_at, each.read_at),
            first.keys + each.keys,
            first.bytes + each.bytes,
        )
    return first


def joined(ranges: Iterable[Range]) -> list[Range]:
    """The same claims in as few ranges as they need."""
    result: list[Range] = []
    for each in ranges:
        last = result[-1] if result else None
        if last is not None and (last.version, last.read_at) == (each.version, each.read_at):
            each = weakest([result.pop(), each])
        result.append(each)
    return result


def cut(ranges: Sequence[Range], after: str | None, upto: str | None) -> Cut:
    """Cut out the keys behind `after` up to `upto`. Raises ValueError where there can be none."""
    if after is not None and upto is not None and after >= upto:
        raise ValueError(f"no key is behind {after!r} and not behind {upto!r}")
    first = 0 if after is None else bisect_right(ranges, after, hi=len(ranges) - 1, key=_upto)
    last = len(ranges) - 1 if upto is None else bisect_left(ranges, upto, hi=len(ranges) - 1, key=_upto)
    before, inside, behind = list(ranges[:first]), list(ranges[first : last + 1]), list(ranges[last + 1 :])
    begins_in_a_range = after is not None and not (before and before[-1].upto == after)
    if begins_in_a_range:
        left, inside[0] = _halves(inside[0], after)
        before.append(left)
    ends_in_a_range = inside[-1].upto != upto
    if ends_in_a_range:
        inside[-1], right = _halves(inside[-1], upto)
        behind.insert(0, right)
    return Cut(before, inside, behind, begins_in_a_range, ends_in_a_range)


def _upto(each: Range) -> str:
    assert each.upto is not None, "the last range is not compared"
    return each.upto


def _halves(each: Range, at: str | None) -> tuple[Range, Range]:
    """Where in a range a key stands is not known: each side is taken for half of it."""
    keys, size = each.keys // 2, each.bytes // 2
    left = replace(each, upto=at, keys=keys, bytes=size)
    return left, replace(each, keys=each.keys - keys, bytes=each.bytes - size)


def spliced(before: Sequence[Range], inside: Sequence[Range], behind: Sequence[Range]) -> tuple[Range, ...]:
    """The parts together, joined with each other where they claim the same."""
    return (*before[:-1], *joined([*before[-1:], *inside, *behind[:1]]), *behind[1:])


def overlaid(one: Sequence[Range], other: Sequence[Range]) -> list[Range]:
    """For every key the higher claims of the two; the counts are those of the later read, and of two counts
    of the same read the one that was divided less."""
    ends = sorted({_upto(each) for each in (*one[:-1], *other[:-1])})
    result = []
    for left, right in zip(_divided(one, ends), _divided(other, ends), strict=True):
        version, read_at = (
            highest(left[1].version, right[1].version),
            highest(left[1].read_at, right[1].read_at),
        )
        _, counted = max(left, right, key=_trust)
        result.append(Range(counted.upto, version, read_at, counted.keys, counted.bytes))
    return joined(result)


def _divided(ranges: Sequence[Range], ends: Sequence[str]) -> list[tuple[int, Range]]:
    """The ranges, cut at all `ends` (theirs are among them) into equal parts; each with their number."""
    result: list[tuple[int, Range]] = []
    start = 0
    for each in ranges:
        stop = len(ends) if each.upto is None else bisect_right(ends, each.upto)
        inner = [*ends[start:stop], *([None] if each.upto is None else [])]
        keys, sizes = _shared_out(each.keys, len(inner)), _shared_out(each.bytes, len(inner))
        result += [
            (len(inner), replace(each, upto=end, keys=keys[number], bytes=sizes[number]))
            for number, end in enumerate(inner)
        ]
        start = stop
    return result


def _shared_out(total: int, parts: int) -> list[int]:
    return [(number + 1) * total // parts - number * total // parts for number in range(parts)]


def _trust(part: tuple[int, Range]) -> tuple[float, int]:
    parts, each = part
    return (-math.inf if each.read_at is None else each.read_at), -parts


def thinned(ranges: Sequence[Range], most: int, most_bytes: int) -> list[Range]:
    """At most `most` ranges, of at most `most_bytes` as JSON; one at least.

    Neighbours become one where that makes the fewest keys look older than they are. A known range is joined
    with an unknown one, and so forgotten, only where no other pair is left.
    """
    left = joined(ranges)
    while len(left) > 1:
        size = len(msgspec.json.encode(left))
        excess = max(len(left) - most, math.ceil(len(left) * (1 - most_bytes / size)))
        if excess <= 0:
            break
        left = _fewer(left, excess)
    return left


def _fewer(ranges: list[Range], excess: int) -> list[Range]:
    """Up to `excess` pairs of neighbours joined, those that lose least; one at least, and none twice."""
    scale = _extent(each.version for each in ranges), _extent(each.read_at for each in ranges)
    losses = [_loss(one, other, *scale) for one, other in itertools.pairwise(ranges)]
    forgetting = min(unknown for unknown, _ in losses)
    chosen: set[int] = set()
    for index in sorted(range(len(losses)), key=losses.__getitem__):
        if len(chosen) == excess or losses[index][0] > forgetting:
            break
        if not {index - 1, index + 1} & chosen:
            chosen.add(index)
    result: list[Range] = []
    for index, each in enumerate(ranges):
        result.append(weakest([result.pop(), each]) if index - 1 in chosen else each)
    return result


def _loss(one: Range, other: Range, versions: float, times: float) -> tuple[int, float]:
    """What is lost if two neighbours become one: how many known claims are forgotten, then how many keys
    seem older than they are, each by its part of all versions, and of the time, that the ranges span."""
    forgotten, aged = 0, 0.0
    claims = ((one.version, other.version, versions), (one.read_at, other.read_at, times))
    for left, right, extent in claims:
        if left is None and right is None:
            continue
        if left is None or right is None:
            forgotten += 1
            aged += (one if right is None else other).keys + 1
            continue
        newer = one if left > right else other
        aged += (newer.keys + 1) * abs(left - right) / extent
    return forgotten, aged


def _extent(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return (max(known) - min(known) if known else 0) or 1
