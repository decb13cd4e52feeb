"""What may be asked of a prune beside the order itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from somactl.core.order import Order
from somactl.core.retention import DEFAULT_BATCH, MAX_BATCH, Goal
from somactl.errors import UsageError
from somactl.report import PruneItem
from somactl.store.contract import DAY
from somactl.store.request import MAX_GRACE_SECONDS


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """How an order is to be carried out.

    order_id   the order's id where it is no message, which has one of its own; None: a fresh one
    batch      items of the order in one commit; None: all of it in one
    grace      seconds, by the store's clock, for which what is deleted can be restored; 0: it is freed at
               once and for good
    fallback   what takes the place of an order that did not come; None: nothing does
    announce   called with the order's id before anything is sent
    each       called with every item that was settled, in the order's sequence
    progress   called after each commit with how many of how many items are settled
    """

    goal: Goal = field(default_factory=Goal)
    order_id: str | None = None
    batch: int | None = None
    missing: Literal["ignore", "fail"] = "ignore"
    changed: Literal["skip", "fail"] = "skip"
    grace: float = DAY
    fallback: Literal["oldest"] | None = None
    dry_run: bool = False
    announce: Callable[[str], None] = lambda order_id: None
    each: Callable[[PruneItem], None] = lambda item: None
    progress: Callable[[int, int], None] = lambda settled, items: None

    def check(self) -> None:
        """Raises UsageError for what no order could be carried out with."""
        if not 0 <= self.grace <= MAX_GRACE_SECONDS:
            raise UsageError(
                f"--grace {self.grace:g} s cannot be kept", hint=f"at most {MAX_GRACE_SECONDS / DAY:g}d"
            )
        if self.fallback is not None and self.order_id is not None:
            raise UsageError(
                "--order-id does not go with --fallback, which chooses its keys anew each time",
                hint="leave --order-id out; one that was interrupted is simply run again",
            )
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise UsageError(f"--batch {self.batch} is outside 1 to {MAX_BATCH}")

    @property
    def bounds_namespace(self) -> bool:
        """Whether it says how much the namespace may hold, and not only what to delete."""
        return self.goal.kind in ("keep", "max-bytes")

    def batch_for(self, items: int) -> int:
        """Items in one commit of an order of `items`. Raises UsageError."""
        if self.batch is None and items > MAX_BATCH:
            raise UsageError(
                f"the order has {items} items, and one commit deletes at most {MAX_BATCH} keys",
                hint=f"add --batch {DEFAULT_BATCH}: each batch is then atomic, and the whole can be resumed",
            )
        return self.batch or max(1, items)

    def identity(self, order: Order, *, directed: bool) -> str:
        """What an order's id stands for: the order's content and everything that decides what it deletes."""
        flags = [self.goal.kind, self.goal.amount, self.missing, self.changed, self.grace, self.batch]
        text = json.dumps(["somactl prune 1", order.digest, *flags, directed], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def slice_identity(identity: str, start: int, stop: int) -> str:
    """What the commit of the items `[start, stop)` stands for."""
    return hashlib.sha256(f"{identity} {start} {stop}".encode()).hexdigest()
