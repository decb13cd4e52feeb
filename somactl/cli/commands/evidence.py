"""Commands about evidence of audits: check that it is intact, and add up that of shards."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from somactl.cli import inputs
from somactl.cli.command import Session, command
from somactl.cli.output_file import is_stdout
from somactl.errors import EvidenceRejected, InputRejected, UsageError
from somactl.operations.audit.finish import is_empty
from somactl.report import EvidenceCheckReport, EvidenceFile, EvidenceMergeReport, Report, VerifyReport
from somactl.report.evidence import Evidence, read_evidence
from somactl.report.evidence_check import examined, range_of
from somactl.report.evidence_merge import merge_evidence
from somactl.suggestion import run

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE|-...", help="What `verify-psd --evidence` or `evidence merge` wrote."),
]


@command(
    offline=True,
    epilog="Exit 0: every file is intact, whatever the audits in them found. 11: one is not.",
)
async def evidence_check(session: Session, files: Files) -> Report:
    """Check that evidence of audits is what was written, and that its numbers agree with each other.

    Says of each file what the audit covered and what came of it. Needs no store and no network.
    """
    _refuse_two_streams(files)
    report = EvidenceCheckReport()
    for path in files:
        found = _examine(path)
        if not found.intact:
            report.finish(*report.codes, 11)
        if session.out.mode == "ndjson":
            session.out.item(found)
        else:
            report.files.append(found)
    report.finish(*(set(report.codes) - {0}))
    if report.code:
        report.next = session.command("explain", "RUNBOOKS/evidence.md")
    return report


def _examine(path: str) -> EvidenceFile:
    name = inputs.name_of(path)
    try:
        data = inputs.read_evidence(path)
    except InputRejected as exc:
        problem = exc.message.removeprefix(f"{name}: ")
        return EvidenceFile(file=name, intact=False, defect="unreadable", problems=[problem])
    return examined(data, name)


@command(
    offline=True,
    epilog="Exits as the whole audit would have: 0 where all is proven, 3 where there is a finding. 4: also "
    "where nothing was checked, or the shards do not reach from the first key to the last. 11: a "
    "file is not intact, or the files are not of one audit, overlap or leave a gap.",
)
async def evidence_merge(
    session: Session,
    files: Files,
    to: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Where to write the evidence of the whole.")
    ] = None,
) -> Report:
    """Add up the evidence of an audit's shards: each key once, none left out, one verdict.

    The order of the files does not matter, and each may itself be a sum. Needs no store and no network.
    """
    _refuse_two_streams(files)
    to = "-" if to is not None and is_stdout(to) else to
    if to == "-" and session.out.is_json:
        raise UsageError("evidence and report cannot both go to standard output", hint="name a FILE for --to")
    spare = [path for path in files if path != "-"]
    with nullcontext() if to in (None, "-") else session.output_file(to, spare=spare) as target:
        merged = _merged(files)
        if target is not None:
            target.write(merged.data)
            target.keep()
    report = _report(session, merged)
    report.file = to
    if to == "-":
        session.out.write(merged.data)
        for warning in report.warnings:
            session.out.warn(f"warning: {warning}")
        report.warnings, report.next = [], None
    return report


def _merged(files: list[str]) -> Evidence:
    try:
        return merge_evidence(
            [read_evidence(inputs.read_evidence(path), inputs.name_of(path)) for path in files]
        )
    except EvidenceRejected as exc:
        if "-" not in files:
            exc.next = (run("evidence check", *files),)
        raise


def _report(session: Session, merged: Evidence) -> EvidenceMergeReport:
    audit, document = merged.report, merged.document
    report = EvidenceMergeReport(audit=audit, parts=merged.parts, digest=document.digest)
    report.complete, codes = audit.complete, set(audit.codes)
    covered = range_of(audit)
    if not covered.is_whole:
        report.complete = False
        codes.add(4)
        report.warnings.append(f"this is not the whole audit: these files hold {covered}, and no others")
    if is_empty(audit) and not audit.allow_empty:
        report.complete = False
        codes.add(4)
        report.warnings.append("nothing was checked, in none of the parts")
    report.next = _next(session, audit)
    report.finish(*(codes - {0}))
    return report


def _next(session: Session, audit: VerifyReport) -> str | None:
    if audit.violated or audit.corrupt:
        return session.command("explain", "RHO_VIOLATION" if audit.violated else "corrupt-value")
    return None


def _refuse_two_streams(files: list[str]) -> None:
    if files.count("-") > 1:
        raise UsageError("standard input can be read for one file only")
