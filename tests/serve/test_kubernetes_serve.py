"""`examples/kubernetes/serve*.yaml`: what Kubernetes takes, and no more rights than are needed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from somactl.config import SETTINGS, VARIABLES
from support.kubernetes import problems

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples/kubernetes"

pytestmark = pytest.mark.source

Manifest = dict[str, Any]


def read(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


PLAIN = {each["kind"]: each for each in read("serve.yaml")}


def patched(value: Any, patch: Any) -> Any:
    """As `kubectl patch` does it strategically: lists of containers, volumes and mounts go by their keys."""
    if isinstance(patch, dict):
        merged = copy.deepcopy(value) if isinstance(value, dict) else {}
        for name, each in patch.items():
            if each is None:
                merged.pop(name, None)
            else:
                merged[name] = patched(merged.get(name), each)
        return merged
    if isinstance(patch, list) and patch and isinstance(patch[0], dict):
        key = "mountPath" if "mountPath" in patch[0] else "name"
        merged_list = {each[key]: each for each in value or []}
        for each in patch:
            assert each[key] in merged_list, f"{each[key]} is nothing that can be patched"
            if each.get("$patch") == "delete":
                del merged_list[each[key]]
            else:
                merged_list[each[key]] = patched(merged_list[each[key]], each)
        return list(merged_list.values())
    return patch


(PATCH,) = read("serve-grpc-probes.yaml")
DEPLOYMENTS = {"tls": PLAIN["Deployment"], "grpc": patched(PLAIN["Deployment"], PATCH)}
both = pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)


def pod(deployment: Manifest) -> Manifest:
    found: Manifest = deployment["spec"]["template"]["spec"]
    return found


def container(deployment: Manifest) -> Manifest:
    (found,) = pod(deployment)["containers"]
    return dict(found)


def arguments(deployment: Manifest) -> dict[str, str]:
    """The flags of `somactl serve`, with what they are given."""
    command, *flags = container(deployment)["args"]
    assert command == "serve"
    return {flag.partition("=")[0]: flag.partition("=")[2] for flag in flags}


def seconds(text: str) -> float:
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def test_the_oldest_kubernetes_takes_all_of_it() -> None:
    assert list(PLAIN) == ["Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"]
    assert [problems(each) for each in (*PLAIN.values(), *DEPLOYMENTS.values())] == [[]] * 6


def test_what_it_would_not_take_is_seen() -> None:
    broken = copy.deepcopy(PLAIN["Deployment"])
    container(broken)["livenessProbe"]["httpget"] = {}
    container(broken)["readinessProbe"]["periodSeconds"] = "2"
    del broken["spec"]["selector"]
    where = "Deployment.spec.template.spec.containers[0]"
    assert sorted(problems(broken)) == [
        "Deployment.spec lacks selector",
        f"{where}.livenessProbe has no field httpget",
        f"{where}.readinessProbe.periodSeconds is '2', no int",
    ]


@both
def test_a_pod_has_no_rights_that_it_does_not_need(deployment: Manifest) -> None:
    spec, only = pod(deployment), container(deployment)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert only["resources"]["requests"].keys() == {"cpu", "memory"}
    assert only["resources"]["limits"].keys() == {"memory"}
    assert not only["image"].endswith(":latest")


@both
def test_secrets_come_as_files_that_others_cannot_read(deployment: Manifest) -> None:
    spec, only = pod(deployment), container(deployment)
    assert {mount["name"] for mount in only["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert all(mount["readOnly"] for mount in only["volumeMounts"])
    assert all(volume["secret"]["defaultMode"] & 0o007 == 0 for volume in spec["volumes"])
    named = [*arguments(deployment).values(), *(each["value"] for each in only["env"])]
    mounted = tuple(mount["mountPath"] + "/" for mount in only["volumeMounts"])
    paths = [each for each in named if each.startswith("/")]
    assert paths
    assert all(path.startswith(mounted) for path in paths)
    known = {*VARIABLES, *(setting.variable for setting in SETTINGS.values())}
    assert {each["name"] for each in only["env"]} <= known


@both
def test_probes_ask_for_life_and_readiness_and_never_restart_for_a_matrix(deployment: Manifest) -> None:
    only = container(deployment)
    ports = {port["name"]: port["containerPort"] for port in only["ports"]}
    tls = "--tls-cert" in arguments(deployment)
    assert tls is not ("--allow-plaintext" in arguments(deployment))
    for name, path in (
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ):
        probe = only[name]
        if "grpc" in probe:
            assert not tls, "the kubelet speaks gRPC in plain text alone"
            assert probe["grpc"]["port"] == ports["grpc"]
            continue
        asked = probe["httpGet"]
        assert (asked["path"], asked["port"]) == (path, "http")
        assert asked["scheme"] == ("HTTPS" if tls else "HTTP")
    assert ("grpc" in only["readinessProbe"]) is not tls
    told = deployment["spec"]["template"]["metadata"]["annotations"]
    assert told["prometheus.io/scheme"] == ("https" if tls else "http")
    assert int(told["prometheus.io/port"]) == ports["http"]
    for flag, port in (("--http", "http"), ("--grpc", "grpc")):
        assert arguments(deployment)[flag] == f"0.0.0.0:{ports[port]}"


@both
def test_a_pod_that_drains_is_given_the_time(deployment: Manifest) -> None:
    given = arguments(deployment)
    assert seconds(given["--grace"]) < pod(deployment)["terminationGracePeriodSeconds"]
    assert seconds(given["--interval"]) < seconds(given["--stale-after"]) < seconds(given["--dead-after"])


@both
def test_every_selector_finds_the_pods(deployment: Manifest) -> None:
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        PLAIN["Service"]["spec"]["selector"],
        PLAIN["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        PLAIN["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector == labels for selector in selectors)
    assert PLAIN["PodDisruptionBudget"]["spec"]["minAvailable"] < deployment["spec"]["replicas"]
    names = {port["name"] for port in container(deployment)["ports"]}
    assert {port["targetPort"] for port in PLAIN["Service"]["spec"]["ports"]} == names
    policy = PLAIN["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == names
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 5432, 6379}
