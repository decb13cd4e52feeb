"""`somactl config`, and settings as an operator gives them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cli.conftest import Shell

SECRET = "hunter2hunter2"
CASES = {
    "keyword-dsn": f"host=db.example user=app password={SECRET} dbname=soma",
    "stackexchange": f"10.0.0.5:6380,password={SECRET},ssl=True,abortConnect=False",
    "port-65536": "postgresql://app@127.0.0.1:65536/soma",
}


def rows(report: Any) -> dict[str, Any]:
    return {row["name"]: row for row in report["settings"]}


def test_it_shows_values_and_where_they_come_from_without_secrets(shell: Shell) -> None:
    shell.write("c.yaml", f"store: postgresql://me:{SECRET}@h/d\nretry_seconds: 9\n")
    env = {"SOMACTL_CONFIG": "c.yaml", "SOMACTL_NAMESPACE": "v"}
    text = shell.ok("config", "-n", "mine", env=env)
    for line in (
        ["store", "postgresql://me@h/d", "store", "in", "c.yaml"],
        ["namespace", "mine", "--namespace", "(not", "SOMACTL_NAMESPACE)"],
        ["retry_seconds", "9", "retry_seconds", "in", "c.yaml"],
        ["config", "c.yaml", "SOMACTL_CONFIG"],
        ["cache", "none", "the", "default"],
    ):
        assert line in [row.split() for row in text.text.splitlines()]
    report = shell.ok("config", "-o", "json", env=env).json
    assert rows(report)["namespace"]["origin"] == "environment"
    (line,) = shell.ok("config", "-o", "ndjson", env=env).lines
    assert line["command"] == "config"
    assert SECRET not in text.text + json.dumps(report)
    schema = Path(__file__).parents[2] / "schemas" / "report.config.json"
    if schema.exists():
        jsonschema.validate(report, json.loads(schema.read_text()))


def test_it_works_with_a_broken_configuration_and_says_what_is_broken(shell: Shell) -> None:
    shell.write("c.toml", "namespace = \n")
    env = {"SOMACTL_STORE": f"redis:{SECRET}@h", "SOMACTL_PSD_TOLERANCE": "much"}
    result = shell("config", "--config", "c.toml", "-o", "json", env=env)
    assert result.code == 10
    found = rows(result.json)
    assert {name for name, row in found.items() if row["error"]} == {"store", "psd_tolerance", "config"}
    assert found["store"]["value"] is None
    assert found["cache"]["value"] == ""
    assert len(result.json["problems"]) == 3
    assert SECRET not in result.text + result.err


def test_it_knows_which_stores_have_a_cache(shell: Shell) -> None:
    result = shell("config", env={"SOMACTL_STORE": "redis://h", "SOMACTL_CACHE": "redis://g"})
    assert (result.code, "needs no Redis cache" in result.text) == (10, True)


@pytest.mark.parametrize("name", ["SOMACTL_STORE", "SOMACTL_CACHE", "POSTGRES_URL", "REDIS_URL"])
@pytest.mark.parametrize("case", CASES)
def test_what_once_was_printed_or_a_bug(shell: Shell, name: str, case: str) -> None:
    result = shell("doctor", env={name: CASES[case]})
    assert (result.code, "Traceback" in result.err, SECRET in result.err) == (10, False, False)
    assert "://" in result.err  # how such a URL would look
    result = shell("migrate-json", "env:OLD", "--dry-run", env={"OLD": CASES[case]})
    assert (result.code, SECRET in result.err) == (10, False)


@pytest.mark.source
@pytest.mark.parametrize("format_", ["toml", "yaml"])
def test_the_page_s_examples_are_configurations(shell: Shell, format_: str) -> None:
    page = (Path(__file__).parents[2] / "docs/CONFIGURATION.md").read_text(encoding="utf-8")
    (example,) = re.findall(rf"```{format_}\n(.*?)```", page, re.DOTALL)
    shell.write(f"c.{format_}", example)
    found = rows(shell.ok("config", "--config", f"c.{format_}", "-o", "json").json)
    assert found["store"]["value"] == "postgresql://soma@db.example/soma"
    assert found["store"]["origin"] == "file"
