"""Rows folded into a report: counts and bytes by outcome, form, reason and kind, and the rows to be named."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from somactl.report import MigrateReport, MigrationRow, Tally

_LARGEST = 10
_MAX_POINTERS = 1000
MAX_LISTED = 10_000
_PLAIN = "not-a-matrix"


def fold(report: MigrateReport, rows: Iterable[MigrationRow], *, listing: bool = True) -> None:
    """Add rows of matrices; with `listing` the rejected, moved and conflicting ones are listed too."""
    for row in rows:
        _count(report.outcomes, row.outcome, row)
        _count(report.forms, row.form, row)
        if row.outcome in ("migrate", "identical"):
            _count(report.kinds, row.kind, row)
        else:
            _count(report.reasons, f"{row.outcome}: {row.reason}", row)
        _count_pointer(report, row.pointer)
        _keep_largest(report, row)
        if listing:
            _list(report, row)


def fold_plain(report: MigrateReport, plain: Mapping[str, Tally]) -> None:
    """Add values without a matrix, tallied by their reason."""
    for reason, tally in plain.items():
        for tallies, name in ((report.outcomes, _PLAIN), (report.reasons, f"{_PLAIN}: {reason}")):
            total = tallies.setdefault(name, Tally())
            total.count += tally.count
            total.json_bytes += tally.json_bytes


def split(rows: Iterable[MigrationRow]) -> tuple[dict[str, Tally], list[MigrationRow]]:
    """The values without a matrix, tallied by their reason, and the rows of all the others."""
    plain: dict[str, Tally] = {}
    others: list[MigrationRow] = []
    for row in rows:
        if row.outcome == _PLAIN:
            _count(plain, row.reason, row)
        else:
            others.append(row)
    return plain, others


def finish(report: MigrateReport) -> MigrateReport:
    """3 where a matrix was rejected or is in conflict, 4 where something was left to do, else 0."""
    findings = [report.outcomes[name].count for name in ("rejected", "conflict") if name in report.outcomes]
    _warn_of_omitted(report)
    report.finish(3 if sum(findings) else 0, 4 if not report.complete or report.left_alone else 0)
    for name in ("outcomes", "forms", "reasons", "kinds", "pointers"):
        setattr(report, name, dict(sorted(getattr(report, name).items())))
    return report


def _count(tallies: dict[str, Tally], name: str, row: MigrationRow) -> None:
    tally = tallies.setdefault(name, Tally())
    tally.count += 1
    tally.json_bytes += row.json_bytes
    tally.bytes += row.bytes


def _count_pointer(report: MigrateReport, pointer: str) -> None:
    if pointer in report.pointers or len(report.pointers) < _MAX_POINTERS:
        report.pointers[pointer] = report.pointers.get(pointer, 0) + 1
    else:
        report.pointers_omitted += 1


def _keep_largest(report: MigrateReport, row: MigrationRow) -> None:
    if row.form == "unreadable":
        return  # its size is unknown
    if len(report.largest) == _LARGEST and row.json_bytes <= report.largest[-1].json_bytes:
        return
    # Of equals the first one read stays: the order of the source is the same in every run.
    report.largest = heapq.nlargest(_LARGEST, [*report.largest, row], key=lambda each: each.json_bytes)


def _list(report: MigrateReport, row: MigrationRow) -> None:
    """Each list is bounded, so that memory is, and says how many it left out."""
    if row.outcome == "rejected":
        report.rejected_omitted += _append(report.rejected, row)
    elif row.outcome == "conflict":
        report.conflicts_omitted += _append(report.conflicts, row)
    elif row.moves:
        report.moved_omitted += _append(report.moved, row)


def _append(rows: list[MigrationRow], row: MigrationRow) -> int:
    """How many were left out: none, or this one."""
    if len(rows) == MAX_LISTED:
        return 1
    rows.append(row)
    return 0


def _warn_of_omitted(report: MigrateReport) -> None:
    omitted = report.rejected_omitted + report.conflicts_omitted + report.moved_omitted
    if omitted:
        report.warnings.append(
            f"{omitted} rows are not listed, beyond the first {MAX_LISTED} of their sort; "
            "--output ndjson prints every one"
        )
