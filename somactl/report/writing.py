"""What commands return that write, bring back or remove for good."""

from __future__ import annotations

from typing import Literal

import msgspec

from somactl.core.verdict import Verdict
from somactl.report.base import Report


class Move(msgspec.Struct, kw_only=True):
    """A change somactl made to a matrix before storing it; distance is in the Frobenius norm."""

    method: Literal["normalize", "clamp", "round"]
    distance: float


def dark_warning(count: int) -> str:
    """What a report says of that many values that were admitted in the dark."""
    what = "one value was" if count == 1 else f"{count} values were"
    return f"{what} admitted in the dark: with dark mode off an invariant refuses what is so"


class CommitItem(msgspec.Struct, kw_only=True):
    """One key of a commit. For a delete only key, action and noop are set. dark: an invariant would refuse
    it, and it was admitted in dark mode alone."""

    key: str
    action: Literal["put", "delete"]
    kind: str | None = None
    dtype: str | None = None
    shape: list[int] | None = None
    layout: str | None = None
    bytes: int | None = None
    content: str | None = None
    moves: list[Move] = []
    verdict: Verdict | None = None
    noop: bool = False
    dark: bool = False


class StoreView(msgspec.Struct, kw_only=True):
    store: str
    durability: str


class CommitReport(Report, tag="commit"):
    """version and committed_at are None in a dry run, which checks everything and writes nothing.

    admitted_dark: the keys that an invariant would refuse and that dark mode admitted, with the reasons.
    Nothing is proven of them.
    """

    commit_id: str
    version: int | None = None
    committed_at: float | None = None
    dry_run: bool = False
    replayed: bool = False
    stores: list[StoreView] = []
    items: list[CommitItem] = []
    admitted_dark: dict[str, list[str]] = {}


class LeftAlone(msgspec.Struct, kw_only=True):
    """A key that a restore left as it is; version and commit are those of what happened since."""

    key: str
    why: Literal["written since", "deleted again", "past its grace"]
    version: int | None = None
    commit_id: str | None = None


class PartialCommit(msgspec.Struct, kw_only=True):
    """One of the commits that a restore needed."""

    commit_id: str
    version: int
    keys: int
    bytes: int


class RestoreReport(CommitReport, tag="restore"):
    """of_prune: a prune is undone, which may take several commits; `version` is that of the last one. already
    counts keys that were back before; left lists those that were not restored, and why.
    """

    of_prune: bool = False
    commits: list[PartialCommit] = []
    restored_keys: int = 0
    restored_bytes: int = 0
    already: int = 0
    items_omitted: int = 0
    left: list[LeftAlone] = []
    left_omitted: int = 0
    stopped: str | None = None


class RmReport(CommitReport, tag="rm"):
    pass


class CompactReport(Report, tag="compact"):
    """orders are records of prune orders, and of the commits that restores took.

    events are those of `records` that were commits', whose events are gone with them; dropped of these were
    not published, although publishing was on.
    """

    dry_run: bool = False
    revisions: int = 0
    tombstones: int = 0
    records: int = 0
    orders: int = 0
    events: int = 0
    dropped: int = 0
    bytes_freed: int = 0


class DemoReport(Report, tag="demo"):
    steps: list[str] = []
