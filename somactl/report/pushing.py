"""What `push-metrics` returns, and what a look at a store found for it."""

from __future__ import annotations

import msgspec

from somactl.report.base import Report


class ServiceView(msgspec.Struct, kw_only=True):
    """One service: whether it answers, and how many findings of `doctor` it has, by their status."""

    store: str
    up: bool
    findings: dict[str, int] = {}


class CountsView(msgspec.Struct, kw_only=True):
    """What the namespace holds."""

    version: int
    keys: int
    tombstones: int
    stored_bytes: int


class BacklogView(msgspec.Struct, kw_only=True):
    """Events and how far they were published: see the report of `events status`."""

    publishing: bool
    backlog: int
    oldest_at: float | None = None
    dropped: int = 0


class LedgerView(msgspec.Struct, kw_only=True):
    """What audits have noted. oldest_read_at: all matrices were read since; None: one never was."""

    known_bad: int
    oldest_read_at: float | None = None
    share_read: float
    cycle_seconds: float | None = None


class CopiesView(msgspec.Struct, kw_only=True):
    """Copies in the cache that were compared with the authority, and those that differ; whole: there were no
    more of them than a snapshot compares."""

    compared: int
    whole: bool = True
    differing: dict[str, int] = {}


class OrdersView(msgspec.Struct, kw_only=True):
    """Prune orders under way: items not looked at yet, and commits of which the outcome is not known."""

    backlog: int
    unknown: int


class SnapshotView(msgspec.Struct, kw_only=True):
    """How a store is at one moment, `at` by its clock; a part that could not be looked at is None.

    migrations has the matrices of all migrations that are under way or done, by their state.
    """

    at: float | None = None
    services: list[ServiceView] = []
    counts: CountsView | None = None
    events: BacklogView | None = None
    ledger: LedgerView | None = None
    copies: CopiesView | None = None
    orders: OrdersView | None = None
    migrations: dict[str, int] | None = None


class PushedGroup(msgspec.Struct, kw_only=True):
    """One group of metrics. source is the file it was read from, empty for a look at the store; ended_at is
    when the run it tells of ended; why says what kept it from being pushed, empty where it was."""

    job: str
    namespace: str
    shard: str | None = None
    source: str = ""
    ended_at: float | None = None
    why: str = ""


class PushReport(Report, tag="push-metrics"):
    """What was pushed, and what was not: dropped, since the gateway has a later run; kept in the spool, for
    the next push; or failed. Without a gateway `pushed` is what was written to the file.

    gateway is its address, without secrets. snapshot stands where no reports were given.
    """

    gateway: str = ""
    snapshot: SnapshotView | None = None
    pushed: list[PushedGroup] = []
    dropped: list[PushedGroup] = []
    kept: list[PushedGroup] = []
    failed: list[PushedGroup] = []
    deleted: list[PushedGroup] = []
