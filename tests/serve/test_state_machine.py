"""No sequence of what a prover may tell, or fail to tell, makes health say more than was proven."""

from __future__ import annotations

import math
import os
from typing import Any

from hypothesis import Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from somactl.serve.model import Found, Gone, Listed, Proof, Round, Service, Services
from support.watch import DEAD, STALE, Watch

NIGHT = bool(os.environ.get("SOMACTL_TEST_NIGHT"))
KEYS = st.sampled_from("ab")
GOOD = ("valid", "clampable")
OUTCOMES = st.sampled_from(("valid", "clampable", "violated", "violated", "undecided", "absent"))
COPIES = st.sampled_from(("valid", "violated", "corrupt", "contradicting", "stale", "absent"))
LATE = st.sampled_from((0.0, 0.0, 5.0, DEAD, -1e6))
"""How long before its arrival a message says that it was read; one lies."""


class Telling(RuleBasedStateMachine):
    """Feeds a state, and keeps what was told in the simplest way there is: all of it.

    Of each key the result counts that was read last, of those told since the namespace was last begun anew.
    """

    @initialize(proven=st.booleans())
    def begin(self, proven: bool) -> None:
        self.watch = Watch()
        self.incarnation, self.anew_at = "", -math.inf
        self.forget()
        if proven:  # from where it is not far to any mistake
            self.list_all({"a", "b"}, "one", 0.0)
            self.find_all("valid")
            self.watch.clock.now += 10

    def forget(self) -> None:
        self.listed: dict[str, float] = {}
        self.listed_at = -math.inf
        self.read: dict[str, list[tuple[float, str]]] = {}
        self.copies: dict[str, list[tuple[float, str]]] = {}

    @property
    def now(self) -> float:
        return self.watch.clock.now

    def belongs(self, incarnation: str, at: float) -> bool:
        if at < self.anew_at:
            return False
        if incarnation != self.incarnation:
            self.forget()
            self.incarnation, self.anew_at = incarnation, at
        return True

    @rule(seconds=st.sampled_from((1.0, STALE, DEAD, DEAD)))
    def wait(self, seconds: float) -> None:
        self.watch.clock.now += seconds

    @rule(keys=st.sets(KEYS), incarnation=st.sampled_from(("one", "one", "two")), late=LATE)
    def list_all(self, keys: set[str], incarnation: str, late: float) -> None:
        at = min(self.now - late, self.now)
        self.tell(Listed, at=self.now - late, incarnation=incarnation, begin=True, end=True, new=[*keys])
        if self.belongs(incarnation, at):
            self.listed = {key: self.listed.get(key, at) for key in keys}
            self.read = {key: read for key, read in self.read.items() if key in keys}
            self.listed_at = at

    @rule(keys=st.sets(KEYS))
    def begin_a_list_that_has_no_end(self, keys: set[str]) -> None:
        """The prover died over it."""
        if self.belongs(self.incarnation or "one", self.now):
            self.tell(Listed, at=self.now, incarnation=self.incarnation or "one", begin=True, new=[*keys])
            self.incarnation = self.incarnation or "one"
            self.listed = {**dict.fromkeys(keys, self.now), **self.listed}

    @rule(key=KEYS, outcome=OUTCOMES, incarnation=st.sampled_from(("one", "one", "two")), late=LATE)
    def find(self, key: str, outcome: Any, incarnation: str, late: float) -> None:
        at = min(self.now - late, self.now)
        proofs = [Proof(key, outcome)]
        self.tell(Found, store="postgres", incarnation=incarnation, read_at=self.now - late, proofs=proofs)
        if self.belongs(incarnation, at) and key in self.listed:
            self.read.setdefault(key, []).append((at, outcome))

    @rule(outcome=st.sampled_from(GOOD))
    def find_all(self, outcome: Any) -> None:
        for key in [*self.listed]:
            self.find(key, outcome, self.incarnation, 0.0)

    @rule(keys=st.sets(KEYS), outcome=st.sampled_from(GOOD))
    def a_round_that_reads_some(self, keys: set[str], outcome: Any) -> None:
        if self.listed:
            self.list_all({*self.listed}, self.incarnation, 0.0)
            for key in sorted(keys & {*self.listed}):
                self.find(key, outcome, self.incarnation, 0.0)

    @rule(key=KEYS, outcome=COPIES, late=LATE)
    def find_copy(self, key: str, outcome: Any, late: float) -> None:
        at = min(self.now - late, self.now)
        told = self.incarnation
        proofs = [Proof(key, outcome)]
        self.tell(Found, store="cache", incarnation=told, read_at=self.now - late, proofs=proofs)
        if at >= self.anew_at:
            self.copies.setdefault(key, []).append((at, outcome))

    @rule(late=LATE)
    def lose(self, late: float) -> None:
        at = min(self.now - late, self.now)
        self.tell(Gone, at=self.now - late)
        if at >= self.anew_at:
            self.forget()
            self.incarnation, self.anew_at = "", at

    @rule(what=st.sampled_from(("up", "down", "round", "restart")))
    def tell_something_else(self, what: str) -> None:
        if what == "round":
            self.tell(Round, seconds=0.1)
        elif what == "restart":
            self.watch.state.prover_state("restarting", failure="killed")
        else:
            services = [Service("postgres", what == "up"), Service("cache", what != "up")]
            self.tell(Services, services=services)

    def tell(self, kind: Any, **fields: Any) -> None:
        self.watch.state.take(kind(namespace="default", **fields))

    def last(self, read: list[tuple[float, str]] | None) -> tuple[float, str] | None:
        """The result that was read last; of two read at once the one told last."""
        return max(enumerate(read), key=lambda each: (each[1][0], each[0]))[1] if read else None

    def missed_since(self, key: str) -> float:
        """When the key was first not found, after it was last found."""
        found = [at for at, outcome in self.read[key] if outcome != "absent"]
        missed = [at for at, outcome in self.read[key] if outcome == "absent"]
        return min((at for at in missed if at >= max(found, default=-math.inf)), default=self.now)

    @invariant()
    def says_no_more_than_is_proven(self) -> None:
        health = self.watch.health
        if not health.ok:
            assert any(reason.fails for reason in health.reasons)
            return
        assert self.listed
        assert self.now - self.listed_at < DEAD
        proven = 0
        for key, since in self.listed.items():
            last = self.last(self.read.get(key))
            assert last is None or last[1] in (*GOOD, "absent"), (key, last)
            if last is None:
                assert self.now - since < DEAD, f"{key} was never proven"
            elif last[1] == "absent":
                assert self.now - self.missed_since(key) < DEAD, f"{key} is listed and not there"
            else:
                proven += 1
                assert self.now - last[0] < DEAD, f"{key} was proven too long ago"
        assert proven, "nothing is proven"
        for key, read in self.copies.items():
            last = self.last(read)
            assert last is None or last[1] in ("valid", "stale", "absent"), (key, last)

    @invariant()
    def agrees_with_itself(self) -> None:
        health = self.watch.health
        assert health.degraded == any(not reason.fails for reason in health.reasons)
        assert health.ok == all(each.ok for each in health.namespaces.values())
        rho = health.rho
        assert rho.proven <= rho.watched == len(self.listed)
        if rho.psd_ok is False:
            assert rho.findings
            assert not health.ok
        if health.ok and not health.degraded:
            assert rho.psd_ok is True
            assert rho.oldest_seconds is not None
            assert rho.oldest_seconds < STALE
        assert {each.cause for each in health.reasons} <= {each.cause for each in health.since_start}


TestTelling = Telling.TestCase
TestTelling.settings = settings(
    phases=[Phase.generate], max_examples=1000 if NIGHT else 100, stateful_step_count=20
)
