"""events ls, status, enable, disable: what is published, what waits, and what is said of what was dropped."""

from __future__ import annotations

import pytest

from somactl.store.sqlite import SqliteStore
from tests.cli.conftest import Shell, density


@pytest.fixture
def filled(shell: Shell) -> Shell:
    """Four commits, whose records are past their time."""
    for number in range(4):
        shell.commit("a", density(2 + number))
    shell.ok("init", "--keep-records-days", "0")
    return shell


def status(shell: Shell, code: int = 0) -> dict[str, object]:
    result = shell("events", "status", "-o", "json")
    assert result.code == code, result.err
    told: dict[str, object] = result.json
    return told


async def mark(shell: Shell, version: int) -> None:
    store = SqliteStore(shell.folder / "somactl.db")
    await store.mark_published(version)
    await store.close()


def test_events_are_listed_page_by_page(filled: Shell) -> None:
    first = filled.ok("events", "ls", "--limit", "3", "-o", "json").json
    assert [event["version"] for event in first["events"]] == [1, 2, 3]
    assert (first["head"], first["after"], first["events"][0]["psd"]) == (4, 3, "valid")
    rest = filled.line(f"{first['next']} -o json")
    assert rest.returncode == 0, rest.stderr
    table = filled.ok("events", "ls", "--after", "3").text
    assert table.splitlines()[0].startswith("VERSION  WHEN (UTC)")
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["4"]
    assert filled("events", "ls", "--after", "5").code == 12


async def test_what_waits_is_kept_and_what_is_dropped_is_said(filled: Shell) -> None:
    assert (status(filled)["publishing"], status(filled)["backlog"]) == (False, 0)
    done = filled.ok("events", "enable", "--keep", "2", "-o", "json").json
    assert (done["backlog"], done["undo"]) == (4, "somactl events disable")
    await mark(filled, 1)
    dry = filled.ok("compact", "--dry-run", "-o", "json").json
    assert (dry["events"], dry["dropped"]) == (2, 1)
    compacted = filled.ok("compact", "--yes", "-o", "json").json
    assert (compacted["events"], compacted["dropped"]) == (2, 1)
    assert "1 events were dropped unpublished" in compacted["warnings"][0]
    told = status(filled, 4)
    assert (told["published"], told["backlog"], told["dropped"], told["keep"]) == (1, 2, 1, 2)
    assert told["oldest_at"] is not None
    findings = filled.ok("doctor", "-o", "json").json["findings"]
    assert [f["status"] for f in findings if f["check"] == "events"] == ["warning"]
    listed = filled.ok("events", "ls", "--after", "1", "-o", "json").json
    assert (listed["gone"], [event["version"] for event in listed["events"]]) == ([2, 2], [3, 4])
    assert filled.ok("events", "enable", "-o", "json").json["keep"] == 2  # as it was
    assert status(filled)["dropped"] == 0


def test_where_it_is_off_age_alone_removes_events(filled: Shell) -> None:
    filled.ok("events", "enable")
    undo = filled.ok("events", "disable", "-o", "json").json["undo"]
    assert undo == "somactl events enable --keep 100000"
    compacted = filled.ok("compact", "--yes", "-o", "json").json
    assert (compacted["events"], compacted["dropped"], compacted["warnings"]) == (4, 0, [])
    assert not [f for f in filled.ok("doctor", "-o", "json").json["findings"] if f["check"] == "events"]


def test_a_namespace_that_is_not_there_is_not_made(shell: Shell) -> None:
    for verb in ("ls", "status", "enable", "disable"):
        assert shell("events", verb).code == 15
    assert not (shell.folder / "somactl.db").exists()
