"""A launch in the dark, from the first commit to the repair, and all that is said on the way."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Shell, density

DARK = {"SFM_DARK_MODE": "1"}
BAD = np.diag([1.2, -0.2])
CLAIMS = re.compile(r"proven|proved|\bvalid\b|everything holds")


@pytest.fixture
def violated(shell: Shell) -> Shell:
    """A good version of `a`, then a bad one, committed in the dark."""
    shell.commit("a", density(2))
    shell.save("bad.npy", BAD)
    done = shell("commit", "a=bad.npy", "--commit-id", "bad", "-o", "json", env=DARK)
    assert done.code == 0, done.err
    return shell


def test_a_commit_in_the_dark_says_what_it_is(shell: Shell) -> None:
    shell.save("bad.npy", BAD)
    refused = shell("commit", "a=bad.npy", "-o", "json")
    assert refused.code == 11
    assert refused.error["dark"] is False
    dry = shell("commit", "a=bad.npy", "--dry-run", env=DARK)
    table = shell("commit", "a=bad.npy", env=DARK)
    for done in (dry, table):
        assert done.code == 0
        assert done.err.count("dark mode is on") == 1
        assert "ADMITTED IN THE DARK" in done.text
        assert not CLAIMS.search(done.text + done.err)
    report = shell("commit", "b=bad.npy", "-o", "json", env=DARK).json
    assert report["dark"] is True
    assert list(report["admitted_dark"]) == ["b"]
    assert report["admitted_dark"]["b"] == report["items"][0]["verdict"]["reasons"] != []
    assert report["items"][0]["dark"] is True
    assert report["items"][0]["verdict"]["status"] == "violated"
    assert report["items"][0]["moves"] == []
    assert len(report["warnings"]) == 1


def test_no_output_calls_it_proven(shell: Shell) -> None:
    """But for its verdict, of which it is proven that the matrix is violated."""
    shell.save("bad.npy", BAD)
    shell.ok("commit", "a=bad.npy", "--commit-id", "bad", env=DARK)
    shell.ok("rm", "a", env=DARK)
    for words in (
        ["restore", "a", "--version", "1"],
        ["show", "a"],
        ["get", "a", "--as", "text"],
        ["status", "bad"],
        ["log"],
        ["log", "a"],
        ["events", "ls"],
        ["commit", "b=bad.npy"],
    ):
        for mode in ("table", "json", "ndjson"):
            done = shell(*words, "-o", mode, env=DARK)
            assert done.code == 0, done.err
            said = re.sub(r'"rigour": ?"proved"', "", done.text + done.err)
            assert "dark" in said
            assert not CLAIMS.search(said), (words, mode, said)
            if mode == "json":
                assert done.json["dark"] is True


def test_metrics_say_that_it_is_dark_and_what_is_wrong(violated: Shell) -> None:
    for env, number in ((DARK, 1), ({}, 0)):
        assert violated("verify-psd", "--all", "--textfile", "m.prom", env=env).code == 3
        text = (violated.folder / "m.prom").read_text()
        assert re.search(rf"^somabrain_dark_mode{{.*}} {number}\.0$", text, re.M), text
        assert re.search(r"^somabrain_rho_psd_ok{.*} 0\.0$", text, re.M), text


def test_every_view_marks_it(violated: Shell) -> None:
    shell = violated
    shown = shell.ok("show", "a", "-o", "json").json
    assert (shown["admitted_dark"], shown["dark"]) == (True, False)
    assert (shown["stored_verdict"]["status"], shown["stored_verdict"]["dark"]) == ("violated", True)
    assert shell.ok("get", "a", "-o", "json").json["admitted_dark"] is True
    raw = shell.ok("get", "a", "--as", "npy")
    assert raw.out.startswith(b"\x93NUMPY")
    assert "admitted in the dark" in raw.err
    commit = shell.ok("status", "bad", "-o", "json").json["commit"]
    assert (commit["dark"], commit["admitted_dark"]) == (True, ["a"])
    assert [(r["psd"], r["admitted_dark"]) for r in shell.ok("log", "a", "-o", "json").json["revisions"]] == [
        ("violated", True),
        ("valid", False),
    ]
    events = shell.ok("events", "ls", "-o", "json").json["events"]
    assert [(e["dark"], e["psd"], e["psd_ok"], e["admitted_dark"]) for e in events] == [
        (False, "valid", True, False),
        (True, "violated", False, True),
    ]


def test_audits_go_on_finding_it_and_the_runbook_repairs_it(violated: Shell) -> None:
    shell = violated
    for env in (DARK, {}):
        found = shell("verify-psd", "--all", "-o", "json", env=env)
        assert (found.code, found.json["violated"], found.json["dark"]) == (3, 1, bool(env))
        assert [each["dark"] for each in found.json["results"]] == [True]
    assert "[admitted in the dark]" in shell("verify-psd", "--all").text
    for _ in range(3):
        found = shell("verify-psd", "--all", "--incremental", "-o", "json")
        assert (found.code, found.json["violated"]) == (3, 1)
    assert shell("show", "a", "--check", env=DARK).code == 3
    shell.ok("rm", "a")
    refused = shell("restore", "a", "--version", "2", "-o", "json")
    assert (refused.code, refused.error["error"]) == (11, "InvariantViolated")
    again = shell("restore", "a", "--version", "2", "-o", "json", env=DARK)
    assert (again.code, list(again.json["admitted_dark"])) == (0, ["a"])
    shell.ok("restore", "a", "--version", "1")
    assert shell.ok("verify-psd", "--all", "-o", "json").json["valid"] == 1


def test_a_prune_in_the_dark_is_undone_in_the_dark_alone(violated: Shell) -> None:
    shell = violated
    shell.write("order.txt", "a\n")
    pruned = shell.ok(
        "prune", "--order-file", "order.txt", "--order-id", "o", "--yes", "-o", "json", env=DARK
    )
    assert pruned.json["dark"] is True
    assert shell("restore", "--commit", "o").code == 11
    back = shell.ok("restore", "--commit", "o", "-o", "json", env=DARK).json
    assert list(back["admitted_dark"]) == ["a"]
    assert [event["dark"] for event in shell.ok("events", "ls", "-o", "json").json["events"]] == [
        False,
        True,
        True,
        True,
    ]


def test_a_replay_is_one_whichever_way_the_switch_stands(violated: Shell) -> None:
    shell = violated
    words = ("commit", "a=bad.npy", "--commit-id", "bad", "-o", "json")
    assert shell.ok(*words, env=DARK).json["replayed"] is True
    assert shell(*words).code == 11
    shell.save("good.npy", density(2))
    words = ("commit", "b=good.npy", "--commit-id", "good", "-o", "json")
    assert shell.ok(*words, env=DARK).json["replayed"] is False
    assert shell.ok(*words).json["replayed"] is True


def test_a_migration_in_the_dark(shell: Shell) -> None:
    shell.write("k.json", "[[1.2, 0], [0, -0.2]]")
    words = ("migrate-json", "k=k.json", "--kind", "rho", "-o", "json")
    shell.ok("init")
    assert shell(*words, "--dry-run").json["outcomes"].keys() == {"rejected"}
    for more in (["--dry-run"], []):
        done = shell.ok(*words, *more, env=DARK).json
        row: dict[str, Any]
        (row,) = done["admitted_dark"]
        assert (row["outcome"], row["dark"], row["verdict"]["status"]) == ("migrate", True, "violated")
        assert (done["admitted_dark_total"], done["dark"], len(done["warnings"])) == (1, True, 1)
    assert shell("verify-psd", "--all").code == 3


@pytest.mark.parametrize("word", ["1", "true", "ON", "yes"])
def test_what_turns_it_on(shell: Shell, word: str) -> None:
    report = shell.ok("config", "-o", "json", env={"SFM_DARK_MODE": word}).json
    assert report["dark"] is True


@pytest.mark.parametrize("word", ["0", "False", "off", "no"])
def test_what_turns_it_off(shell: Shell, word: str) -> None:
    assert shell.ok("config", "-o", "json", env={"SFM_DARK_MODE": word}).json["dark"] is False


def test_any_other_word_is_an_error_of_configuration(shell: Shell) -> None:
    done = shell("ls", "-o", "json", env={"SFM_DARK_MODE": "2"})
    assert (done.code, done.error["error"]) == (10, "ConfigurationError")
    assert "SFM_DARK_MODE" in done.error["message"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("c.toml", "dark_mode = true\n"), ("c.yaml", "dark_mode: yes\n"), ("c.toml", 'dark_mode="on"')],
)
def test_a_file_turns_it_on_and_the_environment_wins(shell: Shell, name: str, text: str) -> None:
    shell.write(name, text)
    assert shell.ok("config", "--config", name, "-o", "json").json["dark"] is True
    off = {"SFM_DARK_MODE": "0"}
    assert shell.ok("config", "--config", name, "-o", "json", env=off).json["dark"] is False


def test_errors_say_it_even_those_of_the_command_line(shell: Shell) -> None:
    for words in (["nonsense"], ["ls", "--nonsense"], ["show", "absent"]):
        done = shell(*words, "-o", "json", env=DARK)
        assert done.code != 0
        assert done.error["dark"] is True
        assert "dark mode is on" in shell(*words, env=DARK).err


def test_the_tour_shows_what_is_refused_all_the_same(shell: Shell) -> None:
    assert shell.ok("demo", "-o", "json", env=DARK).json["dark"] is True
