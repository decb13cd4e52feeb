"""The marker of a cache: which incarnation of the authority it may serve, and how that changes safely.

One rule makes it safe: the marker is first set to a value that serves nothing, *then* the authority is
asked for its incarnation, and the answer replaces exactly that value. A process that learnt an
older incarnation, however long ago and however long it slept, cannot put it there any more.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from somactl.errors import SomactlError, StoreUnavailable
from somactl.store.cached import ESTABLISHING, INITIALISING, Cache
from somactl.store.contract import Finding, Head
from somactl.suggestion import run

CHECK = "incarnation"
Ask = Callable[[], Awaitable[Head]]

ESTABLISH_SECONDS = 10.0
"""How long others wait for a process that began to establish the incarnation, and died."""
_ATTEMPTS = 10


def life(cache: Cache) -> float:
    """Seconds that a marker stands without being used: all entries from before it are gone by then."""
    return 2 * cache.ttl


async def establish(cache: Cache, head: Ask) -> None:
    """Where a cache does not know its incarnation (it is new, or was flushed), find it out.

    If another process just does that, or the authority does not answer, leave it to the next one.
    """
    token = ESTABLISHING + os.urandom(8).hex()
    if not await cache.mark(None, token, seconds=ESTABLISH_SECONDS):
        return
    try:
        incarnation = (await head()).incarnation
    except SomactlError:
        return  # the next question to the authority reports it; the token expires
    await cache.mark(token, incarnation, seconds=life(cache))


async def renew(cache: Cache, change: Ask, head: Ask) -> tuple[Head, SomactlError | None]:
    """Make `change`, which gives the namespace a new incarnation, while the cache serves nothing.

    Raises StoreUnavailable, and changes nothing, where the cache cannot be told. Returns what `change`
    returned, and the error if the cache could not be told afterwards: then it goes on serving nothing until
    the marker expires.
    """
    token = INITIALISING + os.urandom(8).hex()
    try:
        await cache.block(token, seconds=life(cache))
    except StoreUnavailable as exc:
        raise StoreUnavailable(
            f"{exc.message}; until it is told of the new incarnation it would serve the old one",
            hint="bring the cache back; or run init without --cache and then flush it, before it is read",
        ) from exc
    try:
        changed = await change()
    except SomactlError:
        await _resolved(cache, head, token)  # whether or not the change was made, `head` tells
        raise
    return changed, await _resolved(cache, head, token)


async def adopt(cache: Cache, found: str, head: Ask) -> bool:
    """Make a cache that serves `found` serve the authority's incarnation; False if another was faster."""
    token = INITIALISING + os.urandom(8).hex()
    if not await cache.mark(found, token, seconds=life(cache)):
        return False
    await resolve(cache, head, token)
    return True


async def resolve(cache: Cache, head: Ask, token: str) -> None:
    """Replace `token`, under which nothing is served, by the incarnation that the authority has now."""
    for _ in range(_ATTEMPTS):
        incarnation = (await head()).incarnation
        if await cache.mark(token, incarnation, seconds=life(cache)):
            if (await head()).incarnation == incarnation:
                return
            replaced: str | None = incarnation  # it changed once more, and its author may have seen no token
        else:
            replaced = (await cache.find([])).marker
            if replaced in (None, incarnation) or replaced.startswith((INITIALISING, ESTABLISHING)):
                return  # what sets it asked the authority after us
        token = INITIALISING + os.urandom(8).hex()
        await cache.mark(replaced, token, seconds=life(cache))
    raise StoreUnavailable(
        f"the incarnation of namespace {cache.namespace!r} keeps changing, so the cache serves nothing",
        hint="let one change of the incarnation finish at a time",
    )


async def _resolved(cache: Cache, head: Ask, token: str) -> SomactlError | None:
    try:
        await resolve(cache, head, token)
    except SomactlError as exc:
        return exc
    return None


def compared(cache: Cache, marker: str | None, truth: str) -> Finding:
    """Whether the cache serves the incarnation that the authority is in."""
    if marker == truth:
        return Finding(cache.name, CHECK, "ok", f"it serves {truth}, the authority's")
    if marker is None or marker.startswith(ESTABLISHING):
        return Finding(cache.name, CHECK, "ok", "it serves nothing yet; the first copy changes that")
    if marker.startswith(INITIALISING):
        return Finding(
            cache.name,
            CHECK,
            "warning",
            "an `init --new-incarnation` has begun and not finished, so it serves nothing",
            f"do it again; without, it ends within {2 * cache.ttl:g} s",
            (run("init", new_incarnation=True),),
        )
    return Finding(
        cache.name,
        CHECK,
        "problem",
        f"it serves {marker}, and the authority is in {truth}",
        "reconcile it; and check that no other database uses this cache for a namespace of the same name",
        (run("cache-warm", reconcile=True),),
    )


def orphaned(cache: Cache, marker: str | None) -> list[Finding]:
    """What a cache that serves a namespace which the authority does not have means."""
    if marker is None or marker.startswith((ESTABLISHING, INITIALISING)):
        return []
    return [
        Finding(
            cache.name,
            CHECK,
            "problem",
            f"it serves {marker}, and the authority has no namespace of that name: was it lost?",
            "restore a backup that has it, or check --store and --namespace; else make a new one",
            (run("init"),),
        )
    ]
