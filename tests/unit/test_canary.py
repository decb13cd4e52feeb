"""The judge: what passes, what fails at once, what holds and why; and that a hold is never a pass."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from somactl.core.canary import Judge
from somactl.core.canary_samples import (
    AnySample,
    Buckets,
    Commit,
    Counts,
    Degradation,
    Doubt,
    Failure,
    Latency,
    Proof,
    Rejected,
    in_order,
)
from somactl.core.canary_spec import Spec
from somactl.core.canary_spec_file import read_spec
from somactl.core.canary_verdict import CODES, JUDGE_VERSION, CanaryVerdict, Evidence, recomputed
from somactl.report import CanaryReport, look_at
from support.judging import judge_all

ARMS = ("baseline", "candidate")
FILES = "arms: {baseline: {source: samples, file: x}, candidate: {source: samples, file: x}}"
WINDOW = 1000


def spec(criteria: str, more: str = "") -> Spec:
    return read_spec(
        f"version: 1\nwindow: {WINDOW}s\ninterval: 10s\n{more}\n{FILES}\ncriteria: {criteria}", "canary.yaml"
    )


LATENCY = spec("{latency: {margin: 30%}}")
WHOLE = spec(
    "{invariants: {violations: 0}, latency: {max: 60ms, margin: 30%}, errors: {max_share: 2%},"
    " degraded: {max_share: 5%}, conflicts: {max_share: 2%}}"
)


def latencies(
    *,
    slower: float = 1.0,
    seed: int = 1,
    seconds: int = WINDOW,
    arms: Sequence[Any] = ARMS,
    sigma: float = 0.25,
) -> list[AnySample]:
    """One a second of each arm; the candidate's are so many times as long."""
    draw = random.Random(seed)
    values = {arm: [draw.lognormvariate(-4, sigma) for _ in range(seconds + 1)] for arm in ARMS}
    factor = {"baseline": 1.0, "candidate": slower}
    return [
        Latency(t=float(t), arm=arm, seconds=values[arm][t] * factor[arm])
        for t in range(seconds + 1)
        for arm in arms
    ]


def everything(**how: Any) -> list[AnySample]:
    """A recording in which all criteria hold."""
    samples = latencies(**how)
    for t in range(0, WINDOW + 1, 2):
        for arm in ARMS:
            samples += [
                Proof(t=t, arm=arm, psd="valid", trace_error=1e-12, key="state:1"),
                Degradation(t=t, arm=arm, on=False),
                Commit(t=t, arm=arm, outcome="ok", seconds=0.02),
            ]
    return in_order(samples)


def said(verdict: CanaryVerdict, name: str) -> Any:
    return next(each for each in verdict.criteria if each.name == name)


def held(verdict: CanaryVerdict, outcome: str, why: str, criterion: str) -> None:
    assert (verdict.outcome, verdict.why, verdict.criterion) == (outcome, why, criterion), (
        verdict.first_line()
    )
    assert verdict.code == CODES[verdict.outcome]
    assert verdict.first_line().startswith(f"{outcome}: ")
    assert "\n" not in verdict.reason


def test_a_canary_in_which_all_holds_passes_at_its_end_and_not_before() -> None:
    judge = Judge(WHOLE)
    for sample in everything():
        judge.add(sample)
        assert not judge.fails()
        if sample.t == 900 and sample.arm == "baseline":
            held(judge.verdict(), "INSUFFICIENT", "running", judge.verdict().criterion)
            assert "100 s to go" in judge.verdict().reason
            assert judge.finish().outcome == "INSUFFICIENT"  # stopped too early
    verdict = judge.finish()
    held(verdict, "PASS", "shown", verdict.criterion)
    assert [each.outcome for each in verdict.criteria] == ["PASS"] * 6
    assert verdict.judge == JUDGE_VERSION
    margin = said(verdict, "latency.margin")
    assert margin.arms["candidate"].samples == 1001
    assert margin.arms["candidate"].low < margin.value < margin.arms["candidate"].high
    assert verdict == judge_all(WHOLE, everything()), "a recording is judged as if it arrived live"


def test_a_slower_candidate_fails_at_once_and_says_by_what() -> None:
    verdict = judge_all(LATENCY, latencies(slower=2.0))
    held(verdict, "FAIL", "worse", "latency.margin")
    failed = verdict.decided_by
    assert failed is not None
    assert failed.failing is not None
    assert failed.decisive is failed.failing
    assert failed.failing.log_e >= failed.failing.bar
    assert failed.failing.candidate.n == verdict.samples["candidate"] <= 250
    assert failed.value > failed.threshold


def test_an_absolute_limit_fails_where_the_candidate_alone_is_above() -> None:
    limit = spec("{latency: {max: 30ms}}")
    held(judge_all(limit, latencies(slower=2.0)), "FAIL", "above", "latency.max")
    assert judge_all(spec("{latency: {max: 60ms}}"), latencies()).outcome == "PASS"
    both = [msgspec.structs.replace(each, seconds=each.seconds * 2) for each in latencies()]
    held(judge_all(limit, both), "INCONCLUSIVE", "baseline-breaks", "latency.max")


@pytest.mark.parametrize(
    ("proof", "says"),
    [
        ({"psd": "violated", "key": "state:7"}, "state:7 violates an invariant"),
        ({"psd": "violated", "trace_error": math.nan}, "violates an invariant"),
        ({"psd": "valid", "trace_error": 1.1e-8}, "trace error is 1.1e-08, above 1e-08"),
    ],
)
def test_one_violation_fails_the_moment_it_appears(proof: dict[str, Any], says: str) -> None:
    judge = Judge(WHOLE)
    for sample in everything()[:500]:
        judge.add(sample)
    assert not judge.fails()
    judge.add(Proof(t=70.0, arm="candidate", **proof))
    assert judge.fails()
    held(judge.verdict(), "FAIL", "violated", "invariants")
    assert says in judge.verdict().reason


@pytest.mark.parametrize(
    ("attitude", "outcome", "why"),
    [("report", "PASS", "shown"), ("hold", "INCONCLUSIVE", ""), ("count", "FAIL", "violated")],
)
@pytest.mark.parametrize("status", ["undecided", "clampable"])
def test_what_is_not_proven_is_reported_or_holds_or_counts(
    status: Any, attitude: str, outcome: str, why: str
) -> None:
    asked = spec(f"{{invariants: {{{status}: {attitude}}}}}")
    proofs: list[AnySample] = [
        Proof(t=t, arm="candidate", psd="valid", trace_error=0.0) for t in range(0, WINDOW + 1, 50)
    ]
    proofs.insert(5, Proof(t=201, arm="candidate", psd=status, trace_error=0.0))
    verdict = judge_all(asked, proofs)
    held(verdict, outcome, why or status, "invariants")
    assert said(verdict, "invariants").counts[f"candidate.{status}"] == 1


def test_an_outage_of_the_candidate_fails_and_one_of_both_holds() -> None:
    asked = spec("{errors: {max_share: 2%}}")
    out = [
        Failure(t=each.t, arm=each.arm, what="timeout") if 300 <= each.t < 340 else each
        for each in latencies()
    ]
    alone = [a if b.arm == "candidate" else b for a, b in zip(out, latencies(), strict=True)]
    verdict = judge_all(asked, alone)
    held(verdict, "FAIL", "above", "errors")
    assert verdict.at is not None
    assert verdict.at < 320
    late = [
        Failure(t=e.t, arm=e.arm, what="x") if e.t >= 300 and e.arm == "baseline" else e for e in latencies()
    ]
    held(judge_all(asked, late), "INCONCLUSIVE", "baseline-breaks", "errors")
    assert judge_all(asked, latencies()).outcome == "PASS"


def test_conflicts_and_errors_may_come_counted() -> None:
    asked = spec("{errors: {max_share: 2%}, conflicts: {max_share: 2%}}")

    def counted(bad: int) -> Iterator[AnySample]:
        for t in range(0, WINDOW + 1, 20):
            for arm in ("baseline", "candidate"):
                yield Counts(t=t, arm=arm, of="errors", bad=1, total=200)
                mine = bad if arm == "candidate" else 1
                yield Counts(t=t, arm=arm, of="conflicts", bad=mine, total=200)

    assert judge_all(asked, counted(1)).outcome == "PASS"
    held(judge_all(asked, counted(9)), "FAIL", "above", "conflicts")


def test_errors_that_come_in_bursts_count_for_fewer() -> None:
    asked = spec("{errors: {max_share: 5%}}")
    draw = random.Random(3)
    bursts = {t for _ in range(3) for start in [draw.randrange(WINDOW)] for t in range(start, start + 2)}
    judge = Judge(asked)
    for t in range(WINDOW + 1):
        for arm in ARMS:
            errors = 60 if t in bursts else 1
            judge.add(Counts(t=t, arm=arm, of="errors", bad=errors, total=100))
    facts = said(judge.verdict(), "errors").arms["candidate"]
    assert facts.divisor > 5
    assert facts.judged == int(facts.samples / facts.divisor)


@pytest.mark.parametrize(("on", "outcome"), [(40, "PASS"), (60, "FAIL")])
def test_degraded_mode_is_a_share_of_the_windows_time(on: int, outcome: str) -> None:
    asked = spec("{degraded: {max_share: 5%}}")
    samples = [
        Degradation(t=t, arm=arm, on=arm == "candidate" and 500 <= t < 500 + on)
        for t in range(0, WINDOW + 1, 10)
        for arm in ARMS
    ]
    verdict = judge_all(asked, samples)
    assert (verdict.outcome, verdict.criterion) == (outcome, "degraded")
    if outcome == "PASS":
        assert said(verdict, "degraded").value == pytest.approx(0.04)
    else:
        assert verdict.at == 560, "it fails once it can no longer be within its share"
    both = [msgspec.structs.replace(each, on=True) for each in samples]
    held(judge_all(asked, both), "INCONCLUSIVE", "baseline-breaks", "degraded")


def without(arm: str, begin: float, end: float) -> list[AnySample]:
    return [each for each in everything() if each.arm != arm or not begin <= each.t < end]


@pytest.mark.parametrize("arm", ARMS)
def test_a_source_that_stops_is_a_gap_and_an_arm_without_samples_is_named(arm: str) -> None:
    for begin, end in ((300, 400), (250, WINDOW + 1)):
        verdict = judge_all(WHOLE, without(arm, begin, end))
        assert (verdict.outcome, verdict.why) == ("INSUFFICIENT", "gap")
        assert "tenth" in verdict.reason
    verdict = judge_all(WHOLE, without(arm, 0, WINDOW + 1))
    assert (verdict.outcome, verdict.why) == ("INSUFFICIENT", "no-samples")
    assert arm in verdict.reason


def test_nothing_at_all_does_not_pass() -> None:
    for asked in (WHOLE, LATENCY, spec("{invariants: {}}"), spec("{degraded: {max_share: 5%}}")):
        for recorded in (True, False):
            verdict = Judge(asked).finish(recorded=recorded)
            assert verdict.outcome == "INSUFFICIENT"
        assert Judge(asked, start=0.0).finish(float(WINDOW)).why == "no-samples"


def test_all_samples_at_one_time_do_not_pass() -> None:
    crowd = [msgspec.structs.replace(each, t=5.0) for each in everything()]
    assert judge_all(WHOLE, crowd).outcome == "INSUFFICIENT"


def test_clocks_that_have_nothing_in_common_are_named() -> None:
    for away in (1.7e9, 900.0, -3600.0):
        shifted = [
            msgspec.structs.replace(each, t=each.t + away) if each.arm == "baseline" else each
            for each in everything()
        ]
        held(judge_all(WHOLE, in_order(shifted)), "INSUFFICIENT", "clocks", "samples")


@pytest.mark.parametrize(
    "bad",
    [
        Latency(t=500.0, arm="candidate", seconds=math.nan),
        Latency(t=500.0, arm="candidate", seconds=math.inf),
        Latency(t=500.0, arm="candidate", seconds=-0.001),
        Latency(t=math.nan, arm="candidate", seconds=0.1),
        Proof(t=500.0, arm="candidate", psd="valid", trace_error=math.nan),
        Counts(t=500.0, arm="candidate", of="errors", bad=3, total=2),
        Buckets(t=500.0, arm="candidate", edges=[0.1, 0.1], counts=[1, 1, 1]),
        Rejected(17, "NaN is no number"),
    ],
    ids=str,
)
def test_a_sample_that_is_none_is_named_and_keeps_the_canary_from_passing(bad: Any) -> None:
    samples: list[Any] = everything()
    samples.insert(1000, bad)
    verdict = judge_all(WHOLE, samples)
    held(verdict, "INSUFFICIENT", "trouble", "samples")
    assert verdict.troubles[0].what == "rejected"
    assert verdict.troubles[0].detail in verdict.reason


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("unreachable", "did not answer"),
        ("refused", "refused"),
        ("unreadable", "no answer"),
        ("no-series", "no such series"),
        ("counter-reset", "began anew"),
    ],
)
def test_the_troubles_of_a_source_are_named_and_keep_it_from_passing(what: Any, says: str) -> None:
    doubts = [
        Doubt(t=t, arm="baseline", what=what, detail="500 Internal Server Error") for t in (400.0, 500.0)
    ]
    verdict = judge_all(WHOLE, in_order([*everything(), *doubts]))
    held(verdict, "INSUFFICIENT", "trouble", "samples")
    assert says in verdict.reason
    assert "2 times" in verdict.reason
    assert (verdict.troubles[0].first, verdict.troubles[0].last) == (400.0, 500.0)
    slow = judge_all(LATENCY, in_order([*latencies(slower=2.0), *doubts]))
    assert slow.outcome == "FAIL", "what fails fails whatever else is wrong"


def test_dependent_samples_are_thinned_and_it_is_said() -> None:
    draw = random.Random(5)
    level = dict.fromkeys(ARMS, 0.0)
    samples: list[AnySample] = []
    for t in range(WINDOW + 1):
        for arm in ARMS:
            level[arm] = 0.6 * level[arm] + 0.8 * draw.gauss(0, 1)
            samples.append(Latency(t=t, arm=arm, seconds=math.exp(0.25 * level[arm] - 4)))
    facts = said(judge_all(LATENCY, samples), "latency.margin").arms["candidate"]
    assert 3 <= facts.stride <= 8
    assert facts.judged == -(-facts.samples // facts.stride)
    assert facts.autocorrelation == pytest.approx(0.58, abs=0.1)


def test_samples_that_no_stride_makes_independent_hold() -> None:
    wave = [
        Latency(t=t, arm=arm, seconds=0.02 + 0.015 * math.sin(t / 20 + len(arm)))
        for t in range(WINDOW + 1)
        for arm in ARMS
    ]
    held(judge_all(LATENCY, wave), "INSUFFICIENT", "dependent", "latency.margin")


def test_few_samples_say_how_long_it_takes_and_alike_arms_without_a_margin_that_it_never_does() -> None:
    few = [each for each in latencies(sigma=0.5) if each.t % 5 == 0]
    verdict = judge_all(spec("{latency: {margin: 20%}}"), few)
    held(verdict, "INSUFFICIENT", "few", "latency.margin")
    assert verdict.decided_by is not None
    assert verdict.decided_by.remaining is not None
    assert 500 < verdict.decided_by.remaining < 10_000
    verdict = judge_all(spec("{latency: {margin: 0%}}"), latencies())
    held(verdict, "INCONCLUSIVE", "never", "latency.margin")
    assert verdict.decided_by is not None
    assert "no margin" in (verdict.decided_by.never or "")


def buckets(slower: float, edges: list[float], seed: int = 2) -> list[AnySample]:
    """What a server counts every ten seconds of 200 requests of each arm."""
    draw, found = random.Random(seed), []
    for t in range(0, WINDOW + 1, 10):
        for arm in ARMS:
            factor = slower if arm == "candidate" else 1.0
            counts = [0] * (len(edges) + 1)
            for _ in range(100):
                value = draw.lognormvariate(-4, 0.25) * factor
                counts[sum(value > edge for edge in edges)] += 1
            found.append(Buckets(t=t, arm=arm, edges=edges, counts=counts))
    return found


def test_buckets_are_exact_at_an_edge_and_hold_where_they_are_too_wide() -> None:
    edges = [0.01, 0.02, 0.03, 0.04, 0.06, 0.1]
    at_edge, between = (spec(f"{{latency: {{max: {limit}}}}}") for limit in ("40ms", "50ms"))
    assert judge_all(at_edge, buckets(1.0, edges)).outcome == "PASS"
    held(judge_all(at_edge, buckets(2.0, edges)), "FAIL", "above", "latency.max")
    held(judge_all(between, buckets(2.0, edges)), "INCONCLUSIVE", "never", "latency.max")
    wide = spec("{latency: {margin: 20%}}")
    assert judge_all(wide, buckets(1.0, edges)).outcome == "INCONCLUSIVE", "30 % lies within a bucket"
    assert judge_all(spec("{latency: {margin: 99%}}"), buckets(1.0, edges)).outcome == "PASS"
    held(judge_all(wide, buckets(3.0, edges)), "FAIL", "worse", "latency.margin")


def test_buckets_and_single_latencies_are_not_compared() -> None:
    mixed = [each for each in buckets(1.0, [0.02, 0.04]) if each.arm == "baseline"] + [
        each for each in latencies() if each.arm == "candidate"
    ]
    held(judge_all(LATENCY, in_order(mixed)), "INSUFFICIENT", "mixed", "latency.margin")


def evidences(verdict: CanaryVerdict) -> list[Evidence]:
    return [each for c in verdict.criteria for each in (c.failing, c.passing) if each is not None]


@pytest.mark.parametrize("slower", [1.0, 2.0])
def test_evidence_can_be_recomputed_from_what_a_report_holds_of_it(slower: float) -> None:
    verdict = judge_all(WHOLE, everything(slower=slower))
    report = CanaryReport(verdict=verdict, spec=WHOLE, looks=[look_at(verdict)])
    report.finish(verdict.code)
    again = msgspec.json.decode(msgspec.json.encode(report), type=CanaryReport)
    assert again == report
    assert again.code == verdict.code
    assert again.verdict is not None
    assert len(evidences(again.verdict)) == 8
    for evidence in evidences(again.verdict):
        assert recomputed(evidence) == pytest.approx(evidence.log_e, abs=1e-6)


def test_evidence_at_its_bar_decides_nothing() -> None:
    evidence = evidences(judge_all(WHOLE, everything()))[0]
    for off, shows, near in (
        (0.0, False, True),
        (9e-7, False, True),
        (1.1e-6, True, False),
        (-1e-5, False, False),
    ):
        at = msgspec.structs.replace(evidence, log_e=evidence.bar + off)
        assert (at.shows, at.is_near) == (shows, near)


def test_a_verdict_is_a_function_of_the_samples_not_of_the_looks() -> None:
    judges = Judge(WHOLE), Judge(WHOLE)
    for sample in everything():
        for judge in judges:
            judge.add(sample)
        judges[0].fails()
        if sample.t % 100 == 0:
            judges[0].verdict()
    assert judges[0].finish() == judges[1].finish()


def test_taking_many_in_is_taking_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    samples: list[AnySample] = latencies()
    samples[700:700] = [
        Failure(t=350.0, arm="candidate", what="timeout"),
        Proof(t=350.0, arm="baseline", psd="valid"),
    ]
    samples += [Latency(t=float(WINDOW + 1 + t), arm="baseline", seconds=1.0) for t in range(100)]
    broken: list[AnySample] = [
        *samples[:300],
        Latency(t=150.0, arm="baseline", seconds=math.nan),
        *samples[300:],
    ]
    for recorded in (samples, broken, [], samples[:1]):
        each, at_once = Judge(WHOLE), Judge(WHOLE)
        for sample in recorded:
            each.add(sample)
        at_once.add_all(recorded)
        assert at_once.finish() == each.finish()
        assert at_once.start == each.start
    alone = Judge(WHOLE)
    monkeypatch.setattr(alone, "add", lambda sample: pytest.fail("it was taken in by itself"))
    alone.add_all(latencies())


def test_samples_outside_of_the_window_are_counted_and_left_out() -> None:
    late = [msgspec.structs.replace(each, t=each.t + WINDOW) for each in latencies(slower=3.0)[10:]]
    verdict = judge_all(LATENCY, [*latencies(), *late])
    assert verdict.outcome == "PASS"
    assert verdict.outside == len(late)


def test_deciding_after_one_more_sample_costs_less_than_a_millisecond() -> None:
    judge, samples = Judge(WHOLE), everything()
    began = time.process_time()
    for sample in samples:
        judge.add(sample)
        judge.fails()
    assert (time.process_time() - began) / len(samples) < 1e-3


def test_while_it_runs_a_value_above_its_limit_is_not_called_below() -> None:
    judge = Judge(spec("{latency: {max: 20ms, margin: 1%}, errors: {max_share: 10%}}"))
    for t in range(10):
        for arm, seconds in (("baseline", 0.015), ("candidate", 0.025)):
            judge.add(Latency(t=t, arm=arm, seconds=seconds))
    for t in range(3):
        judge.add(Failure(t=10 + t, arm="candidate", what="timeout"))
    told = {each.name: each.reason for each in judge.verdict().criteria}
    assert {name: reason.partition(", ")[2] for name, reason in told.items()} == {
        "latency.max": "above 20 ms so far",
        "latency.margin": "more than the baseline's and the margin of 1 % so far",
        "errors": "above 10 % so far",
    }


@pytest.mark.parametrize("criterion", ["margin: 30%", "max: 60ms"])
@pytest.mark.parametrize(("every", "outcome"), [(8, "INCONCLUSIVE"), (200, "PASS")])
def test_a_candidate_that_gives_up_on_slow_requests_is_not_fast(
    criterion: str, every: int, outcome: str
) -> None:
    """Requests that were not answered are beyond the quantile, whether errors are judged or not."""
    samples = [
        Failure(t=each.t, arm="candidate", what="timeout")
        if each.arm == "candidate" and each.t % every == 1
        else each
        for each in latencies()
    ]
    verdict = judge_all(spec(f"{{latency: {{{criterion}}}}}"), samples)
    assert verdict.outcome == outcome, verdict.first_line()
    assert "requests that were not answered" in verdict.first_line()
    passing = verdict.criteria[0].passing
    assert passing is not None
    assert passing.candidate.n == WINDOW + 1
    assert recomputed(passing) == pytest.approx(passing.log_e, abs=1e-9)
