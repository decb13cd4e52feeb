"""Evidence of audits: what is written and read, each defect by its name, and what belies itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from somactl.core.verdict import Tolerances, Verdict, Witness
from somactl.errors import EvidenceRejected
from somactl.package_data import data_file
from somactl.report import MAX_RESULTS, AuditScope, Checked, VerifyReport
from somactl.report.evidence import read_evidence, write_evidence
from somactl.report.evidence_check import contradictions, examined
from somactl.report.evidence_merge import merge_evidence
from support.audits import altered, audited, evidence_of, shard

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

VERDICT = Verdict(
    status="violated",
    rigour="proved",
    reasons=("lambda_min < -1e-8",),
    n=2,
    dtype="complex128",
    finite=True,
    square=True,
    psd_ok=False,
    trace_error=1e-300,
    hermitian_error=0.0,
    lambda_min_lower=None,
    lambda_min_upper=-0.5,
    tolerances=Tolerances(),
    witness=Witness(value=-0.5, vector=((1.0, 0.0), (0.1 + 0.2, 5e-324))),
)
WITH_A_WITNESS = audited(
    [("a", "valid"), ("b", "violated")],
    results=[Checked(source="b", outcome="violated", version=7, verdict=VERDICT)],
    worst_trace_error=1e22,
)
WHOLE = audited([("a", "valid"), ("b", "violated"), ("c", "undecided"), ("d", "skipped")])


def resealed(tree: dict[str, Any]) -> bytes:
    """A document with the digest of what stands in it, as a forger or a broken program would make it.

    It is computed by what the standard library has: no number in these trees is written in another way.
    """
    rest = {name: value for name, value in tree.items() if name != "digest"}
    body = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return json.dumps({**rest, "digest": f"sha256:{hashlib.sha256(body.encode()).hexdigest()}"}).encode()


def tree_of(report: VerifyReport) -> dict[str, Any]:
    report = altered(report, tolerances={"psd": 0.5}, started_at=None, ended_at=None)
    tree: dict[str, Any] = json.loads(write_evidence(report))
    return tree


def defect_of(data: bytes) -> str:
    with pytest.raises(EvidenceRejected) as caught:
        read_evidence(data, "the file")
    assert caught.value.message.startswith("the file: ")
    return str(caught.value.facts["defect"])


def test_a_report_is_read_as_it_was_written() -> None:
    for report in (WHOLE, WITH_A_WITNESS, audited(), VerifyReport(method="certify").finish(4)):
        assert isinstance(report, VerifyReport)
        data = write_evidence(report)
        evidence = read_evidence(data, "a.json")
        assert evidence.report == report
        assert evidence.data == data == write_evidence(evidence.report)


def test_the_digest_is_that_of_the_bytes_without_their_first_member() -> None:
    data = write_evidence(WITH_A_WITNESS)
    assert data[:19] == b'{"digest":"sha256:'[:19] + data[18:19]
    assert data[18:82].decode() == hashlib.sha256(b"{" + data[84:]).hexdigest()


@pytest.mark.parametrize("name", ["audit", "sum"])
def test_evidence_of_every_release_is_read(name: str) -> None:
    data = (GOLDEN / f"{name}.evidence.json").read_bytes()
    evidence = read_evidence(data, name)
    assert contradictions(evidence) == []
    assert evidence.data == data
    assert len(evidence.document.parts) == {"audit": 0, "sum": 2}[name]


def test_blanks_and_the_order_of_members_do_not_matter() -> None:
    data = write_evidence(WITH_A_WITNESS)
    shuffled = dict(reversed(json.loads(data).items()))
    for text in (
        json.dumps(shuffled, indent=3),
        json.dumps(shuffled, ensure_ascii=True),
        f"\ufeff{data.decode()}\n",
    ):
        assert read_evidence(text.encode(), "a").data == data


def test_every_bit_that_flips_is_found_or_changes_nothing() -> None:
    data = write_evidence(WITH_A_WITNESS)
    survivors = []
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        try:
            assert read_evidence(bytes(flipped), "a").data == data
            survivors.append(bytes(flipped[position - 3 : position + 3]))
        except EvidenceRejected:
            pass
    assert len(survivors) < 10, survivors  # such as 1E-8 for 1e-8, and 7e-324 for the number 5e-324


def test_every_cut_is_found() -> None:
    data = write_evidence(WHOLE)
    assert {defect_of(data[:length]) for length in range(len(data))} == {"not-json"}


def test_each_defect_has_its_name() -> None:
    data, tree = write_evidence(WHOLE), tree_of(WHOLE)
    report = tree["report"]
    cases: list[tuple[str, bytes]] = [
        ("not-json", b""),
        ("not-json", b"\xff\xfe{\0}\0"),
        ("not-json", b'{"evidence": "\xff"}'),
        ("not-json", b"[" * 100_000),
        ("not-json", b"[]"),
        ("not-json", data.replace(b":7", b":NaN")),
        ("not-json", data.replace(b":7", b":1e999")),
        ("not-json", data.replace(b'"acme"', b'"\\ud800"')),
        ("repeated-member", data.replace(b'"valid":1', b'"valid":1,"valid":1')),
        ("repeated-member", data[:-1] + b',"evidence":1}'),
        ("unknown-version", json.dumps(report).encode()),
        ("unknown-version", resealed({**tree, "evidence": 2})),
        ("unknown-version", resealed({**tree, "evidence": True})),
        ("unknown-version", resealed({**tree, "evidence": "1"})),
        ("digest-mismatch", data.replace(b'"valid":1', b'"valid":2')),
        ("digest-mismatch", data.replace(b'"undo":null,', b"")),
        ("digest-mismatch", data.replace(b"sha256:", b"sha1:")),
        ("digest-mismatch", json.dumps({**tree, "digest": None}).encode()),
        ("unknown-member", resealed({**tree, "note": "all is well"})),
        ("unknown-member", resealed({**tree, "report": {**report, "approved": True}})),
        (
            "unknown-member",
            resealed({**tree, "report": {**report, "results": [{**report["results"][0], "x": 1}]}}),
        ),
        ("invalid-report", resealed({**tree, "report": {**report, "checked": "many"}})),
        ("invalid-report", resealed({**tree, "report": {**report, "command": "ls"}})),
        ("invalid-report", resealed({**tree, "report": {n: v for n, v in report.items() if n != "method"}})),
        ("invalid-report", resealed({n: v for n, v in tree.items() if n != "report"})),
        ("invalid-report", resealed({n: v for n, v in tree.items() if n != "somactl"})),
        ("invalid-report", resealed({**tree, "parts": [{"digest": "x"}]})),
    ]
    for defect, text in cases:
        assert defect_of(text) == defect, text[:200]
    assert read_evidence(resealed(tree), "a").report.valid == 1


def test_a_newer_form_names_what_reads_it() -> None:
    for change in ({"evidence": 2}, {"more": 1}):
        with pytest.raises(EvidenceRejected) as caught:
            read_evidence(resealed({**tree_of(WHOLE), "somactl": "9.1.0", **change}), "a")
        assert caught.value.hint == "read it with somactl 9.1.0, which wrote it, or a newer one"


def test_an_unknown_member_is_named_by_its_place() -> None:
    tree = tree_of(WHOLE)
    tree["report"]["results"][1]["x"] = 1
    with pytest.raises(EvidenceRejected, match=r"the member report\.results\[1\]\.x is not known"):
        read_evidence(resealed(tree), "a")


def test_a_name_that_is_no_utf8_is_escaped() -> None:
    name = "\udcff.npy"
    report = audited([(name, "rejected")], AuditScope(files=[name]))
    evidence = evidence_of(report)
    assert evidence.report.results[0].source == "\\udcff.npy"
    assert contradictions(evidence) == []


def test_the_schema_takes_what_is_written_and_nothing_else() -> None:
    schema = json.loads(data_file("schemas", "evidence.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    tree = json.loads(write_evidence(WITH_A_WITNESS))
    validator.validate(tree)
    halves = [evidence_of(shard(1, 2, None, "k")), evidence_of(shard(2, 2, "k", None))]
    validator.validate(json.loads(merge_evidence(halves).data))
    for wrong in ({"evidence": 2}, {"digest": None}, {"report": {}}, {"parts": None}):
        assert not validator.is_valid({**tree, **wrong}), wrong


BELIED: list[tuple[dict[str, Any], str]] = [
    ({"checked": 3}, "checked is 3, and valid, clampable and violated add up to 2"),
    ({"valid": -1, "checked": 0}, "valid is -1"),
    ({"skipped": 2}, "skipped is 2, and its kinds add up to 1"),
    ({"code": 0}, "code is 0, and codes [3, 4]"),
    ({"codes": [4, 3]}, "codes [4, 3]"),
    ({"codes": [0, 3, 4]}, "codes [0, 3, 4]"),
    ({"codes": [4], "code": 4}, "1 violated, and 3 is not among the codes"),
    ({"codes": [3], "code": 3}, "1 undecided, and 4 is not among the codes"),
    ({"codes": [3, 4, 11], "complete": True}, "11 is among the codes, and nothing was found"),
    ({"complete": True}, "complete, and yet undecided"),
    ({"psd_ok": None}, "psd_ok is null, and should be false"),
    ({"accepted": {"violated": 2}}, "2 violated are accepted, and no such findings were counted"),
    ({"accepted": {"undecided": 1}}, "1 undecided are accepted, and no such findings were counted"),
    ({"version_started": 10}, "the version at its start, 10, is behind that at its end, 9"),
    ({"started_at": 1_800_000_000.0}, "the clock at its start"),
    ({"ended_at": 1e300}, "1e+300 is no time"),
    ({"scope.after": "z", "scope.upto": "a"}, "its range ends before it begins"),
    ({"scope.shard": "3/2"}, "'3/2' is no shard"),
    ({"scope.shard": "one"}, "'one' is no shard"),
    ({"scope.upto": "c", "reached": "d"}, "it reached 'd', which is not among the keys"),
    ({"results": []}, "0 results listed and 0 omitted, and 2 were not valid"),
    ({"results_omitted": 1}, "2 results listed and 1 omitted, and 2 were not valid"),
    ({"scope.upto": "b"}, "a result is about 'c', which is not in its scope"),
    ({"scope.all": False, "scope.keys": ["b"]}, "a result is about 'c', which is not in its scope"),
]


@pytest.mark.parametrize(("members", "told"), BELIED, ids=[told for _, told in BELIED])
def test_numbers_that_belie_each_other_are_found(members: dict[str, Any], told: str) -> None:
    assert contradictions(evidence_of(WHOLE)) == []
    found = contradictions(evidence_of(altered(WHOLE, **members)))
    assert any(told in problem for problem in found), found
    file = examined(write_evidence(altered(WHOLE, **members)), "a")
    assert (file.intact, file.defect) == (False, "inconsistent")


def test_listed_findings_are_compared_with_the_counts_of_each_outcome() -> None:
    swapped = [msgspec.structs.replace(checked, outcome="violated") for checked in WHOLE.results]
    assert "2 listed as violated, and 1 counted" in contradictions(
        evidence_of(altered(WHOLE, results=swapped))
    )


def test_no_more_results_are_listed_than_a_report_holds() -> None:
    many = audited((f"{number:04}", "clampable") for number in range(MAX_RESULTS + 1))
    assert contradictions(evidence_of(many)) == []
    longer = altered(many, results=[*many.results, many.results[0]], results_omitted=0)
    assert contradictions(evidence_of(longer)) == ["1001 results listed, where 1000 are the most"]


def test_a_code_without_a_reason_and_an_early_end_without_a_code_are_found() -> None:
    clean = audited([("a", "valid")])
    assert contradictions(evidence_of(altered(clean, codes=[3], code=3))) == [
        "3 is among the codes, and nothing was found that is a reason for it"
    ]
    assert contradictions(evidence_of(altered(clean, complete=False, psd_ok=None))) == [
        "not complete, and no code says so: [0]"
    ]
    assert contradictions(evidence_of(altered(clean, reached="a"))) == ["complete, and yet it ended early"]


def test_an_accepted_finding_needs_no_code() -> None:
    passed: dict[str, Any] = {"codes": [0], "code": 0}
    one = altered(audited([("a", "violated"), ("b", "valid")]), accepted={"violated": 1}, **passed)
    assert contradictions(evidence_of(one)) == []
    two = altered(audited([("a", "violated"), ("b", "violated")]), accepted={"violated": 1}, **passed)
    assert "1 violated, and 3 is not among the codes" in contradictions(evidence_of(two))
