"""The command line as a whole: start-up, help, schemas, layout of reports."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from somactl import commit_matrix_update
from somactl.cli.app import COMMANDS, GROUPS
from somactl.package_data import data_file
from somactl.store.sqlite import SqliteStore
from tests.cli.conftest import SOMACTL, Shell, density, environment

HEAVY = ("numpy", "scipy", "asyncpg", "redis", "confluent_kafka", "grpc", "sklearn")


def imported_by(words: list[str], cwd: Path) -> set[str]:
    """Top-level packages imported by a run of the executable."""
    code = (
        "import sys, atexit, runpy; sys.argv = sys.argv[1:];"
        "atexit.register(lambda: sys.stderr.write('\\nMODULES ' + ' '.join(sys.modules)));"
        "from somactl.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "somactl", *words],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["commit", "--help"], ["verify-psd", "--help"]])
def test_help_and_version_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    assert not imported_by(words, tmp_path) & {*HEAVY, "sqlite3"}


@pytest.mark.parametrize(
    "words",
    [
        ["ls"],
        ["namespaces"],
        ["log"],
        ["log", "a"],
        ["show", "a"],
        ["status", "one"],
        ["events", "ls"],
        ["events", "enable"],
        ["get", "a", "--to", "x"],
        ["get", "a", "-o", "json"],
        ["init"],
        ["compact", "--yes"],
        ["prune", "--keep", "9"],
        ["prune", "--keep", "9", "--fallback", "oldest"],
        ["rm", "a", "--dry-run"],
    ],
    ids=" ".join,
)
def test_commands_without_matrix_maths_import_no_numpy(shell: Shell, words: list[str]) -> None:
    shell.commit("a", density(3), "--commit-id", "one")
    assert not imported_by(words, shell.folder) & set(HEAVY)


def test_matrix_maths_does_without_scipy_linalg(shell: Shell) -> None:
    shell.commit("a", density(30))
    assert "scipy.linalg" not in imported_by(["verify-psd", "a"], shell.folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(shell: Shell, command: str) -> None:
    assert "--output" in shell.ok(*command.split(), "--help", env={"COLUMNS": "200"}).text


def test_help_names_every_command(shell: Shell) -> None:
    text = shell.ok("--help").text
    assert all(command.split()[0] in text for command in COMMANDS)
    text = "".join(shell.ok(group, "--help").text for group in GROUPS)
    assert all(command.split()[1] in text for command in COMMANDS if " " in command)


@pytest.mark.parametrize(
    "words",
    [
        ["init"],
        ["namespaces"],
        ["commit", "b=value.npy", "--dtype", "float32", "--metadata", "k=v"],
        ["rm", "a", "--dry-run"],
        ["restore", "a", "--version", "1"],
        ["ls"],
        ["get", "a"],
        ["show", "a", "--spectrum"],
        ["log"],
        ["log", "a"],
        ["status", "one"],
        ["events", "ls"],
        ["events", "status"],
        ["compact", "--yes"],
        ["verify-psd", "--all"],
        ["verify-psd", "--file", "bad"],
        ["demo"],
    ],
    ids=" ".join,
)
def test_json_validates_against_the_shipped_schema(shell: Shell, words: list[str]) -> None:
    shell.commit("a", density(3), "--commit-id", "one")
    shell.write("bad", "no matrix")
    result = shell(*words, "--output", "json")
    schema = json.loads(data_file("schemas", f"report.{result.json['command']}.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(result.json)
    assert result.code == result.json["code"]


def test_ndjson_is_a_line_each_and_the_report_last(shell: Shell) -> None:
    shell.commit("a", density(3))
    shell.commit("b", density(3))
    lines = shell.ok("verify-psd", "--all", "-o", "ndjson").lines
    assert [line["source"] for line in lines[:-1]] == ["a", "b"]
    assert lines[-1]["command"] == "verify-psd"


@pytest.mark.parametrize(
    ("words", "error", "where"),
    [
        (["get", "nothing"], "KeyNotFound", ("get", "{store}", "default")),
        (["get"], "UsageError", ("get", "{store}", "default")),
        (["ls", "--bogus", "-n", "me"], "UsageError", ("ls", "{store}", "me")),
        (["ls", "--namespace=no//name"], "UsageError", ("ls", "{store}", "")),
        (["frob"], "UsageError", ("", "{store}", "default")),
        (
            ["ls", "--store", "redis://localhost:1/0"],
            "StoreUnavailable",
            ("ls", "redis://localhost:1/0", "default"),
        ),
        (["ls", "--store", "redis://:secret@localhost/0"], "SecretExposed", ("ls", "", "default")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_in_json_mode_is_one_object_that_knows_where_it_came_up(
    shell: Shell, words: list[str], error: str, where: tuple[str, str, str]
) -> None:
    shell.commit("a", density(3))
    result = shell(*words, "-o", "json", env={"SOMACTL_RETRY_SECONDS": "0"})
    schema = json.loads(data_file("schemas", "report.error.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(result.error)
    assert result.error["code"] == result.code
    told = tuple(result.error[name] for name in ("error", "command", "store", "namespace"))
    store = shell.ok("ls", "-o", "json").json["address"]
    assert told == (error, *(word.format(store=store) for word in where))
    assert "secret" not in result.err


def test_undo_repeats_the_flags_it_needs(shell: Shell) -> None:
    report = shell.commit("a", density(3), "--namespace", "n", "--store", "sqlite:///my file.db")
    assert report["undo"].endswith("--store 'sqlite:///my file.db' --namespace n")


def peak_memory(shell: Shell, *words: str) -> int:
    """Peak resident memory of one run, in bytes; the run must succeed."""
    process = subprocess.Popen(
        [SOMACTL, *words], cwd=shell.folder, env=environment(), stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


def test_an_audit_takes_bounded_memory_however_many_matrices(shell: Shell) -> None:
    """160 MB of payloads, in pages of 32 MB: the audit must not hold much more than one page."""
    rho = density(512)

    async def fill() -> None:
        store = SqliteStore(shell.folder / "somactl.db")
        for batch in range(8):
            await commit_matrix_update(store, {f"k{batch}:{i}": rho for i in range(20)})
        await store.close()

    asyncio.run(fill())
    one = peak_memory(shell, "verify-psd", "k0:0")
    all_of_them = peak_memory(shell, "verify-psd", "--all")
    assert all_of_them - one < 96e6
    report = shell.ok("verify-psd", "--all", "-o", "json").json
    assert (report["valid"], report["results"], report["complete"]) == (160, [], True)


def test_without_a_word_it_shows_its_help(shell: Shell) -> None:
    bare = shell.ok()
    assert bare.out == shell.ok("--help").out
    assert bare.err == ""
