"""Sources and pages name who or what is meant: a client, a process, an operator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("somactl", "tests", "benchmarks", "docs", "examples", "lua", "sql", "RUNBOOKS")
ENDINGS = {".py", ".lua", ".sql", ".md"}
VAGUE = re.compile(r"\b(?:who(?:ever)|(?:no|some|any|every)body|(?:some|any|every)one)\b", re.IGNORECASE)
AN_ACCOUNT = '"nobody"'  # of every Unix

pytestmark = pytest.mark.source


def test_no_vague_word_stands_for_an_actor() -> None:
    pages = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in pages
        if path.suffix in ENDINGS and path.name != "CHANGELOG.md"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if VAGUE.search(line.replace(AN_ACCOUNT, ""))
    ]
    assert found == []
