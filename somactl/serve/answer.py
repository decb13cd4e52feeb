"""The parts of a health report that are made from what is known of watched namespaces."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from somactl.report.health import MAX_FINDINGS, RhoHealth, ServiceHealth, WatchedKey
from somactl.serve.history import severity
from somactl.serve.watched import Held, Watched

WallTime = Callable[[float], float]
"""The time by the wall clock of a moment by the clock of messages."""


def findings(watched: Watched) -> list[tuple[str, Held]]:
    """What is not right, with the store it was read from: the authority's first, at most MAX_FINDINGS."""
    groups = sorted(watched.groups.items(), key=lambda group: (group[0][0], -severity(group[0][1])))
    shown = islice(((where, key) for (where, _), keys in groups for key in keys), MAX_FINDINGS)
    return [(where or watched.authority, watched.bad[where, key]) for where, key in sorted(shown)]


class Summary(NamedTuple):
    """A namespace at one moment, and what its ages count from."""

    rho: RhoHealth
    bad: list[tuple[str, Held]]
    sample_at: float | None
    oldest_at: float | None

    def aged(self, now: float, wall: WallTime) -> RhoHealth:
        """The same at `now`, with what is not right."""
        return replace(
            self.rho,
            age_seconds=None if self.sample_at is None else now - self.sample_at,
            oldest_seconds=None if self.oldest_at is None else now - self.oldest_at,
            findings=[key(store, held, now, wall) for store, held in self.bad],
        )


def summary(watched: Watched, now: float, wall: WallTime) -> Summary:
    """The mathematics of a namespace. Takes a time that grows with what is wrong or unread."""
    sample = watched.sample
    rho = RhoHealth(
        psd_ok=watched.psd_ok(now),
        trace_error=watched.numbers.trace_error,
        sample_version=sample[1] if sample else None,
        lambda_min_bound=watched.numbers.lambda_min_bound,
        namespace=watched.name,
        incarnation=watched.incarnation,
        last_good_at=None if watched.good_at is None else wall(watched.good_at),
        watched=watched.watched,
        proven=watched.proven,
        findings_total=len(watched.bad),
    )
    return Summary(rho, findings(watched), sample[0] if sample else None, watched.oldest)


def key(store: str, held: Held, now: float, wall: WallTime) -> WatchedKey:
    """What was last found of one key in a store."""
    proof = held.proof
    return WatchedKey(
        key=proof.key,
        outcome=proof.outcome,
        store=store,
        version=proof.version,
        trace_error=proof.trace_error,
        lambda_min_bound=proof.lambda_min_bound,
        age_seconds=now - held.read_at,
        last_good_at=None if held.good_at is None else wall(held.good_at),
        dark=proof.dark,
        reasons=list(proof.reasons),
    )


def unread(watched: Watched, name: str) -> WatchedKey:
    """A key that is on the list, and was not read yet."""
    return WatchedKey(key=name, outcome="unreadable", store=watched.authority, reasons=["not read yet"])


def worst_names(watched: Watched, most: int) -> list[str]:
    """At most so many keys: the worst first, then those that were not read yet, then the others by name."""
    severities: dict[str, int] = {}
    for (_, name), held in watched.bad.items():
        severities[name] = max(severities.get(name, 0), severity(held.proof.outcome))
    names = heapq.nsmallest(most, severities, key=lambda name: (-severities[name], name))
    waiting = (name for name in watched.waiting if name not in watched.truth and name not in severities)
    names += heapq.nsmallest(most - len(names), waiting)
    return names + heapq.nsmallest(most - len(names), (n for n in watched.truth if n not in severities))


def worst(found: Sequence[RhoHealth]) -> RhoHealth:
    """The one that is violated; else not known; else the oldest."""
    return max(found, key=_badness, default=RhoHealth())


def _badness(one: RhoHealth) -> tuple[int, float]:
    oldest = math.inf if one.oldest_seconds is None else one.oldest_seconds
    return {False: 2, None: 1, True: 0}[one.psd_ok], oldest


def services(all_watched: Iterable[Watched], wall: WallTime) -> list[ServiceHealth]:
    """Each service once: it is down where any namespace found it so."""
    found: dict[str, ServiceHealth] = {}
    for watched in all_watched:
        for name, state in watched.services.items():
            known, since = found.get(name), wall(state.since)
            if known is None or (known.up and not state.up):
                found[name] = ServiceHealth(service=name, up=state.up, since_at=since, detail=state.detail)
            elif known.up == state.up:
                # It is up since the last one found it so, and down since the first one did.
                known.since_at = max(known.since_at, since) if state.up else min(known.since_at, since)
    return list(found.values())
