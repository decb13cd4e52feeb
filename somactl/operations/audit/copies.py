"""Prove what a cache holds, and compare its copies with the authority."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from somactl.core.names import Pattern, validate_key
from somactl.core.portions import batched, in_portions
from somactl.errors import CorruptValue, EnvelopeError
from somactl.operations.audit.model import Check, Proven, Tally
from somactl.operations.audit.pages import PAGE_BYTES, PAGE_KEYS
from somactl.operations.audit.prove import judged
from somactl.operations.copies import FINDINGS, STALE, compare
from somactl.report import Checked
from somactl.store.cached import Cache, Cached, CachedStore


async def prove_copies(
    cache: Cache, keys: Sequence[str], pattern: Pattern | None, check: Check, tally: Tally
) -> bool:
    """Check what a cache holds: exactly `keys`, and all that match `pattern`. False if `fail_fast` ended it.

    A key the cache does not hold is no finding, unless it was named: a cache may forget.
    """
    for key in keys:
        validate_key(key)
        if not await _check_cached(cache, [key], check, tally, absent_is_unreadable=True):
            return False
    if pattern is None:
        return True
    async for page in cache.keys():
        matching = [key for key in page if pattern.matches(key)]
        if not await _check_cached(cache, matching, check, tally):
            return False
    return True


async def compare_copies(
    store: CachedStore, keys: Sequence[str], pattern: Pattern | None, tally: Tally
) -> bool:
    """Find copies that are not what the authority has: of `keys`, and of all that match `pattern`. False if
    `fail_fast` ended it."""
    if not await _compare_page(store, keys, tally):
        return False
    if pattern is None:
        return True
    async for page in store.cache.keys():
        if not await _compare_page(store, [key for key in page if pattern.matches(key)], tally):
            return False
    return True


async def _compare_page(store: CachedStore, keys: Sequence[str], tally: Tally) -> bool:
    for some in batched(keys, PAGE_KEYS):
        for one in await compare(store, some):
            if one.held is None or one.judgement not in (*STALE, *FINDINGS) or one.judgement == "corrupt":
                continue  # what is corrupt was found when its bytes were checked
            checked = Checked(
                source=one.key,
                store=store.cache.name,
                outcome="stale" if one.judgement in STALE else "contradicting",
                version=one.held.version,
                digest=one.held.content or None,
                error=one.difference,
            )
            if not tally.count(checked):
                return False
    return True


async def _check_cached(
    cache: Cache, keys: Sequence[str], check: Check, tally: Tally, *, absent_is_unreadable: bool = False
) -> bool:
    async for key, checked in check_copies(cache, keys, check):
        if checked is None and absent_is_unreadable:
            text = f"key {key!r} is not in the cache"
            checked = Checked(source=key, store=cache.name, outcome="unreadable", error=text)
        if checked is not None and not tally.add(Proven.of(checked)):
            return False
    return True


async def check_copies(
    cache: Cache, keys: Sequence[str], check: Check
) -> AsyncIterator[tuple[str, Checked | None]]:
    """Each key with the outcome for its copy; None where the cache holds none, or a tombstone.

    Raises StoreUnavailable.
    """
    held = (await cache.find(keys, payloads=False)).entries
    sizes = {key: copy.size for key, copy in held.items()}
    for portion in in_portions(keys, lambda key: sizes.get(key, 0), PAGE_BYTES):
        view = await cache.find(portion)
        for key in portion:
            checked = await asyncio.to_thread(_check_copy, key, view.entries.get(key), check)
            if checked is not None:
                checked.store = cache.name
            yield key, checked


def _check_copy(key: str, copy: Cached | None, check: Check) -> Checked | None:
    """The outcome for one copy; None where there is none, or a tombstone."""
    from somactl.core.verification import check_envelope

    if copy is None:
        return None
    if copy.defect is not None:
        return Checked(source=key, outcome="corrupt", version=copy.version, error=copy.defect)
    if copy.entry is None:
        return None
    data, version = copy.entry.data, copy.entry.version
    header = copy.entry.framed
    if header.kind != "rho":
        return Checked(source=key, outcome="skipped", version=version, kind=header.kind)
    try:
        verdict = check_envelope(data, header, check.tolerances, method=check.method, spectrum=check.spectrum)
    except (EnvelopeError, CorruptValue) as exc:
        return judged(key, exc, check, copy.entry, header.content)
    return judged(key, verdict, check, copy.entry, header.content)
