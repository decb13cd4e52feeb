"""The samples of one arm as columns: latencies, and counts of what went wrong among all."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from somactl.core.canary_dependence import Dependence, dependence, spread
from somactl.core.canary_samples import Buckets
from somactl.core.sequential import Counted

Side: TypeAlias = Literal["low", "high"]


class Times:
    """When the samples of a series came, and in which tenths of a span there were none."""

    def __init__(self) -> None:
        self.times = array("d")

    def empty_tenths(self, start: float, span: float, until: float) -> list[int]:
        """The tenths (1 to 10) of `span` seconds from `start`, over by `until`, in which none came."""
        if span <= 0:
            return list(range(1, 11))
        over = min(int(10.0 * (until - start) / span + 1e-9), 10)
        places = ((np.array(self.times) - start) * (10.0 / span)).astype(np.int64)
        found = np.bincount(np.clip(places, 0, 9), minlength=10)
        return [tenth + 1 for tenth in range(over) if not found[tenth]]


class Latencies(Times):
    """Latencies in seconds, in the order in which they came: each its value, or the bucket it lies in.

    Of buckets only the edges are known, so that each value has a low and a high side: what is just above the
    lower edge, and the upper edge. A verdict takes of both the one that speaks against it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stride: int | None = 1
        self.divisor = 1.0
        self.measured = Dependence()
        self.bucketed = self.mixed = False
        self.samples = 0
        self._low, self._high = array("d"), array("d")
        self._count, self._interval = array("q"), array("q")
        self._ordered: dict[Side, tuple[tuple[int, int | None], Counted]] = {}

    def __len__(self) -> int:
        return len(self._low)

    def add(self, t: float, seconds: float) -> None:
        self.mixed = self.mixed or self.bucketed
        if self.mixed:
            return
        self.samples += 1
        self.times.append(t)
        self._low.append(seconds)

    def add_all(self, times: Sequence[float], seconds: Sequence[float]) -> None:
        """Many at once."""
        self.mixed = self.mixed or self.bucketed
        if self.mixed:
            return
        self.samples += len(times)
        self.times.extend(times)
        self._low.extend(seconds)

    def add_buckets(self, sample: Buckets) -> None:
        """What was counted since the last time; an interval in which nothing came is no sample."""
        self.mixed = self.mixed or (len(self) > 0 and not self.bucketed)
        if self.mixed:
            return
        self.bucketed = True
        self.samples += sum(sample.counts)
        ends = zip([0.0, *sample.edges], [*sample.edges, math.inf], sample.counts, strict=True)
        interval = self._interval[-1] + 1 if self._interval else 0
        for low, high, count in ends:
            if count:
                self.times.append(sample.t)
                self._low.append(low)
                self._high.append(high)
                self._count.append(count)
                self._interval.append(interval)

    def measure(self, p0: float) -> None:
        """Measure dependence; of single values a stride follows, of counted ones a divisor."""
        if self.bucketed:
            self.divisor = self._spread(p0)
        else:
            self.measured = dependence(np.array(self._low), p0)

    def _spread(self, p0: float) -> float:
        """Of the counts beyond the bucket in which the quantile lies, or in it where none is beyond."""
        high, counts = np.array(self._high), np.array(self._count, dtype=float)
        q = self.quantile(p0)
        beyond = high > q if (high > q).any() else high >= q
        intervals = np.array(self._interval)
        return spread(np.bincount(intervals, counts * beyond), np.bincount(intervals, counts))

    @staticmethod
    def _quantile(samples: Counted, p0: float) -> float:
        before = samples.before
        whole = len(samples.values) if before is None else int(before[-1])
        wanted = min(max(math.ceil(whole * (1.0 - p0)), 1), whole)
        place = wanted - 1 if before is None else int(before.searchsorted(wanted, "left")) - 1
        return float(samples.values[place])

    def quantile(self, p0: float, side: Side = "high") -> float | None:
        """The value that a share of p0 is beyond; None where there is none."""
        return self._quantile(self.counted(side), p0) if len(self) else None

    def counted(self, side: Side, scale: float = 1.0) -> Counted:
        """The samples that are judged, in ascending order, divided by `scale`."""
        side = side if self.bucketed else "low"
        state = len(self), self.stride
        if side not in self._ordered or self._ordered[side][0] != state:
            self._ordered[side] = state, self._sorted(side)
        found = self._ordered[side][1]
        return Counted(self._scaled(found.values, side, scale), found.before, self.divisor)

    def _sorted(self, side: Side) -> Counted:
        values, counts = self._kept(side, 0)
        if counts is None:
            return Counted(np.sort(values))
        order = np.argsort(values, kind="stable")
        return Counted(values[order], np.concatenate([[0], np.cumsum(counts[order])]))

    def kept(self, side: Side, scale: float, begin: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Values and counts from place `begin` on, each stride-th; counts are None where each is one."""
        values, counts = self._kept(side, begin)
        return self._scaled(values, side, scale), counts

    def _kept(self, side: Side, begin: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        stride = self.stride or 1
        first = -(-begin // stride) * stride
        ends = self._high if self.bucketed and side == "high" else self._low
        values = np.array(ends[first::stride])
        return values, np.array(self._count[first::stride]) if self.bucketed else None

    def _scaled(self, values: NDArray[Any], side: Side, scale: float) -> NDArray[Any]:
        values = values if scale == 1.0 else values / scale
        return np.nextafter(values, math.inf) if self.bucketed and side == "low" else values


class Beyond:
    """How many of an arm's judged samples are beyond q, kept up to date as they come.

    inclusive: those that equal q count too. Of counted samples the number is rounded against the verdict.
    """

    def __init__(
        self, arm: Latencies, q: float, side: Side, *, scale: float = 1.0, inclusive: bool = False
    ) -> None:
        self._arm, self._q, self._side, self._scale, self._inclusive = arm, q, side, scale, inclusive
        self._stride, self._divisor = arm.stride, arm.divisor
        self._seen = self._n = self._s = 0

    def now(self) -> tuple[int, int]:
        """(s beyond, of n)."""
        arm = self._arm
        if (arm.stride, arm.divisor) != (self._stride, self._divisor):
            self._stride, self._divisor = arm.stride, arm.divisor
            self._seen = self._n = self._s = 0
        if len(arm) > self._seen:
            values, counts = arm.kept(self._side, self._scale, self._seen)
            beyond = values >= self._q if self._inclusive else values > self._q
            self._n += len(values) if counts is None else int(counts.sum())
            self._s += int(np.count_nonzero(beyond) if counts is None else counts[beyond].sum())
            self._seen = len(arm)
        n = int(self._n / self._divisor)
        rounded = math.ceil(self._s / self._divisor) if self._side == "high" else int(self._s / self._divisor)
        return min(rounded, n), n


class Shares(Times):
    """Counts of what went wrong, of all: requests that failed, commits that conflicted."""

    def __init__(self) -> None:
        super().__init__()
        self._bad, self._total = array("q"), array("q")
        self.bad = self.total = 0

    def add(self, t: float, bad: int, total: int = 1) -> None:
        if total:
            self.times.append(t)
            self._bad.append(bad)
            self._total.append(total)
            self.bad += bad
            self.total += total

    def add_good(self, times: Sequence[float]) -> None:
        """Many at once of which none went wrong."""
        self.times.extend(times)
        self._bad.extend(bytes(len(times)))
        self._total.extend(b"\1" * len(times))
        self.total += len(times)

    @property
    def share(self) -> float | None:
        return self.bad / self.total if self.total else None

    def spread(self) -> float:
        """How many of them count for one, because they came in bursts: 1 where they did not."""
        return spread(np.array(self._bad, dtype=float), np.array(self._total, dtype=float))
