"""What is known of all that is watched: fed by the supervisor, asked by every face, without I/O.

    state = State(options)
    state.take(message)              # what the prover told
    state.health()                   # as of now
    seen = await state.changed(seen) # returns once something but ages is another

It belongs to one event loop. Time alone makes it worse, never better: a result that does not come any more
ends as stale, then dead.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from msgspec.structs import replace

from somactl import __version__
from somactl.report.health import (
    Cause,
    HealthReport,
    NamespaceHealth,
    PastReason,
    ProverHealth,
    Reason,
    WatchedKey,
)
from somactl.serve import answer
from somactl.serve.clock import moment
from somactl.serve.model import CACHE, Beat, Extras, Found, Hello, Message, Round, WatchOptions
from somactl.serve.watched import Fault, Watched

ProverState = Literal["starting", "running", "restarting", "given-up"]

_LONGEST_WAIT = 1.0
"""Seconds after which a waiting caller looks again: the clocks of waiting and of ages are two."""
_ORDER: tuple[Cause, ...] = (
    "violated",
    "namespace-gone",
    "unreadable",
    "undecided",
    "dead",
    "too-many",
    "nothing-watched",
    "starting",
    "cache-differs",
    "authority-away",
    "cache-away",
    "stale",
    "prover",
)
_RUNBOOKS: dict[Cause, str] = {
    "violated": "RUNBOOKS/RHO_VIOLATION.md",
    "undecided": "RUNBOOKS/RHO_VIOLATION.md",
    "cache-differs": "RUNBOOKS/RHO_VIOLATION.md",
    "unreadable": "RUNBOOKS/store-unavailable.md",
    "authority-away": "RUNBOOKS/store-unavailable.md",
    "cache-away": "RUNBOOKS/DEGRADED.md",
    **dict.fromkeys(
        ("namespace-gone", "nothing-watched", "too-many", "starting", "stale", "dead", "prover"),
        "RUNBOOKS/SERVE.md",
    ),
}


class _Place(NamedTuple):
    """What two reasons have in common that are the same one, at different times."""

    cause: Cause
    namespace: str | None
    service: str | None
    outcome: str | None


@dataclass(frozen=True, slots=True)
class NamespaceExtras:
    """What people ask of a namespace besides. reads: seconds, by `p50`, `p95`, `p99`, `max`; of how many."""

    told: Extras | None = None
    reads: dict[str, float] = field(default_factory=dict)
    reads_counted: int = 0


@dataclass(frozen=True, slots=True)
class _View:
    """What holds from one moment to `until`, unless something is told in between."""

    until: float
    reasons: list[Reason]
    summaries: dict[str, answer.Summary]
    ok: bool
    degraded: bool


_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


class State:
    """See the module. `clock` is that of the prover's messages, `wall` that of reports."""

    def __init__(
        self,
        options: WatchOptions,
        *,
        clock: Callable[[], float] = moment,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.options = options
        self.draining = False
        self.listeners: list[Callable[[Found | Round], None]] = []
        """Are called with results and ends of rounds, once these are taken in."""
        self._clock, self._wall = clock, wall
        self._started_at = wall()
        self._watched = {name: Watched(name, options) for name in options.namespaces}
        self._prover = ProverHealth(state="starting")
        self._began: dict[_Place, float] = {}
        self._past: dict[_Place, PastReason] = {}
        self._view: _View | None = None
        self._shown: object = None
        self._changes = 0
        self._waiting: set[asyncio.Future[None]] = set()

    # --- from the supervisor

    def take(self, message: Message) -> None:
        """Take in what the prover told. Raises ValueError for a namespace that is not watched."""
        self._look()  # what the time has made of it until now happened, too
        if isinstance(message, Hello):
            self.prover_state("running")
        if isinstance(message, Hello | Beat):
            return
        watched = self._watched.get(message.namespace)
        if watched is None:
            raise ValueError(f"namespace {message.namespace!r} is not watched")
        watched.told(message, self._clock())
        self._view = None
        self._look()
        if isinstance(message, Found | Round):
            for listener in self.listeners:
                listener(message)

    def prover_state(self, state: ProverState, *, failure: str | None = None) -> None:
        """What the prover is doing. `failure`: what has just ended it; that is a restart more."""
        prover = self._prover
        self._prover = ProverHealth(
            state=state,
            restarts=prover.restarts + (failure is not None),
            last_failure=failure or prover.last_failure,
        )
        self._view = None
        self._look()

    def drain(self) -> None:
        """From now on this process is not ready: it is about to end."""
        self.draining = True
        self._changes += 1
        self._wake()

    # --- what is asked

    @property
    def ready(self) -> bool:
        """Whether each namespace was looked at, whatever came of it, and this process is not about to end."""
        looked = all(watched.rounds for watched in self._watched.values())
        return looked and not self.draining

    @property
    def changes(self) -> int:
        """Grows with each change of what is said, ages excepted."""
        self._look()
        return self._changes

    async def changed(self, seen: int) -> int:
        """`changes`, once they exceed `seen`."""
        while self.changes <= seen:
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.add(woken)
            try:
                rest = self._look().until - self._clock()
                await asyncio.wait([woken], timeout=min(max(rest, 0.001), _LONGEST_WAIT))
            finally:
                self._waiting.discard(woken)
        return self._changes

    def health(self) -> HealthReport:
        """All of it, as of now."""
        view, now, wall = self._look(), self._clock(), self._wall()
        namespaces = {name: self._namespace(name, view, now) for name in self._watched}
        rounds = [each.round_seconds for each in self._watched.values() if each.round_seconds is not None]
        return HealthReport(
            ok=view.ok,
            dark=self.options.dark,
            degraded=view.degraded,
            rho=answer.worst([each.rho for each in namespaces.values()]),
            reasons=view.reasons,
            since_start=[
                replace(past, last_at=wall) if place in self._began else past
                for place, past in self._past.items()
            ],
            services=answer.services(self._watched.values(), self.wall_time),
            namespaces=namespaces,
            prover=replace(self._prover, round_seconds=max(rounds, default=None)),
            started_at=self._started_at,
            version=__version__,
        )

    def keys(self, namespace: str) -> list[WatchedKey]:
        """Every watched key as it was last found, in the order of names; its copy where that is not right.

        Raises KeyError for a namespace that is not watched.
        """
        watched = self._watched[namespace]
        now = self._clock()
        held = [(watched.authority, each) for each in watched.truth.values()]
        held += [(CACHE, each) for (where, _), each in watched.bad.items() if where == CACHE]
        found = [answer.key(store, each, now, self.wall_time) for store, each in held]
        found += [answer.unread(watched, key) for key in watched.waiting if key not in watched.truth]
        return sorted(found, key=lambda each: (each.key, each.store == CACHE))

    def worst_keys(self, namespace: str, most: int) -> list[WatchedKey]:
        """Of `keys` those of at most so many names: first what is not right, then what was not read yet."""
        watched = self._watched[namespace]
        now = self._clock()
        found = []
        for name in answer.worst_names(watched, most):
            here, copy = watched.truth.get(name), watched.bad.get((CACHE, name))
            if here is not None:
                found.append(answer.key(watched.authority, here, now, self.wall_time))
            elif name in watched.waiting:
                found.append(answer.unread(watched, name))
            if copy is not None:
                found.append(answer.key(CACHE, copy, now, self.wall_time))
        return found

    def extras(self, namespace: str) -> NamespaceExtras:
        """What people ask besides. Raises KeyError for a namespace that is not watched."""
        watched = self._watched[namespace]
        ordered = sorted(watched.reads)
        if not ordered:
            return NamespaceExtras(watched.extras)
        last = len(ordered) - 1
        reads = {name: ordered[round(share * last)] for name, share in _QUANTILES.items()}
        return NamespaceExtras(watched.extras, reads, len(ordered))

    def wall_time(self, at: float) -> float:
        """The time by the wall clock of a moment by the clock of messages."""
        return self._wall() - (self._clock() - at)

    # --- how it comes about

    def _look(self) -> _View:
        """What holds now; what has changed is counted, noted and told to those who wait."""
        now = self._clock()
        if self._view is not None and now < self._view.until:
            return self._view
        watched = self._watched.values()
        reasons = self._reasons([(each.name, fault) for each in watched for fault in each.faults(now)])
        self._view = _View(
            until=min((each.next_change(now) for each in watched), default=math.inf),
            reasons=reasons,
            summaries={each.name: answer.summary(each, now, self.wall_time) for each in watched},
            ok=bool(watched) and not any(each.fails for each in reasons),
            degraded=any(not each.fails for each in reasons),
        )
        self._compare(self._view)
        return self._view

    def _compare(self, view: _View) -> None:
        found = [
            (store, held.proof.key, held.proof.outcome)
            for summary in view.summaries.values()
            for store, held in summary.bad
        ]
        verdicts = [(rho.psd_ok, rho.incarnation, rho.findings_total) for rho, *_ in view.summaries.values()]
        shown = ({*self._began}, found, verdicts)
        if shown != self._shown:
            self._shown = shown
            self._changes += 1
            self._wake()

    def _wake(self) -> None:
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)

    def _namespace(self, name: str, view: _View, now: float) -> NamespaceHealth:
        own = [each for each in view.reasons if each.namespace == name]
        return NamespaceHealth(
            ok=not any(each.fails for each in own),
            degraded=any(not each.fails for each in own),
            rho=view.summaries[name].aged(now, self.wall_time),
            reasons=own,
        )

    def _reasons(self, faults: list[tuple[str, Fault]]) -> list[Reason]:
        """What holds now, noted in what held at any time; what fails stands first."""
        wall = self._wall()
        told: list[tuple[str | None, Fault]] = [*faults]
        if self._prover.state != "running":
            told.append((None, Fault("prover", self._of_prover(), False)))
        began: dict[_Place, float] = {}
        reasons = []
        for namespace, fault in told:
            place = _Place(fault.cause, namespace, fault.service, fault.outcome)
            begun = began[place] = self._began.get(place, wall)
            self._note(place, fault, wall)
            reasons.append(
                Reason(
                    cause=fault.cause,
                    message=fault.message,
                    fails=fault.fails,
                    namespace=namespace,
                    service=fault.service,
                    key=fault.key,
                    since_at=begun,
                    runbook=_RUNBOOKS.get(fault.cause),
                )
            )
        self._began = began
        return sorted(reasons, key=lambda each: (not each.fails, _ORDER.index(each.cause)))

    def _note(self, place: _Place, fault: Fault, wall: float) -> None:
        past = self._past.get(place)
        self._past[place] = PastReason(
            cause=fault.cause,
            message=fault.message,
            namespace=place.namespace,
            service=fault.service,
            count=(past.count if past else 0) + (place not in self._began),
            first_at=past.first_at if past else wall,
            last_at=wall,
        )

    def _of_prover(self) -> str:
        said = {
            "starting": "the prover is starting",
            "restarting": "the prover ended, and is started again",
            "given-up": "the prover failed too often, and is tried at long intervals",
        }[self._prover.state]
        return f"{said}: {self._prover.last_failure}" if self._prover.last_failure else said
