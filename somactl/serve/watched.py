"""What is known of one watched namespace, and what that comes to at a given moment. No clock, no I/O.

Nothing is good by default: a key counts as proven only by a result that was read, is good, and is younger
than `dead_after`. All times are of the clock that messages are dated by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from somactl.report.health import Cause
from somactl.serve.model import (
    CACHE,
    GOOD,
    Extras,
    Found,
    Gone,
    Listed,
    Outcome,
    Proof,
    Round,
    Service,
    Services,
    Trouble,
    WatchOptions,
)

READS = 2000
"""Latencies of reads that are kept."""
_CAUSES: dict[Outcome, Cause] = {
    "violated": "violated",
    "corrupt": "violated",
    "undecided": "undecided",
    "unreadable": "unreadable",
    "contradicting": "cache-differs",
    "stale": "cache-differs",
}
_SAID: dict[Outcome, str] = {
    "violated": "is no density matrix",
    "corrupt": "is damaged",
    "undecided": "could not be proven either way, for rounding",
    "unreadable": "could not be read",
    "contradicting": "is a copy of what the authority never committed",
    "stale": "is a copy of what the authority has replaced or deleted",
}


class Held(msgspec.Struct, gc=False):
    """The last result of one key in one store. good_at: when it was last read and good there."""

    proof: Proof
    read_at: float
    good_at: float | None = None


class Up(msgspec.Struct):
    """Whether a service answered the last time, and since when it has answered so."""

    up: bool
    since: float
    detail: str | None = None


class Fault(NamedTuple):
    """Something that is not as it should be: what a reason says of it, but for its times."""

    cause: Cause
    message: str
    fails: bool
    service: str | None = None
    key: str | None = None
    outcome: str | None = None


class Numbers(NamedTuple):
    """The worst of all good and bad results from the authority."""

    trace_error: float | None = None
    lambda_min_bound: float | None = None


class Watched:
    """One namespace.

    Nothing but the end of a round takes a time that grows with the number of keys.

    authority  the kind of the store that holds the truth
    truth      key -> what the authority held when it was read last, the longest unread first
    copies     the same of a cache's copies
    waiting    key -> since when it is known to be unread as it is
    unread     of these the ones of which nothing is known, that which waited longest first
    bad        (where, key) -> what is not right there, where "" is the authority
    groups     (where, outcome) -> the keys of `bad`
    settled    every key was proven or judged at least once, in this incarnation
    """

    def __init__(self, name: str, options: WatchOptions) -> None:
        self.name = name
        self.options = options
        self.services: dict[str, Up] = {}
        self.rounds = 0
        self.round_seconds: float | None = None
        self.extras: Extras | None = None
        self.reads: list[float] = []
        self.good_at: float | None = None
        self.troubles: list[Trouble] = []
        self.gone = False
        self.authority = "store"
        self._forgotten_at = -math.inf
        self._forget()

    def _forget(self) -> None:
        self.incarnation: str | None = None
        self.truth: dict[str, Held] = {}
        self.copies: dict[str, Held] = {}
        self.waiting: dict[str, float] = {}
        self.unread: dict[str, float] = {}
        self.bad: dict[tuple[str, str], Held] = {}
        self.groups: dict[tuple[str, Outcome], dict[str, None]] = {}
        self._missed: dict[tuple[str, str], float] = {}  # since when the last look found nothing
        self._newest = -math.inf
        self.settled = False
        self.listed_at: float | None = None
        self.sample: tuple[float, int | None] | None = None
        self.numbers = Numbers()
        self._listing: set[str] | None = None
        self._keys: set[str] = set()

    # --- what the prover tells

    def told(self, message: Gone | Listed | Found | Services | Round | Extras, now: float) -> None:
        """Take in what was told at `now`; what claims to be from later is from now."""
        if isinstance(message, Services):
            self._answered(message.services, now)
        elif isinstance(message, Extras):
            self.extras = message
        elif isinstance(message, Round):
            self._ended(message)
        elif isinstance(message, Gone):
            at = min(message.at, now)
            if at >= self._forgotten_at:
                self._forget()
                self.gone, self._forgotten_at = True, at
        elif isinstance(message, Listed):
            at = min(message.at, now)
            if self._belongs(message.incarnation, at):
                self._listed(message, at)
        else:
            at = min(message.read_at, now)
            if self._tells(message, at):
                self._found(message, at)

    def _tells(self, message: Found, at: float) -> bool:
        """Whether it tells of the namespace as it is now. Which incarnation that is, a cache never says."""
        if message.store != CACHE:
            return self._belongs(message.incarnation, at)
        return at >= self._forgotten_at and message.incarnation in ("", self.incarnation)

    def _belongs(self, incarnation: str, at: float) -> bool:
        """Whether it tells of the namespace as it is now. The first word of another incarnation ends all that
        was known."""
        if at < self._forgotten_at:
            return False
        if incarnation != self.incarnation:
            self._forget()
            self.incarnation, self._forgotten_at = incarnation, at
        self.gone = False
        return True

    def _answered(self, services: Iterable[Service], now: float) -> None:
        for each in services:
            if each.service != CACHE:
                self.authority = each.service
            known = self.services.get(each.service)
            since = known.since if known is not None and known.up == each.up else now
            self.services[each.service] = Up(each.up, since, each.detail)

    def _listed(self, message: Listed, at: float) -> None:
        if message.begin:
            self._listing = set()
        if self._listing is not None:
            self._listing.update(message.new)
        for key in message.new:
            self._keys.add(key)
            if key not in self.truth:
                self._wait(key, at)
        for key in message.changed:
            if key in self.truth:
                self.waiting.setdefault(key, at)
        self._drop(message.gone)
        self._sort(at)
        if message.end:
            if self._listing is not None:
                self._drop(self._keys - self._listing)
                self._listing = None
            self.listed_at = at
            self._settle()

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._keys.discard(key)
            self.truth.pop(key, None)
            self.waiting.pop(key, None)
            self.unread.pop(key, None)
            self._missed.pop(("", key), None)
            self._judge("", key, None)

    def _wait(self, key: str, at: float) -> None:
        self.waiting.setdefault(key, at)
        self.unread.setdefault(key, at)

    def _judge(self, where: str, key: str, wrong: Held | None) -> None:
        """Note what is wrong, in its place if it was the same before."""
        before = self.bad.get((where, key))
        if before is not None and (wrong is None or wrong.proof.outcome != before.proof.outcome):
            del self.bad[where, key]
            group = self.groups[where, before.proof.outcome]
            del group[key]
            if not group:
                del self.groups[where, before.proof.outcome]
        if wrong is not None:
            self.bad[where, key] = wrong
            self.groups.setdefault((where, wrong.proof.outcome), {})[key] = None

    def _sort(self, at: float) -> None:
        """Keep both orders by age, where something was told late."""
        if at < self._newest:
            self.truth = dict(sorted(self.truth.items(), key=lambda item: item[1].read_at))
            self.unread = dict(sorted(self.unread.items(), key=lambda item: item[1]))
        self._newest = max(self._newest, at)

    def _found(self, message: Found, at: float) -> None:
        cache = message.store == CACHE
        for proof in message.proofs:
            if cache:
                self._keep(self.copies, CACHE, proof, at)
            elif proof.key in self._keys:  # any other was deleted meanwhile
                self._keep(self.truth, "", proof, at)
        if cache:
            return
        self.authority = message.store
        if self.sample is None or at >= self.sample[0]:
            self.sample = at, message.version
        self._sort(at)
        self._settle()

    def _keep(self, held: dict[str, Held], where: str, proof: Proof, at: float) -> None:
        key = proof.key
        before = held.get(key)
        if at < (self._missed.get((where, key), at) if before is None else before.read_at):
            return
        held.pop(key, None)  # what was read last stands last
        self._missed.pop((where, key), None)
        if proof.outcome == "absent":
            self._judge(where, key, None)
            if not where or before is not None:
                self._missed[where, key] = at
            if not where:
                self._wait(key, at)  # it is listed, and so to be found again, or listed no more
            return
        good = proof.outcome in GOOD
        one = Held(proof, at, at if good else before.good_at if before is not None else None)
        held[key] = one
        self._judge(where, key, None if good else one)
        if not where:
            self.unread.pop(key, None)
            if at >= self.waiting.get(key, at):
                self.waiting.pop(key, None)
            self.numbers = _worse(self.numbers, proof)

    def _settle(self) -> None:
        self.settled = self.settled and bool(self.truth)
        if self.listed_at is None or not self.truth or len(self.truth) < len(self._keys):
            return
        self.settled = True
        oldest = self.oldest
        if oldest is not None and not self.bad:
            self.good_at = max(self.good_at or oldest, oldest)

    def _ended(self, message: Round) -> None:
        self.rounds += 1
        self.round_seconds = message.seconds
        self.troubles = list(message.troubles)
        self.reads = [*self.reads, *message.reads][-READS:]
        since = message.copies_since
        if since is not None:
            lost = [
                key for key, held in self.copies.items() if held.read_at < since and key not in self._keys
            ]
            for key in lost:
                del self.copies[key]
                self._judge(CACHE, key, None)
        proofs = [held.proof for held in self.truth.values()]
        self.numbers = Numbers(
            max((proof.trace_error for proof in proofs if proof.trace_error is not None), default=None),
            min(
                (proof.lambda_min_bound for proof in proofs if proof.lambda_min_bound is not None),
                default=None,
            ),
        )

    # --- what it comes to

    @property
    def watched(self) -> int:
        return len(self._keys)

    @property
    def proven(self) -> int:
        """Keys that are right as they are, as far as is known."""
        wrong = sum(len(group) for (where, _), group in self.groups.items() if not where)
        if len(self.waiting) > len(self.unread):
            wrong += sum(key not in self.unread and ("", key) not in self.bad for key in self.waiting)
        return len(self.truth) - wrong

    @property
    def oldest(self) -> float | None:
        """When that was read which was read longest ago, a key or the list of keys; None: nothing was."""
        if self.listed_at is None or not self.truth:
            return None
        return min(next(iter(self.truth.values())).read_at, self.listed_at, self._unread_since)

    @property
    def _unread_since(self) -> float:
        """Since when that key has waited which has waited longest for its first proof; inf: none does."""
        return next(iter(self.unread.values()), math.inf)

    def psd_ok(self, now: float) -> bool | None:
        """Whether every watched rho is a density matrix; None: not known, or not any more.

        A key that is new is left aside, for as long as nothing is stale.
        """
        wrong = {outcome for _, outcome in self.groups}
        if wrong & {"violated", "corrupt"}:
            return False
        oldest = self.oldest
        if oldest is None or not self.settled or wrong & {"undecided", "unreadable"}:
            return None
        late = now - oldest >= self.options.dead_after
        return None if late or now - self._unread_since >= self.options.stale_after else True

    def faults(self, now: float) -> Iterator[Fault]:
        """All that is not as it should be at `now`."""
        if self.gone:
            yield Fault("namespace-gone", f"there is no namespace {self.name!r}", True, self.authority)
        elif self.listed_at is not None and not self._keys:
            patterns = " ".join(self.options.patterns)
            yield Fault("nothing-watched", f"no rho matches {patterns}", True)
        elif not self.settled:
            yield Fault("starting", "not every watched key has been proven yet", True)
        yield from self._findings()
        yield from self._age(now)
        for service, state in self.services.items():
            if not state.up:
                cause: Cause = "cache-away" if service == CACHE else "authority-away"
                yield Fault(cause, state.detail or f"{service} does not answer", False, service)
        for each in self.troubles:
            yield Fault(each.cause, each.message, each.fails, each.service)

    def next_change(self, now: float) -> float:
        """When the passing of time alone changes what `faults` says."""
        oldest = self.oldest
        if oldest is None:
            return math.inf
        stale, dead = self.options.stale_after, self.options.dead_after
        due = (oldest + stale, oldest + dead, self._unread_since + stale)
        return min((at for at in due if at > now), default=math.inf)

    def _findings(self) -> Iterator[Fault]:
        """One fault for each kind of finding in each store, naming one of its keys."""
        for (where, outcome), keys in sorted(self.groups.items()):
            service, first = where or self.authority, next(iter(keys))
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            message = f"key {first!r}{more} in {service} {_SAID[outcome]}"
            yield Fault(_CAUSES[outcome], message, self._fails(outcome), service, first, outcome)

    def _fails(self, outcome: Outcome) -> bool:
        """A copy that is merely old may be served, for a time; and no invariant fails in dark mode."""
        return outcome != "stale" and not (self.options.dark and outcome in ("violated", "undecided"))

    def _age(self, now: float) -> Iterator[Fault]:
        oldest = self.oldest
        if oldest is None or not self.settled:
            return
        age, said = now - oldest, "not every watched key was proven in the last {:g} s"
        if age >= self.options.dead_after:
            yield Fault("dead", said.format(self.options.dead_after), True)
        elif age >= self.options.stale_after:
            yield Fault("stale", said.format(self.options.stale_after), False)


def _worse(numbers: Numbers, proof: Proof) -> Numbers:
    trace, bound = numbers
    if proof.trace_error is not None and (trace is None or proof.trace_error > trace):
        trace = proof.trace_error
    if proof.lambda_min_bound is not None and (bound is None or proof.lambda_min_bound < bound):
        bound = proof.lambda_min_bound
    return Numbers(trace, bound)
