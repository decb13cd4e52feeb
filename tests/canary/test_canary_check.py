"""canary-check as an operator runs it: codes, flags, cron, hooks, signals, and stores on real servers."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from canary.answering import Answer, Site as Server, answering, as_json
from somactl.cli.canary import PATHS, flag_of
from somactl.core.canary_spec import FIELDS
from tests.canary.test_health import health
from tests.canary.test_push import recorded
from tests.cli.conftest import Shell, density

RECORDED = ["--samples", "samples.ndjson", "--window", "100s", "--invariants-violations", "0"]
PROBES = """\
version: 1
window: 2s
interval: 50ms
gap: 10ms
arms:
  baseline:  {source: probe, store: env:BASELINE_STORE, keys: "state:*"}
  candidate: {source: probe, store: env:CANDIDATE_STORE, keys: "state:*"}
criteria:
  invariants: {violations: 0}
"""
STORES = {"BASELINE_STORE": "sqlite:///a.db", "CANDIDATE_STORE": "sqlite:///b.db"}


@pytest.fixture
def stores(shell: Shell) -> Shell:
    shell.write("canary.yaml", PROBES)
    file = shell.save("value.npy", density(3))
    for name in ("a", "b"):
        shell.ok("commit", f"state:1={file}", f"state:2={file}", "--store", f"sqlite:///{name}.db")
    return shell


@pytest.mark.parametrize(
    ("recording", "more", "code", "first"),
    [
        (recorded(), [], 0, "PASS: all criteria hold"),
        (recorded(violated=True), [], 3, "FAIL: in the candidate the matrix violates an invariant"),
        (recorded(), ["--errors-max-share", "0.1%"], 5, "INSUFFICIENT: 0 % of the candidate's"),
        (recorded(), ["--latency-max", "1ms"], 4, "INCONCLUSIVE: the baseline's own p95 is 10 ms"),
        (recorded(seconds=50), ["--window", "50s"], 0, "PASS"),
        ("", [], 5, "INSUFFICIENT: no matrix of the candidate was proven"),
        (recorded(broken="{}\n"), [], 5, "INSUFFICIENT: what came of the candidate is no sample"),
        (
            recorded(broken='{"t": 3, "arm": "candidate", "kind": "latency", "seconds": -1}\n'),
            [],
            5,
            "INSUFF",
        ),
        (
            recorded(broken='{"t": 3, "arm": "candidate", "kind": "latency", "seconds": NaN}\n'),
            [],
            5,
            "INSUFF",
        ),
    ],
)
def test_the_first_line_is_the_verdict_and_the_code_says_the_same(
    shell: Shell, recording: str, more: list[str], code: int, first: str
) -> None:
    shell.write("samples.ndjson", recording)
    result = shell("canary-check", *RECORDED, *more)
    assert result.code == code, result.text + result.err
    assert result.text.splitlines()[0].startswith(first)
    told = shell("canary-check", *RECORDED, *more, "-o", "json")
    assert told.code == code
    verdict = told.json["verdict"]
    assert f"{verdict['outcome']}: {verdict['reason']}" == result.text.splitlines()[0]
    assert (told.json["code"], told.json["recorded"]) == (code, True)


def test_a_recording_may_come_through_a_pipe(shell: Shell) -> None:
    words = ["-" if word == "samples.ndjson" else word for word in RECORDED]
    assert shell("canary-check", *words, stdin=recorded().encode()).code == 0


def test_every_field_of_the_spec_is_a_flag(shell: Shell) -> None:
    help_page = shell.ok("canary-check", "--help", env={"COLUMNS": "200"}).text
    assert all(flag_of(path) in help_page for path in FIELDS)
    assert sorted(PATHS.values()) == sorted(FIELDS)


def test_a_flag_goes_before_the_file(shell: Shell) -> None:
    shell.write("canary.yaml", PROBES)
    shell.write("samples.ndjson", recorded())
    words = ["--spec", "canary.yaml", "--samples", "samples.ndjson", "--window", "90s", "-o", "json"]
    spec = shell("canary-check", *words).json["spec"]
    assert (spec["window"], spec["interval"], spec["arms"]["candidate"]["source"]) == (90.0, 0.05, "samples")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--spec", "missing.yaml"], 11, "missing.yaml: no such file"),
        (["--spec", "canary.yaml", "--window", "2"], 10, "2 has no unit"),
        (["--spec", "canary.yaml"], 10, "'BASELINE_STORE' is to name the baseline's store, and is not set"),
        (["--spec", "canary.yaml", "--samples", "missing"], 11, "missing: no such file"),
        (["--samples", "x", "--once", "--errors-max-share", "1%"], 2, "--once and --state do not go"),
        (["--spec", "canary.yaml", "--restart"], 2, "--restart goes with --once or --state"),
        (["--spec", "canary.yaml", "--on-fail", "'"], 2, "--on-fail: this is no command"),
        (["--spec", "canary.yaml", "--hook-timeout", "soon"], 2, "--hook-timeout 'soon' is no time"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_asked(
    shell: Shell, words: list[str], code: int, message: str
) -> None:
    shell.write("canary.yaml", PROBES)
    result = shell("canary-check", *words)
    assert (result.code, message in result.err) == (code, True), result.err


def test_a_password_in_the_spec_is_refused_and_not_told(shell: Shell) -> None:
    text = PROBES.replace("env:BASELINE_STORE", "postgresql://me:hunter2@127.0.0.1:1/x")
    shell.write("canary.yaml", text)
    result = shell("canary-check", "--spec", "canary.yaml", env=STORES)
    assert (result.code, "env:NAME" in result.err) == (10, True), result.err
    assert "hunter2" not in result.err + result.text


def test_probes_pass_where_all_is_well(stores: Shell) -> None:
    """The window is long enough for a busy machine to prove something in each tenth."""
    result = stores("canary-check", "--spec", "canary.yaml", "--window", "10s", "-o", "ndjson", env=STORES)
    assert result.code == 0, result.text
    *looks, report = result.lines
    assert looks[-1]["at"] > looks[0]["at"]
    assert report["verdict"]["samples"]["candidate"] > 30


def test_a_variable_may_hold_what_a_spec_may_not(stores: Shell) -> None:
    """The address is nowhere in what is told."""
    env = {**STORES, "CANDIDATE_STORE": "postgresql://me:hunter2@127.0.0.1:1/x"}
    words = ["--spec", "canary.yaml", "--errors-max-share", "1%"]
    result = stores("canary-check", *words, "-o", "json", env={**env, "SOMACTL_RETRY_SECONDS": "0"})
    assert "hunter2" not in result.text + result.err
    assert result.json["verdict"]["outcome"] in ("FAIL", "INSUFFICIENT")
    assert any("errors of the candidate" in warning for warning in result.json["warnings"])


def hook(target: Path, code: int = 0) -> str:
    program = (
        f"import sys; open({str(target)!r}, 'ab').write(sys.stdin.buffer.read() + b'\\n'); sys.exit({code})"
    )
    return shlex.join([sys.executable, "-c", program])


@pytest.mark.parametrize(
    ("on", "violated", "more", "code"),
    [("pass", False, [], 0), ("fail", True, [], 3), ("hold", False, ["--latency-max", "1ms"], 4)],
)
def test_the_hook_of_the_verdict_is_run_and_no_other(
    shell: Shell, on: str, violated: bool, more: list[str], code: int
) -> None:
    shell.write("samples.ndjson", recorded(violated=violated))
    hooks = [
        word
        for each in ("pass", "fail", "hold")
        for word in (f"--on-{each}", hook(shell.folder / each, code=9))
    ]
    result = shell("canary-check", *RECORDED, *more, *hooks, "-o", "json")
    assert result.code == code  # whatever becomes of the hook
    assert [(each["on"], each["ended"], each["code"]) for each in result.json["hooks"]] == [(on, "failed", 9)]
    assert [each for each in ("pass", "fail", "hold") if (shell.folder / each).exists()] == [on]
    assert json.loads((shell.folder / on).read_bytes())["outcome"] == result.json["verdict"]["outcome"]


def test_cron_looks_once_and_runs_its_hook_once(stores: Shell) -> None:
    words = ["--spec", "canary.yaml", "--once", "--state", "state", "--reads", "3"]
    words += ["--on-hold", hook(stores.folder / "held"), "-o", "json"]
    # A probe commits nothing: so this never passes.
    words += ["--conflicts-max-share", "2%"]
    seen = 0
    while True:
        result = stores("canary-check", *words, env=STORES)
        assert result.code in (4, 5), result.err
        if result.json["verdict"]["ended"]:
            break
        assert (result.json["once"], result.json["hooks"]) == (True, [])
        assert result.json["verdict"]["samples"]["candidate"] >= seen
        seen = result.json["verdict"]["samples"]["candidate"]
    again = stores("canary-check", *words, env=STORES)
    assert (again.code, again.json["verdict"], again.json["hooks"]) == (
        result.code,
        result.json["verdict"],
        [],
    )
    assert len((stores.folder / "held").read_bytes().splitlines()) == 1
    anew = stores("canary-check", *words, "--restart", env=STORES).json
    assert anew["verdict"]["start"] > result.json["verdict"]["start"]


def test_cron_keeps_its_state_in_a_note_of_the_store(stores: Shell) -> None:
    words = [
        "canary-check",
        "--spec",
        "canary.yaml",
        "--window",
        "1h",
        "--once",
        "--reads",
        "2",
        "-o",
        "json",
    ]
    counts = []
    for _ in range(2):
        result = stores(*words, "--store", "sqlite:///a.db", env=STORES)
        assert (result.code, result.json["verdict"]["why"]) == (5, "running"), result.err
        counts.append(result.json["verdict"]["samples"]["candidate"])
    assert counts == [6, 12]
    assert result.json["resumed"]


def looking(process: Popen[bytes], count: int) -> list[Any]:
    """The first looks that it tells of."""
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_a_hold(stores: Shell, number: int, code: int) -> None:
    words = [
        "--spec",
        "canary.yaml",
        "--window",
        "1h",
        "--on-hold",
        hook(stores.folder / "held"),
        "-o",
        "ndjson",
    ]
    with stores.begin("canary-check", *words, env=STORES) as process:
        looking(process, 1)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    report = json.loads(out.splitlines()[-1])
    assert (report["code"], report["verdict"]["outcome"], report["complete"]) == (code, "INSUFFICIENT", False)
    assert not report["hooks"]


def test_killed_and_continued_it_goes_on_with_what_it_had(stores: Shell) -> None:
    words = ["canary-check", "--spec", "canary.yaml", "--window", "1h", "--state", "state", "-o", "ndjson"]
    with stores.begin(*words, env=STORES) as process:
        looking(process, 1)
        process.send_signal(signal.SIGTERM)  # which keeps the rest
        ended = json.loads(process.communicate(timeout=120)[0].splitlines()[-1])
    with stores.begin(*words, env=STORES) as process:
        (look,) = looking(process, 1)
        process.kill()
        process.communicate(timeout=120)
    assert look["at"] >= ended["verdict"]["at"] - ended["verdict"]["start"] - 18.1  # a window's 200th
    result = stores("canary-check", *words[1:], "--once", env=STORES)
    report = result.lines[-1]
    assert (report["resumed"], report["verdict"]["start"]) == (True, ended["verdict"]["start"])
    assert report["verdict"]["samples"]["candidate"] > ended["verdict"]["samples"]["candidate"]


HEALTHS = """\
version: 1
window: 3s
interval: 100ms
arms:
  baseline:  {source: probe, health: "URL/healthz"}
  candidate: {source: probe, store: env:CANDIDATE_STORE, keys: "state:*"}
criteria: {invariants: {violations: 0}, degraded: {max_share: 5%}}
"""


@pytest.fixture
def healthy() -> Iterator[Server]:
    with answering(lambda path: as_json(health(age_seconds=0.0))) as site:
        yield site


def test_sources_mix_by_arm(stores: Shell, healthy: Server) -> None:
    stores.write("canary.yaml", HEALTHS.replace("URL", healthy.url))
    result = stores("canary-check", "--spec", "canary.yaml", "--window", "10s", "-o", "json", env=STORES)
    assert result.code == 0, result.text
    assert min(result.json["verdict"]["samples"].values()) > 20


def test_health_that_falls_silent_is_no_pass(stores: Shell, healthy: Server) -> None:
    stores.write("canary.yaml", HEALTHS.replace("URL", healthy.url))
    answers = healthy.answers

    def falling_silent(path: str) -> Answer:
        return answers(path) if len(healthy.asked) < 5 else (0, b"")

    healthy.answers = falling_silent
    result = stores("canary-check", "--spec", "canary.yaml", "-o", "json", env=STORES)
    assert result.code == 5, result.text
    verdict = result.json["verdict"]
    assert (verdict["why"], verdict["troubles"][0]["what"]) == ("trouble", "unreachable")
