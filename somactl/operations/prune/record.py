"""What a namespace remembers of the orders it was given: two kinds of notes, moved by compare-and-set alone.

`order/ORDER_ID` is the record of one order, from the moment it is accepted. `issuer/DIGEST` says which order
of an issuer was accepted last; the first writing of a record moves it in the same step, so that an order is
accepted whole or not at all, and of two that come at once one sees the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from somactl.core.retention import batch_ids
from somactl.errors import CorruptValue, OutcomeUnknown, SchemaMismatch
from somactl.report import PruneBatch, PruneItem, PruneReport
from somactl.store.contract import Note, Store

ORDER_PREFIX = "order/"
ISSUER_PREFIX = "issuer/"
FORMAT = 1
MAX_LISTED = 1000
"""How many items and batches a record and a report list; they count the rest."""


class Settled(msgspec.Struct, frozen=True):
    """What came of the order's first `items` items: `deletes` of them, of `bytes` in sum, were deleted.

    freed_now: bytes of copies that a cache held of them. goal_met: nothing after them is to be looked at.
    """

    items: int = 0
    deletes: int = 0
    bytes: int = 0
    unknown: int = 0
    changed: int = 0
    freed_now: int = 0
    goal_met: bool = False


class Pending(msgspec.Struct, frozen=True):
    """The slice of items that a commit may be on its way for, and what is settled once it is there.

    Where `after` has no deletes more than before, the slice had none, and only the commit of an earlier run
    is to be kept from arriving late.
    """

    number: int
    after: Settled
    not_applied: list[PruneItem] = []


class OrderRecord(msgspec.Struct, kw_only=True):
    """One order, accepted at `accepted_at` by the store's clock.

    request   identity of order and flags: see `PruneRequest.identity`
    batch     items in one commit; None: all of them
    pending   None before the first commit, and once the order is done
    renamed   commit ids of slices (by number) whose own ids were claimed by an `aborted` record
    report    the first report, once the order is done
    """

    format: int = FORMAT
    order_id: str
    digest: str
    request: str
    issuer: str | None = None
    sequence: int | None = None
    items: int
    batch: int | None = None
    accepted_at: float
    settled: Settled = Settled()
    pending: Pending | None = None
    renamed: dict[int, str] = {}
    not_applied: list[PruneItem] = []
    batches: list[PruneBatch] = []
    batches_total: int = 0
    report: PruneReport | None = None


class IssuerRecord(msgspec.Struct, frozen=True):
    """The last order accepted of one issuer."""

    issuer: str
    sequence: int
    order_id: str
    format: int = FORMAT


class Remembered(msgspec.Struct, frozen=True):
    """Both notes as they were at one moment; version 0 for one that is not there."""

    record: OrderRecord | None
    version: int
    issuer: IssuerRecord | None
    issuer_version: int


def commit_ids(record: OrderRecord) -> tuple[str, ...]:
    """The commit id of each slice: the order's own where there is but one."""
    if record.batch is None:
        return (record.order_id,)
    return batch_ids(record.order_id, record.items, record.batch)


def commits_sent(record: OrderRecord) -> list[str]:
    """The ids under which slices were committed, if they were."""
    return [record.renamed.get(number, own) for number, own in enumerate(commit_ids(record))]


def counts(record: OrderRecord) -> dict[str, int]:
    """Items by outcome; outcomes that no item has are left out."""
    settled = record.settled
    found = {
        "deleted": settled.deletes,
        "unknown": settled.unknown,
        "changed": settled.changed,
        "beyond-limit": record.items - settled.items,
    }
    return {name: count for name, count in found.items() if count}


async def order_record(store: Store, order_id: str) -> OrderRecord | None:
    """Raises CorruptValue, SchemaMismatch."""
    note = (await store.read_notes([order_note(order_id)])).get(order_note(order_id))
    return None if note is None else decoded(note, OrderRecord)


def order_note(order_id: str) -> str:
    return ORDER_PREFIX + order_id


def issuer_note(issuer: str) -> str:
    """Issuers may have any name, notes may not."""
    return ISSUER_PREFIX + hashlib.sha256(issuer.encode()).hexdigest()


async def remembered(store: Store, order_id: str, issuer: str | None) -> Remembered:
    """What is known of an order and of its issuer. Raises CorruptValue, SchemaMismatch."""
    names = [order_note(order_id), *([] if issuer is None else [issuer_note(issuer)])]
    notes = await store.read_notes(names)
    record, last = notes.get(names[0]), None if issuer is None else notes.get(names[-1])
    return Remembered(
        record=None if record is None else decoded(record, OrderRecord),
        version=0 if record is None else record.version,
        issuer=None if last is None else decoded(last, IssuerRecord),
        issuer_version=0 if last is None else last.version,
    )


T = TypeVar("T", OrderRecord, IssuerRecord)


class _Marked(msgspec.Struct):
    format: int = FORMAT


def decoded(note: Note, kind: type[T]) -> T:
    """Raises SchemaMismatch for what a newer somactl wrote, CorruptValue for what none did."""
    try:
        if msgspec.json.decode(note.data or b"", type=_Marked).format > FORMAT:
            raise SchemaMismatch(
                f"note {note.name!r} was written by a newer somactl", hint="use that one for this order"
            )
        return msgspec.json.decode(note.data or b"", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptValue(f"note {note.name!r} is not what somactl writes: {exc}", note=note.name) from None


async def write_note(
    store: Store, name: str, changes: Mapping[str, bytes | None], expected: Mapping[str, int]
) -> int:
    """Write `changes`, of which `name` is one, by compare-and-set; the new version of `name`.

    Raises VersionConflict. Where no reply came, the note itself tells whether it is there.
    """
    try:
        return (await store.write_notes(changes, expected))[name]
    except OutcomeUnknown:
        note = (await store.read_notes([name])).get(name)
        if note is None or note.data != changes[name]:
            raise
        return note.version
