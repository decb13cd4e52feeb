"""push-metrics: how the store is now, or what saved reports say."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest

from servers.process import free_port
from servers.prometheus import Pushgateway
from tests.cli.conftest import Result, Shell, density
from tests.telemetry.silent import Answering

LAST_RUN = "somabrain_job_last_run_timestamp_seconds"
LOOK = {"job": "push-metrics", "namespace": "default"}
AUDIT = {"job": "verify-psd", "namespace": "default"}


class Pushes:
    def __init__(self, shell: Shell, gateway: Pushgateway) -> None:
        self.shell, self.gateway = shell, gateway
        shell.commit("a", density(4))

    def __call__(self, *words: str, code: int = 0, stdin: bytes = b"", **env: str) -> Result:
        env = {"SOMACTL_PUSH_GATEWAY": self.gateway.url, **env}
        result = self.shell("push-metrics", *words, env=env, stdin=stdin)
        assert result.code == code, (result.code, result.err, result.text)
        return result

    def saved(self, name: str, *words: str, code: int = 0) -> Any:
        """An audit's report, saved in a file."""
        result = self.shell("verify-psd", "--all", "--output", "json", *words)
        assert result.code == code, result.err
        self.shell.write(name, result.out)
        return result.json


@pytest.fixture
def pushes(shell: Shell, pushgateway: Pushgateway) -> Pushes:
    return Pushes(shell, pushgateway)


def test_a_look_at_the_store(pushes: Pushes) -> None:
    pushes.shell.ok("verify-psd", "--all")
    report = pushes("--output", "json").json
    seen = report["snapshot"]
    assert seen["counts"] == {
        "version": 1,
        "keys": 1,
        "tombstones": 0,
        "stored_bytes": seen["counts"]["stored_bytes"],
    }
    assert seen["services"][0]["store"] == "sqlite"
    assert seen["ledger"]["share_read"] == 1.0
    value = pushes.gateway.value
    assert value("somabrain_namespace_keys", **LOOK) == 1
    assert value("somabrain_store_up", **LOOK, store="sqlite") == 1
    assert value(LAST_RUN, **LOOK) == report["ended_at"]
    assert value("somabrain_rho_oldest_read_timestamp_seconds", **LOOK) == seen["ledger"]["oldest_read_at"]


def test_a_look_changes_nothing(pushes: Pushes) -> None:
    before = pushes.shell.ok("log", "--output", "json").json["commits"]
    pushes()
    assert pushes.shell.ok("log", "--output", "json").json["commits"] == before


def test_a_namespace_that_is_not_there_is_told(pushes: Pushes) -> None:
    report = pushes("--namespace", "other", "--output", "json", code=4).json
    assert "does not exist yet" in report["warnings"][0]
    group = {**LOOK, "namespace": "other"}
    assert math.isnan(pushes.gateway.value("somabrain_namespace_keys", **group) or 0.0)
    assert pushes.gateway.value("somabrain_job_exit_code", **group) == 4


def test_a_saved_report_is_pushed_with_its_own_times(pushes: Pushes) -> None:
    report = pushes.saved("audit.json")
    told = pushes("--report", "audit.json", "--output", "json").json
    assert [each["ended_at"] for each in told["pushed"]] == [report["ended_at"]]
    assert pushes.gateway.value(LAST_RUN, **AUDIT) == report["ended_at"]
    assert pushes.gateway.value("somabrain_rho_psd_ok", **AUDIT) == 1
    assert pushes.gateway.value(LAST_RUN, **LOOK) is None


def test_of_several_reports_the_newest_wins_and_an_older_one_is_dropped(pushes: Pushes) -> None:
    old = pushes.saved("old.json")
    new = pushes.saved("new.json", "--at-least", "9", code=4)
    told = pushes("--report", "new.json", "--report", "old.json", "--output", "json").json
    assert [each["source"] for each in told["pushed"]] == ["new.json"]
    assert [each["source"] for each in told["dropped"]] == ["old.json"]
    assert pushes.gateway.value(LAST_RUN, **AUDIT) == new["ended_at"] > old["ended_at"]
    said = pushes("--report", "old.json").err
    assert "dropped: old.json" in said
    assert "the gateway has a later run of that group" in said
    assert pushes.gateway.value("somabrain_job_last_success_timestamp_seconds", **AUDIT) is None
    assert pushes.gateway.value(LAST_RUN, **AUDIT) == new["ended_at"]


def test_every_form_of_a_report(pushes: Pushes) -> None:
    """NDJSON's last line, evidence, that of shards which were added up, and standard input."""
    shell = pushes.shell
    shell.commit("b", density(4, seed=1))
    shell.ok("verify-psd", "--all", "--evidence", "e.json", "--quiet")
    evidence = json.loads((shell.folder / "e.json").read_bytes())["report"]
    lines = shell.ok("verify-psd", "--all", "--output", "ndjson").out
    forms = {
        "evidence": ((shell.folder / "e.json").read_bytes(), evidence["ended_at"]),
        "ndjson": (lines, json.loads(lines.splitlines()[-1])["ended_at"]),
    }
    for data, ended_at in forms.values():
        pushes.gateway.wipe()
        pushes("--report", "-", stdin=data)
        assert pushes.gateway.value(LAST_RUN, **AUDIT) == ended_at
    for k in (1, 2):
        shell.ok("verify-psd", "--all", "--shard", f"{k}/2", "--run", "x", "--evidence", f"{k}.json")
    merged = shell.ok("evidence", "merge", "1.json", "2.json", "--output", "json").out
    pushes.gateway.wipe()
    pushes("--report", "1.json", "--report", "2.json", "--report", "-", stdin=merged)
    shards = [group["labels"].get("shard") for group in pushes.gateway.groups()]
    assert sorted(map(str, shards)) == ["1/2", "2/2", "None"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"rubbish", "it is no JSON object"),
        (b"[1]", "it is no JSON object"),
        (b'{"schema_version": 99, "command": "verify-psd"}', "no report that this somactl reads"),
        (b'{"schema_version": 1, "command": "ls"}', "it is no report of a job"),
        (b'{"schema_version": 1, "error": "KeyNotFound", "code": 15}', "an error, which says no time"),
        (b'{"evidence": 1, "digest": "x", "report": {}}', "changed after it was written"),
        (b"", "empty"),
    ],
)
def test_what_is_no_report_is_refused_before_anything_is_pushed(
    pushes: Pushes, content: bytes, why: str
) -> None:
    pushes.saved("good.json")
    pushes.shell.write("bad.json", content)
    said = pushes("--report", "good.json", "--report", "bad.json", code=11).err
    assert "bad.json: " in said
    assert why in said
    assert pushes.gateway.groups() == []


def test_a_report_that_says_no_time_is_not_pushed(pushes: Pushes) -> None:
    pushes.shell.write("x.json", json.dumps([[1.0]]))
    plan = pushes.shell("migrate-json", "x.json", "--dry-run", "--output", "json")
    said = pushes("--report", "-", stdin=plan.out, code=4).err
    assert "it says no time" in said
    assert pushes.gateway.groups() == []


def test_a_gateway_that_is_down_is_4_and_what_was_read_waits(pushes: Pushes) -> None:
    report = pushes.saved("audit.json")
    down = f"http://127.0.0.1:{free_port()}"
    told = pushes(
        "--report", "audit.json", "--gateway", down, "--spool", "spool", "--output", "json", code=4
    ).json
    assert [each["source"] for each in told["kept"]] == ["audit.json"]
    pushes("--spool", "spool")
    assert pushes.gateway.value(LAST_RUN, **AUDIT) == report["ended_at"]
    pushes("--gateway", down, code=4)


def test_a_group_is_deleted_with_its_shards(pushes: Pushes) -> None:
    pushes.saved("audit.json")
    for job in ("nightly", "other"):
        pushes("--report", "audit.json", "--job", job)
    pushes.saved("shard.json", "--shard", "1/2", "--run", "x")
    pushes("--report", "shard.json", "--job", "nightly")
    told = pushes("--delete-group", "--job", "nightly", "--output", "json").json
    assert len(told["deleted"]) == 2
    deadline = time.monotonic() + 10
    while len(pushes.gateway.groups()) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [group["labels"]["job"] for group in pushes.gateway.groups()] == ["other"]
    pushes("--delete-group", "--gateway", f"http://127.0.0.1:{free_port()}", code=4)
    pushes("--delete-group", "--report", "audit.json", code=2)


def test_a_file_alone(pushes: Pushes) -> None:
    pushes("--textfile", "x.prom", SOMACTL_PUSH_GATEWAY="")
    text = (pushes.shell.folder / "x.prom").read_text()
    assert 'somabrain_namespace_keys{job="push-metrics",namespace="default"} 1.0' in text
    assert pushes.gateway.groups() == []


def test_an_old_report_does_not_get_into_a_file_and_that_is_said(pushes: Pushes) -> None:
    pushes.shell.write("old.json", pushes.shell.ok("verify-psd", "--all", "--output", "json").text)
    pushes.shell.ok("verify-psd", "--all", "--textfile", "x.prom")
    text = (pushes.shell.folder / "x.prom").read_text()
    words = ("--textfile", "x.prom", "--report", "old.json", "--output", "json")
    result = pushes(*words, SOMACTL_PUSH_GATEWAY="")
    assert "a later run of that group stands in the file" in result.err
    assert (len(result.json["dropped"]), result.json["pushed"]) == (1, [])
    assert (pushes.shell.folder / "x.prom").read_text() == text


def test_a_ping_goes_with_a_look(pushes: Pushes) -> None:
    with Answering() as server:
        pushes("--ping", f"{server.url}/abc")
        assert len(server.requests) == 2
    pushes("--report", "x", "--ping", "http://x", code=2)


def test_passwords_come_from_a_file(pushes: Pushes) -> None:
    pushes.shell.write("password", "secret\n")
    with Answering() as server:
        env = {"SOMACTL_PUSH_USER": "me", "SOMACTL_PUSH_PASSWORD_FILE": "password"}
        pushes(SOMACTL_PUSH_GATEWAY=server.url, **env)
    said = pushes(SOMACTL_PUSH_GATEWAY="http://me:secret@gateway", code=10).err
    assert "SOMACTL_PUSH_GATEWAY: the URL holds a login" in said
    assert "secret" not in said
    assert "goes with SOMACTL_PUSH_USER" in pushes(SOMACTL_PUSH_PASSWORD_FILE="password", code=10).err
    said = pushes(SOMACTL_PUSH_USER="me", SOMACTL_PUSH_PASSWORD_FILE="hunter2", code=4).err
    assert "the file of SOMACTL_PUSH_PASSWORD_FILE: no such file" in said
    assert "hunter2" not in said
