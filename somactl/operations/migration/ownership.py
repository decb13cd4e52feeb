"""Which commits of a store are a migration's own: their labels say so, as long as the store keeps them.

A commit whose record has expired is nobody's: nothing is overwritten on the strength of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from somactl.operations.bounded import each_of
from somactl.store.contract import Store

ADOPTED: Mapping[str, str] = {"adopted": "true"}
"""Beside `migration=ID`: what stood there before, committed again by `--finalize`. A copy says `pass=N`."""
_AT_ONCE = 8


async def commits_of(store: Store, migration: str, commits: Iterable[str]) -> set[str]:
    """Those among `commits` that this migration made, copying or finalizing."""
    return {commit for commit, user in (await _labels(store, commits)).items() if _is_of(user, migration)}


async def copies_of(store: Store, migration: str, commits: Iterable[str]) -> set[str]:
    """Those among `commits` with which this migration copied values of its source."""
    return {
        commit
        for commit, user in (await _labels(store, commits)).items()
        if _is_of(user, migration) and not ADOPTED.items() <= user.items()
    }


def _is_of(user: Mapping[str, str], migration: str) -> bool:
    return user.get("migration") == migration


async def _labels(store: Store, commits: Iterable[str]) -> dict[str, Mapping[str, str]]:
    async def label(commit: str) -> tuple[str, Mapping[str, str]]:
        record = (await store.commit_status(commit)).record
        return commit, {} if record is None or record.metadata is None else record.metadata.user

    return dict(await each_of(label, sorted(set(commits)), at_once=_AT_ONCE))
