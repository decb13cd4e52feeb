"""Adding up the evidence of an audit's shards: whole ranges that join, and nothing twice.

Files may come in any order, and may be sums themselves: the result is the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any

import msgspec

from somactl.errors import EvidenceRejected
from somactl.report.auditing import (
    MAX_RESULTS,
    OUTCOME_CODES,
    AuditScope,
    Checked,
    Coverage,
    VerifyReport,
    psd_ok,
)
from somactl.report.base import decide
from somactl.report.encoding import to_json
from somactl.report.evidence import Evidence, read_evidence, write_evidence
from somactl.report.evidence_check import contradictions, range_of
from somactl.report.evidencing import AuditPart, Mismatch
from somactl.report.ranges import KeyRange

Rule = Callable[[list[Any]], Any]
MERGED = "the sum"
"""What errors would call the result, which is evidence as any other."""


def _least(values: list[Any]) -> Any:
    return min((value for value in values if value is not None), default=None)


def _greatest(values: list[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


def _distinct(values: list[list[Any]]) -> list[Any]:
    """Each once, in an order that does not depend on that of the files."""
    by_text = {to_json(value): value for value in chain.from_iterable(values)}
    return [by_text[text] for text in sorted(by_text)]


def _by_name(values: list[dict[str, int]]) -> dict[str, int]:
    names = sorted({name for counts in values for name in counts})
    return {name: sum(counts.get(name, 0) for counts in values) for name in names}


def _codes(values: list[list[int]]) -> list[int]:
    codes = {code for codes in values for code in codes}
    return sorted((codes - {0}) or {0})


def _coverage(values: list[Coverage | None]) -> Coverage | None:
    """What the parts added to the ledger; how far that reaches, as the least favourable of them has it."""
    given = [value for value in values if value is not None]
    if not given:
        return None
    rules = COVERAGE_RULES.items()
    return Coverage(**{name: rule([getattr(one, name) for one in given]) for name, rule in rules})


def _said(values: list[str | None]) -> str | None:
    said = {word for value in values if value for word in value.split("; ")}
    return "; ".join(sorted(said)) or None


def _longest(values: list[float | None]) -> float | None:
    """None, which is for ever, where one is."""
    return None if None in values else max(value for value in values if value is not None)


COVERAGE_RULES: dict[str, Rule] = {
    **dict.fromkeys(("changed", "unchanged", "rechecked", "rechecked_bytes", "gone"), sum),
    **dict.fromkeys(("not_kept", "recheck_ended_by"), _said),
    **dict.fromkeys(("oldest_unread_seconds", "cycle_seconds"), _longest),
    "kept_in": lambda values: _said(values) or "",
    "known_bad": max,  # each of them counts those of the whole namespace
    "share_read": _least,
}


def _rigour(values: list[str | None]) -> str | None:
    """One verdict that is only `computed` makes the whole `computed`."""
    return next((word for word in ("computed", "proved") if word in values), None)


def _worst_first(values: list[list[Checked]]) -> list[Checked]:
    """The results in the order of their keys; of more than fit, findings stay before all others."""
    results = list(chain.from_iterable(values))
    ranks = [OUTCOME_CODES.get(checked.outcome) != 3 for checked in results]
    kept = sorted(range(len(results)), key=lambda at: (ranks[at], at))[:MAX_RESULTS]
    return [results[at] for at in sorted(kept)]


_ALIKE = (
    *("schema_version", "store", "address", "namespace", "incarnation", "method", "tolerances"),
    *(
        "scope.all",
        "scope.match",
        "scope.origin",
        "scope.incremental",
        "scope.known_bad",
        "scope.sample",
        "scope.plan",
    ),
)
"""What must be the same in all parts of one audit."""

RULES: dict[str, Rule] = {
    **dict.fromkeys((name for name in _ALIKE if "." not in name), lambda values: values[0]),
    **dict.fromkeys(("checked", "valid", "clampable", *OUTCOME_CODES, "skipped", "results_omitted"), sum),
    **dict.fromkeys(("started_at", "version_started", "lowest_lambda_min"), _least),
    **dict.fromkeys(("ended_at", "namespace_version", "worst_trace_error"), _greatest),
    **dict.fromkeys(("warnings", "degraded_services"), _distinct),
    **dict.fromkeys(("undo", "next"), lambda values: None),  # they are for the place where the audit ran
    **dict.fromkeys(("complete", "allow_empty"), all),
    **dict.fromkeys(("degraded", "dark"), any),
    "codes": _codes,
    "code": decide,
    "rigour": _rigour,
    **dict.fromkeys(("skipped_kinds", "accepted"), _by_name),
    "coverage": _coverage,
    "statement": lambda values: None,  # a sample does not add up
    "jobs": sum,
    "held_back_seconds": max,  # the parts may have waited at the same time
    "resumed": any,
    "results": _worst_first,
}
"""How each member of the report follows from those of the parts, in the order of their ranges. Those that are
missing follow from the parts' entries, or from the others: see `_report`."""


def merge_evidence(given: Sequence[Evidence]) -> Evidence:
    """The audit that they add up to; one alone is itself.

    Raises EvidenceRejected naming two files: they are not of one audit, or their ranges overlap or leave a
    gap; and where one belies itself.
    """
    for evidence in given:
        for problem in contradictions(evidence):
            raise EvidenceRejected(f"{evidence.name}: {problem}", defect="inconsistent", file=evidence.name)
    if len(given) == 1:
        return given[0]
    ordered = sorted(given, key=_place)
    _require_one_audit(ordered)
    _require_each_once(ordered)
    _require_joined(ordered)
    parts = sorted((part for evidence in ordered for part in evidence.parts), key=_place_of_part)
    return read_evidence(write_evidence(_report(ordered, parts), parts), MERGED)


def _place(evidence: Evidence) -> tuple[Any, ...]:
    keys = range_of(evidence.report)
    return keys.lower, keys.upper, evidence.document.digest


def _place_of_part(part: AuditPart) -> tuple[Any, ...]:
    """Of several ranges without a key at one place, the shards' numbers decide."""
    keys = KeyRange(part.after, part.upto)
    return keys.lower, keys.upper, _indices(part.shard), part.digest


def _require_one_audit(ordered: list[Evidence]) -> None:
    for evidence in ordered:
        _require_range(evidence)
    first = ordered[0]
    for other in ordered[1:]:
        for name in _ALIKE:
            ours, theirs = _value(first, name), _value(other, name)
            if ours != theirs:
                what = f"they differ in {name.removeprefix('scope.')}: {ours!r} and {theirs!r}"
                raise _mismatch("different", first, other, what)
        ours, theirs = first.parts[0].shard, other.parts[0].shard
        if _of(ours) != _of(theirs):
            raise _mismatch("different", first, other, f"they are shards of two plans: {ours} and {theirs}")


def _require_range(evidence: Evidence) -> None:
    """Only what went through a range of keys adds up: nothing tells that other selections are disjoint."""
    scope = evidence.report.scope
    if scope is None:
        why = "it does not say what it looked at"
    elif scope.keys or scope.files:
        why = "it is about named keys or files"
    elif scope.sample is not None:
        why = "it is about a sample"
    else:
        return
    raise EvidenceRejected(
        f"{evidence.name}: {why}, and only ranges of keys add up", defect="not-a-range", file=evidence.name
    )


def _value(evidence: Evidence, name: str) -> Any:
    member, _, inner = name.partition(".")
    value = getattr(evidence.report, member)
    return getattr(value, inner) if inner else value


def _indices(shard: str | None) -> tuple[int, ...]:
    """Of `2/8` 2, of `2-4/8` 2 and 4."""
    return () if shard is None else tuple(map(int, shard.partition("/")[0].split("-")))


def _of(shard: str | None) -> str | None:
    return shard and shard.partition("/")[2]


def _require_each_once(ordered: list[Evidence]) -> None:
    seen: dict[str, Evidence] = {}
    for evidence in ordered:
        for part in evidence.parts:
            if part.digest in seen:
                raise _mismatch("repeated-part", seen[part.digest], evidence, "the same audit is in both")
            if part.shard in seen:
                raise _mismatch("repeated-part", seen[part.shard], evidence, f"both hold shard {part.shard}")
            seen[part.digest] = evidence
            if part.shard is not None:
                seen[part.shard] = evidence


def _require_joined(ordered: list[Evidence]) -> None:
    for one, other in pairwise(ordered):
        ours, theirs = range_of(one.report), range_of(other.report)
        if ours.upper > theirs.lower:
            both = KeyRange(theirs.after, min(ours, theirs, key=lambda keys: keys.upper).upto)
            raise _mismatch("overlap", one, other, f"both hold {both}")
        if ours.upper < theirs.lower:
            raise _mismatch("gap", one, other, f"neither holds {KeyRange(ours.upto, theirs.after)}")


def _mismatch(defect: Mismatch, one: Evidence, other: Evidence, what: str) -> EvidenceRejected:
    files = [one.name, other.name]
    return EvidenceRejected(f"{one.name} and {other.name}: {what}", defect=defect, files=files)


def _report(ordered: list[Evidence], parts: list[AuditPart]) -> VerifyReport:
    reports = [evidence.report for evidence in ordered]
    merged = {name: rule([getattr(report, name) for report in reports]) for name, rule in RULES.items()}
    merged["results_omitted"] += sum(len(report.results) for report in reports) - len(merged["results"])
    report = VerifyReport(
        scope=_scope(reports, parts),
        reached=_reached(parts),
        blas="; ".join(sorted({part.blas for part in parts if part.blas})) or None,
        **merged,
    )
    report.psd_ok = psd_ok(report)
    return report


def _scope(reports: list[VerifyReport], parts: list[AuditPart]) -> AuditScope:
    first, last = reports[0].scope, reports[-1].scope
    assert first is not None
    assert last is not None
    return msgspec.structs.replace(first, shard=_shard(parts), upto=last.upto)


def _shard(parts: list[AuditPart]) -> str | None:
    """`2-4/8` of those three shards; None of all there are."""
    shards = [part.shard for part in parts if part.shard is not None]
    if not shards or KeyRange(parts[0].after, parts[-1].upto).is_whole:
        return None
    indices = [index for shard in shards for index in _indices(shard)]
    return f"{min(indices)}-{max(indices)}/{_of(shards[0])}"


def _reached(parts: list[AuditPart]) -> str | None:
    """The last key up to which every part came without a gap; None where all came to their ends."""
    for number, part in enumerate(parts):
        if part.reached is not None:
            return part.reached or (part.after if number else None) or ""
    return None
