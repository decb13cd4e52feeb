"""Which commits of a store are a migration's own: their labels say so, as long as the store keeps them.

A commit whose record has expired has no owner: nothing is overwritten on the strength of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from somactl.legacy.journal import Journal
from somactl.operations.bounded import each_of
from somactl.store.contract import Stat, Store

_ADOPTED = "adopted"
_AT_ONCE = 8


def label_of_copy(journal: Journal) -> dict[str, str]:
    """What marks the commits of one pass of a migration.

    `born` tells it from one of the same id that was forgotten: what that one copied is not this one's.
    """
    label = {"migration": journal.id, "pass": str(journal.state.first_page)}
    return {**label, "born": journal.state.born} if journal.state.born else label


def label_of_adoption(journal: Journal) -> dict[str, str]:
    """What marks that a migration committed again what it found in the store, and did not put there."""
    return {"migration": journal.id, _ADOPTED: "true"}


async def commits_of(store: Store, migration: str, commits: Iterable[str]) -> set[str]:
    """Those among `commits` that this migration made, copying or finalizing."""
    labels = await _labels(store, commits)
    return {commit for commit, user in labels.items() if user.get("migration") == migration}


async def outdated(store: Store, migration: str, there: Collection[Stat]) -> set[str]:
    """Targets among those of `there` whose place a newer value of the source may take.

    They hold copies of this very migration, which have not been written over, and none of the values that may
    have been copied there was taken out of the source: of these they would be all that is left.
    """
    journal = await Journal.open(store, migration)
    if not journal.exists:
        return set()
    copies = await _copies(store, journal, {stat.commit_id for stat in there})
    holders = {stat.key: _holders(stat.key) for stat in there if stat.commit_id in copies}
    taken = await journal.taken_out({key for keys in holders.values() for key in keys})
    return {target for target, keys in holders.items() if taken.isdisjoint(keys)}


def _holders(target: str) -> list[str]:
    """The keys of the source whose values may hold a matrix that goes to `target`."""
    cuts = [at for at in range(len(target)) if target.startswith("#/", at)]
    return [target, *(target[:at] for at in cuts)]


async def _copies(store: Store, journal: Journal, commits: Iterable[str]) -> set[str]:
    """Those among `commits` that copied values of the source in the time of this journal."""
    labels = await _labels(store, commits)
    return {
        commit
        for commit, user in labels.items()
        if user.get("migration") == journal.id
        and user.get("born", "") == journal.state.born
        and _ADOPTED not in user
    }


async def _labels(store: Store, commits: Iterable[str]) -> dict[str, Mapping[str, str]]:
    async def label(commit: str) -> tuple[str, Mapping[str, str]]:
        record = (await store.commit_status(commit)).record
        return commit, {} if record is None or record.metadata is None else record.metadata.user

    return dict(await each_of(label, sorted(set(commits)), at_once=_AT_ONCE))
