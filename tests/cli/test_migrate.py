"""migrate-json as an operator and a pipeline run it."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from migration.forms import density, numpy_form, text
from migration.places import RHO, VALUES
from migration.running import lines
from servers.redis import RedisServer
from somactl.package_data import data_file
from support.pipes import wait_until_read
from tests.cli.conftest import Result, Shell

SCHEMA = data_file("schemas", "report.migrate-json.json")
LINES = lines(VALUES)


@pytest.fixture
def files(shell: Shell) -> Shell:
    """Two files of the old service in the working directory: a whole matrix, and one inside an object."""
    shell.write("whole.json", VALUES["whole"])
    shell.write("embedded.json", VALUES["embedded"])
    return shell


BOTH = ("whole.json", "embedded.json", "--discover")


def report_of(result: Result) -> Any:
    report = result.json
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    return report


def repeat(shell: Shell, suggested: str, *more: str, **options: Any) -> Result:
    """Run a command line that a report suggests, as it stands."""
    words = shlex.split(suggested)
    assert words[0] == "somactl"
    return shell(*words[1:], *more, **options)


def test_a_dry_run_from_a_pipe_ends_3_where_one_is_rejected_and_0_where_none_is(shell: Shell) -> None:
    result = shell("migrate-json", "--dry-run", "--discover", "--output", "json", stdin=LINES)
    assert result.code == 3
    report = report_of(result)
    assert {name: tally["count"] for name, tally in report["outcomes"].items()} == {
        "migrate": 6,
        "not-a-matrix": 1,
        "rejected": 2,
    }
    assert not (shell.folder / "somactl.db").exists()
    sound = lines({"a": text(RHO.tolist())})
    assert shell("migrate-json", "--dry-run", "-", stdin=sound).code == 0
    assert shell("migrate-json", "--dry-run", stdin=b"").code == 4
    assert shell("migrate-json", "--dry-run", "--allow-empty", stdin=b"").code == 0


def follow_up(shell: Shell, verb: str, migration: str, *more: str) -> Result:
    yes = ["--yes"] if verb in ("finalize", "revert", "forget") else []
    return shell("migration", verb, migration, *yes, *more, "--output", "json")


def test_the_whole_way_by_what_each_report_suggests(files: Shell) -> None:
    """A plan, its application, finalizing, reverting: each command line is taken from the one before."""
    dry = report_of(files("migrate-json", *BOTH, "--dry-run", "--plan-file", "plan", "--output", "json"))
    assert dry["next"].endswith("--apply plan")
    assert dry["phase"] == "planned"
    applied = report_of(repeat(files, dry["next"], "--output", "json"))
    assert (applied["phase"], applied["code"]) == ("copied", 0)
    assert files.ok("ls", "--output", "json").json["total"] == 2
    asked = repeat(files, applied["next"], "--no-input", "--output", "json")
    assert (asked.code, asked.error["next"].split()[-1]) == (2, "--yes")
    finalized = report_of(repeat(files, applied["next"], "--yes", "--output", "json"))
    assert (finalized["phase"], finalized["finalized"], finalized["code"]) == ("finalized", 2, 0)
    assert not (files.folder / "whole.json").exists()
    assert b'{"__somactl__": {"key": "embedded#/rho"' in (files.folder / "embedded.json").read_bytes()
    reverted = report_of(repeat(files, finalized["undo"], "--output", "json"))
    assert (reverted["phase"], reverted["restored"], reverted["withdrawn"]) == ("reverted", 2, 2)
    for name in ("whole", "embedded"):
        assert (files.folder / f"{name}.json").read_bytes() == VALUES[name]
    assert files.is_empty()


def test_forgetting_names_files_that_are_gone(files: Shell) -> None:
    copied = files.ok("migrate-json", *BOTH, "--output", "json").json
    finalized = follow_up(files, "finalize", copied["migration"]).json
    forgotten = report_of(repeat(files, finalized["next"], "--yes", "--output", "json"))
    assert (forgotten["phase"], forgotten["forgotten"]) == ("forgotten", 2)
    result = follow_up(files, "revert", copied["migration"])
    assert (result.code, "no migration" in result.error["message"]) == (15, True)


def test_what_came_by_a_pipe_is_reverted_without_it_and_is_not_finalized(shell: Shell) -> None:
    copied = shell("migrate-json", "-", "--discover", "--output", "json", stdin=LINES)
    assert copied.code == 3
    assert copied.json["next"] is None
    refused = follow_up(shell, "finalize", copied.json["migration"])
    assert (refused.code, "by a pipe" in refused.error["message"]) == (2, True)
    reverted = repeat(shell, copied.json["undo"], "--output", "json")
    assert (reverted.code, reverted.json["withdrawn"]) == (0, 6)
    assert shell.is_empty()


def test_without_discover_it_is_said_that_nobody_looked_inside(files: Shell) -> None:
    report = report_of(files.ok("migrate-json", *BOTH[:2], "--dry-run", "--output", "json"))
    assert any("--discover" in warning for warning in report["warnings"])


def test_a_plan_that_is_stale_ends_12_and_one_that_is_damaged_11(files: Shell) -> None:
    files.ok("migrate-json", *BOTH, "--dry-run", "--plan-file", "plan")
    files.write("whole.json", text(numpy_form(density(4, seed=5))))
    stale = files("migrate-json", *BOTH[:2], "--apply", "plan", "--output", "json")
    assert (stale.code, "has changed" in stale.error["message"]) == (12, True)
    assert not (files.folder / "somactl.db").exists()
    files.write("plan", (files.folder / "plan").read_bytes()[:-5])
    damaged = files("migrate-json", *BOTH[:2], "--apply", "plan", "--output", "json")
    assert (damaged.code, "no whole plan" in damaged.error["message"]) == (11, True)
    missing = files("migrate-json", *BOTH[:2], "--apply", "none", "--output", "json")
    assert (missing.code, "no such file" in missing.error["message"]) == (11, True)


def test_a_plan_for_another_source_or_namespace_ends_2(files: Shell) -> None:
    files.ok("migrate-json", *BOTH, "--dry-run", "--plan-file", "plan")
    for words in (["whole.json"], [*BOTH[:2], "--namespace", "other"]):
        result = files("migrate-json", *words, "--apply", "plan", "--output", "json")
        assert (result.code, "was made for" in result.error["message"]) == (2, True)


BAD: dict[str, tuple[list[str], str]] = {
    "tolerance with apply": (["--apply", "plan", "--trace-tolerance", "1e-8"], "takes no other options"),
    "a match with apply": (["--apply", "plan", "--match", "a*"], "takes no other options"),
    "two modes": (["--dry-run", "--apply", "plan"], "--dry-run and --apply do not go together"),
    "apply and resume": (["--apply", "plan", "--resume"], "--apply and --resume do not go together"),
    "plan file without dry run": (["--plan-file", "x"], "--plan-file goes with --dry-run"),
    "allowed to be empty without dry run": (["--allow-empty"], "--allow-empty goes with --dry-run"),
    "resume with dry run": (["--dry-run", "--resume"], "--dry-run and --resume do not go together"),
    "clamp alone": (["--clamp"], "go together"),
    "max-move alone": (["--max-move", "1"], "go together"),
    "max-move below 0": (["--clamp", "--max-move", "-1"], "0 or more"),
    "pointer without slash": (["--pointer", "rho"], "rho"),
    "pointer with a bad escape": (["--pointer", "/a~2"], "a~2"),
    "rate": (["--rate", "fast"], "is no rate"),
    "duration": (["--max-duration", "soon"], "is no time"),
    "latency": (["--max-latency", "20"], "is no latency"),
    "a word that is no source": (["words"], "names no values"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_command_line_that_makes_no_sense_ends_2_and_writes_nothing(files: Shell, what: str) -> None:
    words, message = BAD[what]
    result = files("migrate-json", "whole.json", *words, "--output", "json")
    assert (result.code, message in result.error["message"]) == (2, True), result.err
    assert not (files.folder / "somactl.db").exists()


def test_a_password_on_the_command_line_is_refused_and_an_environment_variable_is_not(shell: Shell) -> None:
    url = "postgresql://client:secret@127.0.0.1:1/db"
    exposed = shell("migrate-json", url, "--dry-run", "--output", "json")
    assert exposed.code == 10
    named = shell("migrate-json", "env:LEGACY", "--dry-run", "--output", "json", env={"LEGACY": url})
    assert named.code == 13
    for result in (exposed, named):
        assert "secret" not in result.err + result.text


def test_tolerances_are_repeated_in_what_is_suggested(shell: Shell) -> None:
    """Without them the suggested command would begin another migration."""
    values = lines({f"k{i}": text((1.00001 * density(3, seed=i)).tolist()) for i in range(3)})
    wishes = ("--trace-tolerance", "1e-4", "--output", "json")
    stopped = shell("migrate-json", "--max-duration", "0s", *wishes, stdin=values)
    assert stopped.code == 4
    assert stopped.json["next"] is None  # it came by a pipe
    _, _, line = stopped.json["warnings"][-1].rpartition("again to ")
    assert line == "somactl migrate-json --trace-tolerance 0.0001 --resume --max-duration 0s"
    resumed = repeat(shell, line, "--max-duration", "1h", "--output", "json", stdin=values)
    assert (resumed.code, resumed.json["outcomes"]["migrate"]["count"]) == (0, 3)
    assert resumed.json["migration"] == stopped.json["migration"]


def test_a_stopped_run_is_refused_without_resume_and_goes_on_with_it(files: Shell) -> None:
    stopped = files("migrate-json", *BOTH, "--max-duration", "0s", "--output", "json")
    assert (stopped.code, stopped.json["complete"]) == (4, False)
    again = files("migrate-json", *BOTH, "--output", "json")
    assert (again.code, "--resume" in again.error["hint"]) == (2, True)
    resumed = report_of(repeat(files, stopped.json["next"], "--max-duration", "1h", "--output", "json"))
    assert (resumed["phase"], resumed["code"]) == ("copied", 0)


def test_lines_of_output_are_the_rows_and_then_the_report(shell: Shell) -> None:
    result = shell("migrate-json", "--discover", "--dry-run", "--output", "ndjson", stdin=LINES)
    rows, report = result.lines[:-1], result.lines[-1]
    assert [(row["key"], row["outcome"]) for row in rows] == [("broken", "rejected"), ("half", "rejected")]
    assert report["rejected"] == []
    assert report["outcomes"]["rejected"]["count"] == 2


def test_the_table_names_each_reject_and_the_reason(shell: Shell) -> None:
    result = shell("migrate-json", "--discover", "--dry-run", stdin=LINES)
    assert "ragged" in result.text
    assert "half /bad" in result.text
    assert "6" in result.text
    assert "Traceback" not in result.err


def test_control_characters_of_a_key_do_not_reach_the_terminal(shell: Shell) -> None:
    values = lines({"evil\x1b[2J\x07": b"[[1, 0], [0]]", "\u202eright to left": b"[[1, 0], [0]]"})
    result = shell("migrate-json", "--dry-run", stdin=values)
    assert result.code == 3
    assert b"\x1b[2J" not in result.out
    assert b"\x07" not in result.out


def test_reports_of_two_machines_are_byte_equal(files: Shell, tmp_path: Path) -> None:
    """Another folder, another day, another hash seed."""
    first = files("migrate-json", "--dry-run", "--discover", "--output", "json", stdin=LINES)
    other = tmp_path / "other"
    other.mkdir()
    second = Shell(other)(
        "migrate-json", "--dry-run", "--discover", "--output", "json",
        stdin=LINES, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "HOSTNAME": "elsewhere"},
    )  # fmt: skip
    assert first.out == second.out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_wait_for_lines_at_once(shell: Shell, number: int, code: int) -> None:
    process = shell.begin("migrate-json", "--dry-run", "--output", "json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(LINES)
    process.stdin.flush()
    wait_until_read(process.stdin.fileno())
    process.send_signal(number)
    try:
        assert process.wait(timeout=10) == code
    finally:
        process.kill()
        process.communicate()
    assert not (shell.folder / "somactl.db").exists()


def test_sigterm_finishes_the_batch_and_the_next_run_goes_on(shell: Shell, redis_server: RedisServer) -> None:
    values = {f"k{i:03d}": text(density(3, seed=i).tolist()) for i in range(40)}
    with redis_server.client() as raw:
        raw.flushdb()
        for key, value in values.items():
            raw.set(key, value)
    process = shell.begin("migrate-json", redis_server.url, "--rate", "20", "--output", "json")
    for _ in range(2000):
        if (shell.folder / "somactl.db").exists() and not shell.is_empty():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    report = json.loads(out)
    assert (report["complete"], report["stopped"], report["phase"]) == (False, "a signal", "copying")
    assert 0 < report["values"] < 40
    resumed = report_of(repeat(shell, report["next"], "--output", "json"))
    assert (resumed["code"], resumed["values"], resumed["outcomes"]["migrate"]["count"]) == (0, 40, 40)
    with redis_server.client() as raw:
        raw.flushdb()


def test_it_holds_back_while_the_store_answers_slowly_and_says_so(shell: Shell) -> None:
    """No store answers within a microsecond: each batch waits, and the run comes to its end all the same."""
    values = lines({f"k{i:03d}": text(density(3, seed=i).tolist()) for i in range(60)})
    done = shell.ok("migrate-json", "--rate", "20", "--max-latency", "0.001ms", stdin=values)
    assert re.search(
        r"^holding back: the store answers in \S+ ms, more than 0\.001 ms \(--max-latency\)$", done.err, re.M
    )
    assert not shell.is_empty()


def test_a_dry_run_that_is_stopped_writes_no_plan(shell: Shell) -> None:
    shell.write("plan", "the plan of yesterday")
    result = shell(
        "migrate-json",
        "--dry-run",
        "--plan-file",
        "plan",
        "--max-duration",
        "0s",
        "--output",
        "json",
        stdin=LINES,
    )
    assert result.code == 4
    assert any("no plan was written" in warning for warning in result.json["warnings"])
    assert (shell.folder / "plan").read_text() == "the plan of yesterday"
    assert sorted(path.name for path in shell.folder.iterdir()) == ["plan"]
    nowhere = shell(
        "migrate-json", "--dry-run", "--plan-file", "no/such/plan", "--output", "json", stdin=LINES
    )
    assert (nowhere.code, "cannot be written" in nowhere.error["message"]) == (11, True)


def test_no_value_however_bad_makes_a_traceback(shell: Shell) -> None:
    bad = b"\n".join(
        [
            b"",
            b"garbage",
            b"\xff\xfe\x00",
            b"[" * 200_000,
            b'{"key": "a"}',
            b'{"key": 5, "value": 1}',
            b'{"key": "deep", "value": %s}' % (b"[" * 100_000 + b"]" * 100_000),
            b'{"key": "twice", "value": 1}',
            b'{"key": "twice", "value": 2}',
            b'{"key": "good", "value": %s}' % text(RHO.tolist()),
        ]
    )
    result = shell("migrate-json", "--discover", "--output", "json", stdin=bad)
    assert result.code == 3
    assert "Traceback" not in result.err
    report = report_of(result)
    assert report["outcomes"]["migrate"]["count"] == 1
    assert {row["key"] for row in report["rejected"]} >= {
        "line 2",
        "line 3",
        "line 4",
        "line 5",
        "line 6",
        "line 9",
    }
