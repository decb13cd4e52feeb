"""What a migration did, as a table for people."""

from __future__ import annotations

from somactl.cli.text import columns, shape, size
from somactl.report import MigrateReport, MigrationRow, Tally


def migration_view(report: MigrateReport) -> list[str]:
    return [*_outcomes(report), *_details(report), *_follow_up(report)]


def _outcomes(report: MigrateReport) -> list[str]:
    if not report.outcomes and report.phase not in ("planned", "copied", "copying"):
        return []
    lines = []
    if report.reasons:
        lines += columns(
            ["COUNT", "WHAT BECAME OF IT, AND WHY"], [[t.count, r] for r, t in report.reasons.items()]
        )
        lines.append("")
    header = ["OUTCOME", "COUNT", "JSON", "ENVELOPES"]
    lines += columns(header, [_row(name, tally) for name, tally in report.outcomes.items()])
    if report.kinds:
        lines.append("of kind " + ", ".join(f"{name}: {t.count}" for name, t in report.kinds.items()))
    if report.forms:
        lines.append("found as " + ", ".join(f"{name}: {t.count}" for name, t in report.forms.items()))
    pointers = {name: count for name, count in report.pointers.items() if name}
    if pointers:
        lines += ["", *columns(["MATRICES", "AT"], [[count, name] for name, count in pointers.items()])]
    if report.pointers_omitted:
        lines.append(f"... and {report.pointers_omitted} more")
    return lines


def _row(name: str, tally: Tally) -> list[str]:
    return [name, str(tally.count), size(tally.json_bytes), size(tally.bytes) if tally.bytes else "-"]


def _details(report: MigrateReport) -> list[str]:
    lines: list[str] = []
    for title, rows in (("REJECTED", report.rejected), ("CONFLICT", report.conflicts)):
        if rows:
            lines += ["", *columns([title, "WHY"], [[_place(row), _why(row)] for row in rows])]
    if report.moved:
        moved = [
            [_place(row), ", ".join(f"{m.method} by {m.distance:.3e}" for m in row.moves)]
            for row in report.moved
        ]
        lines += ["", *columns(["MOVED", "HOW (FROBENIUS NORM)"], moved)]
    if report.largest:
        largest = report.largest[0]
        lines.append(
            f"largest: {_place(largest)}, {shape(largest.shape or None)}, {size(largest.json_bytes)} of JSON"
        )
    return lines


def _place(row: MigrationRow) -> str:
    return f"{row.key} {row.pointer}" if row.pointer else row.key


def _why(row: MigrationRow) -> str:
    """The sentence without the key that stands beside it already."""
    return row.why.removeprefix(f"key {row.key!r}: ").removeprefix(f"key {row.key!r} at {row.pointer!r}: ")


def _follow_up(report: MigrateReport) -> list[str]:
    lines = []
    if report.left_alone:
        lines += columns(["LEFT ALONE", "WHY"], [[key, why] for key, why in report.left_alone.items()])
    head = f"migration {report.migration} of {report.source}" if report.migration else report.source
    did = {
        "planned": f"{head}: {report.values} values looked at; nothing was written",
        "copying": f"{head}: stopped by {report.stopped} after {report.values} values",
        "copied": f"{head}: {report.values} values looked at; the source is as it was",
        "finalizing": f"{head}: stopped by {report.stopped}; {report.finalized} values finalized in this run",
        "finalized": f"{head}: {report.finalized} values finalized; the store keeps them as they were",
        "reverting": f"{head}: stopped by {report.stopped}; {report.restored} values put back in this run",
        "reverted": f"{head}: {report.restored} values put back, {report.withdrawn} matrices deleted",
        "forgotten": f"{head}: {report.forgotten} original values dropped; it cannot be reverted any more",
    }
    return [*lines, did[report.phase]]
