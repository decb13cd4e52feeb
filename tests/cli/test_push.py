"""Jobs that push metrics when they end, in whatever way, to a real Pushgateway and to none."""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

import pytest

from servers.process import free_port
from servers.prometheus import Pushgateway
from servers.redis import RedisServer
from tests.cli.conftest import Shell, density, environment, with_smallest_eigenvalue
from tests.cli.push_jobs import AUDIT, CODE, LAST_RUN, LAST_SUCCESS, RHO_SUCCESS, TIMEOUT, Jobs, value_in
from tests.telemetry.silent import Answering, silent


def test_a_success(jobs: Jobs) -> None:
    report = jobs("verify-psd", "--all", "--push", "--output", "json").json
    assert jobs.value(CODE) == 0
    assert jobs.value(LAST_RUN) == jobs.value(LAST_SUCCESS) == jobs.value(RHO_SUCCESS) == report["ended_at"]
    assert jobs.value("somabrain_rho_psd_ok") == 1
    assert jobs.value("somabrain_rho_matrices", outcome="valid") == 2
    assert len(jobs.gateway.values("somabrain_rho_matrices", **AUDIT)) == 10
    assert len(jobs.gateway.groups()) == 1


FAILURES = {
    "a missing key": (4, ["verify-psd", "c"], {}),
    "a usage error": (2, ["verify-psd", "a", "--match", "*", "--all"], {}),
    "a password on the command line": (10, ["verify-psd", "redis://me:secret@host"], {}),
    "an unknown option": (2, ["verify-psd", "--all", "--bogus"], {}),
    "a bad setting": (10, ["verify-psd", "--all"], {"SOMACTL_PSD_TOLERANCE": "rubbish"}),
    "a bad flag": (2, ["verify-psd", "--all", "--psd-tolerance", "2"], {}),
    "a bad store": (10, ["verify-psd", "--all"], {"SOMACTL_STORE": "rubbish://x"}),
    "a store that is down": (
        13,
        ["verify-psd", "--all", "--store", "redis://127.0.0.1:1"],
        {"SOMACTL_RETRY_SECONDS": "0"},
    ),
    "not enough": (4, ["verify-psd", "--all", "--at-least", "5"], {}),
}


@pytest.mark.parametrize("mode", ["table", "json"])
@pytest.mark.parametrize("what", FAILURES)
def test_every_failure_is_pushed_and_leaves_the_last_success(jobs: Jobs, what: str, mode: str) -> None:
    jobs("verify-psd", "--all", "--push")
    success, ran = jobs.value(LAST_SUCCESS), jobs.value(LAST_RUN)
    code, words, env = FAILURES[what]
    result = jobs(*words, "--push", "--output", mode, code=code, env=env)
    assert jobs.value(CODE) == code
    assert (jobs.value(LAST_RUN) or 0) > (ran or 0)
    assert jobs.value(LAST_SUCCESS) == jobs.value(RHO_SUCCESS) == success
    assert jobs.value("somabrain_job_complete") == 0
    assert jobs.value("somabrain_rho_psd_ok") == 1
    if mode == "json" and code != 4:
        assert result.error["code"] == code


@pytest.mark.parametrize("what", ["a success", "a finding", *FAILURES])
def test_there_is_one_push(jobs: Jobs, what: str) -> None:
    if what == "a finding":
        jobs.break_one()
    code, words, env = FAILURES.get(what, (3 if what == "a finding" else 0, ["verify-psd", "--all"], {}))
    with Answering() as server:
        jobs(*words, "--push", "--gateway", server.url, code=code, env=env)
        (request,) = server.requests
    assert request.startswith("POST /metrics/job/verify-psd/namespace/default ")


def test_a_finding(jobs: Jobs) -> None:
    jobs("verify-psd", "--all", "--push")
    success = jobs.value(RHO_SUCCESS)
    jobs.break_one()
    jobs("verify-psd", "--all", "--push", code=3)
    assert jobs.value(CODE) == 3
    assert jobs.value("somabrain_rho_psd_ok") == 0
    assert jobs.value("somabrain_rho_findings", kind="violated", state="open") == 1
    assert jobs.value("somabrain_rho_findings", kind="corrupt", state="open") == 0
    assert jobs.value("somabrain_job_complete") == 1
    assert jobs.value(RHO_SUCCESS) == success


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal(jobs: Jobs, number: signal.Signals) -> None:
    jobs("verify-psd", "--all", "--push")
    process = _begin_paused(jobs)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert jobs.value(CODE) == 128 + number
    assert jobs.value("somabrain_job_complete") == 0
    assert (jobs.value(LAST_RUN) or 0) > (jobs.value(LAST_SUCCESS) or 0)


def _notes(shell: Shell) -> list[tuple[str, int]]:
    with sqlite3.connect(f"file:{shell.folder / 'somactl.db'}?mode=ro", uri=True) as raw:
        return list(raw.execute("SELECT name, version FROM note"))


def _begin_paused(jobs: Jobs, *words: str) -> subprocess.Popen[bytes]:
    """An audit that is under way, and goes no further."""
    jobs.shell.write("pause", "")
    before = _notes(jobs.shell)
    process = jobs.shell.begin(
        *("verify-psd", "--all", "--push", "--pause-file", "pause", "--jobs", "1", *words), env=jobs.env
    )
    deadline = time.monotonic() + 30
    while _notes(jobs.shell) == before and time.monotonic() < deadline:  # it notes that it is
        time.sleep(0.02)
    return process


def test_a_bug(jobs: Jobs) -> None:
    code = (
        "import somactl.cli.commands.audit as audit\n"
        "def bug(*arguments): raise RuntimeError('a bug')\n"
        "audit._Audit.prove = bug\n"
        "from somactl.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "verify-psd", "--all", "--push"],
        cwd=jobs.shell.folder,
        env=environment() | jobs.env,
        capture_output=True,
    )
    assert done.returncode == 1, done.stderr
    assert jobs.value(CODE) == 1


def test_a_namespace_that_is_none_is_not_repeated(jobs: Jobs) -> None:
    said = jobs("verify-psd", "--all", "--push", "-n", "redis://me:secret@host", code=10).err
    assert "secret" not in said
    assert jobs.gateway.groups() == []
    said = jobs("verify-psd", "--all", "--push", "-n", "a/b", code=2).err
    assert "metrics were not pushed: it is not known of which namespace" in said
    assert jobs.gateway.groups() == []


def test_a_defect_of_the_metrics_is_not_the_jobs(jobs: Jobs) -> None:
    (jobs.shell.folder / "prometheus_client").mkdir()
    jobs.shell.write("prometheus_client/__init__.py", "raise ImportError('broken')")
    done = subprocess.run(
        [sys.executable, "-m", "somactl", "verify-psd", "--all", "--push"],
        cwd=jobs.shell.folder,
        env=environment() | jobs.env | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert done.stderr.splitlines() == ["metrics were not pushed: ImportError: broken"]
    assert done.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("prune", ["--keep", "10"]),
        ("compact", ["--yes"]),
        ("cache-warm", []),
        ("migrate-json", ["values.json"]),
    ],
)
def test_every_job_pushes(jobs: Jobs, redis_server: RedisServer, command: str, words: list[str]) -> None:
    with redis_server.client() as raw:
        raw.flushdb()
    jobs.shell.write("values.json", json.dumps({"rho": [[0.5, 0.0], [0.0, 0.5]]}))
    env = {"SOMACTL_CACHE": redis_server.url} if command == "cache-warm" else {}
    jobs(command, *words, "--push", env=env)
    assert jobs.value(CODE, job=command) == 0
    assert jobs.value(LAST_SUCCESS, job=command)
    jobs(command, "--bogus", "--push", code=2)
    assert jobs.value(CODE, job=command) == 2


def test_another_name_and_place(jobs: Jobs) -> None:
    jobs(
        "verify-psd",
        "--all",
        "--push",
        "--job",
        "nightly",
        "--gateway",
        jobs.gateway.url,
        env={
            "SOMACTL_PUSH_GATEWAY": "http://127.0.0.1:1",
        },
    )
    assert jobs.value("somabrain_rho_psd_ok", job="nightly") == 1
    assert jobs.value("somabrain_rho_psd_ok") is None


def test_a_part_does_not_stand_for_the_whole(jobs: Jobs) -> None:
    jobs.break_one()
    jobs("verify-psd", "--all", "--push", code=3)
    said = jobs("verify-psd", "b", "--push").err
    assert "it was about a part of the namespace" in said
    assert jobs.value("somabrain_rho_psd_ok") == 0
    assert jobs.value(RHO_SUCCESS) is None
    assert jobs.value("somabrain_rho_matrices", outcome="violated") == 1
    jobs("verify-psd", "b", "--push", "--job", "verify-psd")
    assert jobs.value("somabrain_rho_psd_ok") == 0
    jobs("verify-psd", "b", "--push", "--job", "spot")
    assert jobs.value("somabrain_rho_psd_ok", job="spot") == 1
    assert jobs.value("somabrain_rho_last_audit_timestamp_seconds", job="spot") is None


def test_a_spot_check_that_finds_something_is_not_hidden_by_what_was_accepted_before(jobs: Jobs) -> None:
    jobs.break_one()
    report = jobs("verify-psd", "--all", "--output", "json", code=3).json
    digest = f'digest: "{report["results"][0]["digest"]}"'
    members = "\n    ".join(["key: a", digest, "owner: me", "reason: known", "expires: 2099-01-31"])
    jobs.shell.write("accepted.yml", f"version: 1\naccepted:\n  - {members}\n")
    jobs("verify-psd", "--all", "--push", "--accept", "accepted.yml")
    assert jobs.value("somabrain_rho_findings", kind="violated", state="open") == 0
    assert jobs.value("somabrain_rho_findings", kind="violated", state="accepted") == 1
    jobs.break_one("b")
    jobs("verify-psd", "b", "--push", code=3)
    assert jobs.value("somabrain_rho_findings", kind="violated", state="open") == 1


def test_files_are_no_store(jobs: Jobs) -> None:
    jobs.shell.save("bad.npy", with_smallest_eigenvalue(density(4), -0.1))
    jobs("verify-psd", "--file", "bad.npy", "--push", code=3)
    assert jobs.value(CODE) == 3
    assert jobs.value("somabrain_rho_psd_ok") is None


def test_latencies_of_a_job_are_gauges(jobs: Jobs) -> None:
    jobs("verify-psd", "--all", "--jobs", "1", "--push")
    found = jobs.gateway.values("somabrain_job_latency_seconds", **AUDIT, operation="page")
    assert {dict(labels)["stat"] for labels in found} == {"p50", "p95", "max"}
    assert all(0 < value < 10 for value in found.values())


# --- a gateway that fails


@pytest.fixture(params=["down", "killed", "silent", "400"])
def failing(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "down":
        yield f"http://127.0.0.1:{free_port()}"
    elif request.param == "silent":
        with silent() as url:
            yield url
    elif request.param == "killed":
        with Answering(dies=True) as server:
            yield server.url
    else:
        with Answering("400 Bad Request", b"pushed metrics are invalid") as server:
            yield server.url


@pytest.mark.parametrize("work", [0, 3, 13])
def test_a_failing_gateway_makes_it_4_at_most(jobs: Jobs, failing: str, work: int) -> None:
    if work == 3:
        jobs.break_one()
    down = ["--store", "redis://127.0.0.1:1"] if work == 13 else []
    began = time.monotonic()
    result = jobs(
        *("verify-psd", "--all", "--push", "--gateway", failing, "--spool", "spool", *down),
        code=work or 4,
        env={"SOMACTL_RETRY_SECONDS": "0"},
    )
    assert time.monotonic() - began < TIMEOUT + 1.0 + 2.0  # of which 2 s for the audit itself
    told = [line for line in result.err.splitlines() if "pushed" in line]
    assert len(told) == 1
    assert told[0].startswith(f"metrics were not pushed to {failing}: ")
    assert told[0].endswith("; kept in spool")
    assert len(list((jobs.shell.folder / "spool").iterdir())) == 1


def test_what_was_kept_goes_with_the_next_push_in_order(jobs: Jobs) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    ended = []
    for namespace in ("default", "default"):
        report = jobs(
            *("verify-psd", "--all", "--push", "--gateway", down, "--spool", "spool", "-n", namespace),
            *("--output", "json"),
            code=4,
        ).json
        ended.append(report["ended_at"])
    jobs.break_one()
    with Answering() as server:  # which knows no groups, as its list is none
        jobs("verify-psd", "--all", "--push", "--gateway", server.url, "--spool", "spool", code=3)
        assert server.requests == ["GET /api/v1/metrics HTTP/1.1"]
    with Answering(body=b'{"status": "success", "data": []}') as server:
        said = jobs("verify-psd", "--all", "--push", "--gateway", server.url, "--spool", "spool", code=3).err
        assert "pushed 3 that had been kept in spool" in said
        times = [value_in(body, LAST_RUN) for body in server.bodies[1:]]
        assert times[:2] == ended
        assert times == sorted(times)
        assert len(times) == 4
    assert not list((jobs.shell.folder / "spool").iterdir())


def test_what_is_older_than_the_last_run_is_dropped(jobs: Jobs) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    jobs("verify-psd", "--all", "--push", "--gateway", down, "--spool", "spool", code=4)
    jobs.break_one()
    jobs("verify-psd", "--all", "--push", code=3)
    ran = jobs.value(LAST_RUN)
    said = jobs("prune", "--keep", "10", "--push", "--spool", "spool").err
    assert "dropped: " in said
    assert "the gateway has a later run of that group" in said
    assert jobs.value(LAST_RUN) == ran
    assert jobs.value("somabrain_rho_psd_ok") == 0
    assert not list((jobs.shell.folder / "spool").iterdir())


def test_a_full_disk_for_the_spool(shell: Shell, pushgateway: Pushgateway, redis_server: RedisServer) -> None:
    with redis_server.client() as raw:
        raw.flushdb()
    env = {"SOMACTL_STORE": redis_server.url}
    shell.ok("init", env=env)
    shell.ok("commit", f"a={shell.save('a.npy', density(4))}", env=env)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (2000, 2000))
    down = f"http://127.0.0.1:{free_port()}"
    words = ["verify-psd", "--all", "--push", "--gateway", down, "--spool"]
    result = shell(*words, "spool", env=env, preexec_fn=limit)
    assert result.code == 4, result.err
    assert "connection refused; nor could it be kept: " in result.err
    assert "file too large" in result.err
    assert not list((shell.folder / "spool").iterdir())
    assert shell(*words, "/dev/full", env=env).code == 4


def test_a_second_signal_does_not_wait_for_the_gateway(jobs: Jobs) -> None:
    with silent() as url:
        process = _begin_paused(jobs, "--gateway", url)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert process.poll() is None  # it pushes, or tries to
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=5)
        assert process.returncode == 143


def test_a_signal_while_it_pushes_keeps_what_it_pushes(jobs: Jobs) -> None:
    with silent() as url:
        process = jobs.shell.begin(*("verify-psd", "--all", "--push", "--gateway", url, "--spool", "spool"))
        assert process.stdout is not None
        while b"worst trace error" not in process.stdout.readline():
            pass  # the report is printed before
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=5)
    assert process.returncode in (4, 143), err
    assert len(list((jobs.shell.folder / "spool").iterdir())) == 1


# --- what is refused before any work


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--push"], 10, "no Pushgateway is named"),
        (["--push", "--gateway", "gateway:9091"], 2, "--gateway: this is no URL"),
        (["--push", "--gateway", "http://me:secret@gateway"], 10, "--gateway: the URL holds a login"),
        (["--push", "--gateway", "http://g", "--job", ""], 2, "empty, or not printable ASCII"),
        (["--push", "--gateway", "http://g", "--job", "nächtlich"], 2, "empty, or not printable ASCII"),
        (["--push", "--gateway", "http://g", "--job", "compact"], 2, "what another command pushes"),
        (["--gateway", "http://g"], 2, "go with --push"),
        (["--job", "x"], 2, "go with --push"),
        (["--ping", "rubbish"], 2, "--ping: this is no URL"),
    ],
)
def test_what_is_refused_before_any_work(shell: Shell, words: list[str], code: int, why: str) -> None:
    result = shell("verify-psd", "--all", *words)
    assert result.code == code, result.err
    assert why in result.err
    assert "secret" not in result.err


@pytest.mark.source
def test_a_call_that_pushes_nothing_imports_nothing_for_it(shell: Shell) -> None:
    shell.commit("a", density(4))
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=open('modules', 'w')))\n"
        "from somactl.cli import main\nmain()"
    )
    for words in (["verify-psd", "--all"], ["compact", "--yes"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=shell.folder,
            env=environment() | {"SOMACTL_PUSH_GATEWAY": "http://127.0.0.1:9091"},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        loaded = (shell.folder / "modules").read_text().split()
        found = [
            name for name in loaded if name.startswith(("prometheus_client", "somactl.telemetry", "http."))
        ]
        assert found == []
