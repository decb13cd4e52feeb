"""A state of `somactl serve` that a test feeds by hand, by a clock that it holds.

watch = Watch(namespaces=("one",)); watch.proven("a", namespace="one"); watch.found("violated", "a", ...)
watch.clock.now += DEAD; watch.health.ok
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from somactl.report.health import HealthReport
from somactl.serve.model import Found, Hello, Listed, Outcome, Proof, Round, WatchOptions
from somactl.serve.state import State

STALE, DEAD = 30.0, 300.0


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Watch:
    """A state that is fed by hand."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.state = State(
            WatchOptions(stale_after=STALE, dead_after=DEAD, **options),
            clock=self.clock,
            wall=lambda: self.clock.now + 1_000_000.0,
        )
        self.state.take(Hello())

    def listed(self, *keys: str, incarnation: str = "one", namespace: str = "default") -> None:
        at = self.clock.now
        self.state.take(
            Listed(namespace=namespace, incarnation=incarnation, at=at, begin=True, new=list(keys), end=True)
        )

    def found(
        self,
        outcome: Outcome,
        *keys: str,
        store: str = "postgres",
        incarnation: str = "one",
        read_at: float | None = None,
        namespace: str = "default",
    ) -> None:
        self.state.take(
            Found(
                namespace=namespace,
                store=store,
                incarnation=incarnation,
                read_at=self.clock.now if read_at is None else read_at,
                version=7,
                proofs=[Proof(key, outcome, 3, 1e-12, -1e-11) for key in keys],
            )
        )

    def proven(self, *keys: str, **more: Any) -> None:
        """A whole round in which all is well."""
        self.listed(*keys, **more)
        self.found("valid", *keys, **more)
        self.state.take(Round(namespace=more.get("namespace", "default"), seconds=0.1))

    def causes(self) -> list[str]:
        return [reason.cause for reason in self.state.health().reasons]

    @property
    def health(self) -> HealthReport:
        return self.state.health()
