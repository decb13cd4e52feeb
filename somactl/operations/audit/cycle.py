"""How much an audit reads again, so that every matrix has its turn within so many runs.

A share of 1/n of the keys in each run comes round in n runs as long as nothing changes. Where keys are
written and deleted in between it would not: so what each range was promised is looked up, and kept.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable

from somactl.operations.audit.ledger import Run, Span


class Cycle:
    """The cycle of those `runs` of a scope that read the same share again, or more."""

    def __init__(self, runs: Iterable[Run], share: float, scope: str) -> None:
        self.length = math.ceil(round(1 / share, 6))
        started = sorted(run.started_at for run in runs if run.share >= share and run.scope == scope)
        self._started = started[-(self.length - 1) :] if self.length > 1 else []

    def runs_left(self, read_at: float | None) -> int:
        """In how many runs, with this one, a range is to be read again that was read then: 1 is now."""
        since = 0 if read_at is None else bisect_right(self._started, read_at)
        return since + self.length - len(self._started)

    def due(self, spans: Iterable[Span]) -> int:
        """How many keys this run has to read again for the next ones to need no more each."""
        keys: dict[int, int] = {}
        for span in spans:
            left = self.runs_left(span.read_at)
            keys[left] = keys.get(left, 0) + span.keys
        most = total = 0
        for left in sorted(keys):
            total += keys[left]
            most = max(most, math.ceil(total / left))
        return most
