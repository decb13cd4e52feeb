"""What is told of a migration while it runs."""

from __future__ import annotations

import json
import re

import pytest

from somactl.cli import output
from somactl.cli.command import Session
from somactl.cli.migration import MigrationWatcher
from somactl.cli.output import Output
from somactl.config import Settings
from somactl.legacy.journal import Original
from somactl.legacy.request import MigrationProgress
from somactl.report import MigrationRow, Move


def session(mode: str) -> Session:
    return Session(Settings(), Output(mode))


def row(key: str, outcome: str, moves: tuple[Move, ...] = ()) -> MigrationRow:
    return MigrationRow(key=key, outcome=outcome, moves=list(moves))  # type: ignore[arg-type]


def test_rows_are_lines_when_they_come(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    told = MigrationWatcher(session("ndjson"))
    told(MigrationProgress(2, "values", 9, rows=[row("a", "rejected"), row("b", "migrate")]))
    assert json.loads(capfdbinary.readouterr().out)["key"] == "a"
    told(
        MigrationProgress(
            5,
            "values",
            9,
            rows=[row("c", "conflict"), row("d", "migrate", (Move(method="clamp", distance=0.1),))],
        )
    )
    assert [json.loads(line)["key"] for line in capfdbinary.readouterr().out.splitlines()] == ["c", "d"]


def test_rows_are_no_lines_in_any_other_mode(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for mode in ("table", "json"):
        MigrationWatcher(session(mode))(MigrationProgress(2, "values", 9, rows=[row("a", "rejected")]))
        assert capfdbinary.readouterr().out == b""


def test_an_original_is_text_or_base64_where_it_is_none(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    for data in (b'[[1, "\xc3\xa9"]]', b"\xff\x00"):
        MigrationWatcher(session("ndjson")).left(Original(b"k".hex(), data, None))
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert lines == [{"key": "k", "original": '[[1, "é"]]'}, {"key": "k", "original_base64": "/wA="}]


def test_each_step_is_told_where_stderr_is_no_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "LOG_SECONDS", 0.0)
    told = MigrationWatcher(session("table"))
    for what in ("values compared with the plan", "values", "batches finalized", "batches taken back"):
        told(MigrationProgress(1, what, 3))
        told(MigrationProgress(2, what, 3, 5))
    told(MigrationProgress(7, "values put back"))
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "1 of 3 values compared with the plan (33 %)"
    assert re.fullmatch(r"2 of 3 values compared with the plan \(66 %\), 5 B, \d+/s, 0 s left", lines[1])
    assert [line.split(",")[0] for line in lines[2::2]] == [
        "1 of 3 values (33 %)",
        "1 of 3 batches finalized (33 %)",
        "1 of 3 batches taken back (33 %)",
        "7 values put back",
    ]


def test_the_slowest_value_is_told_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    told = MigrationWatcher(session("table"))
    told(MigrationProgress(1, "values", 2, slowest=("a", 0.5)))
    told(MigrationProgress(2, "values", 2, slowest=("b", 0.25)))
    assert capfd.readouterr().err == "slowest to examine: a, 500.0 ms\n"
