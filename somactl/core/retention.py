"""Plan a prune order: whether it may be carried out now, what it deletes, and under which commit ids.

Everything is decided from values that the caller read from the store: what its namespace holds, and its
clock. The control plane chose the keys and their sequence; nothing here adds a key, skips one that applies,
or changes the sequence. `docs/PRUNE_ORDER.md` says it for people.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from somactl.core.order import Order, validate_order_id
from somactl.errors import UsageError

CLOCK_TOLERANCE: Final = 300.0
"""By how many seconds the issuer's clock may be ahead of the store's."""
DEFAULT_BATCH: Final = 2_000
MAX_BATCH: Final = 10_000
"""The most keys that one commit deletes."""

Ruling = Literal[
    "wrong-namespace", "replayed", "reused", "issued-in-future", "expired", "out-of-sequence", "accepted"
]
Outcome = Literal["delete", "unknown", "changed", "beyond-limit", "withheld"]


class Judgement(msgspec.Struct, frozen=True):
    """Whether an order may be carried out now. `reason` is one sentence, empty where it is accepted.

    accepted           go on
    replayed           this very order was carried out before: its first report is the answer
    reused             its id was used for another order
    wrong-namespace, issued-in-future, expired, out-of-sequence   what they say
    """

    ruling: Ruling
    reason: str = ""


def classify_message(
    order: Order,
    *,
    namespace: str,
    now: float,
    last_sequence: int | None,
    seen_digest: str | None,
    tolerance: float = CLOCK_TOLERANCE,
) -> Judgement:
    """The first ruling against the order, as `Ruling` lists them; what an order does not say is not judged.

    `now` is the store's clock. `last_sequence` is the highest that was accepted of this issuer in this
    namespace, and `seen_digest` the digest recorded there under this order's id; None where there is none.
    """
    if order.namespace is not None and order.namespace != namespace:
        return Judgement(
            "wrong-namespace", f"the order is for namespace {order.namespace!r}, not {namespace!r}"
        )
    if seen_digest == order.digest:
        return Judgement("replayed", "this order was carried out before")
    if seen_digest is not None:
        return Judgement("reused", f"the id {order.order_id or 'given'} was used for another order")
    if order.issued_at is not None and order.issued_at > now + tolerance:
        return Judgement(
            "issued-in-future",
            f"by the store's clock the order will be issued in {order.issued_at - now:.0f} s, and clocks"
            f" may differ by {tolerance:g} s",
        )
    if order.expires_at is not None and order.expires_at <= now:
        return Judgement("expired", f"the order expired {now - order.expires_at:.0f} s ago")
    if order.sequence is not None and last_sequence is not None and order.sequence <= last_sequence:
        return Judgement(
            "out-of-sequence",
            f"the order has sequence {order.sequence}, and {last_sequence} was accepted before it",
        )
    return Judgement("accepted")


class KeyState(msgspec.Struct, frozen=True, gc=False):
    """A live key: the version that last wrote it, and the bytes it takes."""

    version: int
    size: int


class Goal(msgspec.Struct, frozen=True):
    """Where deleting stops. Raises UsageError for a negative amount.

    all         at the end of the order
    limit       after `amount` deletions
    keep        as soon as the namespace has no more than `amount` keys
    max-bytes   as soon as the namespace takes no more than `amount` bytes
    """

    kind: Literal["all", "limit", "keep", "max-bytes"] = "all"
    amount: int = 0

    def __post_init__(self) -> None:
        if self.amount < 0:
            raise UsageError(f"--{self.kind} {self.amount} is negative")


class Deletion(msgspec.Struct, frozen=True, gc=False):
    """One key to delete: its index in the order, and what is there now.

    `version` is what the commit must expect, so that a write that came after the plan is not lost.
    """

    index: int
    key: str
    version: int
    size: int


class PrunePlan(msgspec.Struct, frozen=True):
    """What an order comes to, item by item.

    outcomes    one for each item of the order:
                delete        will be deleted
                unknown       there is no such key
                changed       the key is not at the version that was ranked
                beyond-limit  comes after the goal was reached, and was not looked at
                withheld      would be deleted, were it not for `offending`
    deletes     in the order's sequence: all of the applicable items from the first on, until the goal
    offending   indices of the items for which nothing at all is deleted (`missing` or `changed` is "fail")
    """

    outcomes: tuple[Outcome, ...]
    deletes: tuple[Deletion, ...]
    offending: tuple[int, ...]

    def counts(self) -> dict[Outcome, int]:
        """How many items have each outcome; outcomes that no item has are left out."""
        return dict(Counter(self.outcomes))


def plan(
    states: Mapping[str, KeyState],
    order: Order,
    goal: Goal,
    *,
    total_keys: int,
    total_bytes: int,
    missing: Literal["ignore", "fail"] = "ignore",
    changed: Literal["skip", "fail"] = "skip",
    deleted: int = 0,
) -> PrunePlan:
    """What `order` deletes of a namespace of `total_keys` and `total_bytes` whose live keys are `states`.

    `states` needs the order's own keys alone; `deleted` keys went before, by items that do not stand in
    `order`. Raises nothing.
    """
    need = _need(goal, total_keys, total_bytes, deleted)
    outcomes, deletes = _walk(states, order, goal, need)
    offences = {"unknown": missing == "fail", "changed": changed == "fail"}
    offending = tuple(index for index, outcome in enumerate(outcomes) if offences.get(outcome))
    if offending:
        outcomes = ["withheld" if outcome == "delete" else outcome for outcome in outcomes]
        deletes = []
    return PrunePlan(tuple(outcomes), tuple(deletes), offending)


def _need(goal: Goal, total_keys: int, total_bytes: int, deleted: int) -> float:
    """How much must go, in what the goal counts: keys, or bytes."""
    return {
        "all": math.inf,
        "limit": goal.amount - deleted,
        "keep": total_keys - goal.amount,
        "max-bytes": total_bytes - goal.amount,
    }[goal.kind]


def _walk(
    states: Mapping[str, KeyState], order: Order, goal: Goal, need: float
) -> tuple[list[Outcome], list[Deletion]]:
    outcomes: list[Outcome] = []
    deletes: list[Deletion] = []
    for index, item in enumerate(order.items):
        if need <= 0:
            break
        state = states.get(item.key)
        if state is None:
            outcomes.append("unknown")
        elif item.version is not None and item.version != state.version:
            outcomes.append("changed")
        else:
            outcomes.append("delete")
            deletes.append(Deletion(index, item.key, state.version, state.size))
            need -= state.size if goal.kind == "max-bytes" else 1
    beyond: list[Outcome] = ["beyond-limit"]
    return outcomes + beyond * (len(order.items) - len(outcomes)), deletes


def batch_ids(order_id: str, items: int, size: int) -> tuple[str, ...]:
    """The commit id of each slice of `size` items of an order: `ORDER_ID/0001` ..., all of one length.

    They sort as the slices do, and depend on nothing in the store. Raises InvalidName for an order id
    outside its grammar, UsageError for a size outside 1 to MAX_BATCH.
    """
    validate_order_id(order_id)
    if not 1 <= size <= MAX_BATCH:
        raise UsageError(f"a batch of {size} keys is outside 1 to {MAX_BATCH}")
    slices = -(-items // size)
    width = max(4, len(str(slices)))
    return tuple(f"{order_id}/{number:0{width}}" for number in range(1, slices + 1))
