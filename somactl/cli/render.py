"""Reports as tables for people. Plain aligned columns: they stream, never truncate a key, and pipe well."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from somactl.cli.render_audit import audit_view
from somactl.cli.render_canary import canary_view
from somactl.cli.render_evidence import check_lines, merge_lines
from somactl.cli.render_migration import migration_view, migrations_view
from somactl.cli.render_push import push_lines
from somactl.cli.suggest import Invocation, in_flags
from somactl.cli.text import columns, on_lines, shape, size, utc, when, wrapped
from somactl.core.verdict import INVARIANTS, Verdict
from somactl.errors import InputsRejected, InvariantViolated, SomactlError, VersionConflict
from somactl.report import (
    CacheWarmReport,
    CanaryReport,
    CommitItem,
    CommitReport,
    CommitView,
    CompactReport,
    CompletionReport,
    ConfigReport,
    Degraded,
    DoctorReport,
    EventsLsReport,
    EventsReport,
    EventView,
    EvidenceCheckReport,
    EvidenceMergeReport,
    ExplainReport,
    GetReport,
    InitReport,
    KeyView,
    LogReport,
    LsReport,
    MigrateReport,
    MigrationsReport,
    NamespacesReport,
    NamespaceView,
    PruneReport,
    PushReport,
    Report,
    RestoreReport,
    RevisionView,
    ServeReport,
    ShowReport,
    StatusReport,
    VerifyReport,
)

GREEN, YELLOW, RED = "32", "33", "31"
LOG_WIDTH = 80
MOST_REJECTED = 20  # lines of one error
STATUS_COLORS = {"valid": GREEN, "clampable": YELLOW, "undecided": YELLOW, "violated": RED, "corrupt": RED}
_VERDICT_WORD = re.compile(
    r"\b(valid|clampable|undecided|violated)(?=, (proved|computed))|^(violated|undecided|corrupt)\b", re.M
)


def render(report: Report, *, color: bool = False, brief: bool = False) -> str:
    """The report as text: its body, its warnings, then the commands to undo it and to go on.

    Brief, it is the body alone, and of a listing the rows.
    """
    body = next((view for kind, view in _VIEWS.items() if isinstance(report, kind)), lambda _: [])
    lines = list(body(report))
    if brief:
        lines = [] if isinstance(report, GetReport) else lines[isinstance(report, _LISTINGS) :]
        return _shown(lines, color=color)
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines += [f"undo: {report.undo}"] if report.undo else []
    lines += [f"next: {report.next}"] if report.next else []
    return _shown(lines, color=color)


def _shown(lines: Iterable[str], *, color: bool) -> str:
    """The lines as a terminal may have them; no escape sequence is in them but our own colours."""
    text = on_lines(lines)
    return _colored(text) if color else text


DARK_LINE = "dark: dark mode is on (SFM_DARK_MODE): invariants are measured and refuse nothing"
"""What every table says of it, on stderr, since stdout may carry a value."""


def degraded_line(part: Degraded) -> str:
    """What was missing; on stderr, since stdout may carry a value."""
    return f"degraded: {part.service}: {part.detail} (circuit breaker {part.breaker})"


def render_error(error: SomactlError, during: Invocation) -> str:
    """One line that names the defect, the details that belong to it, and what to do next."""
    lines = [f"error: {error.message}"]
    if isinstance(error, VersionConflict) and len(error.conflicts) > 3:
        lines += [f"  {key!r}: {_conflict(facts)}" for key, facts in error.conflicts.items()]
    if isinstance(error, InputsRejected):
        shown = error.facts["rejected"][:MOST_REJECTED]
        lines += [f"  {each['message']}" for each in shown]
        more = error.facts["rejected_total"] - len(shown)
        lines += [f"  ... and {more} more; --output json names up to {error.MOST}"] if more else []
    if isinstance(error, InvariantViolated):
        lines += [f"  {line}" for line in verdict_lines(error.verdict)]
    lines += [f"hint: {in_flags(error.hint)}"] if error.hint else []
    lines += [f"try: {line}" for line in during.advice(error)]
    lines += [f"runbook: {line}" for line in [during.runbook(error)] if line]
    lines += [DARK_LINE] if during.dark else []
    return on_lines(lines)


def _conflict(facts: Mapping[str, Any]) -> str:
    parts = [
        f"{part} {value}, found {facts['found'][part] or 'none'}" for part, value in facts["expected"].items()
    ]
    return "expected " + "; ".join(parts)


def verdict_lines(verdict: Verdict) -> list[str]:
    """The numbers behind a verdict, with how sure they are."""
    lines = [f"verdict: {verdict.status}, {verdict.rigour} (n = {verdict.n}, {verdict.dtype})"]
    lines += [f"  {reason}" for reason in verdict.reasons]
    lines += [line for invariant in INVARIANTS for line in invariant.lines(verdict)]
    if verdict.route:
        lines.append(f"route: {verdict.route}" + (f"; BLAS: {verdict.blas}" if verdict.blas else ""))
    return lines


def _init(report: InitReport) -> list[str]:
    head = report.head
    kept = head.retention
    return [
        f"namespace {head.namespace} ({report.store}): version {head.version}, "
        f"incarnation {head.incarnation}",
        f"keeps the {kept.versions} newest versions of a key, old ones {kept.seconds / 86_400:g} days; "
        f"commit records {kept.record_seconds / 86_400:g} days",
    ]


def _config(report: ConfigReport) -> list[str]:
    rows = []
    for each in report.settings:
        value = "(not shown: it cannot be used)" if each.value is None else each.value or "none"
        also = f" (not {', '.join(each.overridden)})" if each.overridden else ""
        rows.append([each.name, value, each.place + also])
    problems = [f"problem: {p.message}" + (f"; {p.hint}" if p.hint else "") for p in report.problems]
    return [*columns(["SETTING", "VALUE", "FROM"], rows), *problems]


def _doctor(report: DoctorReport) -> list[str]:
    header = ["SERVICE", "CHECK", "STATUS", "FOUND"]
    lines = columns(header, [[f.service, f.check, f.status, f.detail] for f in report.findings])
    told: list[str] = []
    for f in report.findings:
        told += [f"  {f.service}, {f.check}: {f.advice}"] if f.advice else []
        told += [f"  try: {line}" for line in f.next]
    return [*lines, *(["what to do:"] if told else []), *told]


def _namespaces(report: NamespacesReport) -> list[str]:
    def row(view: NamespaceView) -> list[Any]:
        counts = [view.version, view.keys, view.tombstones, size(view.stored_bytes)]
        return [view.namespace, *counts, when(view.created_at), view.incarnation]

    header = ["NAMESPACE", "VERSION", "KEYS", "DELETED", "SIZE", "CREATED", "INCARNATION"]
    return columns(header, map(row, report.namespaces))


def _commit(report: CommitReport) -> list[str]:
    if report.dry_run:
        held = "dark mode admits what does not hold" if report.admitted_dark else "everything holds"
        first = f"dry run: {held}; nothing was written"
    else:
        held = ", ".join(f"{s.store}: {s.durability}" for s in report.stores)
        place = f" at {report.address}" if report.address else ""
        first = f"committed version {report.version} of namespace {report.namespace}{place} ({held})"
        first += "; replayed: this commit id was written before" if report.replayed else ""

    def row(item: CommitItem) -> list[Any]:
        if item.action == "delete":
            return [item.key, "nothing to delete" if item.noop else "deleted", "-", "-", "-", "-", "-"]
        bound = item.verdict and item.verdict.lambda_min_lower
        return [
            item.key,
            item.kind,
            shape(item.shape),
            item.layout,
            size(item.bytes),
            _judged(item),
            "-" if bound is None else f"{bound:.2e}",
        ]

    header = ["KEY", "KIND", "SHAPE", "LAYOUT", "SIZE", "PSD", "LAMBDA_MIN >="]
    dark = [[key, "; ".join(reasons)] for key, reasons in report.admitted_dark.items()]
    told = columns(["ADMITTED IN THE DARK", "WHY IT WOULD BE REFUSED"], dark) if dark else []
    return [first, *columns(header, map(row, report.items)), *told]


def _judged(item: CommitItem) -> str:
    if item.verdict is None:
        return "not checked"
    return f"{item.verdict.status}, {'in the dark' if item.dark else item.verdict.rigour}"


def _get(report: GetReport) -> list[str]:
    return (
        [f"wrote {report.key} (version {report.version}, {report.format}) to {report.file}"]
        if report.file
        else []
    )


def _ls(report: LsReport) -> list[str]:
    def row(key: KeyView) -> list[Any]:
        last = when(key.recoverable_until) if key.deleted else when(key.committed_at)
        return [key.version, key.kind, key.dtype, shape(key.shape), size(key.bytes), last, key.key]

    header = [
        "VERSION",
        "KIND",
        "DTYPE",
        "SHAPE",
        "SIZE",
        "RESTORABLE UNTIL" if report.deleted else "COMMITTED",
        "KEY",
    ]
    return columns(header, map(row, report.keys))


def _show(report: ShowReport) -> list[str]:
    key = report.key
    facts = [
        ("key", key.key),
        ("namespace", f"{report.namespace} (incarnation {report.incarnation})"),
        ("version", key.version),
        ("matrix", f"{key.kind}, {shape(key.shape)}, {key.dtype}"),
        ("stored as", f"{key.layout}, compression {report.compression}, {size(key.bytes)}"),
        ("committed", f"{when(key.committed_at)} by commit {key.commit_id}"),
        ("content", key.content),
        ("envelope", report.envelope_digest),
        ("served by", report.served_by + ("" if report.age is None else f", {report.age:.0f} s old")),
    ]
    lines = [f"{name:<10} {value}" for name, value in facts]
    lines += [f"{'label':<10} {name}={value}" for name, value in report.metadata.items()]
    stored = report.stored_verdict
    if stored:
        how = "admitted in the dark" if report.admitted_dark else stored.get("rigour", "by another writer")
        lines.append(f"{'at commit':<10} {stored['status']}, {how}")
    if report.verdict is not None:
        lines += verdict_lines(report.verdict)
        if report.verdict.spectrum is not None:
            from somactl.cli.spectrum import draw

            lines += draw(report.verdict.spectrum)
    return lines


def _log(report: LogReport) -> list[str]:
    """Two lines each: what an operator acts on, in columns, and below it what it was about."""
    if report.key is not None:
        rows = [
            (r.version, utc(r.committed_at), "compacted" if r.compacted else r.action, r.commit_id)
            for r in report.revisions
        ]
        return _with_details("ACTION", rows, map(_about, report.revisions))
    commits = [(c.version, when(c.recorded_at).rstrip("Z"), c.made_by, c.commit_id) for c in report.commits]
    return _with_details("BY", commits, map(_contents, report.commits))


def _with_details(
    third: str, rows: Sequence[tuple[Any, str, Any, str]], details: Iterable[Sequence[str]]
) -> list[str]:
    """Rows that end with a commit id, which goes to the line below where it is too long for a terminal."""
    header, *short = columns(["VERSION", "WHEN (UTC)", third, ""], [[*row[:3], ""] for row in rows])
    lines = [f"{header}COMMIT"]
    for line, (*_, commit_id), words in zip(short, rows, details, strict=True):
        fits = len(line) + len(commit_id) <= LOG_WIDTH
        lines.append(line + commit_id if fits else line.rstrip())
        lines += wrapped(words if fits else [commit_id, *words], " " * header.index("WHEN"), LOG_WIDTH)
    return lines


def _about(r: RevisionView) -> list[str]:
    return (
        []
        if r.content is None
        else [
            *([f"{r.psd}{' (in the dark)' if r.admitted_dark else ''},"] if r.psd else []),
            f"{size(r.bytes)},",
            f"content {r.content}",
        ]
    )


def _contents(c: CommitView) -> list[str]:
    keys = [key if content else f"-{key}" for key, content in list(c.keys.items())[:5]]
    more = [f"and {len(c.keys) - 5} more"] if len(c.keys) > 5 else []
    labels = [f"{name}={value}" for name, value in c.metadata.items()]
    labels += ["(dark mode)"] if c.dark else []
    labels += [f"({len(c.admitted_dark)} admitted in the dark)"] if c.admitted_dark else []
    return [*(f"{key}," for key in keys[:-1]), *keys[-1:], *more, *labels, *_asked_for(c.caller, c.door)]


def _asked_for(caller: str | None, door: str | None) -> list[str]:
    return [f"asked for by {caller} over {door}"] if caller else []


def _status(report: StatusReport) -> list[str]:
    order, c = report.order, report.commit
    if order is not None and c.state != "committed":
        told = ", ".join(f"{count} {outcome}" for outcome, count in order.counts.items())
        lines = [
            f"order {order.order_id}: {order.state}; of {order.items} items: {told or 'none was looked at'}",
            *_asked_for(order.caller, order.door),
        ]
        if order.batches:
            count = len(order.batches) + order.batches_omitted
            last = order.batches[-1].commit_id
            lines.append(f"in {count} {'commit' if count == 1 else 'commits'}, the last of them {last}")
        lines += [f"last sent: {order.pending}, {order.pending_state}"] if order.pending else []
        return [*lines, *([f"stopped: {order.stopped}"] if order.stopped else [])]
    if c.state == "committed":
        dark = f"; admitted in the dark: {', '.join(c.admitted_dark)}" if c.admitted_dark else ""
        dark = dark or ("; in dark mode" if c.dark else "")
        return [f"commit {c.commit_id}: committed as version {c.version} at {when(c.recorded_at)}{dark}"]
    if c.state == "aborted":
        return [f"commit {c.commit_id}: aborted; nothing of it was written or ever will be"]
    return [f"commit {c.commit_id}: not seen (may still arrive)"]


def _events(report: EventsReport) -> list[str]:
    where = f"events of namespace {report.namespace}"
    if not report.publishing:
        return [f"{where} are not published; age alone removes them"]
    since = f", the oldest since {utc(report.oldest_at)}" if report.oldest_at is not None else ""
    return [
        f"{where}: published up to version {report.published} of {report.namespace_version}; "
        f"{report.backlog} wait{since}; {report.keep} are kept beyond their time"
    ]


def _events_ls(report: EventsLsReport) -> list[str]:
    header = ["VERSION", "WHEN (UTC)", "PSD", "TRACE ERROR", "LAMBDA_MIN >=", "KEYS", "COMMIT"]
    return columns(
        header,
        [
            (e.version, when(e.recorded_at).rstrip("Z"), _told_psd(e), _number(e.trace_error),
             _number(e.lambda_min_lower), len(e.keys), e.commit_id)
            for e in report.events
        ],
    )  # fmt: skip


def _told_psd(event: EventView) -> str:
    return (event.psd or "-") + (" (dark)" if event.dark else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _compact(report: CompactReport) -> list[str]:
    verb = "would remove" if report.dry_run else "removed"
    return [
        f"{verb} {report.revisions} superseded versions, {report.tombstones} deleted keys, "
        f"{report.records} records of commits and of keys' history, with them {report.events} events, and "
        f"{report.orders} records of orders: {size(report.bytes_freed)}"
    ]


def _restore(report: RestoreReport) -> list[str]:
    from somactl.cli.render_prune import restore_lines

    return restore_lines(report) if report.of_prune or report.already else _commit(report)


def _prune(report: PruneReport) -> list[str]:
    from somactl.cli.render_prune import prune_lines

    return prune_lines(report)


def _serve(report: ServeReport) -> list[str]:
    refused = ", ".join(f"{count} {reason}" for reason, count in report.refused.items())
    return [
        f"served {report.http} for {report.seconds:.0f} s: {report.requests} requests"
        + (f"; refused: {refused}" if refused else "")
    ]


def _cache_warm(report: CacheWarmReport) -> list[str]:
    lines = []
    if report.findings:
        lines += columns(["KEY", "FINDING", "WHY"], [[f.key, f.what, f.detail] for f in report.findings])
    if report.findings_total > len(report.findings):
        lines.append(f"... and {report.findings_total - len(report.findings)} more findings")
    if report.adopted:
        lines.append("the cache served another incarnation, and serves the authority's now")
    names = "missing", "outdated", "deleted", "newer", "unknown", "contradicting", "foreign", "corrupt"
    differ = [f"{getattr(report, name)} {name}" for name in names if getattr(report, name)]
    kinds = f" ({report.not_cached} of kinds that are not cached)" if report.not_cached else ""
    lines.append(f"checked {report.checked} keys{kinds}: {', '.join([f'{report.current} current', *differ])}")
    if report.oldest_stale_seconds is not None:
        lines.append(f"oldest stale copy: {report.oldest_stale_key}, {report.oldest_stale_seconds:.0f} s old")
    verb = "would copy" if report.dry_run else "copied"
    evicted = f", evicted {report.evicted}" if report.evicted else ""
    lines.append(f"{verb} {report.filled} values, {size(report.bytes_filled)}{evicted}")
    return lines + ([f"stopped: {report.stopped}"] if report.stopped else [])


def _colored(text: str) -> str:
    return _VERDICT_WORD.sub(lambda m: f"\x1b[{STATUS_COLORS[m[0]]}m{m[0]}\x1b[0m", text)


_LISTINGS = (LsReport, NamespacesReport, LogReport, EventsLsReport, MigrationsReport)
"""Their first line names the columns."""

_VIEWS: dict[type[Report], Callable[[Any], list[str]]] = {
    InitReport: _init,
    ConfigReport: _config,
    DoctorReport: _doctor,
    NamespacesReport: _namespaces,
    RestoreReport: _restore,
    CommitReport: _commit,
    GetReport: _get,
    LsReport: _ls,
    ShowReport: _show,
    LogReport: _log,
    StatusReport: _status,
    EventsReport: _events,
    EventsLsReport: _events_ls,
    CompactReport: _compact,
    PruneReport: _prune,
    PushReport: push_lines,
    ServeReport: _serve,
    CacheWarmReport: _cache_warm,
    CanaryReport: canary_view,
    VerifyReport: audit_view,
    EvidenceCheckReport: check_lines,
    EvidenceMergeReport: lambda report: merge_lines(report, audit_view),
    MigrateReport: migration_view,
    MigrationsReport: migrations_view,
    ExplainReport: lambda report: report.text.splitlines(),
    CompletionReport: lambda report: report.script.splitlines(),
}
