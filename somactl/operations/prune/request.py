"""What may be asked of a prune beside the order itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from somactl.core.retention import DEFAULT_BATCH, MAX_BATCH, Goal
from somactl.errors import SomactlError, UsageError
from somactl.operations.jobs.progress import Watch, unwatched
from somactl.operations.jobs.wire import Wire, to_wire
from somactl.report import PruneItem
from somactl.store.contract import DAY
from somactl.store.request import MAX_GRACE_SECONDS


class PruneWire(Wire, frozen=True, kw_only=True):
    """Everything beside the order's content that decides what it deletes: what an order id stands for.

    directed is false where no order of the control plane chose the keys.
    """

    goal: Literal["all", "limit", "keep", "max-bytes"] = "all"
    amount: int = 0
    missing: Literal["ignore", "fail"] = "ignore"
    changed: Literal["skip", "fail"] = "skip"
    grace: float = DAY
    batch: int | None = None
    directed: bool = True


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
    watch      told after each commit how many items are settled
    caller     who had it carried out, and the door they came through: kept with the order and its commits
    stop       asked before each batch: an error ends the run there, and it can be gone on with later
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
    watch: Watch = unwatched
    caller: str | None = None
    door: str | None = None
    stop: Callable[[], SomactlError | None] = lambda: None

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
    def audit(self) -> dict[str, str]:
        """What stands with every commit about who had it made."""
        return {name: said for name, said in (("caller", self.caller), ("door", self.door)) if said}

    @property
    def bounds_namespace(self) -> bool:
        """Whether it says how much the namespace may hold, and not only what to delete."""
        return self.goal.kind in ("keep", "max-bytes")

    def refuse_too_many(self, items: int) -> None:
        """Raises UsageError for an order of more items than the one commit that is asked for can delete."""
        if self.batch is None and items > MAX_BATCH:
            raise UsageError(
                f"the order has {items} items, and one commit deletes at most {MAX_BATCH} keys",
                hint=f"add --batch {DEFAULT_BATCH}: each batch is then atomic, and the whole can be resumed",
            )

    def written(self, *, directed: bool) -> dict[str, Any]:
        """As the record of an order keeps it; see `jobs.wire`."""
        return to_wire(
            PruneWire(
                goal=self.goal.kind,
                amount=self.goal.amount,
                missing=self.missing,
                changed=self.changed,
                grace=self.grace,
                batch=self.batch,
                directed=directed,
            )
        )
