"""The judge of a canary: false alarms, power, and what a look costs; and the table of docs/CANARY.md."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import canary_simulation as simulation
import numpy as np
from canary_simulation import WINDOW, Run, independent, run
from measure import Effort, Row

from somactl.core.canary import Judge
from somactl.core.canary_samples import ARMS, AnySample, Latency, Proof
from somactl.core.canary_spec import Arm, Criteria, Invariants, LatencyLimit, ShareLimit, Spec

RUNS = 200
SIGMAS = (0.25, 0.5, 1.0)
GOALS = {0.25: (300, 95.0), 0.5: (680, 95.0), 1.0: (2950, 90.0)}
"""By sigma: the most samples to FAIL in the median, and the least share of alike arms that PASS."""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "CANARY.md"
BEGIN, END = "<!-- table: benchmarks/canary.py --write-docs -->", "<!-- end of table -->"


def _runs(effort: Effort) -> int:
    return RUNS if effort.least > 3 else 20


def _share(
    name: str, measure: str, ended: Sequence[bool], sense: str, goal: float | None, detail: str = ""
) -> Row:
    share = 100.0 * sum(ended) / len(ended)
    told = ", ".join(filter(None, [f"{sum(ended)} of {len(ended)}", detail]))
    return Row(name, measure, share, share, share, sense, goal, 1, " %", told)  # type: ignore[arg-type]


def _canaries(arms: simulation.Arms, runs: int, *, margin: float, alpha: float = 0.05) -> list[Run]:
    draws = (np.random.default_rng(seed) for seed in range(runs))
    return [run(*arms(draw, WINDOW), margin=margin, alpha=alpha, passing=0.05) for draw in draws]


def false_alarms(name: str, effort: Effort) -> list[Row]:
    """FAIL of arms that are alike, looked at after every pair of 7,200; beside Mann and Whitney's test."""
    runs = _runs(effort)
    ended = _canaries(simulation.ALIKE[name], runs, margin=0.0)
    strides = sorted({each.stride or 0 for each in ended})
    detail = f"stride {strides[0]}-{strides[-1]}" if strides[-1] > 1 else ""
    detail = _mann_whitney(runs) if name == "equal" else detail
    failed = [each.failed is not None for each in ended]
    return [_share(f"canary-false-{name}", f"canary, arms alike ({name}): FAIL", failed, "<=", 5, detail)]


def _mann_whitney(runs: int) -> str:
    draws = (np.random.default_rng(seed) for seed in range(runs))
    alarms = [
        simulation.mann_whitney_alarms(simulation.mann_whitney(*independent(0.5)(draw, WINDOW)))
        for draw in draws
    ]
    shares = [100.0 * sum(column) / runs for column in zip(*alarms, strict=True)]
    return "Mann-Whitney at each look {:.0f} %, each 60th {:.0f} %, at 98 % {:.0f} %".format(*shares)


def power_rows(sigma: float) -> list[str]:
    return [f"canary-{what}-{sigma}" for what in ("fail", "median", "pass", "split")]


def power(sigma: float, effort: Effort) -> list[Row]:
    """What 20 % slower takes to FAIL with no margin, and how often arms alike PASS with 20 %."""
    runs = _runs(effort)
    most, least = GOALS[sigma]
    slower = independent(sigma, 1.2)
    told, of = f"sigma {sigma}", "canary, 20 % slower, no margin"
    whole, split = (_canaries(slower, runs, margin=0.0, alpha=alpha) for alpha in (0.05, 0.0125))
    passed = [each.passed for each in _canaries(independent(sigma), runs, margin=0.2)]
    return [
        _share(f"canary-fail-{sigma}", f"{of}: FAIL, {told}", _failed(whole), ">=", 95),
        _samples(f"canary-median-{sigma}", f"{of}: samples an arm until FAIL, {told}", whole, most),
        _share(f"canary-pass-{sigma}", f"canary, alike, margin 20 %: PASS, {told}", passed, ">=", least),
        _samples(f"canary-split-{sigma}", f"{of}, alpha split over four: samples, {told}", split, None),
    ]


def _failed(runs: Sequence[Run]) -> list[bool]:
    return [each.failed is not None for each in runs]


def _samples(name: str, measure: str, runs: Sequence[Run], goal: int | None) -> Row:
    counts = [WINDOW + 1 if each.failed is None else each.failed for each in runs]
    late = float(np.quantile(counts, 0.95))
    detail = f"95 % after {late:,.0f}" if late <= WINDOW else f"{sum(_failed(runs))} of {len(runs)} at all"
    sense = "" if goal is None else "<="
    middle = statistics.median(counts)
    return Row(name, measure, middle, min(counts), max(counts), sense, goal, 0, "", detail)


COST = ["canary-million", "canary-look", "canary-violation"]


def cost(effort: Effort) -> list[Row]:
    """Seconds of processor for 10^6 samples at one look, and of one more sample; parsing left out."""
    samples = _million()
    judge = Judge(_spec())
    million = _processor(lambda: (judge.add_all(samples), judge.finish(recorded=True)))
    judge.add(Proof(t=float(len(samples) // 2 - 1), arm="candidate", psd="violated"))
    violation = _processor(judge.fails)
    live, few = Judge(_spec()), samples[: 2 * WINDOW]
    each = _processor(lambda: [(live.add(sample), live.fails()) for sample in few]) / len(few)
    return [
        Row(
            COST[0],
            "canary, 10^6 samples at one look: processor",
            million,
            million,
            million,
            "<=",
            1.0,
            2,
            " s",
        ),
        Row(
            COST[1],
            "canary, one more sample and a look at five criteria",
            *[1e3 * each] * 3,
            "<=",
            1.0,
            2,
            " ms",
        ),
        Row(
            COST[2],
            "canary, a violation behind 10^6 samples: FAIL",
            *[1e3 * violation] * 3,
            "<=",
            1.0,
            2,
            " ms",
        ),
    ]


@cache
def _million() -> list[AnySample]:
    values = np.random.default_rng(1).lognormal(-4, 0.5, (500_000, 2)).tolist()
    return [
        Latency(t=float(t), arm=arm, seconds=seconds)
        for t, pair in enumerate(values)
        for arm, seconds in zip(ARMS, pair, strict=True)
    ]


def _spec() -> Spec:
    limit = ShareLimit(max_share=0.01)
    return Spec(
        window=500_000.0,
        arms={arm: Arm(source="samples", file="x") for arm in ARMS},
        criteria=Criteria(
            invariants=Invariants(),
            latency=LatencyLimit(max=0.06, margin=0.2),
            errors=limit,
            degraded=limit,
            conflicts=limit,
        ),
    )


def _processor(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def needed(runs: int = 60, largest: int = 30_000) -> str:
    """The table of docs/CANARY.md: samples an arm after which 9 of 10 canaries of alike arms would pass."""
    margins = (0.05, 0.1, 0.2, 0.3, 0.5)
    lines = [
        "| spread of one arm's latencies (p95 / median) | " + " | ".join(f"{m:.0%}" for m in margins) + " |",
        "|---|" + "---|" * len(margins),
    ]
    for sigma in (0.1, 0.25, 0.5, 1.0):
        found = [_needed(sigma, margin, runs, largest) for margin in margins]
        lines.append(f"| sigma {sigma} ({np.exp(1.645 * sigma):.1f}) | " + " | ".join(found) + " |")
    return "\n".join(lines)


def _needed(sigma: float, margin: float, runs: int, largest: int) -> str:
    low, high = 100.0, float(largest)
    if not _passes(sigma, margin, runs, largest):
        return f"> {largest:,}"
    while high / low > 1.05:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if _passes(sigma, margin, runs, int(middle)) else (middle, high)
    return f"{round(high, -1 if high < 1000 else -2):,.0f}"


def _passes(sigma: float, margin: float, runs: int, n: int) -> bool:
    passed = 0
    for seed in range(runs):
        candidate, baseline = independent(sigma)(np.random.default_rng(seed), n)
        passed += simulation.shows_no_worse(candidate, baseline, margin)
    return passed >= 0.9 * runs


def main() -> None:
    parser = argparse.ArgumentParser(description="The table of docs/CANARY.md.")
    parser.add_argument("--write-docs", action="store_true")
    table = needed()
    if not parser.parse_args().write_docs:
        print(table)
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
