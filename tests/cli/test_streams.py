"""Standard streams that are closed, full or left: the code is what the work earned, or 17 if that is lost."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path

import pytest

from somactl.cli.app import COMMANDS
from somactl.report import decide
from tests.cli.conftest import FORKED, SOMACTL, Shell, density, environment, with_smallest_eigenvalue

RUNS: dict[str, list[str]] = {
    name: words.split()
    for name, words in {
        "init": "init",
        "namespaces": "namespaces",
        "commit": "commit b=good.npy",
        "commit a clamped one": "commit b=clampable.npy",
        "commit what is violated": "commit b=bad.npy",
        "get": "get a",
        "get text": "get a --as text",
        "get a file": "get a --to copy",
        "ls": "ls",
        "show": "show a --check",
        "log": "log",
        "log of a key": "log a",
        "status": "status one",
        "status of none": "status none",
        "restore": "restore a --version 1",
        "rm": "rm a",
        "prune": "prune --keep 0 --fallback oldest --yes",
        "compact": "compact --yes",
        "verify-psd": "verify-psd --all",
        "verify-psd of a violation": "verify-psd --file bad.npy",
        "migrate-json": "migrate-json old.json",
        "migrate-json dry": "migrate-json old.json --dry-run --plan-file plan",
        "migration ls": "migration ls",
        **{
            f"migration {verb}": f"migration {verb} none" for verb in ("show", "finalize", "revert", "forget")
        },
        "cache-warm without a cache": "cache-warm",
        "doctor": "doctor",
        "explain": "explain 17",
        "config": "config",
        "completion": "completion bash",
        "events ls": "events ls",
        "events status": "events status",
        "events enable": "events enable",
        "events disable": "events disable",
        "evidence check": "evidence check none.json",
        "evidence merge": "evidence merge none.json",
        "canary-check": "canary-check --samples samples.ndjson --errors-max-share 5%",
        "push-metrics": "push-metrics --textfile metrics.prom",
        "serve where others could listen in": "serve --http 0.0.0.0:0",
        "demo": "demo",
        "help": "--help",
        "help of a command": "commit --help",
        "version": "--version",
        "an unknown command": "nonsense",
        "an unknown option": "ls --nonsense",
        "a key that is not there": "get nothing",
        "no store": "ls --store redis://127.0.0.1:1/0",
    }.items()
}
WITHOUT_MODE = {"help", "help of a command", "version"}
STATES = ("closed", "full", "gone")
"""No descriptor, a disk without room, and a pipe whose reader has closed its end."""
MODES = ("table", "json", "ndjson")
USUAL = {
    "table": [("closed", "err"), ("full", "err"), ("out", "closed"), ("closed", "closed")],
    "json": [("full", "err")],
    "ndjson": [("closed", "err")],
}
STREAMING = {"commit", "get", "ls", "verify-psd", "migrate-json", "prune"}
MORE = [("out", "full"), ("gone", "err"), ("gone", "gone"), ("full", "full")]


@contextmanager
def stream(path: str | Path) -> Iterator[int | None]:
    """A descriptor of a file, or of the state that its name is."""
    state, descriptor = Path(path).name, None
    if state == "gone":
        read, descriptor = os.pipe()
        os.close(read)
    elif state != "closed":
        given = "/dev/full" if state == "full" else path
        descriptor = os.open(given, os.O_RDWR | os.O_CREAT)
    yield descriptor
    if descriptor is not None:
        os.close(descriptor)


@pytest.fixture
def place(shell: Shell) -> Path:
    """A working directory with a store and what the runs read, to be copied for each."""
    shell.save("good.npy", density(3))
    shell.save("clampable.npy", with_smallest_eigenvalue(density(4), -5e-9))
    shell.save("bad.npy", with_smallest_eigenvalue(density(4), -0.1))
    shell.write("samples.ndjson", '{"t": 1, "arm": "candidate", "kind": "latency", "seconds": 0.01}\n')
    shell.write("old.json", "[[0.5, 0.0], [0.0, 0.5]]")
    shell.ok("commit", "a=good.npy", "--commit-id", "one")
    return shell.folder


def cases() -> Iterator[tuple[str, str, str, str]]:
    """Name of a run, output mode, stdout, stderr."""
    everything = bool(os.environ.get("SOMACTL_TEST_NIGHT"))
    for name, mode in product(RUNS, MODES):
        if mode != "table" and name in WITHOUT_MODE:
            continue
        if mode == "ndjson" and name not in STREAMING and not everything:
            continue
        chosen = product(("out", *STATES), ("err", *STATES)) if everything else USUAL[mode]
        more = [("out", "full"), ("gone", "gone"), ("full", "full")] if name in STREAMING else []
        for out, err in dict.fromkeys([("out", "err"), *chosen, *more]):
            yield name, mode, out, err


def test_every_command_on_every_kind_of_stream(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.mktemp("runs")
    codes = []
    table = list(cases())
    for number, (name, mode, out, err) in enumerate(table):
        folder = base / str(number)
        shutil.copytree(place, folder)
        words = RUNS[name] if name in WITHOUT_MODE else [*RUNS[name], "--output", mode]
        with stream(os.devnull) as given, stream(folder / out) as output, stream(folder / err) as told:
            env = environment() | {"SOMACTL_RETRY_SECONDS": "0"}
            codes.append(FORKED.call(words, cwd=folder, env=env, streams=(given, output, told)))
    earned: dict[tuple[str, str], tuple[int, int]] = {}
    wrong = []
    for number, (name, mode, out, err) in enumerate(table):
        told = (base / str(number) / "err").read_text() if err == "err" else ""
        if (out, err) == ("out", "err"):
            printed = (base / str(number) / "out").stat().st_size
            earned[name, mode] = codes[number], printed
        code, printed = earned[name, mode]
        is_lost = bool(out in ("closed", "full") and printed)
        wanted = decide((code, 17)) if is_lost else code
        silent = "Traceback" not in told and "bug" not in told and "Exception" not in told
        says_so = ("could not be written" in told) == is_lost or err != "err" or name in ("explain", "demo")
        if codes[number] != wanted or not silent or not says_so:
            wrong.append(f"{name} -o {mode} >{out} 2>{err}: {codes[number]}, not {wanted}: {told[:600]}")
        if name == "commit":  # it stands, whatever could be said of it
            with closing(sqlite3.connect(base / str(number) / "somactl.db")) as database:
                assert database.execute("SELECT max(version) FROM namespace").fetchone() == (2,)
    assert not wrong, "\n".join(wrong)
    run = {" ".join(words[:count]) for words in RUNS.values() for count in (1, 2)}
    assert run >= set(COMMANDS)
    assert {earned[name, "table"][0] for name in RUNS if name not in WITHOUT_MODE} >= {0, 2, 3, 11, 13, 15}


def test_a_commit_that_stands_is_told_with_its_id_and_the_way_back(shell: Shell) -> None:
    shell.save("good.npy", density(3))
    done = shell.line("somactl commit a=good.npy --commit-id mine >&-")
    assert done.returncode == 17
    assert "committed version 1 of namespace default" in done.stderr
    assert "undo: somactl restore --commit mine" in done.stderr
    done = shell.line("somactl commit b=good.npy --commit-id mine2 -o json >/dev/full")
    error = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, error["code"], error["error"]) == (17, 17, "ResultNotWritten")
    assert (error["facts"]["report"]["version"], error["facts"]["report"]["commit_id"]) == (2, "mine2")
    assert error["facts"]["code_of_the_work"] == 0


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- >&- 2>&-", ">&- 2>&-", "2>&-", "<&-"])
def test_the_database_never_becomes_a_standard_stream(shell: Shell, closed: str) -> None:
    """A file that is opened gets the lowest free number; what is printed would go into it."""
    shell.save("good.npy", density(3))
    done = shell.line(f"somactl commit a=good.npy {closed}")
    assert done.returncode == (17 if closed.replace("2>&-", "").endswith((">&-", ">&- ")) else 0), done.stderr
    for words in ("commit b=good.npy", "rm b", "verify-psd --all", "log", "nonsense"):
        shell.line(f"somactl {words} {closed}")
    assert shell.ok("verify-psd", "--all", "-o", "json").json["valid"] == 1
    assert shell.ok("log", "-o", "json").json["commits"][0]["version"] == 3
    assert (shell.folder / "somactl.db").read_bytes().startswith(b"SQLite format 3\0")


def test_an_interpreter_without_streams_reads_nothing_and_says_so(shell: Shell) -> None:
    done = shell.line(f"{SOMACTL} commit <&-")
    assert (done.returncode, "standard input" in done.stderr) == (11, True), done.stderr
    assert shell.line(f"{SOMACTL} --version >&-").returncode == 17
    assert shell.line(f"{SOMACTL} --version 2>&-").returncode == 0


def test_a_reader_that_leaves_a_binary_value_is_no_accident(shell: Shell) -> None:
    shell.save("big.npy", density(300))
    shell.ok("commit", "a=big.npy")
    done = shell.line("somactl get a | head -c 10 >/dev/null; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == ("0\n", "")
