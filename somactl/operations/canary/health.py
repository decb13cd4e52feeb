"""Health as a source: what `/healthz` of `somactl serve` says of proofs and of degraded mode."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlencode

import msgspec

from somactl.core.canary_samples import AnySample, ArmName, Degradation, Proof
from somactl.operations.canary.http import Site, in_a_line
from somactl.operations.canary.sources import Unanswered
from somactl.report.health import HealthReport, RhoHealth

_Psd = Literal["valid", "clampable", "violated", "undecided"]
_OUTCOMES: dict[str, _Psd] = {
    "clampable": "clampable",
    "violated": "violated",
    "corrupt": "violated",
    "undecided": "undecided",
}
_SAME_SECONDS = 0.05
"""Two answers about one proof give its time with so little difference."""


class Health:
    """Asks a /healthz. A proof has the time at which its state was read, and is told once: an old one that is
    repeated is no sample of the time in which it is repeated."""

    is_timed = False

    def __init__(self, arm: ArmName, site: Site, namespace: str | None) -> None:
        self.arm = arm
        self.start = 0.0
        self.cursor: dict[str, float] = {}
        self._site = site
        self._path = f"?{urlencode({'namespace': namespace})}" if namespace else ""

    async def begin(self) -> None:
        """There is nothing to open."""

    async def look(self, now: float) -> list[AnySample]:
        try:
            report = await self._site.ask(self._path, self._read)
        except Unanswered as exc:
            return [exc.doubt(self.arm, now)]
        degraded: list[AnySample] = [Degradation(t=now, arm=self.arm, on=report.degraded)]
        return [*self._proofs(report.rho, now), *degraded]

    async def close(self) -> None:
        """Nothing stays open."""

    def _read(self, status: int, body: bytes) -> HealthReport:
        """200 and 503 are answers, if they are a health report."""
        try:
            return msgspec.json.decode(body, type=HealthReport)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._site.refuse_status(status, in_a_line(body))
            told = in_a_line(body) or "nothing"
            raise Unanswered("unreadable", f"{self._site.address} answers no health: {told}") from None

    def _proofs(self, rho: RhoHealth, now: float) -> list[AnySample]:
        if rho.age_seconds is None:
            return []
        t = now - rho.age_seconds
        if t <= self.cursor.get("proof", -float("inf")) + _SAME_SECONDS:
            return []
        found: list[AnySample] = [
            Proof(
                t=t,
                arm=self.arm,
                psd=_OUTCOMES[each.outcome],
                trace_error=each.trace_error,
                key=each.key,
            )
            for each in rho.findings
            if each.outcome in _OUTCOMES
        ]
        is_told = any(isinstance(each, Proof) and each.psd == "violated" for each in found)
        if rho.psd_ok is False and not is_told:
            found.append(Proof(t=t, arm=self.arm, psd="violated"))
        if rho.psd_ok:
            found.append(Proof(t=t, arm=self.arm, psd="valid", trace_error=rho.trace_error))
        self.cursor["proof"] = t
        return found
