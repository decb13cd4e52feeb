"""`examples/kubernetes`: manifests that keep Kubernetes's rules as far as no cluster is needed, and run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from servers.prometheus import Pushgateway
from somactl.config import SETTINGS, VARIABLES, Settings
from somactl.errors import SomactlError
from somactl.operations.audit.shards import Shard
from somactl.runtime import open_store
from support.audited import fill
from support.kubernetes import problems

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples/kubernetes"
MANIFESTS = [FOLDER / "cronjob.yaml", FOLDER / "indexed-job.yaml"]
RETRIED = {13, 16, 137, 143}
"""Codes after which another try may end otherwise."""

pytestmark = pytest.mark.source


def job(path: Path) -> Any:
    """The spec of the Job, that of the CronJob's template where it is one."""
    manifest = yaml.safe_load(path.read_text())
    assert manifest["apiVersion"] == "batch/v1"
    names = manifest["metadata"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?-?", names.get("name") or names["generateName"])
    if manifest["kind"] == "Job":
        return manifest["spec"]
    assert manifest["kind"] == "CronJob"
    spec = manifest["spec"]
    assert len(spec["schedule"].split()) == 5
    assert spec["concurrencyPolicy"] == "Forbid"
    return spec["jobTemplate"]["spec"]


def pod(path: Path) -> Any:
    return job(path)["template"]["spec"]


def container(path: Path) -> Any:
    (found,) = pod(path)["containers"]
    return found


def variables(path: Path, **given: str) -> dict[str, str]:
    """The container's environment, with what the cluster would add."""
    return {each["name"]: each.get("value", "") for each in container(path)["env"]} | given


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_oldest_kubernetes_takes_it(path: Path) -> None:
    assert problems(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_pod_has_no_rights_that_it_does_not_need(path: Path) -> None:
    spec, only = pod(path), container(path)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"requests", "limits"} <= only["resources"].keys()
    assert {mount["name"] for mount in only["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    (secret,) = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    assert secret["defaultMode"] & 0o007 == 0
    assert not [each for each in only["env"] if "secretKeyRef" in str(each)]  # it comes by file


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_what_is_tried_again(path: Path) -> None:
    spec = job(path)
    assert pod(path)["restartPolicy"] == "Never"  # as a podFailurePolicy demands
    by_index = spec.get("completionMode") == "Indexed"
    assert ("backoffLimitPerIndex" in spec) is by_index
    assert ("backoffLimit" in spec) is not by_index
    codes, drained = spec["podFailurePolicy"]["rules"]
    assert codes["action"] == ("FailIndex" if by_index else "FailJob")
    assert codes["onExitCodes"]["containerName"] == container(path)["name"]
    values = codes["onExitCodes"]["values"]
    assert values == sorted(set(values))
    assert {3, 10, 11} <= set(values)
    assert not set(values) & {0, *RETRIED}
    assert drained == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    table = (FOLDER / "README.md").read_text()
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.M) for code in row.split(",")}
    assert told == {*values, *RETRIED}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_audit_ends_before_its_job_does(path: Path) -> None:
    (hours,) = [arg for arg in container(path)["args"] if arg.startswith("--max-duration=")]
    assert int(hours.partition("=")[2].removesuffix("h")) * 3600 < job(path)["activeDeadlineSeconds"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_variables_are_settings(path: Path) -> None:
    known = {*VARIABLES, *(setting.variable for setting in SETTINGS.values())}
    assert set(variables(path)) <= known
    used = set(re.findall(r"\$\((\w+)\)", " ".join(container(path)["args"])))
    assert used <= {*variables(path), "JOB_COMPLETION_INDEX"}


def test_every_index_is_a_shard() -> None:
    path = FOLDER / "indexed-job.yaml"
    completions, count = job(path)["completions"], variables(path)["JOB_COMPLETION_COUNT"]
    shards = [Shard.of_job(str(index), count) for index in range(completions)]
    assert shards[-1] == Shard(completions, completions)
    with pytest.raises(SomactlError):
        Shard.of_job(str(completions), count)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the pods mount: a configuration file, and a place for evidence."""
    (tmp_path / "config.toml").write_text(f'store = "sqlite:///{tmp_path / "store.db"}"\n')
    (tmp_path / "evidence").mkdir()
    return tmp_path


async def test_the_nightly_pod_runs_and_pushes(folder: Path, pushgateway: Pushgateway) -> None:
    async with open_store(Settings(store=f"sqlite:///{folder / 'store.db'}")) as store:
        keys = await fill(store, 7)
    report = run(FOLDER / "cronjob.yaml", folder, SOMACTL_PUSH_GATEWAY=pushgateway.url)
    assert report["checked"] == len(keys)
    pushed = pushgateway.value(
        "somabrain_rho_matrices", job="verify-psd", namespace="default", outcome="valid"
    )
    assert pushed == len(keys)


async def test_the_pods_of_all_shards_run(folder: Path) -> None:
    """And their evidence adds up."""
    async with open_store(Settings(store=f"sqlite:///{folder / 'store.db'}")) as store:
        keys = await fill(store, 7)
    indexed = FOLDER / "indexed-job.yaml"
    found = [
        run(indexed, folder, JOB_COMPLETION_INDEX=str(index), SOMACTL_AUDIT_RUN="somactl-audit-x7k2p")
        for index in range(job(indexed)["completions"])
    ]
    assert sum(each["checked"] for each in found) == len(keys)
    files = sorted(map(str, (folder / "evidence").iterdir()))
    merged = somactl(["evidence", "merge", *files, "--output", "json"], {})["audit"]
    assert (merged["checked"], merged["complete"]) == (len(keys), True)


def run(path: Path, folder: Path, **given: str) -> Any:
    """The report of one pod's container."""
    known = variables(path, **given)
    words = [
        re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], word).replace(
            "/evidence/", f"{folder / 'evidence'}/"
        )
        for word in container(path)["args"]
    ]
    return somactl(words, known | {"SOMACTL_CONFIG": str(folder / "config.toml")})


def somactl(words: list[str], variables: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "somactl", *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
