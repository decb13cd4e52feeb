"""Whether the numbers of an audit's evidence agree with each other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from somactl.errors import EvidenceRejected
from somactl.report.auditing import MAX_RESULTS, OUTCOME_CODES, VerifyReport, psd_ok
from somactl.report.base import decide
from somactl.report.evidence import Evidence, read_evidence
from somactl.report.evidencing import EvidenceFile
from somactl.report.ranges import KeyRange

_SHARD = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?/([0-9]{1,9})")

_YEAR_10000 = 253_402_300_800.0  # in seconds; no calendar here goes on behind it

LISTED = ("clampable", *OUTCOME_CODES)
"""Outcomes that stand among the results of a report, up to a bound."""


def examined(data: bytes, name: str) -> EvidenceFile:
    """The check of one file: read, digest compared, and its numbers with each other."""
    try:
        evidence = read_evidence(data, name)
    except EvidenceRejected as exc:
        return EvidenceFile(
            file=name,
            intact=False,
            defect=exc.facts["defect"],
            problems=[exc.message.removeprefix(f"{name}: ")],
        )
    report, problems = evidence.report, contradictions(evidence)
    return EvidenceFile(
        file=name,
        intact=not problems,
        defect="inconsistent" if problems else None,
        problems=problems,
        digest=evidence.document.digest,
        somactl=evidence.document.somactl,
        address=report.address,
        namespace=report.namespace,
        incarnation=report.incarnation,
        version_started=report.version_started,
        namespace_version=report.namespace_version,
        started_at=report.started_at,
        ended_at=report.ended_at,
        scope=report.scope,
        checked=report.checked,
        findings=findings(report),
        accepted=sum(report.accepted.values()),
        complete=report.complete,
        code=report.code,
        codes=report.codes,
        parts=len(evidence.document.parts),
    )


def contradictions(evidence: Evidence) -> list[str]:
    """One sentence for each thing in the evidence that another one in it belies; empty where none is."""
    report = evidence.report
    return [
        *_counts(report),
        *_codes(report),
        *_verdict(report),
        *_order(report),
        *_range(report),
        *_results(report),
        *(_parts(evidence) if evidence.document.parts else ()),
    ]


def range_of(report: VerifyReport) -> KeyRange:
    return KeyRange() if report.scope is None else KeyRange(report.scope.after, report.scope.upto)


def findings(report: VerifyReport) -> int:
    return sum(getattr(report, outcome) for outcome, code in OUTCOME_CODES.items() if code == 3)


def _counts(report: VerifyReport) -> Iterator[str]:
    names = ("checked", "valid", *LISTED, "skipped", "results_omitted")
    yield from (f"{name} is {getattr(report, name)}" for name in names if getattr(report, name) < 0)
    proven = report.valid + report.clampable + report.violated
    if report.checked != proven:
        yield f"checked is {report.checked}, and valid, clampable and violated add up to {proven}"
    by_kind = sum(report.skipped_kinds.values())
    if report.skipped != by_kind:
        yield f"skipped is {report.skipped}, and its kinds add up to {by_kind}"


def _codes(report: VerifyReport) -> Iterator[str]:
    codes = set(report.codes)
    if report.code != decide(codes) or report.codes != (sorted(codes - {0}) or [0]):
        yield f"code is {report.code}, and codes {report.codes}"
    reasons = [(outcome, count) for outcome in OUTCOME_CODES if (count := _open(report, outcome)) > 0]
    for outcome, count in reasons:
        if OUTCOME_CODES[outcome] not in codes:
            yield f"{count} {outcome}, and {OUTCOME_CODES[outcome]} is not among the codes"
    for code in {3, 11} & codes if report.complete else ():  # else a failure may have been the reason
        if code not in {OUTCOME_CODES[outcome] for outcome, _ in reasons}:
            yield f"{code} is among the codes, and nothing was found that is a reason for it"
    unchecked = [name for name in ("undecided", "unreadable", "rejected") if getattr(report, name)]
    if report.complete and (unchecked or report.reached is not None):
        yield f"complete, and yet {unchecked[0] if unchecked else 'it ended early'}"
    if not report.complete and not codes - {0, 3}:
        yield f"not complete, and no code says so: {report.codes}"


def _open(report: VerifyReport, outcome: str) -> int:
    """How many of that outcome are not accepted."""
    count: int = getattr(report, outcome)
    return count - report.accepted.get(outcome, 0)


def _verdict(report: VerifyReport) -> Iterator[str]:
    for outcome, count in report.accepted.items():
        if OUTCOME_CODES.get(outcome) != 3 or not 0 <= count <= getattr(report, outcome):
            yield f"{count} {outcome} are accepted, and no such findings were counted"
    if report.psd_ok is not psd_ok(report):
        yield f"psd_ok is {_word(report.psd_ok)}, and should be {_word(psd_ok(report))}"


def _word(value: bool | None) -> str:
    return {None: "null", True: "true", False: "false"}[value]


def _order(report: VerifyReport) -> Iterator[str]:
    for name, first, last in (
        ("version", report.version_started, report.namespace_version),
        ("clock", report.started_at, report.ended_at),
    ):
        if first is not None and last is not None and first > last:
            yield f"the {name} at its start, {first}, is behind that at its end, {last}"
    for time in (report.started_at, report.ended_at):
        if time is not None and not 0 <= time < _YEAR_10000:
            yield f"{time} is no time"


def _range(report: VerifyReport) -> Iterator[str]:
    keys = range_of(report)
    shard = report.scope.shard if report.scope else None
    if shard is not None and not _is_shard(shard):
        yield f"{shard!r} is no shard"
    if keys.lower > keys.upper:
        yield f"its range ends before it begins: {keys}"
    if report.reached and report.reached not in keys:
        yield f"it reached {report.reached!r}, which is not among the {keys}"


def _is_shard(text: str) -> bool:
    """Whether it is `2/8`, or `2-4/8` as several shards are called that were added up."""
    found = _SHARD.fullmatch(text)
    return found is not None and int(found[1]) <= int(found[2] or found[1]) <= int(found[3])


def _results(report: VerifyReport) -> Iterator[str]:
    listed = Counter(checked.outcome for checked in report.results)
    for outcome, count in listed.items():
        counted = getattr(report, outcome)
        if count > counted or outcome not in LISTED:
            yield f"{count} listed as {outcome}, and {counted} counted"
    total = sum(getattr(report, outcome) for outcome in LISTED)
    if len(report.results) + report.results_omitted != total:
        yield (
            f"{len(report.results)} results listed and {report.results_omitted} omitted, "
            f"and {total} were not valid"
        )
    if len(report.results) > MAX_RESULTS:
        yield f"{len(report.results)} results listed, where {MAX_RESULTS} are the most"
    yield from _misplaced(report)


def _misplaced(report: VerifyReport) -> Iterator[str]:
    """Results that are about nothing the audit looked at."""
    scope = report.scope
    if scope is None:
        return
    named, keys = {*scope.keys, *scope.files}, range_of(report)
    scanned = scope.all or scope.match is not None or scope.known_bad
    for checked in report.results:
        if checked.source not in named and not (scanned and checked.source in keys):
            yield f"a result is about {checked.source!r}, which is not in its scope"


def _parts(evidence: Evidence) -> Iterator[str]:
    report, parts, keys = evidence.report, evidence.document.parts, range_of(evidence.report)
    ranges = [KeyRange(part.after, part.upto) for part in parts]
    if any(first.upper != second.lower for first, second in pairwise(ranges)):
        yield "the ranges of its parts do not join"
    if (ranges[0].lower, ranges[-1].upper) != (keys.lower, keys.upper):
        yield f"its parts do not reach over its range, {keys}"
    if len({part.digest for part in parts}) < len(parts):
        yield "two of its parts are the same"
    codes = {code for part in parts for code in part.codes}
    if set(report.codes) != ((codes - {0}) or {0}):
        yield f"its codes are {report.codes}, and those of its parts {sorted(codes)}"
    if report.complete != all(part.complete for part in parts):
        yield "its parts were not as complete as it is"
