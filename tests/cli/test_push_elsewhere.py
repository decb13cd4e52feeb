"""Metrics in a file for the node exporter, and pings for a dead man's switch."""

from __future__ import annotations

import time

import pytest

from servers.process import free_port
from tests.cli.push_jobs import CODE, RHO_SUCCESS, TIMEOUT, Jobs, value_in
from tests.telemetry.silent import Answering, silent


def test_a_file_for_the_node_exporter(jobs: Jobs) -> None:
    """What one run does not know stands as an earlier one left it, and so do other jobs."""

    def value(name: str, job: str) -> float:
        text = (jobs.shell.folder / "x.prom").read_text()
        return value_in(text.encode(), f'{name}{{job="{job}",namespace="default"}}')

    report = jobs("verify-psd", "--all", "--textfile", "x.prom", "--output", "json").json
    assert value("somabrain_rho_psd_ok", "verify-psd") == 1
    assert jobs.gateway.groups() == []  # it was not asked to push
    jobs.break_one()
    jobs("verify-psd", "--all", "--textfile", "x.prom", code=3)
    jobs("prune", "--keep", "9", "--textfile", "x.prom")
    assert value("somabrain_rho_psd_ok", "verify-psd") == 0
    assert value(RHO_SUCCESS, "verify-psd") == report["ended_at"]
    assert (value(CODE, "verify-psd"), value(CODE, "prune")) == (3, 0)


def test_a_text_file_that_cannot_be_written_is_4(jobs: Jobs) -> None:
    said = jobs("verify-psd", "--all", "--textfile", "no/folder/x.prom", code=4).err
    assert "metrics were not written: no/folder/x.prom: cannot be written" in said


def test_a_dead_mans_switch(jobs: Jobs) -> None:
    with Answering() as server:
        jobs("verify-psd", "--all", "--ping", f"{server.url}/abc")
        jobs.break_one()
        jobs("verify-psd", "--all", "--ping", f"{server.url}/abc", code=3)
        paths = [request.split()[1] for request in server.requests]
    (start, done, again, failed) = paths
    run, other = start.removeprefix("/abc/start?rid="), again.removeprefix("/abc/start?rid=")
    assert done == f"/abc?rid={run}"
    assert failed == f"/abc/3?rid={other}"
    assert run != other


def test_no_suggestion_repeats_the_url_of_a_switch(jobs: Jobs) -> None:
    with Answering() as server:
        words = ["verify-psd", "--all", "--no-ledger", "--resume", "--ping", f"{server.url}/secret-id"]
        done = jobs(*words, code=2)
    assert "try: somactl verify-psd --all --resume" in done.err
    assert "secret-id" not in done.err


@pytest.mark.parametrize("kind", ["silent", "down", "500"])
def test_a_switch_that_fails_is_told_and_changes_nothing(jobs: Jobs, kind: str) -> None:
    began = time.monotonic()
    if kind == "silent":
        with silent() as url:
            said = jobs("verify-psd", "--all", "--push", "--ping", url).err
    elif kind == "down":
        said = jobs("verify-psd", "--all", "--push", "--ping", f"http://127.0.0.1:{free_port()}").err
    else:
        with Answering("500 Oops") as server:
            said = jobs("verify-psd", "--all", "--push", "--ping", server.url).err
    assert "the ping failed: " in said
    assert time.monotonic() - began < TIMEOUT + 3.0
    assert jobs.value(CODE) == 0
