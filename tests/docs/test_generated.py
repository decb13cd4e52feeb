"""Generated pages follow from the code, and the runbooks are those that errors and alerts name."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from somactl import errors, report
from somactl.core.verdict import Tolerances, Verdict, Witness

ROOT = Path(__file__).resolve().parents[2]
CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.SomactlError)]

RULES = (ROOT / "examples/prometheus/rules.yml").read_text(encoding="utf-8")
PAGES_OF_ALERTS = set(re.findall(r"runbook_url: \S+/RUNBOOKS/([\w-]+)\.md", RULES))

pytestmark = pytest.mark.source


def test_generated_files_are_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_page_of_exit_codes_holds_every_error_with_its_facts() -> None:
    page = (ROOT / "docs/EXIT_CODES.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (yes|no) \| (?:\[([A-Za-z_-]+)\]\(\S+\))? \|", page, re.MULTILINE
    )
    facts = {(c.__name__, str(c.exit_code), "yes" if c.retryable else "no", c.runbook or "") for c in CLASSES}
    assert set(rows) == facts
    assert len(rows) == len(facts)


def test_every_code_of_an_error_stands_in_the_table() -> None:
    assert {c.exit_code for c in CLASSES} <= report.EXIT_CODES.keys()


def test_the_precedence_of_codes_is_the_documented_one() -> None:
    assert report.PRECEDENCE == (14, 1, 130, 143, 10, 2, 3, 13, 11, 12, 17, 16, 15, 4, 5, 0)
    page = (ROOT / "docs/EXIT_CODES.md").read_text(encoding="utf-8")
    assert ", ".join(map(str, report.PRECEDENCE)) in page


def test_runbooks_are_those_that_errors_and_alerts_name() -> None:
    pages = {path.stem for path in (ROOT / "RUNBOOKS").glob("*.md")} - {"README"}
    assert pages == {c.runbook for c in CLASSES if c.runbook} | PAGES_OF_ALERTS
    assert {page for page in pages if page.isupper()} <= PAGES_OF_ALERTS, (
        "these are named as alerts' pages are"
    )


def test_the_index_of_runbooks_lists_each_page_with_its_code() -> None:
    index = (ROOT / "RUNBOOKS/README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[([A-Za-z_-]+)\]\(\1\.md\) \| (\d+|any|-)", index, re.MULTILINE))
    named = {c.runbook: str(c.exit_code) for c in CLASSES if c.runbook}
    assert rows.keys() == named.keys() | PAGES_OF_ALERTS
    assert rows.items() >= named.items()


@pytest.mark.parametrize(
    "page",
    sorted(path.name for path in ROOT.glob("RUNBOOKS/*.md") if path.stem != "README"),
)
def test_a_runbook_answers_the_five_questions(page: str) -> None:
    text = (ROOT / "RUNBOOKS" / page).read_text(encoding="utf-8")
    for part in ("**What is true.**", "**How bad.**", "## Look", "## Do", "## Undo"):
        assert part in text, f"{page} lacks {part}"
    if page.removesuffix(".md").isupper():  # that of an alert
        assert "**What you see.**" in text
        assert "## Verify" in text


def _schema(name: str) -> Any:
    return json.loads((ROOT / "schemas" / f"report.{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("schemas/*.json")))
def test_schemas_are_schemas(name: str) -> None:
    schema = json.loads((ROOT / "schemas" / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)


def test_each_command_that_reports_has_a_schema() -> None:
    names = {str(cls.__struct_config__.tag) for cls in report.REPORTS} | {"error"}
    assert {path.name for path in (ROOT / "schemas").glob("report.*.json")} == {
        f"report.{n}.json" for n in names
    }


def test_a_report_with_a_witness_validates_and_a_wrong_one_does_not() -> None:
    verdict = Verdict(
        status="violated",
        rigour="proved",
        reasons=("lambda_min < -1e-8",),
        n=2,
        dtype="complex128",
        finite=True,
        square=True,
        psd_ok=False,
        trace_error=0.0,
        hermitian_error=0.0,
        lambda_min_lower=None,
        lambda_min_upper=-0.5,
        tolerances=Tolerances(),
        witness=Witness(value=-0.5, vector=((1.0, 0.0), (0.0, 0.5))),
    )
    whole = report.VerifyReport(
        method="certify",
        checked=1,
        violated=1,
        results=[report.Checked(source="k", outcome="violated", verdict=verdict)],
    ).finish(3)
    values = json.loads(msgspec.json.encode(whole))
    validator = jsonschema.Draft202012Validator(_schema("verify-psd"))
    validator.validate(values)
    for damage in ({"command": "ls"}, {"checked": "1"}, {"results": [{"source": "k"}]}, {"complete": None}):
        assert not validator.is_valid(values | damage), damage
