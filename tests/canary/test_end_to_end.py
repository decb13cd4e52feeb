"""`canary-check` on real servers: it fails what is slower or wrong, passes what is alike, and goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from servers.redis import RedisServer
from support.violation import put_violation
from tests.canary.arms import Arms, criterion, links, verdict
from tests.cli.conftest import Result, Shell, density, environment

SECONDS = 120.0
KEYS = tuple(f"state:{number}" for number in range(4))
MEDIAN = 0.006
"""Seconds that an answer takes in the median: more than a machine under load adds to most."""
KEEPS_OFTEN = (
    "from somactl.operations.canary import run; run.KEEP_SECONDS = 0.2; "
    "import runpy; runpy.run_module('somactl', run_name='__main__')"
)
"""A somactl that loses less where it is killed."""
TIRED = {"few", "dependent", "gap", "no-samples"}
"""Why a window on a busy machine may end undecided."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, RedisServer]]:
    old, new = (RedisServer(tmp_path_factory.mktemp(name)) for name in ("old", "new"))
    with old, new:
        yield old, new


@pytest.fixture
def arms(servers: tuple[RedisServer, RedisServer], shell: Shell) -> Iterator[Arms]:
    old, new = servers
    namespace = f"canary-{uuid.uuid4().hex[:8]}"
    shell.save("value.npy", density(4))
    for server in servers:
        where = ("--store", server.url, "--namespace", namespace)
        shell.ok("init", *where)
        shell.ok("commit", *where, *(f"{key}=value.npy" for key in KEYS))
    with links(old.port, new.port) as made:
        made.baseline.median = made.candidate.median = MEDIAN
        yield Arms(shell, made, {"baseline": old.url, "candidate": new.url}, namespace)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def reads(arms: Arms, count: int, process: subprocess.Popen[bytes]) -> None:
    """Return once the candidate has answered so often."""
    before = arms.links.candidate.pieces
    until(lambda: arms.links.candidate.pieces >= before + count, process)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, Any]:
    out, err = process.communicate(timeout=SECONDS)
    assert out, err
    return process.returncode, json.loads(out)


WINDOWS = ("6s", "15s", "40s")
"""A busy machine may end a window undecided; then a longer one is watched. None fails."""


def passed(arms: Arms, criteria: str) -> Result:
    """The result of a check that passes."""
    for window in WINDOWS:
        result = arms.shell(*arms.spec(criteria, window=window))
        if result.code not in (4, 5):
            break
        assert verdict(result)["why"] in TIRED, verdict(result)["reason"]
    found = verdict(result)
    assert (result.code, found["outcome"], found["ended"]) == (0, "PASS", True), (found["reason"], result.err)
    assert {each["outcome"] for each in found["criteria"]} == {"PASS"}
    return result


def test_a_candidate_that_a_proxy_slows_fails_before_the_window_ends(arms: Arms) -> None:
    for link, median in ((arms.links.baseline, 0.006), (arms.links.candidate, 0.03)):
        link.median, link.sigma = median, 0.7
    result = arms.shell(*arms.spec("{latency: {margin: 20%}}", window="10m"))
    found = verdict(result)
    assert (result.code, found["outcome"], found["why"]) == (3, "FAIL", "worse"), result.err
    assert not found["ended"]
    margin = criterion(result, "latency.margin")
    assert margin["failing"]["log_e"] >= margin["failing"]["bar"]
    assert margin["value"] > 1.2 * margin["arms"]["baseline"]["value"]


def test_arms_that_are_alike_pass_at_the_end_of_the_window(arms: Arms) -> None:
    criteria = "{invariants: {}, latency: {quantile: 0.5, max: 2s, margin: 100%}, errors: {max_share: 20%}}"
    found = verdict(passed(arms, criteria))
    assert found["at"] - found["start"] == pytest.approx(found["window"])


def test_one_violation_in_the_candidate_fails_at_once(arms: Arms) -> None:
    process = arms.shell.begin(*arms.spec("{invariants: {}}", window="10m"))
    reads(arms, 30, process)
    put_violation(arms.stores["candidate"], KEYS[2], namespace=arms.namespace)
    code, report = ended(process)
    assert (code, report["verdict"]["why"]) == (3, "violated")
    assert KEYS[2] in report["verdict"]["reason"]
    assert report["verdict"]["criteria"][0]["value"] == 1
    assert not report["verdict"]["ended"]


def test_a_violation_in_the_baseline_holds(arms: Arms) -> None:
    put_violation(arms.stores["baseline"], KEYS[2], namespace=arms.namespace)
    result = arms.shell(*arms.spec("{invariants: {}}", window="3s"))
    assert (result.code, verdict(result)["why"]) == (4, "baseline-breaks"), result.err


def test_an_arm_that_goes_away_is_no_pass(arms: Arms, servers: tuple[RedisServer, RedisServer]) -> None:
    process = arms.shell.begin(*arms.spec("{latency: {max: 2s}}", window="5s"))
    reads(arms, 30, process)
    servers[1].stop()
    try:
        code, report = ended(process)
    finally:
        servers[1].start()
    assert code in (4, 5)
    assert report["verdict"]["outcome"] in ("INCONCLUSIVE", "INSUFFICIENT")
    assert report["verdict"]["ended"]


def test_a_run_that_was_killed_is_continued_to_the_end_of_its_window(arms: Arms) -> None:
    criteria = "{invariants: {}, latency: {quantile: 0.5, max: 2s}}"
    kept = arms.shell.folder / "kept"
    for window in WINDOWS:
        words = arms.spec(criteria, "--state", "kept", window=window)
        kept.unlink(missing_ok=True)
        first = subprocess.Popen(
            [sys.executable, "-c", KEEPS_OFTEN, *words],
            cwd=arms.shell.folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        reads(arms, 20, first)
        size = kept.stat().st_size
        until(lambda size=size: kept.stat().st_size > size, first)
        first.send_signal(signal.SIGKILL)
        first.wait()
        killed, before = time.time(), arms.links.candidate.pieces
        result = arms.shell(*words)
        if result.code != 5 or verdict(result)["why"] not in TIRED:
            break
    found = verdict(result)
    assert (result.code, found["outcome"], found["ended"]) == (0, "PASS", True), (found["reason"], result.err)
    assert result.json["resumed"]
    assert found["start"] < killed
    assert found["at"] == pytest.approx(found["start"] + found["window"])
    samples = criterion(result, "invariants")["arms"]["candidate"]["samples"]
    assert samples > arms.links.candidate.pieces - before
    again = arms.shell(*words)
    assert (again.code, verdict(again)) == (0, found), "what has ended is over"


def test_a_cron_that_looks_again_and_again_fails_once(arms: Arms) -> None:
    """Its hook runs when the verdict is final, and not again with each later look."""
    hook = arms.shell.write("hook.sh", "cat >> told.json; echo >> told.json\n")
    store = f"sqlite:///{arms.shell.folder / 'notes.db'}"
    words = arms.spec("{invariants: {}}", "--once", "--store", store, "--on-fail", f"sh {hook}", window="10m")
    seen = []
    for _ in range(2):
        result = arms.shell(*words)
        assert (result.code, verdict(result)["why"]) == (5, "running"), result.err
        seen.append(criterion(result, "invariants")["arms"]["candidate"]["samples"])
    assert seen == [10, 20]
    put_violation(arms.stores["candidate"], KEYS[0], namespace=arms.namespace)
    for _ in range(2):
        result = arms.shell(*words)
        assert (result.code, verdict(result)["outcome"]) == (3, "FAIL"), result.err
    told = (arms.shell.folder / "told.json").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in told if line] == ["FAIL"]


def test_a_window_that_ends_between_two_looks_holds_once(arms: Arms) -> None:
    hook = arms.shell.write("hook.sh", "cat > told.json\n")
    words = arms.spec(
        *("{invariants: {}}", "--once", "--state", "kept", "--on-hold", f"sh {hook}"), window="3s"
    )
    result: Result = arms.shell(*words)
    assert result.code == 5, result.err
    told = arms.shell.folder / "told.json"
    assert not told.exists()
    while time.time() < verdict(result)["start"] + verdict(result)["window"]:
        time.sleep(0.05)
    result = arms.shell(*words)
    assert (result.code, verdict(result)["why"], verdict(result)["ended"]) == (5, "gap", True)
    assert json.loads(told.read_text())["why"] == "gap"
    told.unlink()
    assert verdict(arms.shell(*words)) == verdict(result)
    assert not told.exists()
