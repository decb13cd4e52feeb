"""evidence check, evidence merge: what they print, write and end with."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest

from somactl.package_data import data_file
from somactl.report import AuditScope, VerifyReport
from somactl.report.evidence import read_evidence, write_evidence
from somactl.report.evidence_merge import merge_evidence
from support.audits import altered, audited, evidence_of, shard, stopped
from tests.cli.conftest import Result, Shell

CLEAN = audited([("a", "valid"), ("b", "valid")])
FOUND = audited(
    [("a", "valid"), ("b", "violated"), ("c", "corrupt"), ("d", "undecided")], AuditScope(match="*")
)
FIRST = shard(1, 3, None, "g", [("a", "valid"), ("b", "clampable")])
SECOND = shard(2, 3, "g", "q", [("h", "valid")])
THIRD = shard(3, 3, "q", None, [("z", "violated")])


@pytest.fixture
def files(shell: Shell) -> Shell:
    reports = {"clean": CLEAN, "found": FOUND, "first": FIRST, "second": SECOND, "third": THIRD}
    for name, report in reports.items():
        shell.write(f"{name}.json", write_evidence(report))
    return shell


def check(shell: Shell, *words: str, **options: bytes) -> Result:
    """In JSON, against the schema."""
    return validated(shell("evidence", "check", *words, "-o", "json", **options))


def validated(result: Result) -> Result:
    schema = json.loads(data_file("schemas", f"report.{result.json['command']}.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(result.json)
    assert result.code == result.json["code"]
    return result


def test_check_says_what_a_file_covers_and_what_came_of_it(files: Shell) -> None:
    printed = files.ok("evidence", "check", "found.json", "second.json").text.splitlines()
    assert printed == [
        "found.json: intact; it reports 2 findings, and is not complete (exit 3)",
        f"  {evidence_of(FOUND).document.digest}",
        "  namespace acme at sqlite:////srv/rho.db, incarnation 3f2a, versions 5 to 9",
        "  keys that match '*'",
        "  2 checked from 2023-11-14 22:13:20Z to 2023-11-14 22:15:00Z by the store's clock; "
        "written by somactl 0.1.0",
        "second.json: intact; it reports no finding (exit 0)",
        f"  {evidence_of(SECOND).document.digest}",
        "  namespace acme at sqlite:////srv/rho.db, incarnation 3f2a, versions 5 to 9",
        "  every key of shard 2/3, keys behind 'g' up to 'q'",
        "  1 checked from 2023-11-14 22:13:20Z to 2023-11-14 22:15:00Z by the store's clock; "
        "written by somactl 0.1.0",
    ]


def test_check_is_about_the_file_and_tells_the_code_of_the_audit(files: Shell) -> None:
    report = check(files, "found.json").json
    (file,) = report["files"]
    assert (report["code"], file["intact"], file["code"], file["codes"]) == (0, True, 3, [3, 4])
    assert (file["findings"], file["complete"], file["checked"], file["parts"]) == (2, False, 2, 0)


def test_check_goes_through_every_file(files: Shell) -> None:
    files.write("cut.json", write_evidence(CLEAN)[:-40])
    files.write("edited.json", write_evidence(FOUND).replace(b'"violated":1', b'"violated":0'))
    files.write("belied.json", write_evidence(altered(CLEAN, checked=5)))
    words = ["cut.json", "clean.json", "edited.json", "belied.json", "no such file"]
    result = check(files, *words)
    assert result.code == 11
    told = [(file["file"], file["defect"]) for file in result.json["files"]]
    defects = ["not-json", None, "digest-mismatch", "inconsistent", "unreadable"]
    assert told == list(zip(words, defects, strict=True))
    printed = files("evidence", "check", *words).text
    assert "belied.json: NOT intact: inconsistent\n  checked is 5, and valid, clampable" in printed
    assert "no such file: NOT intact: unreadable\n  no such file or directory\n" in printed
    assert printed.endswith("next: somactl explain RUNBOOKS/evidence.md\n")
    lines = files("evidence", "check", *words, "-o", "ndjson").lines
    assert [(line["file"], line["defect"]) for line in lines[:-1]] == told
    assert (lines[-1]["code"], lines[-1]["files"]) == (11, [])


def test_the_page_of_a_refusal_can_be_pasted(files: Shell) -> None:
    files.write("cut.json", b"{")
    printed = files("evidence", "check", "cut.json", "-o", "json").json["next"]
    page = files.line(printed)
    assert page.stdout.startswith("# Evidence of an audit is refused")


def test_standard_input_is_a_file(files: Shell) -> None:
    data = write_evidence(CLEAN)
    assert check(files, "-", stdin=data).json["files"][0]["file"] == "standard input"
    merged = files("evidence", "merge", "first.json", "-", "third.json", stdin=write_evidence(SECOND))
    assert merged.code == 3
    twice = files("evidence", "check", "-", "-", stdin=data)
    assert (twice.code, "one file only" in twice.err) == (2, True)


def test_neither_needs_a_store_or_settings_that_work(files: Shell) -> None:
    env = {"SOMACTL_STORE": "mongodb://nowhere/", "SOMACTL_CONFIG": "absent.toml"}
    assert files("evidence", "check", "clean.json", env=env).code == 0
    assert files("evidence", "merge", "clean.json", env=env).code == 0
    assert not (files.folder / "somactl.db").exists()


def merge(shell: Shell, *words: str) -> Result:
    return validated(shell("evidence", "merge", *words, "-o", "json"))


def test_merge_ends_as_the_whole_audit_would_have(files: Shell) -> None:
    result = merge(files, "second.json", "third.json", "first.json", "--to", "whole.json")
    assert (result.code, result.json["codes"], result.json["complete"]) == (3, [3], True)
    audit = result.json["audit"]
    assert (audit["checked"], audit["valid"], audit["clampable"], audit["violated"]) == (4, 2, 1, 1)
    assert [part["shard"] for part in result.json["parts"]] == ["1/3", "2/3", "3/3"]
    page = files.line(result.json["next"])
    assert page.stdout.startswith("# ")
    whole = (files.folder / "whole.json").read_bytes()
    assert whole == merge_evidence([evidence_of(r) for r in (FIRST, SECOND, THIRD)]).data
    (file,) = check(files, "whole.json").json["files"]
    assert (file["intact"], file["digest"], file["parts"]) == (True, result.json["digest"], 3)
    assert ", in 3 parts; written" in files.ok("evidence", "check", "whole.json").text
    files.write("third.json", write_evidence(shard(3, 3, "q", None, [("z", "valid")])))
    assert merge(files, "first.json", "second.json", "third.json").code == 0


def test_merge_tells_of_each_part_and_of_the_sum(files: Shell) -> None:
    files.write("second.json", write_evidence(stopped(SECOND, "h")))
    printed = files("evidence", "merge", "first.json", "second.json", "third.json", "--to", "whole.json")
    assert printed.code == 3
    lines = printed.text.splitlines()
    assert lines[0].startswith("3 audits added up, sha256:")
    assert lines[1:5] == [
        "  shard 1/3, keys up to 'g': complete (exit codes 0)",
        "  shard 2/3, keys behind 'g' up to 'q': NOT complete, reached 'h' (exit codes 4)",
        "  shard 3/3, keys behind 'q' to the last: complete (exit codes 3)",
        "2 valid, 1 clampable, 1 violated (no verdicts, method certify)",
    ]
    assert "wrote the evidence to whole.json" in lines


def test_a_shard_that_left_no_file_is_not_passed_over(files: Shell) -> None:
    for words in (["first.json"], ["second.json", "first.json"]):
        result = merge(files, *words)
        assert (result.code, result.json["complete"], result.json["audit"]["code"]) == (4, False, 0)
        assert result.json["warnings"][0].startswith(
            "this is not the whole audit: these files hold keys up to "
        )
    middle = files("evidence", "merge", "first.json", "third.json")
    assert middle.code == 11
    assert "first.json and third.json: neither holds keys behind 'g' up to 'q'" in middle.err
    assert "try: somactl evidence check first.json third.json" in middle.err


def test_shards_without_a_key_are_not_passed_as_an_audit_of_nothing(files: Shell) -> None:
    files.write("one.json", write_evidence(shard(1, 2, None, " ")))
    files.write("two.json", write_evidence(shard(2, 2, " ", None)))
    result = merge(files, "one.json", "two.json")
    assert (result.code, result.json["complete"], result.json["audit"]["code"]) == (4, False, 0)
    assert result.json["warnings"] == ["nothing was checked, in none of the parts"]
    for name, report in (("one", shard(1, 2, None, " ")), ("two", shard(2, 2, " ", None))):
        files.write(f"{name}.json", write_evidence(altered(report, allow_empty=True)))
    assert merge(files, "one.json", "two.json").code == 0
    files.write(
        "two.json", write_evidence(shard(2, 2, " ", None, [("a", "valid")], warnings=["it was slow"]))
    )
    printed = files.ok("evidence", "merge", "one.json", "two.json").text
    assert "\nwarning: it was slow\n" in printed


def test_nothing_is_written_where_the_files_do_not_add_up(files: Shell) -> None:
    files.write("whole.json", "old")
    assert files("evidence", "merge", "first.json", "third.json", "--to", "whole.json").code == 11
    files.write("second.json", write_evidence(SECOND)[:100])
    assert files("evidence", "merge", "first.json", "second.json", "--to", "whole.json").code == 11
    assert (files.folder / "whole.json").read_text() == "old"
    assert sorted(path.name for path in files.folder.glob(".somactl*")) == []


def test_no_input_is_written_over(files: Shell) -> None:
    before = (files.folder / "first.json").read_bytes()
    (files.folder / "link").symlink_to("first.json")
    for name in ("first.json", "link"):
        refused = files("evidence", "merge", "first.json", "second.json", "--to", name, "-o", "json")
        assert (refused.code, refused.error["error"]) == (11, "TargetRefused")
    assert (files.folder / "first.json").read_bytes() == before


def test_evidence_alone_goes_to_standard_output(files: Shell) -> None:
    result = files("evidence", "merge", "first.json", "second.json", "third.json", "--to", "-")
    whole = [evidence_of(report) for report in (FIRST, SECOND, THIRD)]
    assert (result.code, result.out) == (3, merge_evidence(whole).data)
    part = files("evidence", "merge", "first.json", "--to", "/dev/stdout")
    assert (part.code, part.out) == (4, evidence_of(FIRST).data)
    assert "not the whole audit" in part.err
    both = files("evidence", "merge", "first.json", "--to", "-", "-o", "json")
    assert (both.code, both.error["error"]) == (2, "UsageError")


def test_sums_of_sums_are_the_sum(files: Shell) -> None:
    files("evidence", "merge", "third.json", "second.json", "--to", "rest.json")
    files("evidence", "merge", "rest.json", "first.json", "--to", "a.json")
    files("evidence", "merge", "first.json", "third.json", "second.json", "--to", "b.json")
    assert (files.folder / "a.json").read_bytes() == (files.folder / "b.json").read_bytes()


def test_findings_that_no_report_holds_are_counted(files: Shell) -> None:
    many = [(f"a{number:04}", "violated") for number in range(1003)]
    files.write("many.json", write_evidence(audited(many)))
    printed = files("evidence", "merge", "many.json").text
    assert "... and 3 more, which no report holds\n" in printed
    assert "ndjson" not in printed


def test_the_digest_is_checked_by_standard_tools_alone(files: Shell) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "EVIDENCE.md").read_text(encoding="utf-8")
    lines = [line.removeprefix("$ ") for line in page.splitlines() if re.match(r"\$ (head|\{)", line)]
    said, computed = (line.replace("audit.json", "found.json") for line in lines)
    outputs = [
        subprocess.run(
            ["sh", "-c", line], cwd=files.folder, capture_output=True, text=True, check=True
        ).stdout
        for line in (said, computed)
    ]
    assert outputs[1] == f"{outputs[0]}  -\n"
    assert evidence_of(FOUND).document.digest == f"sha256:{outputs[0]}"


def test_a_form_of_the_future_names_what_reads_it(files: Shell) -> None:
    files.write("new.json", json.dumps({"evidence": 2, "somactl": "2.0.0", "digest": "x"}))
    refused = files("evidence", "merge", "new.json")
    assert "new.json: the form of evidence has version 2; this somactl reads 1" in refused.err
    assert "hint: read it with somactl 2.0.0, which wrote it, or a newer one" in refused.err


def test_read_evidence_is_what_check_reads(files: Shell) -> None:
    report = read_evidence((files.folder / "clean.json").read_bytes(), "clean.json").report
    assert isinstance(report, VerifyReport)
    assert report == CLEAN


def test_more_shards_than_keys_add_up(shell: Shell) -> None:
    lines = [json.dumps({"key": key, "value": [[1.0]]}) for key in "abc"]
    shell.ok("commit", stdin="\n".join(lines).encode())
    names = [f"{number}.json" for number in range(1, 6)]
    for number, name in enumerate(names, 1):
        shell.ok("verify-psd", "--all", "--shard", f"{number}/5", "--run", "night", "--evidence", name)
    report = merge(shell, *reversed(names)).json
    assert (report["code"], report["audit"]["checked"], report["complete"]) == (0, 3, True)
