"""Canary checks for tests: recordings with a known outcome, judged, with what was seen on the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from somactl.core.canary import Judge
from somactl.core.canary_samples import (
    ARMS,
    AnySample,
    ArmName,
    Buckets,
    Commit,
    Degradation,
    Doubt,
    Failure,
    Latency,
    Proof,
    in_order,
)
from somactl.core.canary_spec import Spec
from somactl.core.canary_spec_file import read_spec
from somactl.report import CanaryReport, look_at
from somactl.report.canary_distribution import distributed
from somactl.report.canary_evidence import CanarySamples

WINDOW = 500
CRITERIA = (
    "{invariants: {violations: 0}, latency: {max: 60ms, margin: 30%}, errors: {max_share: 2%},"
    " degraded: {max_share: 5%}, conflicts: {max_share: 5%}}"
)


def spec(criteria: str = CRITERIA, source: str = "{source: samples, file: samples.ndjson}") -> Spec:
    return read_spec(
        f"version: 1\nwindow: {WINDOW}s\ninterval: 50s\n"
        f"arms: {{baseline: {source}, candidate: {source}}}\ncriteria: {criteria}",
        "canary.yaml",
    )


def recording(
    *,
    slower: float = 1.0,
    seconds: int = WINDOW,
    arms: Sequence[ArmName] = ARMS,
    key: str = "state:1",
    violated_at: int | None = None,
    failing: float = 0.0,
    seed: int = 1,
) -> list[AnySample]:
    """One latency a second of each arm, a commit every other second and the rest every fifth. The
    candidate's latencies are so many times as long, and that share of its requests fail."""
    draw = random.Random(seed)
    samples: list[AnySample] = []
    for t in range(seconds + 1):
        for arm in arms:
            factor = slower if arm == "candidate" else 1.0
            if arm == "candidate" and draw.random() < failing:
                samples.append(Failure(t=t, arm=arm, what="timeout"))
            samples.append(Latency(t=t, arm=arm, seconds=draw.lognormvariate(-3.7, 0.25) * factor))
            if t % 2 == 0:
                samples.append(Commit(t=t, arm=arm, outcome="ok", seconds=0.02))
            if t % 5 == 0:
                violates = arm == "candidate" and violated_at is not None and t >= violated_at
                psd: Literal["violated", "valid"] = "violated" if violates else "valid"
                samples.append(Proof(t=t, arm=arm, psd=psd, trace_error=1e-12, key=key))
                samples.append(Degradation(t=t, arm=arm, on=arm == "candidate" and 200 <= t < 210))
    return in_order(samples)


def counted(slower: float = 1.0) -> list[AnySample]:
    """What a server counts by bucket, every ten seconds."""
    draw, edges = random.Random(2), [0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2]
    samples: list[AnySample] = []
    for t in range(0, WINDOW + 1, 10):
        for arm in ARMS:
            factor = slower if arm == "candidate" else 1.0
            counts = [0] * (len(edges) + 1)
            for _ in range(40):
                seconds = draw.lognormvariate(-3.7, 0.25) * factor
                counts[sum(seconds > edge for edge in edges)] += 1
            samples.append(Buckets(t=t, arm=arm, edges=edges, counts=counts))
    return samples


def judged(asked: Spec, samples: Iterable[AnySample]) -> tuple[CanaryReport, CanarySamples]:
    """The report of a recording that came live, and what was judged."""
    judge, report = Judge(asked), CanaryReport(spec=asked)
    taken: list[AnySample] = []
    looks: list[tuple[int, float]] = []
    next_look = float("-inf")
    for sample in samples:
        if sample.t >= next_look:
            next_look = sample.t + asked.interval
            looks.append((len(taken), sample.t))
            if judge.fails(sample.t):
                break
            if taken:
                report.looks.append(look_at(judge.verdict(sample.t)))
        judge.add(sample)
        taken.append(sample)
    now = (judge.start or 0.0) + asked.window if not judge.fails() else None
    verdict = judge.finish(now)
    report.looks.append(look_at(verdict))
    report.verdict, report.distribution = verdict, distributed(taken)
    report.finish(verdict.code)
    return report, CanarySamples(count=len(taken), start=None, ended=now, asked=looks, values=taken)


def _with_trouble() -> list[AnySample]:
    doubt = Doubt(t=250.0, arm="candidate", what="unreachable", detail="http://prometheus:9090: 503")
    return in_order([*recording(), doubt])


CASES: dict[str, Callable[[], list[AnySample]]] = {
    "pass": recording,
    "slower": lambda: recording(slower=1.6),
    "violated": lambda: recording(violated_at=300),
    "errors": lambda: recording(failing=0.2),
    "few": lambda: recording(slower=1.28),
    "gap": lambda: [each for each in recording() if each.arm == "candidate" or not 150 <= each.t < 260],
    "trouble": _with_trouble,
    "one arm": lambda: recording(arms=("candidate",)),
    "nothing": list,
    "buckets": lambda: counted(slower=1.05),
}
"""Recordings by what comes of them."""
