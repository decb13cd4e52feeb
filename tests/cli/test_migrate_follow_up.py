"""Finalizing and reverting as an operator does it: by the id alone, from anywhere, and told what stays."""

from __future__ import annotations

import json
import os

import pytest

from migration.forms import density, text
from migration.places import VALUES
from migration.running import lines
from servers.redis import RedisServer
from tests.cli.conftest import Shell
from tests.cli.test_migrate import BOTH, files, repeat, report_of

__all__ = ["files"]


@pytest.fixture
def elsewhere(files: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Another folder, from which the store of `files` is named by its path."""
    return Shell(tmp_path_factory.mktemp("elsewhere"))


def store_of(shell: Shell) -> tuple[str, str]:
    return "--store", f"sqlite:///{shell.folder}/somactl.db"


def test_the_id_alone_leads_back_to_the_files_from_any_folder(files: Shell, elsewhere: Shell) -> None:
    (files.folder / "whole.json").chmod(0o640)
    (files.folder / "embedded.json").chmod(0o604)
    copied = report_of(files.ok("migrate-json", *BOTH, *store_of(files), "--output", "json"))
    assert "whole.json" not in copied["next"] + copied["undo"]
    finalized = report_of(repeat(elsewhere, copied["next"], "--yes", "--output", "json"))
    assert (finalized["phase"], finalized["finalized"]) == ("finalized", 2)
    assert not (files.folder / "whole.json").exists()
    reverted = report_of(repeat(elsewhere, finalized["undo"], "--output", "json"))
    assert (reverted["phase"], reverted["restored"], reverted["withdrawn"]) == ("reverted", 2, 2)
    for name, mode in (("whole", 0o640), ("embedded", 0o604)):
        path = files.folder / f"{name}.json"
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (VALUES[name], mode)


def test_a_revert_says_how_to_migrate_again(files: Shell) -> None:
    copied = files.ok("migrate-json", *BOTH, "--rate", "50", "--output", "json").json
    assert copied["undo"].endswith("--rate 50")
    reverted = files.ok("migrate-json", *BOTH[:2], "--revert", "--output", "json").json
    assert reverted["next"] == "somactl migrate-json whole.json embedded.json --discover"
    again = report_of(repeat(files, reverted["next"], "--output", "json"))
    assert (again["phase"], again["migration"]) == ("copied", copied["migration"])


def test_a_url_in_a_variable_is_found_by_the_id_and_one_that_was_named_is_asked_for(
    shell: Shell, redis_server: RedisServer
) -> None:
    for source in ("env:LEGACY", redis_server.url):
        with redis_server.client() as raw:
            raw.flushdb()
            raw.set("k", text(density(3).tolist()))
        env = {"LEGACY": redis_server.url}
        copied = shell.ok("migrate-json", source, "--output", "json", env=env).json
        shell.ok("migrate-json", source, "--finalize", "--yes", env=env)
        alone = ("migrate-json", "--revert", "--migration", copied["migration"], "--output", "json")
        result = shell(*alone, env=env)
        if source.startswith("env:"):
            assert (result.code, result.json["restored"]) == (0, 1)
            shell.ok("migrate-json", "--forget", "--yes", "--migration", copied["migration"])
        else:
            assert result.code == 2
            assert "name the one it came from: redis://" in result.error["hint"]
            assert redis_server.url in copied["undo"]
    with redis_server.client() as raw:
        raw.flushdb()


def test_originals_that_were_left_alone_are_shown_a_line_each_as_often_as_they_are_asked_for(
    files: Shell,
) -> None:
    files.ok("migrate-json", *BOTH)
    files.ok("migrate-json", *BOTH[:2], "--finalize", "--yes")
    files.write("embedded.json", b'{"newer": 1}')
    files.write("whole.json", b"newer")
    for _ in range(2):
        result = files("migrate-json", *BOTH[:2], "--revert", "--output", "ndjson")
        assert result.code == 4, result.err
        *left, report = result.lines
        assert {row["key"]: row["original"].encode() for row in left} == {
            name: VALUES[name] for name in ("whole", "embedded")
        }
        assert set(report["left_alone"]) >= {"whole", "embedded"}
    (files.folder / "whole.json").unlink()
    last = files("migrate-json", *BOTH[:2], "--revert", "--output", "json")
    assert (last.code, last.json["restored"]) == (4, 1)
    assert (files.folder / "whole.json").read_bytes() == VALUES["whole"]


def test_what_is_suggested_repeats_the_pace(files: Shell) -> None:
    pace = ("--rate", "100", "--pause-file", "no such file", "--max-duration", "1h")
    spelt = "--rate 100 --pause-file 'no such file' --max-duration 1h"
    dry = files.ok("migrate-json", *BOTH, "--dry-run", "--plan-file", "plan", *pace, "--output", "json").json
    assert dry["next"] == f"somactl migrate-json whole.json embedded.json --apply plan {spelt}"
    applied = repeat(files, dry["next"], "--output", "json").json
    assert applied["next"].endswith(f"--finalize --migration {applied['migration']} {spelt}")
    finalized = repeat(files, applied["next"], "--yes", "--output", "json").json
    assert finalized["next"].endswith(f"--forget --migration {applied['migration']}")
    assert repeat(files, finalized["next"], "--yes").code == 0


def test_a_comparison_that_is_stopped_needs_no_resume(files: Shell) -> None:
    files.ok("migrate-json", *BOTH, "--dry-run", "--plan-file", "plan")
    stopped = files("migrate-json", *BOTH[:2], "--apply", "plan", "--max-duration", "0s", "--output", "json")
    report = report_of(stopped)
    assert (stopped.code, report["phase"], report["undo"]) == (4, "planned", None)
    assert "--resume" not in report["next"]
    assert not (files.folder / "somactl.db").exists()
    assert repeat(files, report["next"], "--max-duration", "1h").code == 0


def test_a_plan_follows_a_link_keeps_the_mode_and_takes_no_folder_s_place(files: Shell) -> None:
    plan = ("migrate-json", *BOTH, "--dry-run", "--plan-file")
    real, link = (files.folder / name for name in ("real", "link"))
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to("real")
    files.ok(*plan, "link")
    assert link.is_symlink()
    assert json.loads(real.read_text().splitlines()[0])["plan"] == 1
    assert real.stat().st_mode & 0o777 == 0o640
    refused = files(*plan, ".", "--output", "json")
    assert (refused.code, "folder" in refused.error["message"]) == (11, True)
    assert not [path for path in files.folder.iterdir() if path.name.startswith(".somactl-")]


def test_a_pointer_at_which_no_value_has_anything_is_warned_of(files: Shell) -> None:
    wishes = ("--pointer", "/rho", "--pointer", "/roh", "--dry-run", "--output", "json")
    report = report_of(files.ok("migrate-json", *BOTH[:2], *wishes))
    assert [warning for warning in report["warnings"] if "no value" in warning] == [
        "no value has a matrix at '/roh'"
    ]


def test_what_was_meant_is_said_where_lines_or_a_folder_are_named(files: Shell) -> None:
    files.write("old.ndjson", lines(VALUES))
    result = files("migrate-json", "old.ndjson", "--dry-run", "--output", "json")
    assert (result.code, result.error["hint"]) == (2, "lines of JSON come by standard input: < old.ndjson")
    result = files("migrate-json", ".", "--dry-run", "--output", "json")
    assert (result.code, result.error["hint"]) == (2, "name the files in it: ./*.json")


def test_a_follow_up_that_is_repeated_says_that_it_is_done(files: Shell) -> None:
    files.ok("migrate-json", *BOTH[:2])
    for verb in ("--resume", "--revert", "--forget"):
        words = ["migrate-json", *BOTH[:2], verb, *([] if verb == "--resume" else ["--yes"])]
        first = files.ok(*words, "--output", "json").json
        again = files.ok(*words, "--output", "json").json
        assert (again["phase"], again["code"]) == (first["phase"], 0)
        assert "nothing" in again["warnings"][0]


@pytest.mark.parametrize("verb", ["--finalize", "--revert", "--forget"])
def test_on_a_terminal_it_is_asked_first_and_no_changes_nothing(files: Shell, verb: str) -> None:
    files.ok("migrate-json", *BOTH)
    before = {name: (files.folder / f"{name}.json").read_bytes() for name in ("whole", "embedded")}
    code, said = on_a_terminal(files, b"n\n", "migrate-json", *BOTH[:2], verb)
    assert (code, "Go on?" in said, "not confirmed" in said) == (2, True, True)
    assert {name: (files.folder / f"{name}.json").read_bytes() for name in before} == before
    assert files.ok("ls", "--output", "json").json["total"] == 2
    code, said = on_a_terminal(files, b"y\n", "migrate-json", *BOTH[:2], verb)
    assert code == 0, said
    assert "Go on?" not in on_a_terminal(files, b"", "migrate-json", *BOTH[:2], verb, "--yes")[1]


def on_a_terminal(shell: Shell, answer: bytes, *words: str) -> tuple[int, str]:
    """Run it at a terminal where `answer` is typed; its code, and what it said."""
    leader, follower = os.openpty()
    os.write(leader, answer)
    process = shell.begin(*words, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    try:
        while True:
            try:
                said += os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
        return process.wait(timeout=60), said.decode()
    finally:
        process.kill()
        process.wait()
        os.close(leader)
