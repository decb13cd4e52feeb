"""Accepted findings: how their file is read, and what it says of a finding."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pytest

from somactl.errors import ConfigurationError
from somactl.operations.audit import accepted as accepted_module
from somactl.operations.audit.accepted import MAX_BYTES, MAX_TEXT, Accepted, parse_accepted
from somactl.report import OUTCOME_CODES
from somactl.report.accepting import Acceptance

ROOT = Path(__file__).resolve().parents[2]
KEY = "acme:(9.0, 14.0, 43.0):data"
DIGEST = "4f0c7a52b19d3e8860f1c2ab94d75e36"
OTHER = "00000000000000000000000000000000"
FLOW = f"{{key: b, digest: {OTHER}, owner: ben, reason: known, expires: 2027-01-31}}"
FILE = f"""# known since May
version: 1
accepted:
  - key: "{KEY}"
    digest: {DIGEST}
    owner: ana@example.org
    reason: >
      known since the import of May;
      to be re-derived
    expires: 2027-01-31
    outcome: violated
  - {{key: b, digest: {OTHER}, owner: ben, reason: 4711, expires: "2027-01-31T12:00:00.5+02:00"}}
"""
END = datetime(2027, 2, 1, tzinfo=UTC).timestamp()


def entry(**fields: str | None) -> str:
    """A file of one entry, on five lines from the third; None leaves a field out."""
    usual = {"key": "b", "digest": OTHER, "owner": "ben", "reason": "known", "expires": "2027-01-31"}
    lines = [f"{name}: {text}" for name, text in (usual | fields).items() if text is not None]
    return "version: 1\naccepted:\n  - " + "\n    ".join(lines) + "\n"


def judge(
    accepted: Accepted, key: str, digest: str | None = OTHER, outcome: str = "violated", now: float = 0
) -> Acceptance:
    said = accepted.judge(key, digest, outcome, now)
    assert said is not None
    return said


def test_a_file_is_read() -> None:
    first, second = parse_accepted(FILE, "accept.yaml").entries
    assert (first.key, first.digest, first.owner, first.outcome) == (
        KEY,
        DIGEST,
        "ana@example.org",
        "violated",
    )
    assert first.reason == "known since the import of May; to be re-derived"
    assert (first.until, first.expires, first.line) == ("2027-01-31", END, 4)
    assert (second.reason, second.outcome, second.line) == ("4711", None, 12)
    assert second.expires == datetime(2027, 1, 31, 10, tzinfo=UTC).timestamp() + 0.5


@pytest.mark.source
def test_the_file_in_the_documents_is_one() -> None:
    page = (ROOT / "docs/ACCEPTED_FINDINGS.md").read_text(encoding="utf-8")
    block = page.partition("```yaml\n")[2].partition("```")[0]
    written = textwrap.dedent((accepted_module.__doc__ or "").partition("::\n\n")[2].partition("\n\nAn ")[0])
    (first,), (second,) = parse_accepted(block, "page").entries, parse_accepted(written, "module").entries
    assert (
        (first.key, first.digest, first.expires)
        == (second.key, second.digest, second.expires)
        == (KEY, DIGEST, END)
    )


def test_bytes_text_and_a_byte_order_mark_are_the_same() -> None:
    files = [parse_accepted(data, "a") for data in (FILE, FILE.encode(), "\ufeff" + FILE)]
    assert files[0].entries == files[1].entries == files[2].entries
    assert files[0].digest == files[1].digest != files[2].digest
    assert parse_accepted("version: 1\naccepted: []\n", "a").entries == ()


DEFECTS = [
    ("", "line 1: this is no mapping"),
    ("# none\n", "line 1: this is no mapping"),
    ("- version: 1\n", "line 1: this is no mapping"),
    ("version: 1\n", "line 1: `accepted` is missing"),
    ("accepted: []\n", "line 1: `version` is missing"),
    ("version: 2\naccepted: []\n", "line 1: `version`: this somactl reads version 1 alone"),
    ("version: '1'\naccepted: []\n", "line 1: `version`: this somactl"),
    ("version: [1]\naccepted: []\n", "line 1: `version`: this somactl"),
    ("version: 1\nversion: 1\naccepted: []\n", "line 2: `version`: given twice"),
    ("version: 1\naccepted: []\nexpected: []\n", "line 3: `expected`: unknown field"),
    ("version: 1\naccepted:\n", "line 2: `accepted`: this is no list"),
    ("version: 1\naccepted: {a: b}\n", "line 2: `accepted`: this is no list"),
    ("version: 1\naccepted:\n  - b\n", "line 3: `accepted`: an entry is no mapping"),
    ("version: 1\naccepted:\n  - a\n---\nb: 1\n", "line 4: holds several documents"),
    (b"version: 1\naccepted: \xff\n", "line 2: this is no UTF-8 text"),
    ("version: 1\naccepted: [\n", "line 3: is not YAML"),
    ("version: 1\naccepted: \ud800\n", "line 2: this is no UTF-8 text"),
    ("#" * (MAX_BYTES + 1), "larger than 1024 KiB"),
    ("[" * MAX_BYTES, "line 1: nests deeper"),
    (entry(key=None), "line 3: `key` is missing"),
    (entry(digest=None), "line 3: `digest` is missing"),
    (entry(owner=None), "line 3: `owner` is missing"),
    (entry(reason=None), "line 3: `reason` is missing"),
    (entry(expires=None), "line 3: `expires` is missing"),
    (entry(note="x"), "line 8: `note`: unknown field"),
    (entry(reason="a\n    reason: b"), "line 7: `reason`: given twice"),
    (entry(owner=""), "line 5: `owner`: this is nothing"),
    (entry(owner="yes"), "line 5: `owner`: this is null, true or false to YAML"),
    (entry(owner="' '"), "line 5: `owner`: this is empty"),
    (entry(reason="''"), "line 6: `reason`: this is empty"),
    (entry(reason="[a]"), "line 6: `reason`: this is no text"),
    (entry(reason="{a: b}"), "line 6: `reason`: this is no text"),
    (entry(reason="!x a"), "line 6: `reason`: aliases and tags"),
    (entry(owner='"a\\e[0m"'), "line 5: `owner`: this has characters that cannot be printed"),
    (entry(owner="x" * (MAX_TEXT + 1)), "line 5: `owner`: this has more than 1000 characters"),
    (entry(key="''"), "line 3: `key`: a key is empty"),
    (entry(key='"a\\tb"'), "line 3: `key`: key 'a\\tb' contains the control character U+0009"),
    (entry(digest="4f0c"), "line 4: `digest`: this is no content digest"),
    (entry(digest=DIGEST.upper()), "line 4: `digest`: this is no content digest"),
    (entry(digest=DIGEST + "0"), "line 4: `digest`: this is no content digest"),
    (entry(digest=f'"{DIGEST}\\n"'), "line 4: `digest`: this is no content digest"),
    (entry(expires="2027-02-29"), "line 7: `expires`: this is neither a day"),
    (entry(expires="2027-1-31"), "line 7: `expires`: this is neither a day"),
    (entry(expires="20270131"), "line 7: `expires`: this is neither a day"),
    (entry(expires="2027-01-31T12:00:00"), "line 7: `expires`: this is neither a day"),
    (entry(expires="never"), "line 7: `expires`: this is neither a day"),
    (entry(expires="1800000000"), "line 7: `expires`: this is neither a day"),
    (entry(expires='"2027-01-31\\n"'), "line 7: `expires`: this is neither a day"),
    (entry(outcome="undecided"), "line 8: `outcome`: this is none of violated, corrupt, contradicting"),
    (entry(outcome=""), "line 8: `outcome`: this is nothing"),
    (
        entry() + entry().partition("accepted:\n")[2],
        "line 8: `key`: an entry for this key and digest stands in line 3",
    ),
    (
        f"{{version: 1, accepted: [{FLOW}, {FLOW}]}}",
        "line 1: `key`: an entry for this key and digest stands in line 1 already",
    ),
]


@pytest.mark.parametrize(("text", "says"), DEFECTS, ids=range(len(DEFECTS)))
def test_a_file_with_a_defect_is_refused_whole(text: str | bytes, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_accepted(text, "accept.yaml")
    assert caught.value.message.startswith("accepted findings accept.yaml")
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_the_place_of_a_defect_stands_in_the_facts() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_accepted(entry(digest="x"), "a\x1b[0m.yaml")
    assert caught.value.facts == {"line": 4, "field": "digest"}
    assert caught.value.message.startswith(r"accepted findings 'a\x1b[0m.yaml', line 4: ")


def test_an_acceptance_holds_until_the_end_of_its_day() -> None:
    accepted = parse_accepted(entry(), "a")
    assert judge(accepted, "b", now=END - 0.001).state == "accepted"
    assert judge(accepted, "b", now=END).state == "expired"
    assert judge(accepted, "b", now=END).expires == END
    timed = parse_accepted(entry(expires="2027-01-31T12:00:00Z"), "a")
    assert [judge(timed, "b", now=END - 43_200 + late).holds for late in (-1, 0)] == [True, False]
    assert judge(parse_accepted(entry(expires="9999-12-31"), "a"), "b", now=END).holds


def test_another_digest_is_a_finding_again() -> None:
    accepted = parse_accepted(entry(), "a")
    for digest, now in ((DIGEST, 0.0), (None, 0.0), (DIGEST, END)):
        said = judge(accepted, "b", digest, now=now)
        assert (said.state, said.holds, said.digest) == ("changed", False, OTHER)


def test_another_outcome_is_a_finding_again() -> None:
    accepted = parse_accepted(entry(outcome="corrupt"), "a")
    assert judge(accepted, "b", outcome="corrupt").holds
    said = judge(accepted, "b", outcome="violated")
    assert (said.state, said.holds, said.outcome) == ("other", False, "corrupt")


def test_what_the_file_says_nothing_of() -> None:
    accepted = parse_accepted(FILE, "a")
    assert accepted.judge("c", OTHER, "violated", 0) is None
    assert ("b" in accepted, "c" in accepted) == (True, False)


@pytest.mark.parametrize("outcome", [*OUTCOME_CODES, "valid", "clampable", "skipped"])
def test_only_a_finding_can_be_accepted(outcome: str) -> None:
    said = parse_accepted(entry(), "a").judge("b", OTHER, outcome, 0)
    assert (said is not None and said.holds) == (outcome in ("violated", "corrupt", "contradicting"))


def test_of_two_values_of_a_key_each_is_judged_by_its_own_entry() -> None:
    second = entry(digest=DIGEST, owner="eve", expires="2026-01-31").partition("accepted:\n")[2]
    accepted = parse_accepted(entry() + second, "a")
    assert judge(accepted, "b", OTHER, now=END - 1).holds
    said = judge(accepted, "b", DIGEST, now=END - 1)
    assert (said.state, said.owner) == ("expired", "eve")
    said = judge(accepted, "b", "f" * 32)
    assert (said.state, said.owner) == ("changed", "ben")  # the one that would hold longest


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("b", OTHER, "corrupt", 0.0), "accepted until 2027-01-31 by ben: known"),
        (("b", OTHER, "corrupt", END), "accepted until 2027-01-31 by ben, expired: known"),
        (
            ("b", DIGEST, "corrupt", END),
            f"accepted until 2027-01-31 by ben, but the value has changed since (it was {OTHER}): known",
        ),
        (("b", OTHER, "violated", 0.0), "accepted until 2027-01-31 by ben, but as corrupt only: known"),
    ],
)
def test_it_is_told(said: tuple[str, str, str, float], told: str) -> None:
    assert judge(parse_accepted(entry(outcome="corrupt"), "a"), *said).told() == told


def test_entries_that_no_finding_needs() -> None:
    second = entry(digest=DIGEST).partition("accepted:\n")[2]
    third = entry(key="c").partition("accepted:\n")[2]
    accepted = parse_accepted(entry() + second + third, "a")
    old, new, other = accepted.entries
    assert accepted.unused([]) == [old, new, other]
    assert accepted.unused([("b", DIGEST)]) == [old, other]
    assert accepted.unused([("b", DIGEST), ("b", OTHER), ("c", OTHER)]) == []
    # A changed value still needs its entries to be told what became of them.
    assert accepted.unused([("b", "f" * 32), ("c", None)]) == []
    # What was not looked at may be needed.
    assert accepted.unused([], {"c"}) == [other]
    assert accepted.unused([], set()) == []


def test_yaml_is_imported_where_a_file_is_read() -> None:
    code = "import sys, somactl.operations.audit.accepted; print('yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
