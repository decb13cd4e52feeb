"""Audit: prove the invariants of many matrices, one page of bytes at a time.

A bad or unreadable matrix never ends an audit; what could not be checked is counted apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from somactl.core.names import Pattern, validate_key
from somactl.core.portions import in_portions
from somactl.core.verdict import Method, Tolerances, Verdict
from somactl.errors import CorruptValue, EnvelopeError, InputRejected, SomactlError
from somactl.operations.copies import FINDINGS, STALE, compare
from somactl.report import Checked, VerifyReport
from somactl.store.cached import Cache, Cached, CachedStore
from somactl.store.contract import Entry, Snapshot, Store

if TYPE_CHECKING:
    import numpy as np

MAX_RESULTS = 1000  # a report stays bounded however sick a namespace is; ndjson mode prints them all
PAGE_BYTES = 32 << 20
PAGE_KEYS = 256

EXIT_CODES = {
    "violated": 3,
    "corrupt": 3,
    "contradicting": 3,
    "undecided": 4,
    "unreadable": 4,
    "stale": 4,
    "rejected": 11,
}


@dataclass(frozen=True, slots=True)
class Audit:
    """What to check and how.

    each is called with every outcome as it comes (progress, ndjson); fail_fast ends the audit after the
    first outcome that is a finding or could not be checked, and the report is then not complete.
    """

    tolerances: Tolerances = field(default_factory=Tolerances)
    method: Method = "certify"
    spectrum: bool = False
    witness: bool = False
    fail_fast: bool = False
    each: Callable[[Checked], None] = lambda checked: None


@dataclass(frozen=True, slots=True)
class FileInput:
    """A file to check. `read` is called when its turn comes, so that memory holds one file at a time."""

    name: str
    read: Callable[[], bytes]


async def verify_files(files: Iterable[FileInput], audit: Audit, report: VerifyReport) -> bool:
    """Check each file; False if `fail_fast` ended it."""
    for file in files:
        try:
            content = file.read()  # here and not in the thread, where a signal could not end it
        except InputRejected as exc:
            checked = Checked(source=file.name, outcome="rejected", error=exc.message)
        else:
            checked = await asyncio.to_thread(_check_file, file.name, content, audit)
        if not _count(report, checked, audit):
            return False
    return True


async def verify_keys(store: Store, keys: Sequence[str], audit: Audit, report: VerifyReport) -> bool:
    """Check exactly these keys; one that is absent is `unreadable`. False if `fail_fast` ended it."""
    for key in keys:
        validate_key(key)
        snapshot = await store.read_many([key])
        if not await _check_snapshot(snapshot, [key], audit, report, missing_is_unreadable=True):
            return False
    return True


async def verify_matching(store: Store, match: str | None, audit: Audit, report: VerifyReport) -> bool:
    """Check every key that matches; one deleted while the audit runs is no finding."""
    async for page in store.scan(match, page_bytes=PAGE_BYTES):
        kinds = {stat.key: stat for stat in page}
        rhos = [key for key, stat in kinds.items() if stat.kind == "rho"]
        for key in kinds.keys() - set(rhos):
            stat = kinds[key]
            _count(
                report, Checked(source=key, outcome="skipped", version=stat.version, kind=stat.kind), audit
            )
        if not rhos:
            continue
        snapshot = await store.read_many(rhos)
        if not await _check_snapshot(snapshot, rhos, audit, report, missing_is_unreadable=False):
            return False
    return True


async def verify_cache(
    cache: Cache, keys: Sequence[str], pattern: Pattern | None, audit: Audit, report: VerifyReport
) -> bool:
    """Check what a cache holds: exactly `keys`, and all that match `pattern`. False if `fail_fast` ended it.

    A key the cache does not hold is no finding, unless it was named: a cache may forget.
    """
    for key in keys:
        validate_key(key)
        if not await _check_cached(cache, [key], audit, report, missing_is_unreadable=True):
            return False
    if pattern is None:
        return True
    async for page in cache.keys():
        matching = [key for key in page if pattern.matches(key)]
        if not await _check_cached(cache, matching, audit, report, missing_is_unreadable=False):
            return False
    return True


async def compare_copies(
    store: CachedStore, keys: Sequence[str], pattern: Pattern | None, audit: Audit, report: VerifyReport
) -> bool:
    """Find copies that are not what the authority has: of `keys`, and of all that match `pattern`. False if
    `fail_fast` ended it."""
    if not await _compare_page(store, keys, audit, report):
        return False
    if pattern is None:
        return True
    async for page in store.cache.keys():
        if not await _compare_page(store, [key for key in page if pattern.matches(key)], audit, report):
            return False
    return True


async def _compare_page(store: CachedStore, keys: Sequence[str], audit: Audit, report: VerifyReport) -> bool:
    for start in range(0, len(keys), PAGE_KEYS):
        for one in await compare(store, keys[start : start + PAGE_KEYS]):
            if one.held is None or one.judgement not in (*STALE, *FINDINGS) or one.judgement == "corrupt":
                continue  # what is corrupt was found when its bytes were checked
            checked = Checked(
                source=one.key,
                outcome="stale" if one.judgement in STALE else "contradicting",
                version=one.held.version,
                error=one.difference,
            )
            if not _count(report, _of(store.cache, checked), audit):
                return False
    return True


def finish(report: VerifyReport, *, ended_by: str | None = None) -> VerifyReport:
    """Set the exit code; `ended_by` says what ended the audit before everything was checked."""
    codes = {code for outcome, code in EXIT_CODES.items() if getattr(report, outcome)}
    report.complete = not (ended_by or report.undecided or report.unreadable or report.rejected)
    if ended_by:
        codes.add(4)
        report.warnings.append(f"ended early by {ended_by}: the rest was not checked")
    elif is_empty(report) and not report.allow_empty:
        codes.add(4)
        report.complete = False
        report.warnings.append(_nothing_checked(report))
    if report.method == "sampled" and report.undecided:
        report.warnings.append("the sampled method can prove a violation but never accepts a matrix")
    if report.stale or report.contradicting:
        report.warnings.append("the cache does not hold what the authority has: reconcile it")
    report.finish(*codes)
    return report


def is_empty(report: VerifyReport) -> bool:
    """Whether not one matrix was looked at: values of kinds without invariants do not count."""
    return not any(getattr(report, outcome) for outcome in ("checked", *EXIT_CODES))


def _nothing_checked(report: VerifyReport) -> str:
    found = f"only {_kinds(report)}, which have no invariants" if report.skipped else "no key matches"
    return f"nothing was checked: {found}; where that is to be expected, say so with --allow-empty"


def _kinds(report: VerifyReport) -> str:
    return ", ".join(f"{count} of kind {kind}" for kind, count in sorted(report.skipped_kinds.items()))


async def _check_snapshot(
    snapshot: Snapshot,
    keys: Sequence[str],
    audit: Audit,
    report: VerifyReport,
    *,
    missing_is_unreadable: bool,
) -> bool:
    for key in keys:
        if key in snapshot.corrupt:
            checked = Checked(source=key, outcome="corrupt", error=snapshot.corrupt[key].message)
        elif key in snapshot.entries:
            checked = await asyncio.to_thread(_check_entry, snapshot.entries[key], audit)
        elif missing_is_unreadable:
            checked = Checked(source=key, outcome="unreadable", error=f"key {key!r} is not in the store")
        else:
            continue
        if not _count(report, checked, audit):
            return False
    return True


async def _check_cached(
    cache: Cache, keys: Sequence[str], audit: Audit, report: VerifyReport, *, missing_is_unreadable: bool
) -> bool:
    held = (await cache.find(keys, payloads=False)).entries
    sizes = {key: copy.size for key, copy in held.items()}
    for portion in in_portions(keys, lambda key: sizes.get(key, 0), PAGE_BYTES):
        view = await cache.find(portion)
        for key in portion:
            checked = await asyncio.to_thread(_check_copy, key, view.entries.get(key), audit)
            if checked is None and missing_is_unreadable:
                checked = Checked(source=key, outcome="unreadable", error=f"key {key!r} is not in the cache")
            if checked is not None and not _count(report, _of(cache, checked), audit):
                return False
    return True


def _check_copy(key: str, copy: Cached | None, audit: Audit) -> Checked | None:
    """The outcome for one copy; None where there is none, or a tombstone."""
    if copy is None:
        return None
    if copy.defect is not None:
        return Checked(source=key, outcome="corrupt", version=copy.version, error=copy.defect)
    return None if copy.entry is None else _check_entry(copy.entry, audit)


def _of(cache: Cache, checked: Checked) -> Checked:
    checked.store = cache.name
    return checked


def _check_entry(entry: Entry, audit: Audit) -> Checked:
    from somactl.core.framing import peek
    from somactl.core.verification import check_envelope

    header = peek(entry.data)
    if header.kind != "rho":
        return Checked(source=entry.key, outcome="skipped", version=entry.version, kind=header.kind)
    try:
        verdict = check_envelope(
            entry.data, header, audit.tolerances, method=audit.method, spectrum=audit.spectrum
        )
    except (EnvelopeError, CorruptValue) as exc:
        return Checked(source=entry.key, outcome="corrupt", version=entry.version, error=exc.message)
    return _checked(entry.key, verdict, audit, entry.version)


def _check_file(name: str, content: bytes, audit: Audit) -> Checked:
    from somactl.core.invariants import check
    from somactl.core.matrix_file import parse_matrix_file
    from somactl.core.verification import check_envelope

    try:
        parsed = parse_matrix_file(content, name)
        if parsed.envelope is not None and parsed.header is not None:
            verdict = check_envelope(
                parsed.envelope, parsed.header, audit.tolerances, method=audit.method, spectrum=audit.spectrum
            )
        else:
            verdict = check(parsed.array, audit.tolerances, method=audit.method, spectrum=audit.spectrum)
    except InputRejected as exc:
        return Checked(source=name, outcome="rejected", error=exc.message)
    except SomactlError as exc:
        return Checked(source=name, outcome="unreadable", error=exc.message)
    if not verdict.square:
        factor = "; a factor F is committed with --layout factor" if _is_tall(parsed.array) else ""
        return Checked(source=name, outcome="rejected", error="; ".join(verdict.reasons) + factor)
    return _checked(name, verdict, audit)


def _is_tall(array: np.ndarray) -> bool:
    rows, columns = array.shape
    return bool(rows > columns)


def _checked(source: str, verdict: Verdict, audit: Audit, version: int | None = None) -> Checked:
    shown = verdict if audit.witness else verdict.without_vector()
    return Checked(source=source, outcome=verdict.status, version=version, verdict=shown)


def _count(report: VerifyReport, checked: Checked, audit: Audit) -> bool:
    """Add one outcome to the report; False where `fail_fast` says to stop."""
    outcome = checked.outcome
    setattr(report, outcome, getattr(report, outcome) + 1)
    if outcome in ("valid", "clampable", "violated"):
        report.checked += 1
    if outcome == "skipped" and checked.kind is not None:
        report.skipped_kinds[checked.kind] = report.skipped_kinds.get(checked.kind, 0) + 1
    if checked.verdict is not None:
        _fold(report, checked.verdict)
    if outcome not in ("valid", "skipped"):
        if len(report.results) < MAX_RESULTS:
            report.results.append(checked)
        else:
            report.results_omitted += 1
    audit.each(checked)
    return not (audit.fail_fast and outcome in EXIT_CODES)


def _fold(report: VerifyReport, verdict: Verdict) -> None:
    """Keep the worst numbers seen; one verdict that is only `computed` makes the whole audit `computed`."""
    report.blas = report.blas or verdict.blas or None
    if report.rigour != "computed":
        report.rigour = verdict.rigour
    if verdict.trace_error is not None:
        report.worst_trace_error = max(report.worst_trace_error or 0.0, verdict.trace_error)
    for bound in (verdict.lambda_min_upper, verdict.lambda_min_lower):
        if bound is not None:
            report.lowest_lambda_min = min(bound, report.lowest_lambda_min or 0.0)
            break
