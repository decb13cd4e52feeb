"""`examples/canary`: specs that are read, manifests that a cluster takes, and commands that there are."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from somactl.cli.canary import flag_of
from somactl.cli.pages import parsed
from somactl.config import SETTINGS, VARIABLES
from somactl.core.canary_spec import FIELDS, Spec
from somactl.core.canary_spec_file import read_spec
from somactl.telemetry.catalogue import METRICS
from support.progressive import problems

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples/canary"
SPECS = ("dark-launch.yaml", "canary.yaml", "widen.yaml", "flagger-spec.yaml")
MANIFESTS = ("cronjob.yaml", "argo-rollouts.yaml", "flagger.yaml")
RETRIED = {4, 5, 13}
"""Codes of a check after which another window may end otherwise."""

pytestmark = pytest.mark.source

Manifest = dict[str, Any]


def read(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def spec(name: str, flags: dict[str, str] | None = None) -> Spec:
    return read_spec((FOLDER / name).read_bytes(), name, flags or {})


def of_kind(name: str, kind: str) -> Any:
    (found,) = [each for each in read(name) if each["kind"] == kind]
    return found


JOBS = {
    "cronjob": of_kind("cronjob.yaml", "CronJob")["spec"]["jobTemplate"]["spec"],
    "argo": of_kind("argo-rollouts.yaml", "AnalysisTemplate")["spec"]["metrics"][0]["provider"]["job"][
        "spec"
    ],
}
PODS = {
    **{name: job["template"]["spec"] for name, job in JOBS.items()},
    "flagger": of_kind("flagger.yaml", "Deployment")["spec"]["template"]["spec"],
}
WEBHOOKS = of_kind("flagger.yaml", "Canary")["spec"]["analysis"]["webhooks"]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where a manifest or script names somactl, and the words of that call."""
    for name in JOBS:
        (container,) = PODS[name]["containers"]
        yield name, [*container["command"], *container["args"]]
    for hook in WEBHOOKS:
        line = hook["metadata"]["cmd"].partition(";")[0]
        if line.startswith("somactl"):
            yield f"flagger {hook['name']}", shlex.split(line)
    for text in (FOLDER / "roll-back.sh").read_text().splitlines():
        if text.startswith("#   somactl"):
            yield "roll-back.sh", shlex.split(text[4:])


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_is_read_and_asks_for_what_can_be_shown(name: str) -> None:
    found = spec(name)
    assert found.criteria.invariants is not None
    assert found.criteria.latency is not None
    assert found.window / found.interval >= 10
    for arm in found.arms.values():
        for metric in (arm.latency, arm.psd, arm.degraded):
            assert metric is None or "server" in METRICS[metric].sources


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_cluster_takes_the_manifest(name: str) -> None:
    assert [problems(each) for each in read(name)] == [[]] * len(read(name))


def test_what_a_cluster_would_not_take_is_seen() -> None:
    rollout, template = (of_kind("argo-rollouts.yaml", kind) for kind in ("Rollout", "AnalysisTemplate"))
    canary = of_kind("flagger.yaml", "Canary")
    for manifest, path, value in (
        (rollout, ("strategy", "canary", "steps", 0, "setWeigth"), 5),
        (rollout, ("strategy", "canary", "steps", 0, "pause"), {}),
        (template, ("metrics", 0, "provider", "job", "spec", "backofLimit"), 1),
        (template, ("metrics", 0, "failureLimits"), 1),
        (canary, ("analysis", "webhooks", 0, "type"), "post"),
        (canary, ("analysis", "interval"), "1 minute"),
    ):
        broken = copy.deepcopy(manifest)
        place: Any = broken["spec"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert problems(manifest) == []
        assert problems(broken) != [], path


@pytest.mark.parametrize(("name", "words"), list(commands()))
def test_a_command_that_a_manifest_runs_is_one(name: str, words: list[str]) -> None:
    assert words[:2] == ["somactl", "canary-check"]
    assert asked(words).window > 0


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_no_rights_that_it_does_not_need(name: str) -> None:
    pod = PODS[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"].keys() == {"requests", "limits"}
        assert not container["image"].endswith(":latest")
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts <= {volume["name"] for volume in pod["volumes"]}


def asked(words: list[str]) -> Spec:
    """The spec that a command names, with its flags."""
    found = parsed(words[1:])
    assert found is not None, words
    options = dict(found.options)
    flags = {flag_of(path)[2:].replace("-", "_"): path for path in FIELDS}
    given = {path: options[name] for name, path in flags.items() if name in options}
    return spec(Path(options["spec"]).name, given)


@pytest.mark.parametrize("name", PODS)
def test_what_a_pod_is_told_it_finds(name: str) -> None:
    (container,) = PODS[name]["containers"]
    named = {
        each.removeprefix("env:")
        for place, words in commands()
        if place.startswith(name)
        for arm in asked(words).arms.values()
        for each in (arm.store, arm.cache)
        if each and each.startswith("env:")
    }
    settings = {*VARIABLES, *(setting.variable for setting in SETTINGS.values())}
    assert {each["name"] for each in container["env"]} - settings == named
    mounted = tuple(mount["mountPath"] + "/" for mount in container["volumeMounts"])
    texts = [*container.get("args", []), *(each.get("value", "") for each in container["env"])]
    if name == "flagger":
        texts += [word for hook in WEBHOOKS for word in hook["metadata"]["cmd"].split()]
    paths = [each for text in texts for each in re.findall(r"(?:^|=)(/[\w./-]+)", text)]
    assert paths
    assert [path for path in paths if not path.startswith(mounted)] == []


def test_a_job_of_argo_is_tried_again_after_a_hold_alone() -> None:
    job, codes = JOBS["argo"], JOBS["argo"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert 3 in codes
    assert not set(codes) & {0, *RETRIED}
    (window,) = [arg for arg in PODS["argo"]["containers"][0]["args"] if arg.startswith("--window=")]
    seconds = spec("widen.yaml", {"window": window.partition("=")[2]}).window
    assert (job["backoffLimit"] + 1) * seconds < job["activeDeadlineSeconds"]


def test_each_step_of_argo_is_judged_with_the_hashes_of_both_arms() -> None:
    template, rollout = (of_kind("argo-rollouts.yaml", kind) for kind in ("AnalysisTemplate", "Rollout"))
    steps = rollout["spec"]["strategy"]["canary"]["steps"]
    assert [step.get("setWeight") for step in steps] == [1, None, 10, None, 50, None]
    names = {each["name"] for each in template["spec"]["args"]}
    for step in steps[1::2]:
        assert step["analysis"]["templates"] == [{"templateName": template["metadata"]["name"]}]
        assert {each["name"] for each in step["analysis"]["args"]} == names
    used = set(re.findall(r"{{args\.([\w-]+)}}", " ".join(PODS["argo"]["containers"][0]["args"])))
    assert used == names


def test_flagger_asks_the_service_of_the_load_tester() -> None:
    service, deployment = (of_kind("flagger.yaml", kind) for kind in ("Service", "Deployment"))
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert {hook["url"] for hook in WEBHOOKS} == {f"http://{service['metadata']['name']}/"}
    assert [hook["type"] for hook in WEBHOOKS] == ["pre-rollout", "rollback", "confirm-promotion"]
    assert {hook["metadata"]["type"] for hook in WEBHOOKS} == {"bash"}


@pytest.mark.parametrize(
    ("code", "promotes", "rolls_back"),
    [(0, True, False), (3, False, True), (4, False, False), (5, False, False), (13, False, False)],
)
def test_flagger_promotes_on_a_pass_alone_and_rolls_back_on_a_fail_alone(
    tmp_path: Path, code: int, promotes: bool, rolls_back: bool
) -> None:
    """The lines of the webhooks, with a somactl that ends with this code."""
    (tmp_path / "somactl").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "somactl").chmod(0o755)
    lines = {hook["type"]: hook["metadata"]["cmd"] for hook in WEBHOOKS}
    for kind, succeeds in (("confirm-promotion", promotes), ("rollback", rolls_back)):
        done = subprocess.run(
            ["bash", "-c", lines[kind]], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=60
        )
        assert (done.returncode == 0) is succeeds


def test_the_table_of_the_readme_has_every_file() -> None:
    told = set(re.findall(r"\]\(([\w.-]+)\)", (FOLDER / "README.md").read_text()))
    assert {path.name for path in FOLDER.iterdir()} - {"README.md"} <= told
