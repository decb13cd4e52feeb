"""What the status page shows of a namespace besides its health: `State.extras(namespace)`.

The prover's process looks these up now and then, and the parent adds the latencies. What is not known, or
not yet, is None or empty.
"""

from __future__ import annotations

import msgspec

from somactl.report.pushing import BacklogView, LedgerView


class ReadLatency(msgspec.Struct, kw_only=True):
    """How long reads of one value from `store` (`postgres`, `cache`, ...) took; quantiles in seconds."""

    store: str
    count: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class LastAudit(msgspec.Struct, kw_only=True):
    """The last run that the ledger names: when it ended, by the store's clock, and how many keys it read."""

    ended_at: float
    keys: int


class Extras(msgspec.Struct, kw_only=True):
    """See the module.

    looked_at     when the stores were asked for this, in seconds since 1970 by this machine's clock
    head_version  the namespace's version then; keys: how many it has
    ledger        how far audits have come; audit the last of them
    events        those that wait to be published
    """

    looked_at: float | None = None
    head_version: int | None = None
    keys: int | None = None
    reads: list[ReadLatency] = []
    ledger: LedgerView | None = None
    audit: LastAudit | None = None
    events: BacklogView | None = None
