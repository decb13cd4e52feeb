"""One day of what was found of each watched key, in buckets of five minutes; for people who ask since when.

    history.take("default", incarnation, found, at=clock())
    history.of("default", "a").points(now)      # 288 of them, oldest first

A bucket keeps the worst of what was found in it: the worst outcome, the lowest bound of lambda_min, the
largest trace error, in whichever store. Memory is bounded: at most MAX_KEYS keys are kept, each in
KEY_BYTES with its own name, and one series for the worst of each namespace. Where there are more keys, what
was bad within the day displaces what was not.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import NamedTuple, Protocol

BUCKET_SECONDS = 300
BUCKETS = 24 * 3600 // BUCKET_SECONDS
MAX_KEYS = 1000
KEY_BYTES = 8 * 1024
"""Of memory: nine bytes a bucket, and the name of a key, which Python may hold in four bytes a character."""

OUTCOMES = (
    "",
    "valid",
    "clampable",
    "stale",
    "undecided",
    "unreadable",
    "contradicting",
    "corrupt",
    "violated",
)
"""From nothing recorded to the worst."""
_SEVERITY = {outcome: number for number, outcome in enumerate(OUTCOMES)}
_WORST_GOOD = _SEVERITY["clampable"]
_LARGEST = 3.4e38  # of a 32-bit float


def severity(outcome: str) -> int:
    """How bad an outcome is: 1 for valid, more for worse; one that is not known counts as undecided."""
    return _SEVERITY.get(outcome) or _SEVERITY["undecided"]


def is_bad(outcome: str) -> bool:
    return severity(outcome) > _WORST_GOOD


class Proof(Protocol):
    """What was found of a key; one that is `absent` adds nothing."""

    @property
    def key(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def lambda_min_bound(self) -> float | None: ...
    @property
    def trace_error(self) -> float | None: ...


class Point(NamedTuple):
    """What one bucket keeps, numbers to seven digits; an empty outcome: nothing was read then."""

    outcome: str
    lambda_min_bound: float | None
    trace_error: float | None


_NOTHING = Point("", None, None)


class Series:
    """A ring of one day of buckets, numbered by time."""

    __slots__ = ("_lowest", "_outcomes", "_trace", "bad", "changes", "last")

    def __init__(self) -> None:
        self._outcomes = bytearray(BUCKETS)
        self._lowest = array("f", [math.nan]) * BUCKETS
        self._trace = array("f", [math.nan]) * BUCKETS
        self.last = -1
        self.changes = 0
        """Grows with each value that becomes worse, and with each bucket that begins."""
        self.bad = False
        """Whether anything in the ring is bad; exact when a bucket begins, and late by one at most."""

    def add(self, bucket: int, outcome: int, lowest: float | None, trace: float | None) -> None:
        if bucket > self.last:
            self._begin(bucket)
        elif bucket <= self.last - BUCKETS:
            return  # a day late
        slot = bucket % BUCKETS
        if outcome > self._outcomes[slot]:
            self._outcomes[slot] = outcome
            self.changes += 1
            self.bad |= outcome > _WORST_GOOD
        if lowest is not None and lowest == lowest and not lowest >= self._lowest[slot]:
            self._set(self._lowest, slot, lowest)
        if trace is not None and trace == trace and not trace <= self._trace[slot]:
            self._set(self._trace, slot, trace)

    def _set(self, values: array[float], slot: int, value: float) -> None:
        before = values[slot]
        values[slot] = max(-_LARGEST, min(_LARGEST, value))
        self.changes += values[slot] != before  # rounded, it may be what was there

    def _begin(self, bucket: int) -> None:
        """Empty the slots between the last bucket and this one."""
        first = bucket if self.last < 0 else max(self.last + 1, bucket - BUCKETS + 1)
        for number in range(first, bucket + 1):
            slot = number % BUCKETS
            self._outcomes[slot] = 0
            self._lowest[slot] = self._trace[slot] = math.nan
        self.last = bucket
        self.changes += 1
        self.bad = max(self._outcomes) > _WORST_GOOD

    def points(self, now: float, merged: int = 1) -> list[Point]:
        """The day until `now`, oldest first: the worst of each `merged` buckets, gaps where none was read."""
        last = int(now // BUCKET_SECONDS)
        begin = (last + 1) % BUCKETS
        outcomes = self._outcomes[begin:] + self._outcomes[:begin]
        passed = min(max(0, last - self.last), BUCKETS)
        outcomes[BUCKETS - passed :] = bytes(passed)  # what stands there is a day old
        lowest = self._lowest[begin:] + self._lowest[:begin]
        trace = self._trace[begin:] + self._trace[:begin]
        return [
            _merged(outcomes[at : at + merged], lowest[at : at + merged], trace[at : at + merged])
            for at in range(0, BUCKETS, merged)
        ]


def _merged(outcomes: bytearray, lowest: array[float], trace: array[float]) -> Point:
    worst = max(outcomes)
    if not worst:
        return _NOTHING
    bounds = [value for value, read in zip(lowest, outcomes, strict=True) if read and value == value]
    traces = [value for value, read in zip(trace, outcomes, strict=True) if read and value == value]
    return Point(OUTCOMES[worst], min(bounds, default=None), max(traces, default=None))


class History:
    """The series of all watched keys. No method waits or fails; `at` is by a clock that never goes back."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._keys: dict[tuple[str, str], Series] = {}
        self._worst: dict[str, Series] = {}
        self._incarnations: dict[str, str] = {}
        self._good: dict[tuple[str, str], None] = {}  # what may be displaced
        self._swept = -1

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, namespace: str, incarnation: str | None, found: Iterable[Proof], at: float) -> None:
        """Add what a round found. Another incarnation begins anew; None: it is not known, so the same."""
        self._meet(namespace, incarnation)
        bucket = int(at // BUCKET_SECONDS)
        self._sweep(bucket)
        worst = self._worst.setdefault(namespace, Series())
        for each in found:
            if each.outcome == "absent":
                continue
            severe = severity(each.outcome)
            numbers = (each.lambda_min_bound, each.trace_error)
            worst.add(bucket, severe, *numbers)
            series = self._series((namespace, each.key), severe)
            if series is not None:
                series.add(bucket, severe, *numbers)
                self._sort((namespace, each.key), series)

    def of(self, namespace: str, key: str) -> Series | None:
        """What is kept of a key; None: nothing was found of it, or there was no room."""
        return self._keys.get((namespace, key))

    def worst(self, namespace: str) -> Series | None:
        """The worst of all watched keys of a namespace, with those for which there is no room."""
        return self._worst.get(namespace)

    def _meet(self, namespace: str, incarnation: str | None) -> None:
        if incarnation is None:
            return
        if self._incarnations.setdefault(namespace, incarnation) != incarnation:
            self._incarnations[namespace] = incarnation
            self._worst.pop(namespace, None)
            for address in [each for each in self._keys if each[0] == namespace]:
                self._drop(address)

    def _sweep(self, bucket: int) -> None:
        """Once a bucket: drop the keys of which nothing was found for a day."""
        if bucket <= self._swept:
            return
        self._swept = bucket
        for address in [each for each, series in self._keys.items() if series.last <= bucket - BUCKETS]:
            self._drop(address)

    def _series(self, address: tuple[str, str], severe: int) -> Series | None:
        series = self._keys.get(address)
        if series is not None:
            return series
        if len(self._keys) >= self._max_keys:
            if severe <= _WORST_GOOD or not self._good:
                return None
            self._drop(next(reversed(self._good)))
        self._keys[address] = series = Series()
        return series

    def _sort(self, address: tuple[str, str], series: Series) -> None:
        if series.bad:
            self._good.pop(address, None)
        elif address not in self._good:
            self._good[address] = None

    def _drop(self, address: tuple[str, str]) -> None:
        del self._keys[address]
        self._good.pop(address, None)
