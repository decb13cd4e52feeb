"""Reports of canary checks whose samples were made here."""

from __future__ import annotations

import random
from typing import Any

from somactl.core.canary import Judge
from somactl.core.canary_samples import ARMS, Commit, Degradation, Latency, Proof
from somactl.core.canary_spec_file import read_spec
from somactl.report import CanaryReport

START = 1000.0
ALL_CRITERIA = (
    "{invariants: {}, latency: {max: 60ms, margin: 20%}, errors: {max_share: 1%}, "
    "degraded: {max_share: 5%}, conflicts: {max_share: 2%}}"
)


def canary_report(
    *, slow: float = 1.0, asked: str = ALL_CRITERIA, seconds: float = 100.0, **members: Any
) -> CanaryReport:
    """The report of a canary whose candidate answers `slow` times as slowly, watched from START on."""
    text = (
        f"version: 1\nwindow: 100s\ninterval: 1s\n"
        f"arms: {{baseline: {{source: samples, file: a}}, candidate: {{source: samples, file: a}}}}\n"
        f"criteria: {asked}"
    )
    spec = read_spec(text, "canary.yaml")
    judge, rng = Judge(spec, START), random.Random(1)
    for number in range(int(seconds) * 20):
        t = START + number / 20
        for arm in ARMS:
            took = 0.01 * rng.lognormvariate(0, 0.25) * (slow if arm == "candidate" else 1.0)
            judge.add(Latency(t=t, arm=arm, seconds=took))
            if number % 20 == 0:
                judge.add(Proof(t=t, arm=arm, psd="valid", trace_error=0.0))
                judge.add(Degradation(t=t, arm=arm, on=False))
            judge.add(Commit(t=t, arm=arm, outcome="ok"))
    judge.fails()
    verdict = judge.finish(START + seconds)
    report = CanaryReport(verdict=verdict, spec=spec, started_at=START, ended_at=START + seconds, **members)
    report.finish(verdict.code)
    return report
