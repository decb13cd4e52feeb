"""The `undo:` and `next:` lines of reports do what they say when pasted, whatever the key and place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import density
from tests.suggested.stage import KEY, Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def pasted(stage: Stage, line: str | None) -> str:
    """What a suggested line prints; it must succeed."""
    assert line is not None
    done = stage.line(line, {})
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def content(stage: Stage) -> object:
    """The digest of the key's live value, None where there is none."""
    keys = stage.ok("-o", "json", "ls").json["keys"]
    return next((view["content"] for view in keys if view["key"] == KEY), None)


def test_each_change_is_undone_by_its_line(stage: Stage) -> None:
    first = stage.put(seed=1)
    before = content(stage)
    stage.save("2.npy", density(4, seed=2))
    stage.write("the order", f"{KEY}\n")
    changes = [
        ("commit", "--commit-id", "-night:7", "--", f"{KEY}=2.npy"),
        ("rm", "--", KEY),
        ("prune", "--order-file", "the order", "--order-id", "-order:7"),
    ]
    for words in changes:
        report = stage.ok("-o", "json", *words).json
        assert content(stage) != before
        pasted(stage, report["undo"])
        assert content(stage) == before
    pasted(
        stage, first["undo"].replace("restore", "status").replace("--commit ", "").replace("--commit=", "")
    )


def test_the_line_of_a_table_is_that_of_the_report(stage: Stage) -> None:
    stage.put(seed=1)
    printed = stage.ok("rm", "--", KEY).text.splitlines()
    (undo,) = [line.removeprefix("undo: ") for line in printed if line.startswith("undo: ")]
    pasted(stage, undo)
    assert content(stage) is not None


def test_dry_runs_name_the_command_that_does_it(stage: Stage) -> None:
    for seed in range(3):
        stage.put(seed=seed)
    stage.write("the order", f"{KEY}\n")
    stage.ok("init", "--keep-versions", "1", "--keep-days", "0")
    for words in (
        ("commit", "--dry-run", "--metadata", "it's=a label", "--", f"{KEY}=1.npy"),
        ("restore", "--dry-run", "--version", "1", "--metadata", "a=b", "--", KEY),
        ("compact", "--dry-run"),
        ("rm", "--dry-run", "--", KEY),
    ):
        result = stage("-o", "json", *words)
        if result.code == 0:
            pasted(stage, result.json["next"])
    assert content(stage) is None
    stage.put(seed=1)
    dry = stage.ok("-o", "json", "prune", "--order-file", "the order", "--grace", "0", "--dry-run").json
    pasted(stage, dry["next"])
    assert content(stage) is None


def test_an_audit_with_findings_names_its_page(stage: Stage) -> None:
    stage.put(seed=1)
    stage.execute("UPDATE payload SET data = zeroblob(length(data))")
    found = stage("-o", "json", "verify-psd", "--all")
    assert found.code == 3
    page = pasted(stage, found.json["next"])
    assert page.startswith("# A stored value is corrupt")
    assert "--store 'sqlite:///my store.db'" in page


def test_a_migration_goes_from_line_to_line_and_back(stage: Stage) -> None:
    stage.write("old file.json", "[[0.5, 0.0], [0.0, 0.5]]")
    before = (stage.folder / "old file.json").read_bytes()
    words = ("migrate-json", "--dry-run", "--plan-file", "the plan", "--", f"{KEY}=old file.json")
    report = stage.ok("-o", "json", *words).json
    copied = pasted(stage, report["next"]).splitlines()
    lines = dict(line.split(": ", 1) for line in copied if line.startswith(("undo: ", "next: ")))
    pasted(stage, f"{lines['next']} --yes" if "finalize" in lines["next"] else lines["next"])
    assert not (stage.folder / "old file.json").exists()  # all of it was the matrix
    pasted(stage, f"{lines['undo']} --yes")
    assert (stage.folder / "old file.json").read_bytes() == before


def test_an_unseen_commit_is_settled_by_its_line(stage: Stage) -> None:
    stage.put()
    unseen = stage("-o", "json", "status", "--", "-late:7").json
    done = stage.line(unseen["next"], {})
    assert done.returncode == 15
    assert "aborted" in done.stdout
