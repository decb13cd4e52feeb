"""Reports of audits as an audit would make them, and their evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from somactl.report import MAX_RESULTS, OUTCOME_CODES, AuditScope, Checked, VerifyReport
from somactl.report.auditing import psd_ok
from somactl.report.evidence import Evidence, read_evidence, write_evidence

Outcomes = Iterable[tuple[str, str]]


def audited(outcomes: Outcomes = (), scope: AuditScope | None = None, **more: Any) -> VerifyReport:
    """The report of an audit that met these outcomes, by key in order; more are members of it."""
    met = [
        Checked(source=key, outcome=outcome, version=7, digest="ab" * 16)  # type: ignore[arg-type]
        for key, outcome in outcomes
    ]
    counts: dict[str, Any] = dict(Counter(checked.outcome for checked in met))
    listed = [checked for checked in met if checked.outcome not in ("valid", "skipped")]
    facts: dict[str, Any] = {
        "store": "sqlite",
        "address": "sqlite:////srv/rho.db",
        "namespace": "acme",
        "incarnation": "3f2a",
        "tolerances": {"hermitian": 1e-8, "psd": 1e-8, "trace": 1e-8},
        "version_started": 5,
        "namespace_version": 9,
        "started_at": 1_700_000_000.0,
        "ended_at": 1_700_000_100.25,
        "checked": sum(counts.get(name, 0) for name in ("valid", "clampable", "violated")),
        "skipped_kinds": {"sketch": counts["skipped"]} if "skipped" in counts else {},
        "results": listed[:MAX_RESULTS],
        "results_omitted": len(listed[MAX_RESULTS:]),
        "complete": not any(name in counts for name in ("undecided", "unreadable", "rejected")),
    }
    report = VerifyReport(
        method="certify", scope=scope or AuditScope(all=True), **{**counts, **facts, **more}
    )
    codes = {OUTCOME_CODES[name] for name in counts if name in OUTCOME_CODES}
    report.psd_ok = psd_ok(report)
    report.finish(*codes, *(() if report.complete else (4,)))
    return report


def stopped(report: VerifyReport, reached: str) -> VerifyReport:
    """The report, had the audit ended early behind that key."""
    report = altered(report, reached=reached, complete=False)
    report.psd_ok = psd_ok(report)
    report.finish(*({*report.codes} - {0}), 4)
    return report


def shard(
    number: int, of: int, after: str | None, upto: str | None, outcomes: Outcomes = (), **more: Any
) -> VerifyReport:
    scope = AuditScope(all=True, shard=f"{number}/{of}", plan="p", after=after, upto=upto)
    return audited(outcomes, scope, **more)


def evidence_of(report: VerifyReport, name: str = "audit.json") -> Evidence:
    return read_evidence(write_evidence(report), name)


def altered(report: VerifyReport, **members: Any) -> VerifyReport:
    """The report with these members, whether or not they fit the others; a name may be `scope.all`."""
    inner = {name: value for name, value in members.items() if not name.startswith("scope.")}
    scoped = {name.removeprefix("scope."): v for name, v in members.items() if name.startswith("scope.")}
    if scoped:
        assert report.scope is not None
        inner["scope"] = msgspec.structs.replace(report.scope, **scoped)
    return msgspec.structs.replace(report, **inner)
