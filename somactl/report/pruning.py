"""What a prune returns."""

from __future__ import annotations

from typing import Literal

import msgspec

from somactl.report.base import Report


class PruneItem(msgspec.Struct, kw_only=True):
    """One item of an order, and what came of it.

    outcome   deleted, or in a dry run `delete`; unknown: there is no such key; changed: it is not at the
              version `ranked`, but at `found`; withheld: another item forbade all deletions
    """

    line: int
    place: str
    key: str
    outcome: Literal["deleted", "delete", "unknown", "changed", "withheld"]
    ranked: int | None = None
    found: int | None = None


class PruneBatch(msgspec.Struct, kw_only=True):
    """One commit of a prune; `recoverable_until` is None where nothing of it can be restored."""

    commit_id: str
    version: int
    keys: int
    bytes: int
    recoverable_until: float | None = None


class PruneReport(Report, tag="prune"):
    """What came of an order, or, where none came, whether the namespace keeps within its limit.

    directed is false where no order of the control plane chose the keys; digest, form, items and reached
    are those of the order. counts has the items by outcome: deleted (in a dry run: delete), unknown,
    changed, withheld, and beyond-limit for those that were not looked at. not_applied lists what is unknown,
    changed or was forbidden, would_delete what a dry run found, each up to a bound.

    freed_now were bytes in a cache, and with a grace of 0 in the store too; freed_after_grace go when their
    grace is over and `somactl compact` has run; until recoverable_until they can be restored. short_by says
    by how many keys or bytes the namespace is over its limit, over_since when that was first seen.
    stopped says why a run ended before the order did; running it again then goes on, unless final is true.
    """

    order_id: str | None = None
    digest: str | None = None
    form: Literal["text", "list", "ndjson", "message", "oldest"] | None = None
    directed: bool = True
    issuer: str | None = None
    sequence: int | None = None
    dry_run: bool = False
    replayed: bool = False
    resumed: bool = False
    goal: Literal["all", "limit", "keep", "max-bytes"] = "all"
    amount: int = 0
    grace: float = 0.0
    batch: int | None = None
    items: int = 0
    reached: str | None = None
    counts: dict[str, int] = {}
    not_applied: list[PruneItem] = []
    not_applied_omitted: int = 0
    would_delete: list[PruneItem] = []
    would_delete_omitted: int = 0
    deleted_keys: int = 0
    deleted_bytes: int = 0
    keys_left: int | None = None
    bytes_left: int | None = None
    short_by: int = 0
    over_since: float | None = None
    over_seconds: float | None = None
    freed_now: int = 0
    freed_after_grace: int = 0
    recoverable_until: float | None = None
    batches: list[PruneBatch] = []
    batches_omitted: int = 0
    stopped: str | None = None
    final: bool = False
