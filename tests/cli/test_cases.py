"""Inputs that once failed, each for a kind: `tests/data/cases`, after public bug reports of other tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Shell, density

CASES = Path(__file__).parents[1] / "data" / "cases"
REJECTED = ["--dry-run"], 3, {"rejected": 1}
MIGRATED = ["--kind", "matrix", "--dry-run"], 0, {"migrate": 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nan-first.json", REJECTED),
        ("leading-dot.json", REJECTED),
        ("nan-first-in-string.json", REJECTED),
        ("numpy2-repr.json", REJECTED),
        ("complex-as-strings.json", REJECTED),
        ("nan-first-nested.json", (["--discover", "--dry-run"], 3, {"rejected": 1})),
        ("bom.json", (["--dry-run"], 0, {"migrate": 1})),
        ("bom-object.json", (["--discover", "--dry-run"], 0, {"migrate": 1})),
        ("jsonb-1e20.json", MIGRATED),
    ],
)
def test_a_legacy_value(shell: Shell, name: str, expected: tuple[list[str], int, dict[str, int]]) -> None:
    words, code, counts = expected
    result = shell("migrate-json", str(CASES / name), *words, "--output", "ndjson")
    *rows, report = result.lines
    found = {outcome: share["count"] for outcome, share in report["outcomes"].items()}
    assert (result.code, found) == (code, counts), result.err
    for row in rows:
        assert "number" in row["why"] or "JSON" in row["why"], row["why"]


@pytest.mark.parametrize(
    "name", ["py2-long-shape.npy", "py2-long-shape-fortran.npy", "descr-f8-native.npy", "bom.json"]
)
def test_a_file_is_read(shell: Shell, name: str) -> None:
    assert shell.ok("verify-psd", "--file", str(CASES / name), "-o", "json").json["valid"] == 1


def test_a_duplicate_member_deletes_nothing(shell: Shell) -> None:
    shell.commit("a", density(2))
    result = shell("commit", "-o", "json", stdin=(CASES / "duplicate-member.ndjson").read_bytes())
    assert result.code == 11
    assert "line 1: has the member 'value' twice" in result.error["message"]
    assert shell.ok("show", "a", "-o", "json").json["key"]["version"] == 1


@pytest.mark.parametrize(
    "line",
    [
        b'{"key":"a","key":"a","value":null}',
        b'{"key":"a","key":"b","value":null}',
        b'{"key":"b","value":null,"key":"a"}',
        b'{"value":null,"value":[[1]],"key":"a"}',
        b'{"key":"a","value":null,"value":null}',
        b'{"key":"a","v\\u0061lue":[[1]],"value":null}',
        b'{"key":"a","value":null,"more":1}',
    ],
)
def test_a_line_says_one_thing(shell: Shell, line: bytes) -> None:
    shell.commit("a", density(2))
    assert shell("commit", stdin=line).code == 11
    assert shell.ok("show", "a", "-o", "json").json["key"]["version"] == 1
