"""What stands under a matrix's target: another of the source, a value of the store, or an own copy.

A commit is a migration's own by its label, as long as the store keeps its record. Of a commit whose record
has expired nothing is known, and nothing is overwritten on the strength of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from somactl.legacy.journal import Journal
from somactl.legacy.source.workspace import Texts
from somactl.operations.bounded import each_of
from somactl.report import MigrationRow
from somactl.store.contract import Stat, Store

_TWIN = ("identical", "collision")
_EMBEDDED = "#/"
"""In every target of an embedded matrix. Any other is the key of a whole value, which is there but once."""
_ADOPTED = "adopted"
_AT_ONCE = 8


def claim(rows: Iterable[MigrationRow], claims: Texts) -> None:
    """Let each target belong to the first matrix that goes there: the others are identical or conflict."""
    for row in rows:
        if row.outcome != "migrate" or _EMBEDDED not in row.target:
            continue
        first = claims.get(row.target)
        if first is None:
            claims.put(row.target, row.content)
            continue
        row.reason = "collision"
        row.outcome = "identical" if first == row.content else "conflict"
        if row.outcome == "conflict":
            row.why = f"another matrix of this source goes to {row.target!r}"


def claim_again(rows: Iterable[MigrationRow], claims: Texts) -> None:
    """The claims of rows that an earlier run settled."""
    for row in rows:
        if row.content and row.reason != "collision":
            claims.put(row.target, row.content)


async def compare(
    store: Store, rows: Sequence[MigrationRow], migration: str | None = None
) -> Mapping[str, Stat]:
    """Resolve by what stands under their targets now the rows that are to migrate, and those that are
    identical to one of these. Returns what stands there.

    A row may be to migrate though something stands there: an older copy of this very `migration`.
    """
    open_ = [row for row in rows if row.outcome == "migrate" or (row.outcome, row.reason) == _TWIN]
    stats = (await store.stat_many([row.target for row in open_])).stats if open_ else {}
    old = await replaceable(store, migration, stats, open_)
    for row in open_:
        there = stats.get(row.target)
        if (
            there is None or row.target in old
        ):  # a twin of a matrix of this source stays identical to that one
            continue
        row.outcome = outcome_at(there, row.content)
        if row.outcome == "conflict":
            row.reason = "another value is there"
            row.why = f"{row.target!r} holds another {there.kind} since version {there.version}"
    return stats


def outcome_at(there: Stat | None, content: str) -> Literal["migrate", "identical", "conflict"]:
    """How a matrix of that content digest ends where `there` is what stands under its target."""
    if there is None:
        return "migrate"
    return "identical" if there.content == content else "conflict"


async def replaceable(
    store: Store, migration: str | None, stats: Mapping[str, Stat], rows: Sequence[MigrationRow]
) -> set[str]:
    """The targets of `rows` that hold something else, whose place a newer value of the source may take.

    They hold copies of this very migration, which were not written over since, and none of the values that
    may have been copied there was taken out of the source: of these they would be all that is left.
    """
    wanted = {row.target: row for row in rows}
    others = [
        stats[target]
        for target, row in wanted.items()
        if target in stats
        and stats[target].content != row.content
        and (stats[target].kind != "rho" or row.kind == "rho")
    ]
    journal = await Journal.open(store, migration) if migration is not None and others else None
    if journal is None or not journal.exists:
        return set()
    copies = await _copies(store, journal, {stat.commit_id for stat in others})
    holders = {stat.key: _holders(stat.key) for stat in others if stat.commit_id in copies}
    taken = await journal.taken_out({key for keys in holders.values() for key in keys})
    return {target for target, keys in holders.items() if taken.isdisjoint(keys)}


def _holders(target: str) -> list[str]:
    """The keys of the source whose values may hold a matrix that goes to `target`."""
    cuts = [at for at in range(len(target)) if target.startswith(_EMBEDDED, at)]
    return [target, *(target[:at] for at in cuts)]


def label_of_copy(journal: Journal) -> dict[str, str]:
    """What marks the commits of one pass of a migration.

    `born` tells it from one of the same id that was forgotten: what that one copied is not this one's.
    """
    state = journal.state
    return {"migration": journal.id, "pass": str(state.first_page), "born": state.born}


def label_of_adoption(journal: Journal) -> dict[str, str]:
    """What marks that a migration committed again what it found in the store, and did not put there."""
    return {"migration": journal.id, _ADOPTED: "true"}


async def commits_of(store: Store, migration: str, commits: Iterable[str]) -> set[str]:
    """Those among `commits` that this migration made, copying or finalizing."""
    labels = await labels_of(store, commits)
    return {commit for commit, label in labels.items() if label.get("migration") == migration}


async def _copies(store: Store, journal: Journal, commits: Iterable[str]) -> set[str]:
    """Those among `commits` that copied values of the source in the time of this journal."""
    labels = await labels_of(store, commits)
    own = ("migration", journal.id), ("born", journal.state.born)
    return {commit for commit, label in labels.items() if _ADOPTED not in label and label.items() >= {*own}}


async def labels_of(store: Store, commits: Iterable[str]) -> dict[str, Mapping[str, str]]:
    """The label of each of `commits`, empty where its record has expired."""

    async def label(commit: str) -> tuple[str, Mapping[str, str]]:
        record = (await store.commit_status(commit)).record
        return commit, {} if record is None or record.metadata is None else record.metadata.user

    return dict(await each_of(label, sorted(set(commits)), at_once=_AT_ONCE))
