"""Evidence of an audit: its report in canonical JSON, with a digest. docs/EVIDENCE.md specifies the form.

    data = write_evidence(report)
    evidence = read_evidence(data, "audit.json")     # or it raises EvidenceRejected

A digest finds what was damaged or altered by accident. It is no signature: an attacker can compute it anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from somactl import __version__
from somactl.core.canonical import canonical, read
from somactl.errors import EvidenceRejected
from somactl.report.auditing import AuditScope, VerifyReport
from somactl.report.encoding import to_json
from somactl.report.evidencing import AuditPart, Defect, EvidenceDocument
from somactl.report.sealed import body_of, digest_of, refused, tree_of, unknown_member, with_digest

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """One file of evidence that was read: where it came from, what it says, and its canonical bytes."""

    name: str
    document: EvidenceDocument
    data: bytes

    @property
    def report(self) -> VerifyReport:
        return self.document.report

    @property
    def parts(self) -> list[AuditPart]:
        """Those it was added up from; of a single audit itself."""
        return self.document.parts or [self._as_part()]

    def _as_part(self) -> AuditPart:
        report, scope = self.report, self.report.scope or AuditScope()
        return AuditPart(
            digest=self.document.digest,
            shard=scope.shard,
            after=scope.after,
            upto=scope.upto,
            reached=report.reached,
            complete=report.complete,
            codes=report.codes,
            blas=report.blas,
        )


def write_evidence(report: VerifyReport, parts: Sequence[AuditPart] = ()) -> bytes:
    """The report as evidence; the same report gives the same bytes. parts: what it was added up from."""
    tree = {"evidence": FORMAT, "parts": list(parts), "report": report, "somactl": __version__}
    return with_digest(canonical(read(to_json(tree).decode())))


def read_evidence(data: bytes, name: str) -> Evidence:
    """The evidence in `data`, which errors call `name`. Blanks and the order of members do not matter.

    Raises EvidenceRejected, whose fact `defect` is one of `evidencing.Defect`. That the numbers agree with
    each other is not looked at here: see `evidence_check.contradictions`.
    """
    tree = tree_of(data, name)
    _check_format(tree, name)
    written = _check_digest(tree, name)
    try:
        document = msgspec.convert(tree, EvidenceDocument)
    except msgspec.ValidationError as exc:
        raise rejected(name, "invalid-report", f"it is no report of an audit: {exc}") from None
    unknown = unknown_member(tree, msgspec.to_builtins(document))
    if unknown is not None:
        raise rejected(name, "unknown-member", f"the member {unknown} is not known here", hint=_newer(tree))
    return Evidence(name, document, written)


def rejected(name: str, defect: Defect, what: str, *, hint: str | None = None) -> EvidenceRejected:
    return refused(name, defect, what, hint=hint)


def _check_format(tree: dict[str, Any], name: str) -> None:
    found = tree.get("evidence")
    if not isinstance(found, int) or isinstance(found, bool):
        raise rejected(
            name,
            "unknown-version",
            "it does not say which version of the form of evidence it has",
            hint="a report is no evidence: that is a file of its own, which an audit is asked for",
        )
    if found != FORMAT:
        what = f"the form of evidence has version {found}; this somactl reads {FORMAT}"
        raise rejected(name, "unknown-version", what, hint=_newer(tree))


def _newer(tree: dict[str, Any]) -> str:
    writer = tree.get("somactl")
    release = f"somactl {writer}, which wrote it," if isinstance(writer, str) else "the somactl that wrote it"
    return f"read it with {release} or a newer one"


def _check_digest(tree: dict[str, Any], name: str) -> bytes:
    """The canonical bytes of the whole. Raises EvidenceRejected unless its digest is that of the rest."""
    body = body_of(tree)
    given, computed = tree.get("digest"), digest_of(body)
    if given != computed:
        said = f"it says {given}" if isinstance(given, str) else "it has none"
        what = (
            f"the digest of what stands in it is {computed}, and {said}: it was changed after it was written"
        )
        raise rejected(name, "digest-mismatch", what, hint="fetch it again from where the audit wrote it")
    return with_digest(body)
