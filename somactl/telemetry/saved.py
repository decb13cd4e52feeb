"""Reports as files hold them: what a job printed as JSON or NDJSON, or the evidence of an audit."""

from __future__ import annotations

from typing import Any

import msgspec

from somactl.core.text_encoding import without_mark
from somactl.errors import InvalidFile
from somactl.report import (
    SCHEMA_VERSION,
    CacheWarmReport,
    CanaryReport,
    CompactReport,
    EvidenceMergeReport,
    MigrateReport,
    PruneReport,
    PushReport,
    Report,
    VerifyReport,
)
from somactl.report.evidence import read_evidence

Saved = (
    VerifyReport
    | PruneReport
    | CompactReport
    | CacheWarmReport
    | MigrateReport
    | CanaryReport
    | PushReport
    | EvidenceMergeReport
)


def read_report(data: bytes, name: str) -> Report:
    """The report in `data`, which errors call `name`: JSON, the last line of NDJSON, or evidence.

    That of evidence that was added up is the audit in it. Raises InvalidFile, EvidenceRejected.
    """
    data = without_mark(data).strip()
    found = _object(data)
    if found is None:
        data = data.rpartition(b"\n")[2]
        found = _object(data)
    if found is None:
        raise _refused(name, "it is no JSON object, and its last line is none")
    if "evidence" in found and found.get("command") != "canary-check":  # whose report names a file by it
        return read_evidence(data, name).report
    if found.get("schema_version") != SCHEMA_VERSION or "error" in found:
        what = "an error, which says no time" if "error" in found else "no report that this somactl reads"
        raise _refused(name, f"it is {what}")
    try:
        report = msgspec.convert(found, Saved)
    except msgspec.ValidationError as exc:
        raise _refused(name, f"it is no report of a job: {exc}") from None
    return report.audit if isinstance(report, EvidenceMergeReport) else report


def command_of(report: Report) -> str:
    """The command whose report it is."""
    return str(report.__struct_config__.tag)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None


def _refused(name: str, what: str) -> InvalidFile:
    return InvalidFile(f"{name}: {what}", hint="give what a job printed with --output json", file=name)
