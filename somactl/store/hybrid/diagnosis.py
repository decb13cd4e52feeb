"""What `doctor` can tell of a cache and its authority together."""

from __future__ import annotations

from somactl.store.cached import ESTABLISHING, INITIALISING, Cache
from somactl.store.contract import Finding
from somactl.suggestion import run

CHECK = "incarnation"


def incarnation(cache: Cache, marker: str | None, truth: str) -> Finding:
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
