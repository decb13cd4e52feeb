"""Diagnose every service behind a store, without changing anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from somactl.errors import SomactlError
from somactl.operations import events
from somactl.operations.copies import FINDINGS, STALE, Compared, compare
from somactl.report import DoctorReport, FindingView
from somactl.store.cached import CachedStore, cached
from somactl.store.contract import Finding, Store
from somactl.suggestion import Suggestion, run

COPIES = 10_000
"""Copies that are compared at most: a look, where `cache-warm --reconcile` is the whole audit."""
PAGE_KEYS = 256


async def examine(store: Store, line: Callable[[Suggestion], str | None]) -> DoctorReport:
    """The findings of all services, in the order in which the store names them. `line` puts a suggestion
    into words.

    A service that cannot be reached is 13, a problem 3, a check that could not be made or a copy in the cache
    that is out of date 4; warnings alone are 0: the promises hold, and the next commit is taken.
    """
    findings = await store.diagnose()
    stale = False
    pair = cached(store)
    if pair is not None and not any(map(_is_unreachable, findings)):
        copies, stale = await _copies(pair)
        findings += copies
    if not any(map(_is_unreachable, findings)):
        with suppress(SomactlError):  # what is wrong has been said
            findings += await events.findings(store)
    report = DoctorReport(
        store=store.name, namespace=store.namespace, findings=[_view(finding, line) for finding in findings]
    )
    report.complete = not any(f.status == "unknown" or _is_unreachable(f) for f in findings)
    report.finish(*map(_code, findings), 4 if stale else 0)
    return report


def _view(finding: Finding, line: Callable[[Suggestion], str | None]) -> FindingView:
    return FindingView(
        service=finding.service,
        check=finding.check,
        status=finding.status,
        detail=finding.detail,
        advice=finding.advice,
        next=[told for suggestion in finding.next if (told := line(suggestion)) is not None],
    )


async def _copies(store: CachedStore) -> tuple[list[Finding], bool]:
    """Whether the cache holds what the authority has; and whether it holds what that has replaced."""
    seen, differing = 0, []
    try:
        async for page in store.cache.keys():
            for start in range(0, len(page), PAGE_KEYS):
                found = await compare(store, page[start : start + PAGE_KEYS])
                seen += len(found)
                differing += [one for one in found if one.judgement in (*STALE, *FINDINGS)]
            if seen >= COPIES:
                break
    except SomactlError:
        return [], False  # what is wrong with either has been said
    if not differing:
        return [
            Finding(store.cache.name, "copies", "ok", f"{seen} copies are as the authority has them")
        ], False
    return [_differing(store.cache.name, seen, differing)], True


def _differing(service: str, seen: int, differing: list[Compared]) -> Finding:
    counts = Counter(one.judgement for one in differing)
    told = ", ".join(f"{count} {judgement}" for judgement, count in sorted(counts.items()))
    oldest = max(differing, key=lambda one: one.age)
    detail = f"of {seen} copies {told}; the oldest: {oldest.key}: {oldest.difference}"
    if any(one.judgement in FINDINGS for one in differing):
        advice = (
            "if the authority was restored from a backup, give it a new incarnation with the cache named; "
            "else find out what writes into the cache, and reconcile it"
        )
        ways = (run("init", new_incarnation=True), run("cache-warm", reconcile=True))
        return Finding(service, "copies", "problem", detail, advice, ways)
    advice = (
        "something commits without naming this cache: name it there, and reconcile the copies, which expire "
        "by themselves as well"
    )
    return Finding(service, "copies", "warning", detail, advice, (run("cache-warm", reconcile=True),))


def _code(finding: Finding) -> int:
    if _is_unreachable(finding):
        return 13
    return {"problem": 3, "unknown": 4}.get(finding.status, 0)


def _is_unreachable(finding: Finding) -> bool:
    return finding.check == "reachable" and finding.status == "problem"
