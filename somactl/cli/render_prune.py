"""Reports of prunes as tables for people."""

from __future__ import annotations

from somactl.cli.text import columns, size, when
from somactl.report import PruneItem, PruneReport, RestoreReport

SHOWN = 20


def prune_lines(report: PruneReport) -> list[str]:
    """What was deleted, what was not and why, and what that means for the namespace."""
    if report.order_id is None:
        return _limit(report)
    lines = [_first(report)]
    lines += _items(report.would_delete, report.would_delete_omitted, "WOULD GO")
    lines += _items(report.not_applied, report.not_applied_omitted, "NOT DELETED")
    told = ", ".join(f"{count} {outcome}" for outcome, count in report.counts.items())
    lines.append(f"of {report.items} items: {told or 'none was looked at'}; reached {report.reached or '-'}")
    if len(report.batches) + report.batches_omitted > 1:
        last = report.batches[-1]
        lines.append(
            f"in {len(report.batches) + report.batches_omitted} commits, {report.batches[0].commit_id} "
            f"to {last.commit_id}" + (f" and {report.batches_omitted} more" if report.batches_omitted else "")
        )
    if report.deleted_keys:
        lines.append(_freed(report))
    return [*lines, *_limit(report), *([f"stopped: {report.stopped}"] if report.stopped else [])]


def restore_lines(report: RestoreReport) -> list[str]:
    """How much came back, and what did not and why."""
    verb = "would restore" if report.dry_run else "restored"
    first = f"{verb} {_keys(report.restored_keys)}, {size(report.restored_bytes)}"
    if report.commits:
        ids = [report.commits[0].commit_id, *([report.commits[-1].commit_id] if report.commits[1:] else [])]
        count = f"{len(report.commits)} commits" if report.commits[1:] else "commit"
        first += f", in {count} {' to '.join(ids)}, version {report.version}"
    lines = [first]
    if report.already:
        lines.append(f"{_keys(report.already)} {'was' if report.already == 1 else 'were'} back already")
    if report.left:
        rows = [[one.why, one.version or "-", one.key] for one in report.left[:SHOWN]]
        lines += columns(["LEFT ALONE", "VERSION", "KEY"], rows)
        more = len(report.left) - len(rows) + report.left_omitted
        lines += [f"... and {more} more"] if more else []
    return lines + ([f"stopped: {report.stopped}"] if report.stopped else [])


def _first(report: PruneReport) -> str:
    verb = "would delete" if report.dry_run else "deleted"
    text = f"order {report.order_id}: {verb} {_keys(report.deleted_keys)}, {size(report.deleted_bytes)}"
    if report.issuer is not None:
        text += f" (issuer {report.issuer}, sequence {report.sequence})"
    if report.dry_run:
        text += "; dry run: nothing was written"
    if report.replayed:
        text += "; replayed: this order was carried out before, and this was its report"
    return text + ("; resumed" if report.resumed and not report.replayed else "")


def _freed(report: PruneReport) -> str:
    text = f"freed now {size(report.freed_now)}, after the grace {size(report.freed_after_grace)}"
    if report.recoverable_until is not None:
        return f"{text}; can be restored until {when(report.recoverable_until)}"
    return text if report.dry_run and report.grace else f"{text}; an undo is impossible (--grace 0)"


def _limit(report: PruneReport) -> list[str]:
    if report.keys_left is None:
        return []
    lines = [f"the namespace has {_keys(report.keys_left)}, {size(report.bytes_left)}"]
    if report.dry_run and report.order_id is not None:
        lines = [f"the namespace would have {_keys(report.keys_left)}, {size(report.bytes_left)}"]
    if report.short_by:
        over = size(report.short_by) if report.goal == "max-bytes" else _keys(report.short_by)
        limit = size(report.amount) if report.goal == "max-bytes" else _keys(report.amount)
        lines.append(
            f"degraded: {over} over the limit of {limit}, since {when(report.over_since)} "
            f"({report.over_seconds or 0:.0f} s)"
        )
    return lines


def _items(items: list[PruneItem], omitted: int, header: str) -> list[str]:
    if not items:
        return []

    def row(item: PruneItem) -> list[str]:
        versions = "" if item.found is None else f"version {item.found}"
        if item.ranked is not None and item.outcome == "changed":
            versions = f"ranked at version {item.ranked}, now at {item.found}"
        return [item.place, item.outcome, versions or "-", item.key]

    lines = columns([header, "OUTCOME", "WHERE IT IS", "KEY"], map(row, items[:SHOWN]))
    more = len(items) - SHOWN + omitted
    return lines + ([f"... and {more} more; --output ndjson prints them all"] if more > 0 else [])


def _keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"
