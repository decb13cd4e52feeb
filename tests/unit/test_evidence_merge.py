"""How the evidence of shards adds up, in every order and grouping, and what does not."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from somactl.errors import EvidenceRejected
from somactl.report import MAX_RESULTS, OUTCOME_CODES, AuditScope, Coverage, VerifyReport
from somactl.report.evidence import Evidence, read_evidence, write_evidence
from somactl.report.evidence_check import contradictions
from somactl.report.evidence_merge import COVERAGE_RULES, RULES, merge_evidence
from support.audits import altered, audited, evidence_of, shard, stopped


def thirds(**more: Any) -> list[Evidence]:
    return [
        evidence_of(shard(1, 3, None, "c", [("a", "valid"), ("c", "clampable")], **more), "one"),
        evidence_of(shard(2, 3, "c", "m", [("d", "valid")], **more), "two"),
        evidence_of(shard(3, 3, "m", None, [("z", "violated")], **more), "three"),
    ]


def sum_of(*given: Evidence) -> Evidence:
    merged = merge_evidence(given)
    assert contradictions(merged) == []
    assert read_evidence(merged.data, "again").document == merged.document
    return merged


def test_shards_add_up_to_the_audit_that_they_are_of() -> None:
    one, two, three = thirds()
    one = evidence_of(altered(one.report, started_at=5.0, worst_trace_error=1e-12, blas="b", rigour="proved"))
    two = evidence_of(altered(two.report, version_started=2, rigour="computed", warnings=["odd"], blas="a"))
    three = evidence_of(
        altered(three.report, ended_at=1.8e9, namespace_version=11, lowest_lambda_min=-0.5, warnings=["odd"])
    )
    whole = sum_of(one, two, three)
    report = whole.report
    assert (report.checked, report.valid, report.clampable, report.violated) == (4, 2, 1, 1)
    assert [checked.source for checked in report.results] == ["c", "z"]
    assert (report.started_at, report.ended_at) == (5.0, 1.8e9)
    assert (report.version_started, report.namespace_version) == (2, 11)
    assert (report.worst_trace_error, report.lowest_lambda_min) == (1e-12, -0.5)
    assert (report.rigour, report.blas, report.warnings) == ("computed", "a; b", ["odd"])
    assert (report.code, report.codes, report.complete, report.reached) == (3, [3], True, None)
    assert report.scope == AuditScope(all=True, plan="p")
    assert [part.digest for part in whole.document.parts] == [e.document.digest for e in (one, two, three)]
    assert [(part.after, part.upto) for part in whole.document.parts] == [
        (None, "c"),
        ("c", "m"),
        ("m", None),
    ]


def test_one_alone_is_itself() -> None:
    for evidence in (evidence_of(audited([("a", "corrupt")])), thirds()[1]):
        assert merge_evidence([evidence]).data == evidence.data


def test_a_sum_of_some_is_a_larger_shard() -> None:
    _, two, three = thirds()
    some = sum_of(three, two)
    assert some.report.scope == AuditScope(all=True, shard="2-3/3", plan="p", after="c", upto=None)
    assert some.report.codes == [3]


def test_what_was_not_reached_is_told_of_the_whole() -> None:
    def early(evidence: Evidence, reached: str) -> Evidence:
        return evidence_of(stopped(evidence.report, reached), evidence.name)

    one, two, three = thirds()
    whole = sum_of(one, early(two, "d"), three)
    assert (whole.report.reached, whole.report.complete, whole.report.codes) == ("d", False, [3, 4])
    assert sum_of(one, early(two, ""), three).report.reached == "c"
    assert sum_of(early(one, ""), two, three).report.reached == ""
    assert [part.reached for part in whole.document.parts] == [None, "d", None]


def refused(*given: Evidence) -> tuple[str, str]:
    with pytest.raises(EvidenceRejected) as caught:
        merge_evidence(given)
    return caught.value.facts["defect"], caught.value.message


def test_gaps_and_overlaps_name_the_files_and_the_keys() -> None:
    one, two, three = thirds()
    assert refused(three, one) == ("gap", "one and three: neither holds keys behind 'c' up to 'm'")
    wider = evidence_of(shard(2, 3, "b", "m"), "wider")
    assert refused(wider, one, three) == ("overlap", "one and wider: both hold keys behind 'b' up to 'c'")
    inner = evidence_of(shard(3, 3, "d", "e"), "inner")
    assert refused(two, inner) == ("overlap", "two and inner: both hold keys behind 'd' up to 'e'")
    all_ = evidence_of(audited(scope=AuditScope(all=True, plan="p", shard="2/3")), "all")
    assert refused(all_, three) == ("overlap", "all and three: both hold keys behind 'm' to the last")


def test_keys_are_compared_by_their_bytes() -> None:
    """An index alone would take these two for neighbours, and UTF-16 would sort them the other way round."""
    low, high = "\ufb33", "\U0001f600"
    parts = [(None, low), (low, high), (high, None)]
    some = [evidence_of(shard(i + 1, 3, *bounds), f"{i}") for i, bounds in enumerate(parts)]
    assert sum_of(*some).report.scope == AuditScope(all=True, plan="p")


def test_empty_shards_have_their_place() -> None:
    bounds = [(None, ""), ("", "a"), ("a", "a"), ("a", "a"), ("a", None)]
    some = [evidence_of(shard(i + 1, 5, *each), f"{i}") for i, each in enumerate(bounds)]
    for order in itertools.permutations(some):
        assert [part.shard for part in sum_of(*order).parts] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert refused(some[0], *some[2:])[0] == "gap"


def test_no_shard_is_taken_twice() -> None:
    one, two, three = thirds()
    assert refused(one, two, two, three) == ("repeated-part", "two and two: the same audit is in both")
    again = evidence_of(shard(2, 3, "c", "m"), "again")
    assert refused(one, two, again, three)[0] == "repeated-part"
    assert refused(sum_of(one, two), sum_of(two, three)) == (
        "repeated-part",
        "the sum and the sum: the same audit is in both",
    )


DIFFERENT = [
    ("store", "redis"),
    ("address", "sqlite:////srv/other.db"),
    ("namespace", "other"),
    ("incarnation", "ffff"),
    ("method", "eigen"),
    ("tolerances", {"psd": 1e-6}),
    ("schema_version", 2),
    ("scope.match", "a*"),
    ("scope.all", False),
    ("scope.origin", "cache"),
    ("scope.incremental", True),
    ("scope.plan", "another"),
]


@pytest.mark.parametrize(("name", "value"), DIFFERENT, ids=[name for name, _ in DIFFERENT])
def test_audits_that_differ_do_not_add_up(name: str, value: Any) -> None:
    one, *_ = thirds()
    other = evidence_of(altered(shard(2, 3, "c", "m"), **{name: value}), "other")
    defect, message = refused(one, other)
    assert defect == "different"
    assert message.startswith(f"one and other: they differ in {name.removeprefix('scope.')}: ")
    assert repr(value) in message


def test_shards_of_another_number_do_not_add_up() -> None:
    one, _, three = thirds()
    other = evidence_of(shard(2, 4, "c", "m"), "other")
    assert refused(one, other, three)[0] == "different"


@pytest.mark.parametrize(
    "members", [{"scope": None}, {"scope.keys": ["d"]}, {"scope.files": ["f"]}, {"scope.sample": 3}], ids=str
)
def test_only_ranges_add_up(members: dict[str, Any]) -> None:
    one, two, _ = thirds()
    other = evidence_of(altered(two.report, **members), "other")
    defect, message = refused(one, other)
    assert defect == "not-a-range"
    assert message.startswith("other: ")
    assert merge_evidence([other]).data == other.data


def test_what_belies_itself_does_not_add_up() -> None:
    one, two, three = thirds()
    wrong = evidence_of(altered(two.report, checked=7), "wrong")
    assert refused(one, wrong, three)[0] == "inconsistent"
    assert refused(wrong)[0] == "inconsistent"


def test_a_sum_whose_parts_were_edited_belies_itself() -> None:
    whole = sum_of(*thirds())
    document = whole.document
    first, second, third = document.parts
    edits = [
        ([first, third], "the ranges of its parts do not join"),
        ([first, second], "its parts do not reach over its range, every key"),
        ([first, second, second, third], "two of its parts are the same"),
        ([first, msgspec.structs.replace(second, complete=False), third], "its parts were not as complete"),
        (
            [first, second, msgspec.structs.replace(third, codes=[0])],
            "its codes are [3], and those of",
        ),
    ]
    for parts, told in edits:
        found = contradictions(read_evidence(write_evidence(document.report, parts), "edited"))
        assert any(told in problem for problem in found), (told, found)


def test_what_was_accepted_and_covered_adds_up() -> None:
    passed: dict[str, Any] = {"codes": [0], "code": 0}
    first = Coverage(kept_in="store", changed=2, unchanged=5, known_bad=3, share_read=0.5, cycle_seconds=9.0)
    second = Coverage(kept_in="store", changed=2, unchanged=7, oldest_unread_seconds=4.0, cycle_seconds=11.0)
    scopes = [AuditScope(all=True, incremental=True, after=a, upto=u) for a, u in ((None, "k"), ("k", None))]
    one = audited([("a", "valid"), ("b", "corrupt")], scopes[0])
    two = audited([("x", "corrupt"), ("y", "violated")], scopes[1])
    report = sum_of(
        evidence_of(altered(one, accepted={"corrupt": 1}, coverage=first, **passed)),
        evidence_of(altered(two, accepted={"corrupt": 1, "violated": 1}, coverage=second, **passed)),
    ).report
    assert (report.accepted, report.codes, report.psd_ok) == ({"corrupt": 2, "violated": 1}, [0], False)
    assert report.coverage == Coverage(
        kept_in="store", changed=4, unchanged=12, known_bad=3, share_read=0.5, cycle_seconds=11.0
    )


def test_findings_stay_where_not_all_results_fit() -> None:
    many = [(f"a{number:04}", "clampable") for number in range(MAX_RESULTS)]
    one = evidence_of(shard(1, 2, None, "b", many), "one")
    two = evidence_of(
        shard(2, 2, "b", None, [("c", "violated"), ("d", "undecided"), ("e", "corrupt")]), "two"
    )
    report = sum_of(one, two).report
    assert len(report.results) == MAX_RESULTS
    assert [checked.source for checked in report.results[-3:]] == ["a0997", "c", "e"]
    assert report.results_omitted == 3


def test_every_member_of_a_report_has_a_rule() -> None:
    computed = {"scope", "reached", "blas", "psd_ok"}  # from the entries of the parts, and from the rest
    assert RULES.keys() | computed == set(VerifyReport.__struct_fields__)
    assert RULES.keys().isdisjoint(computed)
    assert COVERAGE_RULES.keys() == set(Coverage.__struct_fields__)


KEYS = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=3), max_size=12, unique=True
)


@st.composite
def audits(draw: st.DrawFn) -> list[Evidence]:
    """Shards of one audit, in order: some empty, some that ended early, with whatever outcomes."""
    keys = sorted(draw(KEYS), key=str.encode)
    cuts = sorted(draw(st.lists(st.sampled_from(["", *keys]), max_size=4)), key=str.encode)
    bounds = list(itertools.pairwise([None, *cuts, None]))
    found = []
    for number, (after, upto) in enumerate(bounds, 1):
        own = [k for k in keys if (after or "") < k and (upto is None or k.encode() <= upto.encode())]
        outcomes = [(key, draw(st.sampled_from(["valid", "clampable", *OUTCOME_CODES]))) for key in own]
        report = shard(
            number,
            len(bounds),
            after,
            upto,
            outcomes,
            started_at=draw(st.none() | st.floats(0, 10)),
            ended_at=draw(st.none() | st.floats(11, 20)),
            worst_trace_error=draw(st.none() | st.floats(0, 1)),
            rigour=draw(st.sampled_from([None, "proved", "computed"])),
            blas=draw(st.sampled_from([None, "x", "y"])),
            warnings=draw(st.lists(st.sampled_from("pqr"))),
        )
        if own and draw(st.booleans()):
            report = stopped(report, draw(st.sampled_from(["", *own])))
        found.append(evidence_of(report, f"{number}.json"))
    return found


@settings(max_examples=50)
@given(audits(), st.data())
def test_the_order_and_the_grouping_of_files_do_not_matter(
    shards: list[Evidence], data: st.DataObject
) -> None:
    whole = sum_of(*shards)
    assert sum_of(*data.draw(st.permutations(shards))).data == whole.data
    grouped = list(shards)
    while len(grouped) > 1:
        at = data.draw(st.integers(0, len(grouped) - 2))
        size = data.draw(st.integers(2, len(grouped) - at))
        grouped[at : at + size] = [sum_of(*data.draw(st.permutations(grouped[at : at + size])))]
    assert grouped[0].data == whole.data
    assert whole.report.checked == sum(each.report.checked for each in shards)
    assert whole.report.complete == all(each.report.complete for each in shards)


@settings(max_examples=25)
@given(audits(), st.data())
def test_no_key_is_left_out_or_taken_twice(shards: list[Evidence], data: st.DataObject) -> None:
    """Of shards that hold keys, one fewer is a gap or a sum that is not whole, and one more is refused."""
    at = data.draw(st.integers(0, len(shards) - 1))
    scope = shards[at].report.scope
    assert scope is not None
    assert refused(*shards, shards[at])[0] == "repeated-part"
    rest = [*shards[:at], *shards[at + 1 :]]
    if not rest or scope.after == scope.upto is not None:
        return
    if 0 < at < len(shards) - 1:
        assert refused(*rest)[0] == "gap"
    else:
        left = sum_of(*rest).report.scope
        assert left is not None
        assert (left.after, left.upto) != (None, None)
