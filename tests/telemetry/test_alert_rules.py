"""`examples/prometheus`: each alert fires when it must, says what to do, and reaches an operator."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from somactl.cli.pages import find, parsed
from support.queries import problems

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples/prometheus"
SUITES = sorted(FOLDER.glob("rules*_test.yml"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in RULES]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
AT_THE_GATEWAY = {"SomactlGatewayDown"}
"""Alerts that are of no namespace."""

pytestmark = pytest.mark.source
every_rule = pytest.mark.parametrize("rule", RULES, ids=NAMES)


def run(*words: str | Path) -> str:
    done = subprocess.run(words, cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_prometheus_takes_the_files() -> None:
    run("promtool", "check", "config", "prometheus.yml")


@pytest.mark.parametrize("suite", SUITES, ids=[path.stem for path in SUITES])
def test_the_rules_fire_when_they_must_and_no_others_do(suite: Path) -> None:
    run("promtool", "test", "rules", suite)


def test_each_rule_is_seen_to_fire() -> None:
    """That it stays silent is held by the same cases: they name all that fires."""
    cases = "".join(path.read_text() for path in SUITES)
    assert set(re.findall(r'labels: \'\{alertname="(\w+)"', cases)) == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


@every_rule
def test_a_rule_names_only_what_is_pushed(rule: dict[str, Any]) -> None:
    assert list(problems(rule["expr"])) == []


@every_rule
def test_an_alert_says_where_and_what_to_do_next(rule: dict[str, Any]) -> None:
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert rule["alert"] in AT_THE_GATEWAY or "$labels.namespace" in notes["summary"]
    if rule["alert"] not in AT_THE_GATEWAY:
        assert "$labels.namespace" in notes["description"]
        assert "$labels.job" in notes["description"]
    template = notes["description"].partition("Next: ")[2]
    command = re.sub(r"{{.*?}}", "1", re.sub(r"{{ (?:with .*?|end) }}", "", template))
    words = shlex.split(command)
    assert words[0] == "curl" or (words[0] == "somactl" and parsed(words[1:]) is not None), command


@every_rule
def test_the_page_of_an_alert_exists_and_names_it(rule: dict[str, Any]) -> None:
    url = rule["annotations"]["runbook_url"]
    path = ROOT / url.removeprefix(f"{SOURCE}/")
    assert path.parent == ROOT / "RUNBOOKS"
    assert f"`{rule['alert']}`" in path.read_text(encoding="utf-8")
    page = find(path.stem)
    assert page is not None
    assert page.name == f"RUNBOOKS/{path.name}"


def test_pages_and_documents_name_only_alerts_that_there_are() -> None:
    for path in [*ROOT.glob("RUNBOOKS/*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]:
        assert set(re.findall(r"\bSomactl[A-Z]\w+", path.read_text(encoding="utf-8"))) - {
            "SomactlError"
        } <= set(NAMES)


def test_alertmanager_takes_its_file() -> None:
    assert "SUCCESS" in run("amtool", "check-config", "alertmanager.yml")


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("severity=critical namespace=acme", "pager"),
        ("severity=critical", "pager"),
        ("severity=warning namespace=acme", "tickets"),
        ("severity=critical namespace=test-7", "tickets"),
        ("severity=critical namespace=contest-7", "pager"),
        ("severity=info namespace=acme", "nothing"),
        ("namespace=acme", "tickets"),
    ],
)
def test_alerts_reach_their_receiver(labels: str, receiver: str) -> None:
    config = "--config.file=alertmanager.yml"
    assert run("amtool", "config", "routes", "test", config, *labels.split()) == receiver


def test_what_silences_and_is_silenced_are_alerts_that_there_are() -> None:
    for rule in yaml.safe_load((FOLDER / "alertmanager.yml").read_text())["inhibit_rules"]:
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            for name in re.findall(r"Somactl\w+", matcher):
                assert name in NAMES


@pytest.mark.parametrize(
    "alert", ["SomactlInvariantViolated", "SomactlCacheContradicts", "SomactlCanaryFailed"]
)
def test_nothing_silences_what_was_found_wrong(alert: str) -> None:
    labels = {"alertname": alert, "namespace": "acme"}
    rules = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())["inhibit_rules"]
    assert [rule for rule in rules if all(_matches(each, labels) for each in rule["target_matchers"])] == []
    labels["alertname"] = "SomactlDegraded"
    assert [rule for rule in rules if all(_matches(each, labels) for each in rule["target_matchers"])]


def _matches(matcher: str, labels: dict[str, str]) -> bool:
    name, operator, pattern = matcher.split(maxsplit=2)
    value, pattern = labels.get(name, ""), pattern.strip('"')
    found = value == pattern if operator in ("=", "!=") else bool(re.fullmatch(pattern, value))
    return found != operator.startswith("!")
