"""docs/CANARY.md and RUNBOOKS/CANARY.md tell all that a verdict may say, and name what the command has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from somactl.cli.app import build
from somactl.cli.canary import flag_of
from somactl.core.canary_samples import Trouble
from somactl.core.canary_spec import FIELDS
from somactl.core.canary_verdict import CODES, Why
from somactl.operations.canary.run import KEEP_SECONDS
from somactl.report import EXIT_CODES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/CANARY.md").read_text(encoding="utf-8")
RUNBOOK = (ROOT / "RUNBOOKS/CANARY.md").read_text(encoding="utf-8")
README = (ROOT / "examples/canary/README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.source


def section(page: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert found is not None, title
    return found[1]


def rows(text: str) -> set[str]:
    """The words in code in the first column of tables."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def test_the_runbook_has_a_row_for_each_reason() -> None:
    failing, holding = rows(section(RUNBOOK, "FAIL")), rows(section(RUNBOOK, "Hold"))
    assert failing == {"violated", "above", "worse"}
    assert failing | holding == {*get_args(Why), *get_args(Trouble)} - {"shown"}


def test_the_document_has_a_row_for_each_reason_of_a_hold() -> None:
    told = rows(section(PAGE, "How to read a hold"))
    assert told - {"why"} == {*get_args(Why)} - {"shown", "violated", "above", "worse"}


def test_the_codes_of_verdicts_are_told_alike() -> None:
    for outcome, code in CODES.items():
        assert f"| `{outcome}` | {code} |" in PAGE
        assert re.search(rf"^\| {outcome} \| {code} \|", README, re.M)
        assert code in EXIT_CODES
    assert "FAIL (3)" in RUNBOOK
    assert "INCONCLUSIVE (4) and INSUFFICIENT (5)" in RUNBOOK


def test_every_flag_that_is_no_field_of_the_spec_is_told() -> None:
    group: Any = build()
    flags = {
        option
        for each in group.commands["canary-check"].params
        for option in each.opts
        if option.startswith("--")
    }
    fields = {flag_of(path) for path in FIELDS}
    assert fields <= flags
    common = {"--store", "--cache", "--output", "--config", "--quiet", "--help"}
    pushing = {"--gateway", "--job", "--spool", "--textfile", "--ping"}
    assert sorted(flag for flag in flags - fields - common - pushing if flag not in PAGE) == []


def test_every_flag_that_is_told_exists() -> None:
    group: Any = build()
    flags = {option for each in group.commands["canary-check"].params for option in each.opts}
    named = set(re.findall(r"`(--[a-z-]+)", section(PAGE, "How to run it")))
    assert named
    assert named <= flags


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"keeps what it saw every {KEEP_SECONDS:g} s" in PAGE
