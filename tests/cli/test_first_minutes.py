"""What a person meets in the first minutes: where flags may stand, typos, help, and what --quiet leaves."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from somactl.cli.app import COMMANDS, load, run
from somactl.cli.command import COMMON
from tests.cli.conftest import Shell, density, environment


@pytest.mark.parametrize("before", [["-o", "json"], ["-ojson"], ["--output=json"], ["-qo", "json"]])
def test_shared_options_may_stand_before_the_command(shell: Shell, before: list[str]) -> None:
    shell.commit("a", density(2), "--store", "sqlite:///s.db", "-n", "n")
    first = shell.ok("--store", "sqlite:///s.db", "-n", "n", *before, "ls")
    behind = shell.ok("ls", "--store", "sqlite:///s.db", "-n", "n", "-o", "json")
    assert first.json["keys"] == behind.json["keys"]
    assert first.json["total"] == 1


@pytest.mark.parametrize("before", [[], ["-q"], ["-o", "json"], ["--store", "sqlite:///s.db"]])
def test_the_version_needs_no_command(shell: Shell, before: list[str]) -> None:
    assert shell.ok(*before, "--version").text == shell.ok("--version").text


def test_what_stands_after_the_command_wins(shell: Shell) -> None:
    shell.commit("a", density(2))
    assert shell("-n", "other", "-o", "ndjson", "ls", "-n", "default", "-o", "json").json["total"] == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_shared_option_is_accepted_before_every_command(
    capfd: pytest.CaptureFixture[str], command: str
) -> None:
    given = [word for name in COMMON for word in ([f"--{name}"] if name == "quiet" else [f"--{name}", "x"])]
    assert run([*given, *command.split(), "--help"]) == 0
    assert "--output" in capfd.readouterr().out


def test_an_error_before_the_command_is_read_is_json_too(shell: Shell) -> None:
    for words in (["-ojson", "lss"], ["-qo", "json", "lss"], ["--output=json", "lss"], ["lss", "-o", "json"]):
        assert shell(*words).error["code"] == 2, words


def help_page(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(words) == 0
    return capfd.readouterr().out


@pytest.mark.parametrize("words", [[], *(name.split() for name in COMMANDS)])
def test_h_is_help(capfd: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert help_page(capfd, *words, "-h") == help_page(capfd, *words, "--help")


def test_it_runs_as_a_module_under_its_own_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "somactl", "ls", "-h"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: somactl ls" in done.stdout


@pytest.mark.parametrize(
    ("words", "meant", "page"),
    [
        (["comit"], "'commit'", ""),
        (["verify_psd"], "'verify-psd'", ""),
        (["ls", "--mach", "x"], "--match", "ls"),
        (["--stor", "x", "ls"], "--store", ""),
        (["commit", "--layot", "full"], "--layout", "commit"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(
    shell: Shell, words: list[str], meant: str, page: str
) -> None:
    result = shell(*words)
    assert result.code == 2
    assert f"Did you mean {meant}" in result.err
    tried = re.search(r"^try: somactl (.*)$", result.err, re.M)
    assert tried is not None
    assert tried[1] == f"{page} --help".strip()
    shell.ok(*tried[1].split())


def test_an_option_without_its_value_names_the_page_of_its_command(shell: Shell) -> None:
    assert "try: somactl show --help" in shell("show", "a", "--namespace").err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_defaults_as_a_person_would(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    text = help_page(capfd, *command.split(), "--help")
    assert not re.search(r"\[default|Default: *(''|\"\"|\(|None|\[\]|`|\.|\d+\.0\b(?!\.))", text), text


# What each command needs to succeed in a store that holds `a` twice.
QUIET = {
    "init": [],
    "commit": ["b=value.npy"],
    "restore": ["a"],
    "rm": ["a"],
    "prune": ["--order-file", "order.txt"],
    "compact": ["--yes"],
    "migrate-json": ["old.json"],
    "events enable": [],
    "events disable": [],
}


def test_the_table_of_quiet_commands_holds_all_that_change_something() -> None:
    follow_ups = {f"migration {verb}" for verb in ("finalize", "revert", "forget")}
    assert set(QUIET) | {"cache-warm"} | follow_ups == {name for name in COMMANDS if load(name).changes}


@pytest.mark.parametrize("command", QUIET)
def test_a_quiet_change_says_nothing_if_it_succeeds(shell: Shell, command: str) -> None:
    shell.commit("a", density(3, seed=1))
    shell.commit("a", density(3, seed=2))
    shell.write("old.json", "[[0.5, 0.0], [0.0, 0.5]]")
    shell.write("order.txt", "a")
    result = shell.ok(*command.split(), *QUIET[command], "--quiet")
    assert (result.out, result.err) == (b"", "")


@pytest.mark.parametrize("command", QUIET)
def test_in_a_json_mode_a_quiet_change_gives_its_report(shell: Shell, command: str) -> None:
    shell.commit("a", density(3, seed=1))
    shell.commit("a", density(3, seed=2))
    shell.write("old.json", "[[0.5, 0.0], [0.0, 0.5]]")
    shell.write("order.txt", "a")
    result = shell.ok(*command.split(), *QUIET[command], "--quiet", "--output", "json")
    assert command.startswith(result.json["command"])  # one report for what events are told and changed by
    assert result.err == ""


@pytest.mark.parametrize("words", [["ls"], ["log"], ["log", "a"], ["namespaces"]])
def test_a_quiet_listing_is_its_rows(shell: Shell, words: list[str]) -> None:
    shell.commit("a", density(3))
    loud, quiet = shell.ok(*words), shell.ok(*words, "-q")
    assert quiet.text.splitlines() == loud.text.splitlines()[1:]
    assert quiet.err == ""


def test_what_was_asked_for_stays_when_quiet(shell: Shell) -> None:
    shell.commit("a", density(3), "--commit-id", "one")
    assert shell.ok("get", "a", "-q").out == shell.ok("get", "a").out
    assert shell.ok("get", "a", "-q", "--to", "file").out == b""
    assert b"undo" not in shell.ok("status", "one", "-q").out
    assert shell.ok("verify-psd", "a", "-q").out == shell.ok("verify-psd", "a").out
    assert b"dry run" in shell.ok("rm", "a", "--dry-run", "-q").out


def test_quiet_hides_no_failure(shell: Shell) -> None:
    result = shell("commit", "a=missing.npy", "--quiet")
    assert (result.code, result.out) == (11, b"")
    assert "missing.npy" in result.err
    shell.write("old.json", "[[2.0, 0.0], [0.0, 0.5]]")
    rejected = shell("migrate-json", "old.json", "--kind", "rho", "--quiet")
    assert rejected.code == 3
    assert b"rejected" in rejected.out


def test_restore_alone_means_the_state_before_the_last_change(shell: Shell) -> None:
    first = shell.commit("a", density(3, seed=1))["items"][0]["content"]
    second = shell.commit("a", density(3, seed=2))["items"][0]["content"]
    shell.commit("b", density(3, seed=3))  # a commit that does not touch the key
    assert shell.ok("restore", "a", "-o", "json").json["items"][0]["content"] == first
    assert shell.ok("restore", "a", "-o", "json").json["items"][0]["content"] == second
    shell.ok("rm", "a")
    assert shell.ok("restore", "a", "-o", "json").json["items"][0]["content"] == second
    never = shell("restore", "b", "-o", "json")
    assert (never.code, never.error["error"]) == (15, "KeyNotFound")
    assert "somactl log b" in never.error["hint"]


def test_restore_alone_keeps_to_an_expectation(shell: Shell) -> None:
    shell.commit("a", density(3, seed=1))
    shell.commit("a", density(3, seed=2))
    assert shell("restore", "a", "--expect", "1").code == 12
    shell.ok("restore", "a", "--expect", "2")


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32", "complex64"])
def test_get_as_text_prints_every_digit(shell: Shell, dtype: str) -> None:
    rho = density(5, imaginary=dtype.startswith("c"))
    shell.commit("a", rho, "--dtype", dtype, "--on-clampable", "clamp")
    text = shell.ok("get", "a", "--as", "text").text
    shell.ok("get", "a", "--as", "npy", "--to", "a.npy")
    read = np.array([[np.dtype(dtype).type(cell) for cell in line.split()] for line in text.splitlines()])
    assert np.array_equal(read, np.load(shell.folder / "a.npy"))
    if dtype == "float64":
        assert np.array_equal(np.loadtxt(text.splitlines()), rho)


@pytest.mark.parametrize("mode", ["json", "ndjson"])
def test_what_get_reports_can_be_committed(shell: Shell, mode: str) -> None:
    for seed, key in enumerate(["a", "acme:(9.0, 14.0):data"]):
        shell.commit(key, density(3, seed=seed))
    reports = b"".join(shell.ok("get", key, "-o", mode).out for key in ("a", "acme:(9.0, 14.0):data"))
    before = [key["content"] for key in shell.ok("ls", "-o", "json").json["keys"]]
    line = b'{"key": "c", "value": [[1.0]]}\n'
    report = shell.ok("commit", "-o", "json", stdin=line + reports + line.replace(b'"c"', b'"d"')).json
    assert [item["key"] for item in report["items"]] == ["a", "acme:(9.0, 14.0):data", "c", "d"]
    assert [item["content"] for item in report["items"]][:2] == before
    elsewhere = shell("commit", "-n", "other", "-o", "json", stdin=reports)
    assert elsewhere.code == 11


def test_every_bad_line_is_named_and_nothing_is_written(shell: Shell) -> None:
    lines = [
        '{"key": "good", "value": [[1.0]]}',
        "rubbish",
        '{"key": "heavy", "value": [[2.0]]}',
        '{"key": 5, "value": [[1.0]]}',
        '{"key": "new\\nline", "value": [[1.0]]}',
        '{"key": "ragged", "value": [[1.0], [0.5, 0.5]]}',
        '{"key": "good", "value": null}',
        '{"command": "get"}',
    ]
    result = shell("commit", "-o", "json", stdin="\n".join(lines).encode())
    assert (result.code, result.error["error"]) == (11, "InputsRejected")
    rejected = result.error["facts"]["rejected"]
    assert [each["source"].rpartition(" ")[2] for each in rejected] == ["2", "3", "4", "5", "6", "7", "8"]
    table = shell("commit", stdin="\n".join(lines).encode())
    assert all(f"line {number}: " in table.err for number in range(2, 9))
    assert shell.is_empty()


def test_one_bad_line_keeps_its_own_error(shell: Shell) -> None:
    result = shell("commit", "-o", "json", stdin=b'{"key": "a", "value": [[2.0]]}')
    assert result.error["error"] == "InvariantViolated"


def test_very_many_bad_lines_are_counted(shell: Shell) -> None:
    result = shell("commit", stdin=b"rubbish\n" * 5000)
    assert "5000 of 5000 inputs are rejected" in result.err
    assert len(result.err.splitlines()) < 30
    facts = shell("commit", "-o", "json", stdin=b"rubbish\n" * 5000).error["facts"]
    assert (len(facts["rejected"]), facts["rejected_total"]) == (100, 5000)


def suggestion(err: str) -> list[str]:
    """The words of the one suggested command."""
    (line,) = re.findall(r"^try: somactl (.*)$", err, re.M)
    return shlex.split(line)


@pytest.mark.parametrize("exists", [False, True], ids=["no store", "a store"])
def test_files_given_for_keys_are_understood(shell: Shell, exists: bool) -> None:
    if exists:
        shell.commit("other", density(2))
    for name in ("rho.npy", "two words.npy"):
        shell.save(name, density(3))
    wrong = shell("commit", "rho.npy", "two words.npy")
    assert wrong.code == 2
    assert "KEY=rho.npy" in wrong.err
    shell.ok(*suggestion(wrong.err))
    meant = shell("verify-psd", "rho.npy", "two words.npy")
    assert meant.code == 2
    assert "2 valid" in shell.ok(*suggestion(meant.err)).text


def test_a_key_wins_over_a_file_of_its_name(shell: Shell) -> None:
    shell.commit("value.npy", density(3))
    assert "1 valid" in shell.ok("verify-psd", "value.npy").text


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 2)])
def test_a_vector_is_told_of_the_factor_layout(shell: Shell, shape: tuple[int, ...]) -> None:
    vector = np.ones(shape)
    shell.save("v.npy", vector / np.linalg.norm(vector))
    for words in (["commit", "a=v.npy"], ["verify-psd", "--file", "v.npy"]):
        refused = shell(*words)
        assert refused.code == 11
        assert "--layout factor" in refused.err + refused.text
    shell.ok("commit", "a=v.npy", "--layout", "factor")
    shell.ok("get", "a", "--as", "npy", "--to", "back.npy")
    rho = np.load(shell.folder / "back.npy")
    assert rho.shape == (4, 4)
    assert abs(np.trace(rho) - 1) < 1e-12


def test_a_list_of_numbers_is_a_vector_too(shell: Shell) -> None:
    line = b'{"key": "a", "value": [0.6, 0.8]}'
    refused = shell("commit", stdin=line)
    assert refused.code == 11
    assert "--layout factor" in refused.err
    shell.ok("commit", "--layout", "factor", stdin=line)
    assert shell.ok("show", "a", "-o", "json").json["key"]["shape"] == [2, 1]
    shell.write("v.json", "[0.6, [0.8]]")
    assert shell("commit", "a=v.json", "--layout", "factor").code == 11


@pytest.mark.parametrize("commit_id", [None, "night-1", "a" * 37, "b" * 128])
@pytest.mark.parametrize("key", ["k", "acme:(9.0, 14.0, 43.0):data", "long " * 200 + "end"])
def test_the_log_fits_a_terminal(shell: Shell, key: str, commit_id: str | None) -> None:
    line = json.dumps({"key": key, "value": [[1.0]]})
    given = [] if commit_id is None else ["--commit-id", commit_id]
    labels = ["--metadata", "source=nightly import of values", "--metadata", "x=" + "y" * 200]
    shell.ok("commit", *labels, *given, stdin=line.encode())
    shell.ok("rm", key)
    for words in (["log"], ["log", key]):
        text = shell.ok(*words).text
        assert max(map(len, text.splitlines())) <= 80, text
        told = re.sub(r"\n +", "", text)
        commits = shell.ok("log", "-o", "json").json["commits"]
        assert all(commit["commit_id"] in told for commit in commits)
