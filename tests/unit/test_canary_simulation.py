"""The simulations of the benchmarks decide as the judge does, at the same sample; and what they show."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from somactl.core.canary import Judge
from somactl.core.canary_samples import Latency
from somactl.core.canary_spec import Arm, Criteria, LatencyLimit, Spec

pytestmark = pytest.mark.source
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NIGHT = bool(os.environ.get("SOMACTL_TEST_NIGHT"))
RUNS = 2000


@pytest.fixture(scope="module")
def simulation() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("canary_simulation")
    finally:
        sys.path.remove(str(BENCHMARKS))


def judged(candidate: Any, baseline: Any, margin: float) -> tuple[int | None, bool]:
    """After how many pairs the judge fails, and whether it passes."""
    arms = {name: Arm(source="samples", file="x") for name in ("baseline", "candidate")}
    spec = Spec(arms=arms, criteria=Criteria(latency=LatencyLimit(margin=margin)))
    judge = Judge(spec)
    for i, (x, y) in enumerate(zip(candidate.tolist(), baseline.tolist(), strict=True)):
        judge.add(Latency(t=float(i), arm="candidate", seconds=x))
        judge.add(Latency(t=float(i), arm="baseline", seconds=y))
        if judge.fails():
            return i + 1, False
    return None, judge.finish(recorded=True).outcome == "PASS"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("arms", "margin"),
    [("slower", 0.0), ("alike", 0.2), ("ties", 0.1), ("dependent", 0.0)],
)
def test_it_decides_as_the_judge_does(simulation: Any, arms: str, margin: float, seed: int) -> None:
    made = {
        "slower": simulation.independent(0.5, 1.25),
        "alike": simulation.independent(0.5),
        "ties": simulation.tied(0.5),
        "dependent": simulation.dependent(0.6, 0.5),
    }[arms]
    candidate, baseline = made(np.random.default_rng(seed), 1200)
    if arms == "dependent":
        candidate = candidate * 2
    found = simulation.run(candidate, baseline, margin=margin, alpha=0.05, passing=0.05)
    assert (found.failed, found.passed) == judged(candidate, baseline, margin)
    assert (found.failed is not None) == (arms in ("slower", "dependent"))


@pytest.mark.skipif(not NIGHT, reason="2,000 canaries of 7,200 samples for each")
@pytest.mark.parametrize("arms", ["equal", "ar6", "ar9", "shocks", "long-shocks", "ties", "diurnal"])
def test_false_alarms_stay_below_alpha(simulation: Any, arms: str) -> None:
    made = simulation.ALIKE[arms]
    ended = [
        simulation.run(*made(np.random.default_rng(seed), simulation.WINDOW), margin=0.0, alpha=0.05)
        for seed in range(RUNS)
    ]
    assert sum(run.failed is not None for run in ended) <= 0.05 * RUNS
