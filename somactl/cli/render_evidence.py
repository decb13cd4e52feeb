"""What is said of evidence of audits, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from somactl.cli.text import when
from somactl.report import (
    AuditPart,
    AuditScope,
    EvidenceCheckReport,
    EvidenceFile,
    EvidenceMergeReport,
    VerifyReport,
)
from somactl.report.ranges import KeyRange


def check_lines(report: EvidenceCheckReport) -> list[str]:
    """A line for each file that says whether it is intact, and below it the audit or the defect."""
    return [line for file in report.files for line in _file(file)]


def merge_lines(report: EvidenceMergeReport, audit_lines: Callable[[VerifyReport], list[str]]) -> list[str]:
    """The parts and the audit that they make; nothing where the evidence itself went to stdout.

    audit_lines tells of an audit by itself.
    """
    if report.file == "-":
        return []
    omitted = report.audit.results_omitted
    return [
        f"{_count(len(report.parts), 'audit')} added up, {report.digest}",
        *(f"  {_range(part)}: {_ending(part)}" for part in report.parts),
        *audit_lines(msgspec.structs.replace(report.audit, results_omitted=0)),
        *([f"... and {omitted} more, which no report holds"] if omitted else []),
        *(f"warning: {warning}" for warning in report.audit.warnings),
        *([f"wrote the evidence to {report.file}"] if report.file else []),
    ]


def _file(file: EvidenceFile) -> Iterator[str]:
    if not file.intact:
        yield f"{file.file}: NOT intact: {file.defect}"
        yield from (f"  {problem}" for problem in file.problems)
        return
    found = _count(file.findings, "finding") if file.findings else "no finding"
    found += f", {file.accepted} accepted" if file.accepted else ""
    whole = "" if file.complete else ", and is not complete"
    yield f"{file.file}: intact; it reports {found}{whole} (exit {file.code})"
    yield f"  {file.digest}"
    if file.namespace:
        life = f", incarnation {file.incarnation}" if file.incarnation else ""
        yield f"  namespace {file.namespace} at {file.address}{life}{_versions(file)}"
    if file.scope is not None:
        yield f"  {_scope(file.scope)}"
    told = ""
    if file.started_at is not None and file.ended_at is not None:
        told = f" from {when(file.started_at)} to {when(file.ended_at)} by the store's clock"
    parts = f", in {file.parts} parts" if file.parts else ""
    yield f"  {file.checked} checked{told}{parts}; written by somactl {file.somactl}"


def _versions(file: EvidenceFile) -> str:
    first, last = file.version_started, file.namespace_version
    if last is None:
        return ""
    return f", version {last}" if first in (None, last) else f", versions {first} to {last}"


def _scope(scope: AuditScope) -> str:
    chosen = [
        *(["every key"] if scope.all else []),
        *([] if scope.match is None else [f"keys that match {scope.match!r}"]),
        *([_count(len(scope.keys), "named key")] if scope.keys else []),
        *([_count(len(scope.files), "file")] if scope.files else []),
        *(["what is known to be bad"] if scope.known_bad else []),
    ]
    keys = KeyRange(scope.after, scope.upto)
    narrowed = [
        *([] if keys.is_whole else [str(keys)]),
        *(["what changed, and a share of the rest"] if scope.incremental else []),
        *([] if scope.sample is None else [f"a sample of {scope.sample}"]),
        *({"cache": ["in the cache"], "both": ["in store and cache"]}.get(scope.origin, [])),
    ]
    of = "" if scope.shard is None else f" of shard {scope.shard}"
    return ", ".join([(" and ".join(chosen) or "nothing") + of, *narrowed])


def _range(part: AuditPart) -> str:
    keys = str(KeyRange(part.after, part.upto))
    return keys if part.shard is None else f"shard {part.shard}, {keys}"


def _ending(part: AuditPart) -> str:
    codes = ", ".join(map(str, part.codes))
    reached = "" if part.reached is None else f", reached {part.reached!r}" if part.reached else ", not begun"
    return f"{'complete' if part.complete else 'NOT complete'}{reached} (exit codes {codes})"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
