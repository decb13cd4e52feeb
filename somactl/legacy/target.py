"""Where a matrix goes: whether another of the source goes there too, or something stands there already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from somactl.legacy.ownership import outdated
from somactl.legacy.source.workspace import Texts
from somactl.report import MigrationRow
from somactl.store.contract import Stat, Store

_TWIN = ("identical", "collision")
_EMBEDDED = "#/"
"""In every target of an embedded matrix. Any other is the key of a whole value, which is there but once."""


def claim(rows: Iterable[MigrationRow], claims: Texts) -> None:
    """Let each target belong to the first matrix that goes there: the others are identical or conflict."""
    for row in rows:
        if row.outcome != "migrate" or _EMBEDDED not in row.target:
            continue
        first = claims.get(row.target)
        if first is None:
            claims.put(row.target, row.content)
        else:
            _collide(row, first)


def _collide(row: MigrationRow, first: str) -> None:
    """Another matrix of the source, of content digest `first`, has the row's target already."""
    row.reason = "collision"
    row.outcome = "identical" if first == row.content else "conflict"
    if row.outcome == "conflict":
        row.why = f"another matrix of this source goes to {row.target!r}"


async def compare(
    store: Store, rows: Sequence[MigrationRow], migration: str | None = None
) -> Mapping[str, Stat]:
    """Settle by what stands under their targets now the rows that are to migrate, and those that are
    identical to one of these. Returns what stands there.

    A row may be to migrate though something stands there: an older copy of this very `migration`.
    """
    open_ = [row for row in rows if row.outcome == "migrate" or (row.outcome, row.reason) == _TWIN]
    stats = (await store.stat_many([row.target for row in open_])).stats if open_ else {}
    old = await replaceable(store, migration, stats, open_)
    for row in open_:
        if row.target not in old:
            resolve(row, stats.get(row.target))
    return stats


async def replaceable(
    store: Store, migration: str | None, stats: Mapping[str, Stat], rows: Sequence[MigrationRow]
) -> set[str]:
    """The targets of `rows` that hold something else, which `migration` may write over: see `outdated`."""
    there = [stats[row.target] for row in rows if row.target in stats]
    wanted = {row.target: row for row in rows}
    others = [
        stat
        for stat in there
        if stat.content != wanted[stat.key].content and (stat.kind != "rho" or wanted[stat.key].kind == "rho")
    ]
    return await outdated(store, migration, others) if migration is not None and others else set()


def resolve(row: MigrationRow, there: Stat | None) -> None:
    """Let the row end as what stands under its target makes it end."""
    if there is None:  # a twin of a matrix of this source stays identical to that one
        return
    row.outcome = outcome_at(there, row.content)
    if row.outcome == "conflict":
        row.reason = "another value is there"
        row.why = f"{row.target!r} holds another {there.kind} since version {there.version}"


def outcome_at(there: Stat | None, content: str) -> Literal["migrate", "identical", "conflict"]:
    """How a matrix of that content digest ends where `there` is what stands under its target."""
    if there is None:
        return "migrate"
    return "identical" if there.content == content else "conflict"
