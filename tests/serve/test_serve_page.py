"""docs/SERVE.md tells all that the code answers, with the numbers that the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from somactl.cli.app import build
from somactl.cli.quantities import parse_duration
from somactl.operations.orders import MAX_RUNS
from somactl.report.health import (
    MAX_FINDINGS,
    Cause,
    HealthReport,
    NamespaceHealth,
    PastReason,
    ProverHealth,
    Reason,
    RhoHealth,
    ServiceHealth,
    WatchedKey,
)
from somactl.serve.codes import HTTP_STATUS
from somactl.serve.context import Limits, ServeOptions
from somactl.serve.doors import READS_AT_ONCE
from somactl.serve.log import BURST
from somactl.serve.model import MAX_WATCHED, WatchOptions
from somactl.serve.rest import MAX_WAIT_SECONDS, WAIT_SECONDS
from somactl.serve.state import _RUNBOOKS
from somactl.serve.supervisor import Pace
from somactl.serve.tokens import MAX_TOKEN, ROLES
from somactl.telemetry.catalogue import METRICS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/SERVE.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.source


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found is not None, title
    return found[1]


def code(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


@pytest.mark.parametrize(
    "model", [HealthReport, NamespaceHealth, RhoHealth, ServiceHealth, ProverHealth, PastReason, WatchedKey]
)
def test_every_field_of_the_answer_is_told(model: Any) -> None:
    told = code(section("The answer")) | code(section("Reasons"))
    assert {each.name for each in msgspec.structs.fields(model)} - told == set()


def test_every_reason_has_a_row_with_its_runbook() -> None:
    text = section("Reasons")
    assert {each.name for each in msgspec.structs.fields(Reason)} <= code(text)
    rows = {row.split("|")[1].strip(" `"): row for row in text.splitlines() if row.startswith("| `")}
    assert rows.keys() == set(get_args(Cause))
    for cause, page in _RUNBOOKS.items():
        assert f"(../{page})" in rows[cause]


def test_every_flag_is_told() -> None:
    group: Any = build()
    parameters = group.commands["serve"].params
    flags = {option for each in parameters for option in each.opts if option.startswith("--")}
    common = {"--store", "--cache", "--output", "--config", "--quiet", "--help"}
    assert [flag for flag in sorted(flags - common) if flag not in PAGE] == []


def test_the_times_are_the_defaults() -> None:
    (told,) = re.findall(r"`(--interval \S+ --stale-after \S+ --dead-after \S+)` is the default", PAGE)
    words = told.split()
    given = {flag: parse_duration(value, flag) for flag, value in zip(words[::2], words[1::2], strict=True)}
    options = WatchOptions()
    assert list(given.values()) == [options.interval, options.stale_after, options.dead_after]
    assert f"At most {MAX_WATCHED:,} keys a namespace" in PAGE
    pace = Pace()
    assert (pace.first_pause, pace.attempts, pace.given_up_pause, pace.nice) == (0.5, 6, 300.0, 15)
    assert "after half a second" in PAGE
    assert "after six failures in a row every 5 minutes" in PAGE


def test_the_limits_are_those_of_the_code() -> None:
    limits, text = Limits(), section("Limits")
    for told in (
        f"{limits.header_bytes >> 10} KiB, {limits.header_fields} fields",
        f"fields, whole within {limits.header_seconds:g} s",
        f"{limits.body_bytes >> 20} MiB (`--max-body`), whole within {limits.body_seconds:g} s",
        f"closed after {limits.idle_seconds:g} s; one whose client takes nothing of its answer "
        f"after {limits.write_seconds:g} s",
        f"| connections | {limits.connections} ",
        f"| requests under way | {limits.requests} ",
        f"| reads of values at once | {READS_AT_ONCE}; prune orders at once: {MAX_RUNS} |",
        f"| findings in an answer | {MAX_FINDINGS} |",
    ):
        assert told in text
    assert (
        f"(`--grace` ({ServeOptions().grace:g} s)" in PAGE
        or f"`--grace` ({ServeOptions().grace:g} s)" in PAGE
    )
    assert f"{WAIT_SECONDS:g} s, at most {MAX_WAIT_SECONDS:g}" in PAGE
    assert f"16 to {MAX_TOKEN} characters" in PAGE
    assert f"{BURST} lines of a kind in a second at most" in PAGE
    assert all(f"(role `{role}`)" in PAGE for role in ROLES)


def test_the_metrics_are_those_of_the_catalogue() -> None:
    named = {each for each in code(section("Metrics")) if each.startswith("somabrain_")}
    assert named
    assert named <= METRICS.keys()
    assert all("server" in METRICS[name].sources for name in named)


def test_every_status_of_an_error_is_told() -> None:
    told = {
        int(number)
        for row in re.findall(r"^\| ((?:\d{3}(?:, )?)+) \|", PAGE, re.M)
        for number in row.split(",")
    }
    assert set(HTTP_STATUS.values()) - {500} <= told
