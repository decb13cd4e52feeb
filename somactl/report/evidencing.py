"""Evidence of audits as it is stored, and what the commands about it return."""

from __future__ import annotations

from typing import Literal

import msgspec

from somactl.report.auditing import AuditScope, VerifyReport
from somactl.report.base import Report

Defect = Literal[
    "unreadable",
    "not-json",
    "repeated-member",
    "unknown-version",
    "digest-mismatch",
    "unknown-member",
    "invalid-report",
    "inconsistent",
]
"""What can be wrong with one file, in the order in which it is looked for."""

Mismatch = Literal["not-a-range", "different", "repeated-part", "overlap", "gap"]
"""Why files do not add up."""


class AuditPart(msgspec.Struct, kw_only=True):
    """One of the audits that were added up, with the digest of its evidence.

    The part's range is the keys behind `after` up to and with `upto`; reached, complete, codes and blas are
    those of its report.
    """

    digest: str
    shard: str | None
    after: str | None
    upto: str | None
    reached: str | None
    complete: bool
    codes: list[int]
    blas: str | None


class EvidenceDocument(msgspec.Struct, kw_only=True):
    """Evidence of an audit. The form, and how to compute the digest, is specified in docs/EVIDENCE.md.

    evidence is the version of the form and somactl the release that wrote it. parts stand in the order of
    their ranges, and there are none where report is of one audit. digest is the SHA-256 of all else.
    """

    digest: str
    evidence: Literal[1] = 1
    parts: list[AuditPart] = []
    report: VerifyReport
    somactl: str


class EvidenceFile(msgspec.Struct, kw_only=True):
    """What `evidence check` found of one file.

    intact: it is what an audit wrote, and its numbers agree with each other. Otherwise defect names what is
    wrong, problems say it, and of the rest there is what could be read. somactl is the release that wrote it.
    The other members are those of the audit's report, not of this command's: findings counts the violated,
    the corrupt and the contradicting, accepted those of them that are, and parts the audits that were added
    up.
    """

    file: str
    intact: bool
    defect: Defect | None = None
    problems: list[str] = []
    digest: str | None = None
    somactl: str | None = None
    address: str = ""
    namespace: str = ""
    incarnation: str | None = None
    version_started: int | None = None
    namespace_version: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    scope: AuditScope | None = None
    checked: int = 0
    findings: int = 0
    accepted: int = 0
    complete: bool | None = None
    code: int | None = None
    codes: list[int] = []
    parts: int = 0


class EvidenceCheckReport(Report, tag="evidence-check"):
    """One entry for each file, in the order given.

    Its code is about the files alone: 11 where one is not intact, whatever the audits in them came to.
    """

    files: list[EvidenceFile] = []


class EvidenceMergeReport(Report, tag="evidence-merge"):
    """The audit that the given ones add up to, with its parts and the digest of its evidence.

    Its codes are those of the audit, and 4 where the parts do not reach from the first key to the last.
    file is where the evidence was written.
    """

    audit: VerifyReport
    parts: list[AuditPart] = []
    digest: str = ""
    file: str | None = None
