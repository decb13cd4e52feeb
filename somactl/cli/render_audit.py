"""The report of an audit as lines for people."""

from __future__ import annotations

from somactl.cli.text import columns, in_words, size
from somactl.report import OUTCOME_CODES, Checked, Coverage, VerifyReport


def audit_view(report: VerifyReport) -> list[str]:
    rows = [[r.outcome, f"{r.source} ({r.store})" if r.store else r.source, _why(r)] for r in report.results]
    lines = [f"{_counts(report)} ({report.rigour or 'no verdicts'}, method {report.method})"]
    lines += columns(["OUTCOME", "MATRIX", "WHY"], rows) if rows else []
    if report.results_omitted:
        lines.append(f"... and {report.results_omitted} more; --output ndjson prints them all")
    if report.statement is not None:
        lines.append(report.statement)
    if report.worst_trace_error is not None:
        lines.append(f"worst trace error {report.worst_trace_error:.3e}")
    if report.lowest_lambda_min is not None:
        lines.append(f"smallest eigenvalue bound of all {report.lowest_lambda_min:.3e}")
    if report.coverage is not None:
        lines += _coverage(report.coverage, incremental=report.scope is not None and report.scope.incremental)
    if report.held_back_seconds:
        lines.append(f"held back for {in_words(report.held_back_seconds)} by --max-latency")
    return lines


def _counts(report: VerifyReport) -> str:
    counts = {name: getattr(report, name) for name in ("valid", "clampable", *OUTCOME_CODES)}
    told = ", ".join(
        f"{count} {name}" + (f" ({report.accepted[name]} accepted)" if name in report.accepted else "")
        for name, count in counts.items()
        if count
    )
    unchanged = report.coverage.unchanged - report.coverage.rechecked if report.coverage else 0
    told = ", ".join(filter(None, (told, f"{unchanged} unchanged" if unchanged > 0 else "")))
    told = told or "nothing checked"
    if report.skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.skipped_kinds.items()))
        told += f", {report.skipped} skipped ({kinds})"
    return told


def _coverage(coverage: Coverage, *, incremental: bool) -> list[str]:
    lost = [] if coverage.not_kept is None else [f"the ledger is not kept: {coverage.not_kept}"]
    if not incremental:
        return lost  # all was read just now
    ended = f", ended by {coverage.recheck_ended_by}" if coverage.recheck_ended_by else ""
    read = f" ({size(coverage.rechecked_bytes)})" if coverage.rechecked else ""
    lines = [f"{coverage.changed} changed or known bad, {coverage.rechecked} read again{read}{ended}"]
    if coverage.oldest_unread_seconds is None:
        share = 100.0 * (coverage.share_read or 0.0)
        lines.append(f"{share:.3g} % of all matrices were ever read by an audit of all keys")
    else:
        lines.append(f"longest unread: {in_words(coverage.oldest_unread_seconds)}")
    if coverage.cycle_seconds is not None:
        lines.append(f"at this pace all are read again within {in_words(coverage.cycle_seconds)}")
    return [*lines, *lost]


def _why(checked: Checked) -> str:
    dark = " [admitted in the dark]" if checked.dark else ""
    why = checked.error or ("; ".join(checked.verdict.reasons) if checked.verdict else "")
    why += dark
    return why if checked.acceptance is None else f"{why} [{checked.acceptance.told()}]"
