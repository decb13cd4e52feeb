"""Folds what was done into a report: counts by outcome, form, reason and kind, and the rows to name."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping

from somactl.legacy.examine import shown
from somactl.legacy.journal import Journal, Page
from somactl.legacy.request import MigrationProgress, Watch
from somactl.operations.jobs.pipeline import Ended
from somactl.report import MigrateReport, MigrationRow, Tally, dark_warning

_LARGEST = 10
_MAX_POINTERS = 1000
_MAX_LEFT_ALONE = 10_000
MAX_LISTED = 10_000
_PLAIN = "not-a-matrix"


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


def add_page(report: MigrateReport, page: Page, *, listing: bool = True) -> None:
    """Count a page's values; with `listing` the rejected, moved and conflicting rows are listed too."""
    report.values += page.values
    for reason, tally in page.plain.items():
        for tallies, name in ((report.outcomes, _PLAIN), (report.reasons, f"{_PLAIN}: {reason}")):
            total = tallies.setdefault(name, Tally())
            total.count += tally.count
            total.json_bytes += tally.json_bytes
    for row in page.rows:
        _count(report.outcomes, row.outcome, row)
        _count(report.forms, row.form, row)
        if row.outcome in ("migrate", "identical"):
            _count(report.kinds, row.kind, row)
        else:
            _count(report.reasons, f"{row.outcome}: {row.reason}", row)
        if row.pointer in report.pointers or len(report.pointers) < _MAX_POINTERS:
            report.pointers[row.pointer] = report.pointers.get(row.pointer, 0) + 1
        else:
            report.pointers_omitted += 1
        _keep_largest(report, row)
        report.admitted_dark_total += row.dark and row.outcome == "migrate"
        if listing:
            _list(report, row)


def so_far(report: MigrateReport, plain: Mapping[str, Tally], rows: Iterable[MigrationRow]) -> dict[str, int]:
    """How many ended how, those of the report and these."""
    counts = Counter({name: tally.count for name, tally in report.outcomes.items()})
    counts.update(row.outcome for row in rows)
    counts[_PLAIN] += sum(tally.count for tally in plain.values())
    return dict(sorted((+counts).items()))


async def of_journal(journal: Journal, watch: Watch, *, listing: bool) -> MigrateReport:
    """The report of a migration's last pass, counted from its pages; the source is not read."""
    state = journal.state
    report = journal.report(state.phase)
    report.plan = state.plan
    async for page in journal.pages(state.first_page):
        add_page(report, page, listing=listing)
        watch(MigrationProgress(report.values, "values", rows=page.rows))
    return report


def leave(report: MigrateReport, left: Mapping[str, str]) -> None:
    """Say of values that they were not touched, and why; the list is bounded, and says so."""
    for key, why in left.items():
        if len(report.left_alone) < _MAX_LEFT_ALONE:
            report.left_alone[shown(key)] = why
        elif not any("left alone" in warning for warning in report.warnings):
            report.warnings.append(
                f"more than {_MAX_LEFT_ALONE} values were left alone; only so many are listed"
            )


def finish(report: MigrateReport, ended: Ended = "done") -> MigrateReport:
    """3 where a matrix was rejected or is in conflict, 4 where something was left to do, else 0."""
    if not report.complete:
        report.stopped = "a signal" if ended == "signal" else "--max-duration"
    findings = any(name in report.outcomes for name in ("rejected", "conflict"))
    omitted = report.rejected_omitted + report.conflicts_omitted + report.moved_omitted
    omitted += report.admitted_dark_omitted
    if report.admitted_dark_total:
        report.warnings.append(dark_warning(report.admitted_dark_total))
    if omitted:
        report.warnings.append(
            f"{omitted} rows are not listed, beyond the first {MAX_LISTED} of their sort; "
            "--output ndjson prints every one"
        )
    report.finish(3 if findings else 0, 4 if not report.complete or report.left_alone else 0)
    for name in ("outcomes", "forms", "reasons", "kinds", "pointers"):
        setattr(report, name, dict(sorted(getattr(report, name).items())))
    return report


def _count(tallies: dict[str, Tally], name: str, row: MigrationRow) -> None:
    tally = tallies.setdefault(name, Tally())
    tally.count += 1
    tally.json_bytes += row.json_bytes
    tally.bytes += row.bytes


def _keep_largest(report: MigrateReport, row: MigrationRow) -> None:
    if row.form == "unreadable":
        return  # its size is not known
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
    elif row.dark and row.outcome == "migrate":
        report.admitted_dark_omitted += _append(report.admitted_dark, row)
    elif row.moves:
        report.moved_omitted += _append(report.moved, row)


def _append(rows: list[MigrationRow], row: MigrationRow) -> int:
    """How many were left out: none, or this one."""
    if len(rows) == MAX_LISTED:
        return 1
    rows.append(row)
    return 0
