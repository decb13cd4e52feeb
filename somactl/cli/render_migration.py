"""What a migration did, as a table for people: long lists first, so that the sum of it stays in view."""

from __future__ import annotations

from collections.abc import Sequence

from somactl.cli.text import columns, in_words, shape, size, when
from somactl.report import MigrateReport, MigrationRow, MigrationsReport, Tally


def migration_view(report: MigrateReport) -> list[str]:
    blocks = [*_named_rows(report), _reasons(report), _pointers(report), _outcomes(report)]
    lines = [line for block in blocks if block for line in (*block, "")]
    return [*lines, _in_a_sentence(report)]


def migrations_view(report: MigrationsReport) -> list[str]:
    header = ["ID", "PHASE", "MIGRATED", "REJECTED", "CONFLICTS", "ORIGINALS", "BEGUN", "AGE", "SOURCE"]
    return columns(
        header,
        [
            [
                each.migration,
                each.phase,
                *(each.outcomes.get(name, 0) for name in ("migrate", "rejected", "conflict")),
                each.originals,
                when(each.began_at),
                in_words(each.age_seconds),
                each.source,
            ]
            for each in report.migrations
        ],
    )


def _named_rows(report: MigrateReport) -> list[list[str]]:
    moved = [
        [_place(row), ", ".join(f"{m.method} by {m.distance:.3e}" for m in row.moves)] for row in report.moved
    ]
    return [
        _bounded(
            ["REJECTED", "WHY"],
            [[_place(row), _why(row)] for row in report.rejected],
            report.rejected_omitted,
        ),
        _bounded(
            ["CONFLICT", "WHY"],
            [[_place(row), _why(row)] for row in report.conflicts],
            report.conflicts_omitted,
        ),
        _bounded(
            ["ADMITTED IN THE DARK", "WHY IT WOULD BE REFUSED"],
            [
                [_place(row), "; ".join(row.verdict.reasons) if row.verdict else ""]
                for row in report.admitted_dark
            ],
            report.admitted_dark_omitted,
        ),
        _bounded(["MOVED", "HOW (FROBENIUS NORM)"], moved, report.moved_omitted),
        _table(["LEFT ALONE", "WHY"], [[key, why] for key, why in report.left_alone.items()]),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return columns(header, rows) if rows else []


def _bounded(header: Sequence[str], rows: Sequence[Sequence[str]], omitted: int) -> list[str]:
    more = f"... and {omitted} more; --output ndjson has a line for each"
    return _table(header, rows) + ([more] if omitted else [])


def _reasons(report: MigrateReport) -> list[str]:
    rows = [[str(tally.count), reason] for reason, tally in report.reasons.items()]
    return _table(["COUNT", "WHAT WAS NOT MIGRATED, AND WHY"], rows)


def _pointers(report: MigrateReport) -> list[str]:
    """Where matrices stand inside of values; the whole ones are what the outcomes count beside these."""
    rows = [[str(count), name] for name, count in report.pointers.items() if name]
    more = [f"... and {report.pointers_omitted} more"] if report.pointers_omitted else []
    return _table(["MATRICES", "AT"], rows) + more


def _outcomes(report: MigrateReport) -> list[str]:
    rows = [_row(name, tally) for name, tally in report.outcomes.items()]
    lines = _table(["OUTCOME", "COUNT", "JSON", "ENVELOPES"], rows)
    for words, tallies in (("of kind", report.kinds), ("found as", report.forms)):
        if tallies:
            lines.append(f"{words} " + ", ".join(f"{name}: {tally.count}" for name, tally in tallies.items()))
    if report.largest:
        row = report.largest[0]
        dimensions = f", {shape(row.shape)}" if row.shape else ""
        lines.append(f"largest: {_place(row)}{dimensions}, {size(row.json_bytes)} of JSON")
    return lines


def _row(name: str, tally: Tally) -> list[str]:
    return [name, str(tally.count), size(tally.json_bytes), size(tally.bytes) if tally.bytes else "-"]


def _place(row: MigrationRow) -> str:
    return f"{row.key} {row.pointer}" if row.pointer else row.key


def _why(row: MigrationRow) -> str:
    """The sentence without the key that stands beside it already."""
    return row.why.removeprefix(f"key {row.key!r}: ").removeprefix(f"key {row.key!r} at {row.pointer!r}: ")


def _in_a_sentence(report: MigrateReport) -> str:
    if report.phase == "forgotten" and not report.source:
        return "nothing was forgotten"
    head = f"migration {report.migration} of {report.source}" if report.migration else report.source
    copied = report.outcomes["migrate"].count if "migrate" in report.outcomes else 0
    looked_at = f"{report.values} values looked at"
    halted = f"stopped by {report.stopped}" if report.stopped else f"{report.phase}, not finished"
    did = {
        "planned": f"{looked_at}; nothing was written",
        "copying": f"{halted}: {looked_at}, {copied} matrices copied",
        "copied": f"{looked_at}, {copied} matrices copied; the source is as it was",
        "finalizing": f"{halted}; {report.finalized} values finalized in this run",
        "finalized": f"{report.finalized} values finalized; the store keeps them as they were",
        "reverting": f"{halted}; {report.restored} values put back in this run",
        "reverted": f"{report.restored} values put back, {report.withdrawn} matrices deleted",
        "forgetting": f"{halted}; it cannot be reverted any more",
        "forgotten": f"{report.forgotten} original values dropped; it cannot be reverted any more",
    }
    return f"{head}: {did[report.phase]}"
