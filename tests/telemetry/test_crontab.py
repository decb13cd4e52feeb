"""`examples/cron/crontab`: its lines run as cron runs them, and the gateway learns what they found."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from servers.process import free_port
from servers.prometheus import Prometheus, Pushgateway
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.runtime import open_store
from support.audited import fill
from support.violation import put_violation
from tests.cli.conftest import FORKED

ROOT = Path(__file__).resolve().parents[2]
CRONTAB = ROOT / "examples/cron/crontab"
RULES = ROOT / "examples/prometheus/rules.yml"
FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
FOLDERS = ("/etc/somactl", "/var/lib/somactl", "/var/spool/somactl")

pytestmark = pytest.mark.source


@dataclass(frozen=True)
class Job:
    """A line of the crontab: when, and what it hands to the shell."""

    schedule: tuple[str, ...]
    command: str

    @property
    def name(self) -> str:
        return self.command.split()[1]

    def given(self, *, sunday: bool) -> bool:
        return self.schedule[4] in (("*", "0") if sunday else ("*", "1-6"))


def read() -> tuple[dict[str, str], list[Job]]:
    """The crontab's settings, and its jobs, the one behind a sign among them."""
    settings, jobs = {}, []
    for line in CRONTAB.read_text(encoding="utf-8").splitlines():
        if setting := re.fullmatch(r"([A-Z_]+)=(.*)", line):
            settings[setting[1]] = setting[2]
        elif job := re.fullmatch(r"(?:# )?((?:[\d*/,-]+ +){5})(\S.*)", line):
            assert not re.search(r"(?<!\\)%", job[2]), "cron ends the command there"
            jobs.append(Job(tuple(job[1].split()), job[2].replace(r"\%", "%")))
        else:
            assert not line or line.startswith("#"), line
    return settings, jobs


SETTINGS, JOBS = read()
NIGHTLY, WEEKLY, CACHE, COMPACT, SNAPSHOT = JOBS


class Machine:
    """A folder that stands for the file system, with a store and its cache, and a shell as cron starts it."""

    def __init__(self, root: Path, cache: str, gateway: str) -> None:
        self.root, self.gateway = root, gateway
        for folder in FOLDERS:
            (root / folder[1:]).mkdir(parents=True)
        self.store = f"sqlite:///{root / 'store.db'}"
        self.namespace = f"cron-{uuid.uuid4().hex}"
        config = f'store = "{self.store}"\ncache = "{cache}"\nnamespace = "{self.namespace}"\n'
        (root / "etc/somactl/config.toml").write_text(config)

    @property
    def kept(self) -> Path:
        return self.root / "var/lib/somactl"

    def placed(self, text: str) -> str:
        for folder in FOLDERS:
            text = text.replace(folder, str(self.root) + folder)
        return text

    def fill(self, count: int) -> None:
        async def commit() -> None:
            async with open_store(Settings(store=self.store, namespace=self.namespace)) as store:
                await fill(store, count)

        asyncio.run(commit())

    def run(self, job: Job, gateway: str | None = None) -> tuple[int, str]:
        """The exit code, and what cron would send by mail."""
        env: Mapping[str, str] = {name: self.placed(value) for name, value in SETTINGS.items()}
        env |= {
            "HOME": str(self.root),
            "PATH": f"{FORKED.folder}{os.pathsep}{SETTINGS['PATH']}",
            "SOMACTL_PUSH_GATEWAY": gateway or self.gateway,
            "OPENBLAS_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [SETTINGS["SHELL"], "-c", self.placed(job.command)],
            cwd=self.root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout


@pytest.fixture
def machine(tmp_path: Path, redis_server: RedisServer, pushgateway: Pushgateway) -> Machine:
    with redis_server.client() as raw:
        raw.flushdb()
    return Machine(tmp_path, redis_server.url, pushgateway.url)


def test_the_lines_are_those_of_a_crontab() -> None:
    assert [job.name for job in JOBS] == ["verify-psd", "verify-psd", "cache-warm", "compact", "push-metrics"]
    assert {"SOMACTL_CONFIG", "SOMACTL_PUSH_GATEWAY"} < SETTINGS.keys()
    for job in JOBS:
        for field, (lowest, highest) in zip(job.schedule, FIELDS, strict=True):
            assert all(lowest <= int(number) <= highest for number in re.findall(r"\d+", field))
        assert ("--push" in job.command) is (job is not SNAPSHOT)


def test_there_is_one_audit_a_night() -> None:
    for sunday in (True, False):
        assert len([job for job in (NIGHTLY, WEEKLY) if job.given(sunday=sunday)]) == 1


def alerts(prometheus: Prometheus, namespace: str) -> set[str]:
    """The alerts of the namespace whose conditions hold, but for those that tell how busy this machine is."""
    prometheus.settle()
    return {
        rule["alert"]
        for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if group["name"] != "somactl-latency"
        for labels in prometheus.ask(rule["expr"])
        if ("namespace", namespace) in labels
    }


def test_what_the_lines_find_is_kept_pushed_and_alerted_on(
    machine: Machine, pushgateway: Pushgateway, prometheus: Prometheus
) -> None:
    machine.fill(7)
    assert machine.run(SNAPSHOT) == (0, "")
    assert alerts(prometheus, machine.namespace) == {"SomactlAuditNeverRan", "SomactlCycleNeverDone"}
    for job in JOBS:
        assert machine.run(job) == (0, "")
        assert pushgateway.value("somabrain_job_exit_code", job=job.name, namespace=machine.namespace) == 0
    audit = {"job": "verify-psd", "namespace": machine.namespace}
    assert pushgateway.value("somabrain_rho_psd_ok", **audit) == 1
    assert pushgateway.value("somabrain_rho_matrices", outcome="valid", **audit) == 7
    assert pushgateway.value("somabrain_namespace_keys", job="push-metrics", namespace=machine.namespace) == 7
    assert {"nightly.json", "weekly.json"} < {path.name for path in machine.kept.iterdir()}
    assert alerts(prometheus, machine.namespace) == set()
    put_violation(machine.store, "k00003", namespace=machine.namespace)
    for job, file in ((NIGHTLY, "nightly.txt"), (WEEKLY, "weekly.txt")):
        assert machine.run(job) == (3, "")
        assert "k00003" in (machine.kept / file).read_text()
        assert pushgateway.value("somabrain_rho_psd_ok", **audit) == 0
        assert alerts(prometheus, machine.namespace) == {"SomactlInvariantViolated", "SomactlJobFailed"}


def test_what_a_gateway_missed_it_is_told_with_the_next_push(
    machine: Machine, pushgateway: Pushgateway
) -> None:
    machine.fill(3)
    code, mail = machine.run(NIGHTLY, gateway=f"http://127.0.0.1:{free_port()}")
    assert code == 4
    assert "push" in mail
    assert pushgateway.groups() == []
    assert machine.run(COMPACT)[0] == 0
    assert pushgateway.value("somabrain_rho_psd_ok", job="verify-psd", namespace=machine.namespace) == 1
