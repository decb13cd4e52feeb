"""What one rendering of the status page is made of, gathered from the state in one go."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from somactl.core.verdict import Tolerances
from somactl.report.health import HealthReport, WatchedKey
from somactl.serve.history import History, severity
from somactl.serve.page.sparkline import Pictures
from somactl.serve.state import NamespaceExtras, State

MAX_ROWS = 100
"""Keys that a page shows, and namespaces; the worst ones first."""


@dataclass(frozen=True, slots=True)
class Row:
    """A watched key with all that was found of it: in the authority, and in a cache where that is not right.

    worst  the finding that is shown first
    """

    namespace: str
    key: str
    found: tuple[WatchedKey, ...]

    @property
    def worst(self) -> WatchedKey:
        return max(self.found, key=_severity)


@dataclass(frozen=True, slots=True)
class View:
    """now, at: this moment by the wall clock, and by the clock of `history`.

    keys  how many there are; rows: the worst of them
    """

    report: HealthReport
    now: float
    at: float
    rows: list[Row]
    keys: int
    extras: dict[str, NamespaceExtras]
    history: History
    pictures: Pictures
    tolerances: Tolerances
    draining: bool
    refresh_seconds: int | None


def gather(
    state: State,
    history: History,
    pictures: Pictures,
    *,
    now: float,
    at: float,
    refresh_seconds: int | None,
) -> View:
    """As of now, without all that is bounded."""
    names = state.options.namespaces
    rows = [row for name in names for row in _rows(name, state.worst_keys(name, MAX_ROWS))]
    report = state.health()
    return View(
        report=report,
        now=now,
        at=at,
        rows=heapq.nsmallest(MAX_ROWS, rows, key=_order),
        keys=sum(each.rho.watched for each in report.namespaces.values()),
        extras={name: state.extras(name) for name in names},
        history=history,
        pictures=pictures,
        tolerances=state.options.tolerances,
        draining=state.draining,
        refresh_seconds=refresh_seconds,
    )


def _rows(namespace: str, keys: Iterable[WatchedKey]) -> list[Row]:
    found: dict[str, tuple[WatchedKey, ...]] = {}
    for each in keys:
        found[each.key] = (*found.get(each.key, ()), each)
    return [Row(namespace, key, all_of_it) for key, all_of_it in found.items()]


def is_unread(found: WatchedKey) -> bool:
    """Whether nothing was found of it yet: it is on the list of keys, and no more."""
    return found.outcome == "unreadable" and found.age_seconds is None


def _severity(found: WatchedKey) -> float:
    """What was not read yet stands between what is right and what is not."""
    return severity("clampable") + 0.5 if is_unread(found) else severity(found.outcome)


def _order(row: Row) -> tuple[float, str, str]:
    return -max(map(_severity, row.found)), row.namespace, row.key
