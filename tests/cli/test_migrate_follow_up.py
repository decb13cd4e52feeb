"""`somactl migration`: by the id alone, from anywhere, and told what stays."""

from __future__ import annotations

import json
import os

import jsonschema
import pytest

from migration.forms import density, text
from migration.places import VALUES
from migration.running import lines
from servers.redis import RedisServer
from somactl.package_data import data_file
from tests.cli.conftest import Shell
from tests.cli.test_migrate import BOTH, files, follow_up, repeat, report_of

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
    reverted = follow_up(files, "revert", copied["migration"]).json
    assert reverted["next"].endswith("whole.json embedded=" + f"{files.folder}/embedded.json --discover")
    again = report_of(repeat(files, reverted["next"], "--output", "json"))
    assert (again["phase"], again["migration"]) == ("copied", copied["migration"])


def test_a_url_is_found_by_the_id_and_another_source_is_refused(
    shell: Shell, redis_server: RedisServer
) -> None:
    for source in ("env:LEGACY", redis_server.url):
        with redis_server.client() as raw:
            raw.flushdb()
            raw.set("k", text(density(3).tolist()))
        env = {"LEGACY": redis_server.url}
        migration = shell.ok("migrate-json", source, "--output", "json", env=env).json["migration"]
        shell.ok("migration", "finalize", migration, "--yes", env=env)
        other = shell("migration", "revert", migration, "--source", f"{redis_server.url[:-1]}9", "-o", "json")
        assert (other.code, "not of this source" in other.error["message"]) == (2, True), other.err
        result = shell.ok("migration", "revert", migration, "--output", "json", env=env)
        assert result.json["restored"] == 1
        shell.ok("migration", "forget", "--yes", migration)
    with redis_server.client() as raw:
        raw.flushdb()


def test_a_file_whose_path_cannot_be_written_down_is_named_again(files: Shell) -> None:
    """Words of SOURCE end a key at the last `=`."""
    (files.folder / "a=b").mkdir()
    files.write("a=b/whole.json", VALUES["whole"])
    word = f"whole={files.folder}/whole.json"
    copied = Shell(files.folder / "a=b").ok("migrate-json", "whole.json", *store_of(files), "-o", "json").json
    refused = follow_up(files, "finalize", copied["migration"])
    assert (refused.code, "--source" in refused.error["hint"]) == (2, True)
    wrong = follow_up(files, "finalize", copied["migration"], "--source", word)
    assert "not of this source" in wrong.error["message"]
    done = follow_up(
        Shell(files.folder / "a=b"),
        "finalize",
        copied["migration"],
        "--source",
        "whole.json",
        *store_of(files),
    )
    assert done.json["finalized"] == 1


def test_originals_that_were_left_alone_are_shown_a_line_each_as_often_as_they_are_asked_for(
    files: Shell,
) -> None:
    migration = files.ok("migrate-json", *BOTH, "-o", "json").json["migration"]
    files.ok("migration", "finalize", migration, "--yes")
    files.write("embedded.json", b'{"newer": 1}')
    files.write("whole.json", b"newer")
    for _ in range(2):
        result = files("migration", "revert", migration, "--output", "ndjson")
        assert result.code == 4, result.err
        *left, report = result.lines
        assert {row["key"]: row["original"].encode() for row in left} == {
            name: VALUES[name] for name in ("whole", "embedded")
        }
        assert set(report["left_alone"]) >= {"whole", "embedded"}
    (files.folder / "whole.json").unlink()
    last = follow_up(files, "revert", migration)
    assert (last.code, last.json["restored"]) == (4, 1)
    assert (files.folder / "whole.json").read_bytes() == VALUES["whole"]


def test_each_is_listed_and_shown_where_it_is(files: Shell) -> None:
    schema = json.loads(data_file("schemas", "report.migration-ls.json").read_text())
    assert files("migration", "ls").code == 15  # there is no store
    files.write("bad.json", b"[[1, 0], [0]]")
    copied = files("migrate-json", *BOTH, "bad.json", "-o", "json").json
    migration = copied["migration"]
    for verb, phase, originals in (
        ("show", "copied", 0),
        ("finalize", "finalized", 2),
        ("revert", "reverted", 0),
    ):
        follow_up(files, verb, migration)
        listed = files.ok("migration", "ls", "-o", "json").json
        jsonschema.validate(listed, schema)
        (row,) = listed["migrations"]
        assert (row["migration"], row["phase"], row["originals"]) == (migration, phase, originals)
        assert (row["outcomes"], row["source"]) == ({"migrate": 2, "rejected": 1}, "json files")
        assert 0 <= row["age_seconds"] < 60
        assert row["began_at"] <= row["changed_at"]
        shown = follow_up(files, "show", migration)
        assert (shown.code, shown.json["phase"], shown.json["outcomes"]) == (3, phase, copied["outcomes"])
    assert migration in files.ok("migration", "ls").text
    rows = files("migration", "show", migration, "-o", "ndjson").lines[:-1]
    assert [row["key"] for row in rows] == ["bad"]
    assert follow_up(files, "show", "nope").code == 15
    assert follow_up(files, "forget", migration).json["phase"] == "forgotten"
    assert files.ok("migration", "ls", "-o", "json").json["migrations"] == []


def test_one_that_is_not_finished_is_not_forgotten_and_shows_how_to_go_on(files: Shell) -> None:
    stopped = files("migrate-json", *BOTH, "--max-duration", "0s", "-o", "json").json
    refused = follow_up(files, "forget", stopped["migration"])
    assert (refused.code, refused.error["next"].split()[1:3]) == (2, ["migration", "show"])
    shown = repeat(files, refused.error["next"], "-o", "json").json
    assert repeat(files, shown["next"], "-o", "json").json["phase"] == "copied"


def test_what_is_suggested_repeats_the_pace(files: Shell) -> None:
    pace = ("--rate", "100", "--max-latency", "5s", "--pause-file", "no such file", "--max-duration", "1h")
    spelt = "--rate 100 --max-latency 5s --pause-file 'no such file' --max-duration 1h"
    dry = files.ok("migrate-json", *BOTH, "--dry-run", "--plan-file", "plan", *pace, "--output", "json").json
    assert dry["next"] == f"somactl migrate-json whole.json embedded.json --apply plan {spelt}"
    applied = repeat(files, dry["next"], "--output", "json").json
    assert applied["next"].endswith(f"migration finalize {applied['migration']} {spelt}")
    finalized = repeat(files, applied["next"], "--yes", "--output", "json").json
    assert finalized["next"].endswith(f"migration forget {applied['migration']}")
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
    files.ok("migrate-json", *BOTH[:2], "--dry-run", "--plan-file", "plan")
    migration = files.ok("migrate-json", *BOTH[:2], "--apply", "plan", "-o", "json").json["migration"]
    for words in (
        ("migrate-json", *BOTH[:2], "--apply", "plan"),
        ("migrate-json", *BOTH[:2], "--resume"),
        ("migration", "revert", migration),
        ("migration", "forget", migration, "--yes"),
    ):
        first = files.ok(*words, "--output", "json").json
        again = files.ok(*words, "--output", "json").json
        assert (again["phase"], again["code"]) == (first["phase"], 0)
        assert "nothing" in again["warnings"][0]


@pytest.mark.parametrize("verb", ["finalize", "revert", "forget"])
def test_on_a_terminal_it_is_asked_first_and_no_changes_nothing(files: Shell, verb: str) -> None:
    words = ("migration", verb, files.ok("migrate-json", *BOTH, "-o", "json").json["migration"])
    before = {name: (files.folder / f"{name}.json").read_bytes() for name in ("whole", "embedded")}
    code, said = on_a_terminal(files, b"n\n", *words)
    assert (code, "Go on?" in said, "not confirmed" in said) == (2, True, True)
    assert {name: (files.folder / f"{name}.json").read_bytes() for name in before} == before
    assert files.ok("ls", "--output", "json").json["total"] == 2
    code, said = on_a_terminal(files, b"y\n", *words)
    assert code == 0, said
    assert "Go on?" not in on_a_terminal(files, b"", *words, "--yes")[1]


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
