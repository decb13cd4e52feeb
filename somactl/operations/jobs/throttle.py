"""How long a job holds back, decided by how long its store takes for a small question."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

FIRST_SECONDS = 0.25
LONGEST_SECONDS = 30.0
RECENT = 3


@dataclass(slots=True)
class Throttle:
    """The pause before each step of a job: multiplied while answers take longer than `limit`, divided else.

    limit  seconds that an answer may take
    pause  seconds to wait before the next step; 0: none

    What counts is the median of the last three answers, so that a single slow one (a checkpoint of the store,
    a collection of garbage in this process) holds nothing back. An answer with which that median is beyond
    the limit doubles the pause, from 0.25 s up to 30 s, once for each step; one with which it is not halves
    it, also in the midst of a pause, and what falls below 0.25 s is no pause any more. So a job never stops
    for good: however slow the store is, it takes a step every 30 s. Where the job itself makes the store
    slow, it works at intervals, and the store answers within the limit for about half of the time.
    """

    limit: float
    pause: float = 0.0
    _recent: deque[float] = field(default_factory=lambda: deque([0.0] * RECENT, RECENT))

    @property
    def latency(self) -> float:
        """Seconds: the median of the last answers; those that are still to come count as 0."""
        return sorted(self._recent)[RECENT // 2]

    def heard(self, seconds: float, *, in_pause: bool = False) -> None:
        """The store took so long for an answer (infinity: gave none), before a step or in its pause."""
        self._recent.append(seconds)
        if self.latency <= self.limit:
            self.pause = self.pause / 2 if self.pause >= 2 * FIRST_SECONDS else 0.0
        elif not in_pause:
            self.pause = min(max(2 * self.pause, FIRST_SECONDS), LONGEST_SECONDS)
