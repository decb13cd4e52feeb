"""What could make a run pass that must not: samples that are lost on the way, or never told."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from somactl.core.canary import Judge
from somactl.core.canary_samples import ARMS, AnySample, ArmName, Degradation, Doubt, Proof
from somactl.core.canary_spec import Arm, Spec
from somactl.core.canary_spec_file import read_spec
from somactl.operations.canary.http import Site
from somactl.operations.canary.prometheus import Prometheus
from somactl.operations.canary.run import Clock, Run
from somactl.operations.canary.scrapes import Series
from somactl.operations.canary.state import Kept
from somactl.operations.jobs.notes_file import NotesFile
from tests.cli.conftest import Shell

START = 1_700_000_000.0
WINDOW = 200.0
SPEC = """
version: 1
window: 200s
interval: 1s
arms: {baseline: {source: samples, file: x}, candidate: {source: samples, file: x}}
criteria: {invariants: {}, degraded: {max_share: 5%}}
"""


def spec() -> Spec:
    return read_spec(SPEC, "canary.yaml")


class HeldClock(Clock):
    """It goes on only when it is slept by."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        await asyncio.sleep(0)


class Sound:
    """An arm in which all holds, asked beside the run as a server is."""

    is_timed = False

    def __init__(self, arm: ArmName) -> None:
        self.arm = arm
        self.start = 0.0
        self.cursor: dict[str, float] = {}

    async def begin(self) -> None:
        """There is nothing to open."""

    async def look(self, now: float) -> list[AnySample]:
        self.cursor["told"] = now
        return [
            Proof(t=now, arm=self.arm, psd="valid", trace_error=1e-12),
            Degradation(t=now, arm=self.arm, on=False),
        ]

    async def close(self) -> None:
        """Nothing stays open."""


class SilentBehind(Sound):
    """It does not answer when it is asked behind the end."""

    async def look(self, now: float) -> list[AnySample]:
        if now > START + WINDOW:
            return [Doubt(t=now, arm=self.arm, what="unreachable", detail="connection refused")]
        return await super().look(now)


@pytest.mark.parametrize(("candidate", "says"), [(Sound, "PASS"), (SilentBehind, "INSUFFICIENT")])
async def test_a_source_that_is_silent_at_the_last_look_is_no_pass(
    candidate: type[Sound], says: str, tmp_path: Path
) -> None:
    """With --once the last look is behind the window, and what it asks for is the last part of it."""
    clock, file = HeldClock(), NotesFile(str(tmp_path / "state"))
    for _ in range(30):
        kept = await Kept.open(file, spec())
        run = Run(spec(), [Sound("baseline"), candidate("candidate")], kept, clock=clock)
        await run.begin()
        ended = await run.once(1)
        clock.time += 8.3
        if ended.is_final:
            break
    await file.close()
    assert ended.is_final
    assert ended.verdict.outcome == says, ended.verdict.first_line()
    if says != "PASS":
        assert "connection refused" in ended.verdict.first_line()


async def test_what_was_answered_before_a_signal_is_not_lost(tmp_path: Path) -> None:
    """Its cursor has moved on, so that nothing tells of that violation again."""
    file = NotesFile(str(tmp_path / "state"))
    quick = read_spec(SPEC, "canary.yaml", {"interval": "10ms", "gap": "10ms"})
    kept = await Kept.open(file, quick)
    may_answer = asyncio.Event()

    class Late(Sound):
        async def look(self, now: float) -> list[AnySample]:
            await may_answer.wait()
            self.cursor["told"] = now
            return [Proof(t=now, arm=self.arm, psd="violated", key="state:1")]

    class EndedClock(HeldClock):
        async def sleep(self, seconds: float) -> None:
            may_answer.set()
            while "told" not in late.cursor:
                await asyncio.sleep(0)
            raise asyncio.CancelledError

    late = Late("candidate")
    run = Run(quick, [Sound("baseline"), late], kept, clock=EndedClock())
    await run.begin()
    with pytest.raises(asyncio.CancelledError):
        await run.go_on()
    ended = await run.stopped()
    assert ended.verdict.outcome == "FAIL"
    looks = (await Kept.open(file, quick)).looks
    assert "violated" in [each.psd for look in looks for each in look.samples if isinstance(each, Proof)]
    await file.close()


@pytest.mark.parametrize(("older", "code"), [(3500.0, 0), (3700.0, 2)])
async def test_a_pass_of_long_ago_is_none_of_todays_rollout(shell: Shell, older: float, code: int) -> None:
    """Another rollout with the same spec would pass before it was looked at."""
    shell.write("canary.yaml", SPEC)
    file, clock = NotesFile(str(shell.folder / "state")), HeldClock()
    clock.time = time.time() - WINDOW - older
    run = Run(spec(), [Sound("baseline"), Sound("candidate")], await Kept.open(file, spec()), clock=clock)
    await run.begin()
    assert (await run.go_on()).verdict.outcome == "PASS"
    await file.close()
    words = ["canary-check", "--spec", "canary.yaml", "--state", "state"]
    result = await asyncio.to_thread(shell, *words)
    assert result.code == code, result.err
    assert ("--restart" in result.err) == (code == 2)


class Scraped(Prometheus):
    """A Prometheus that has these series of each field."""

    series: ClassVar[dict[str, list[Series]]] = {}

    async def _compare_clocks(self) -> None:
        """They do not differ."""

    async def _ask(self, field: str, query: str, now: float) -> list[Series]:
        return self.series.get(field, [])


def scraped(series: dict[str, list[Series]], **fields: str) -> Scraped:
    site = Site("http://127.0.0.1:9", "`arms.candidate.url`", from_environment=False)
    made = Scraped("candidate", site, Arm(source="prometheus", **fields), WINDOW, lambda: START + WINDOW)
    made.start, made.series = START, series  # type: ignore[misc]
    return made


def gauge(target: str, value: float, after: float, every: float = 15.0) -> Series:
    times = [START + after + every * n for n in range(int((WINDOW - after) / every) + 1)]
    return Series(target, f"job/{target}", None, dict.fromkeys(times, value))


async def test_one_degraded_target_is_not_hidden_by_another_that_is_scraped_right_behind_it() -> None:
    series = {"degraded": [gauge("a", 1.0, 1.0), gauge("b", 0.0, 1.3)]}
    found = await scraped(series, degraded="degraded").look(START + WINDOW)
    assert len(found) == 28
    assert all(isinstance(each, Degradation) and each.on for each in found)


async def test_a_degraded_target_that_is_gone_counts_no_longer_than_until_it_is_missed() -> None:
    gone = Series("a", "job/a", None, {START + 1.0: 1.0, START + 16.0: 1.0})
    found = await scraped({"degraded": [gone, gauge("b", 0.0, 1.3)]}, degraded="degraded").look(
        START + WINDOW
    )
    last = max(each.t for each in found if isinstance(each, Degradation) and each.on)
    assert START + 60.0 < last <= START + 16.0 + 60.0


@pytest.mark.parametrize(("target", "expected"), [("a", (set(), {0.5})), ("b", ({"no-series"}, {None}))])
async def test_a_trace_error_that_belongs_to_no_proof_is_not_passed_over(target: str, expected: Any) -> None:
    """One whose labels differ would never be compared with its tolerance."""
    series = {"psd": [gauge("a", 1.0, 1.0)], "trace_error": [gauge(target, 0.5, 1.0)]}
    found = await scraped(series, psd="psd_ok", trace_error="trace").look(START + WINDOW)
    told: set[str] = {each.what for each in found if isinstance(each, Doubt)}
    proofs = {each.trace_error for each in found if isinstance(each, Proof)}
    assert (told, proofs) == expected


def test_a_proof_without_its_trace_error_shows_nothing() -> None:
    """A matrix may be positive semi-definite, and far from trace 1."""
    judge = Judge(spec())
    for second in range(200):
        for arm in ARMS:
            judge.add(Degradation(t=START + second, arm=arm, on=False))
            error = None if arm == "candidate" and second >= 100 else 0.0
            judge.add(Proof(t=START + second, arm=arm, psd="valid", trace_error=error))
    verdict = judge.finish(START + WINDOW)
    assert (verdict.outcome, verdict.why) == ("INSUFFICIENT", "gap")
    assert "100 proofs came without a trace error" in verdict.reason
