"""One order carried out, slice by slice of its items; killed at any point, it goes on where it was.

Before a commit is sent, the record says for which slice, and what is settled once it is there. So a run that
takes the order up again asks for that one commit, and knows all that came before it. A slice is committed
under one id and only once, by whichever run; and no slice is begun by a run whose record was moved by
another (see `jobs.checkpoint`). The first slice is announced by the very write that accepts the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from somactl.core.order import Order
from somactl.core.portions import batched
from somactl.core.retention import Deletion, KeyState, PrunePlan, plan
from somactl.errors import CommitAborted, KeyNotFound, SomactlError, VersionConflict
from somactl.operations.compacting import batches
from somactl.operations.jobs.checkpoint import arrived
from somactl.operations.jobs.progress import Progress
from somactl.operations.prune.record import (
    MAX_LISTED,
    IssuerRecord,
    OrderRecord,
    Pending,
    Remembered,
    Settled,
    issuer_note,
    refuse_retention,
)
from somactl.operations.prune.request import PruneRequest
from somactl.report import PruneBatch, PruneItem, PruneReport
from somactl.store.cached import cached
from somactl.store.contract import CommitMetadata, CommitRecord, NamespaceSummary, Receipt, Store
from somactl.suggestion import again

TRIES = 10
COPIES_AT_ONCE = 500
KEYS_AT_ONCE = 10_000
LOOKS = 3


class SupersededError(Exception):
    """The issuer's newer order was accepted: this one, ranked before, is not followed any further."""


class Part(msgspec.Struct, frozen=True):
    """The plan for the items `[start, start + len(plan.outcomes))` of an order.

    summary  of the namespace, where the goal bounds it; `is_exact`: of the very version that was planned for
    """

    start: int
    plan: PrunePlan
    states: dict[str, KeyState]
    summary: NamespaceSummary | None
    is_exact: bool

    @property
    def goal_met(self) -> bool:
        """Whether the order is not to be followed any further."""
        return "beyond-limit" in self.plan.outcomes[-1:]

    def after(self, settled: Settled) -> Settled:
        """What is settled once the plan is carried out."""
        counts = self.plan.counts()
        beyond = counts.get("beyond-limit", 0)
        return Settled(
            items=self.start + len(self.plan.outcomes) - beyond,
            deletes=settled.deletes + len(self.plan.deletes),
            bytes=settled.bytes + sum(one.size for one in self.plan.deletes),
            unknown=settled.unknown + counts.get("unknown", 0),
            changed=settled.changed + counts.get("changed", 0),
            freed_now=settled.freed_now,
            goal_met=beyond > 0,
        )

    def totals(self, deleted: int = 0, size: int = 0) -> tuple[int, int] | None:
        """Keys and bytes that are left once so many of them are deleted; None where that is not known."""
        if self.summary is None or not self.is_exact:
            return None
        return self.summary.keys - deleted, self.summary.stored_bytes - size


class _Step(msgspec.Struct, frozen=True):
    """One slice as it is about to be carried out: what its record announces, and what its items come to."""

    part: Part
    items: list[PruneItem]
    pending: Pending

    @property
    def deletes(self) -> tuple[Deletion, ...]:
        return self.part.plan.deletes


class PruneExecutor:
    """An order that is being accepted, or was by an earlier run.

    freed   bytes that `free` removed for good
    totals  keys and bytes of the namespace once the last slice was settled; None where others wrote meanwhile
    """

    def __init__(
        self, store: Store, order: Order, request: PruneRequest, known: Remembered, record: OrderRecord
    ) -> None:
        self.record = known.order.state or record
        self.is_resumed = known.order.state is not None
        self.freed = 0
        self.totals: tuple[int, int] | None = None
        self._store = store
        self._order = order
        self._request = request
        self._size = self.record.batch or len(order.items)
        self._ids = self.record.commit_ids
        self._checkpoint = known.order
        self._issuer_version = known.issuer_version
        self._announced: _Step | None = None
        self._unseen: int | None = None  # the slice whose commit an earlier run may have sent

    async def accept(self, now: float) -> None:
        """Plan the first slice; then write the record, move the issuer's note and announce the slice, all in
        one step.

        Raises LockHeld or VersionConflict where another run accepts this order or another of the issuer, and
        all that forbids to carry it out: CommitExpired, UsageError, VersionConflict, KeyNotFound.
        """
        record, request = self.record, self._request
        if "fail" in (request.missing, request.changed) and self._size < len(self._order.items):
            whole = await inspect(self._store, self._order, request, 0, len(self._order.items), 0)
            refuse_offending(self._order, whole)
        step = await self._plan()
        summary = step.part.summary
        head = await self._store.head() if summary is None else summary.head
        refuse_retention(record, request.grace, head.retention, now)
        notes = {}
        if record.issuer is not None and record.sequence is not None:
            last = IssuerRecord(record.issuer, record.sequence, record.order_id)
            notes[issuer_note(record.issuer)] = msgspec.json.encode(last)
        record.pending = step.pending if step.deletes else None
        await self._checkpoint.save(record, notes, guards=self._issuer_guard())
        self._issuer_version += 1
        self._announced = step

    async def take_up(self) -> None:
        """Find out what became of the commit that an earlier run was about to send."""
        pending = self.record.pending
        if pending is None:
            return
        if pending.after.deletes == self.record.settled.deletes:
            await self._close_off(pending)
            return
        status = await self._store.commit_status(self._id(pending.number))
        if status.state == "aborted":
            self._rename(pending.number)
        elif status.record is not None:
            self._adopt(status.record, pending)
        else:
            self._unseen = pending.number

    async def go_on(self) -> None:
        """Carry out what is left. Raises SupersededError, LockHeld, VersionConflict, KeyNotFound, ..., and
        what the request's `stop` gives."""
        while not self.record.settled.goal_met and self.record.settled.items < len(self._order.items):
            if (error := self._request.stop()) is not None:
                raise error
            await self._slice()

    async def give_up(self) -> None:
        """Count the commit that was or may have been sent, or keep it from ever arriving."""
        pending = self.record.pending
        if pending is not None and (record := await arrived(self._store, self._id(pending.number))):
            self._adopt(record, pending)

    async def free(self) -> None:
        """Remove for good what is past its grace."""
        async for batch in batches(self._store, past_grace=True):
            self.freed += batch.bytes_freed

    async def close(self, report: PruneReport, forget: Sequence[str]) -> None:
        """Write the finished record, with its report, and delete the notes `forget`. Raises LockHeld."""
        self.record.pending, self.record.report = None, report
        await self._checkpoint.save(self.record, dict.fromkeys(forget))

    async def _slice(self) -> None:
        conflict: VersionConflict | CommitAborted | None = None
        for _ in range(TRIES):
            step, self._announced = self._announced or await self._announce(), None
            try:
                await (self._commit(step) if step.deletes else self._pass_over(step))
            except VersionConflict as exc:
                conflict = exc
                continue
            except CommitAborted as exc:  # by `status --resolve`, or a retry that could not tell its outcome
                self._rename(step.pending.number)
                conflict = exc
                continue
            for item in step.items:
                self._request.each(item)
            self._request.watch(Progress(self.record.settled.items, "items", len(self._order.items)))
            return
        assert conflict is not None
        raise conflict

    async def _plan(self) -> _Step:
        """The next slice. Raises VersionConflict or KeyNotFound for the items that `fail` forbids."""
        settled = self.record.settled
        start, stop = settled.items, min(settled.items + self._size, len(self._order.items))
        part = await inspect(self._store, self._order, self._request, start, stop, settled.deletes)
        refuse_offending(self._order, part)
        items = told(self._order, part, dry_run=False)
        after = part.after(settled)
        if held := await self._copies(part.plan.deletes):
            after = msgspec.structs.replace(after, freed_now=settled.freed_now + held)
        return _Step(part, items, Pending(start // self._size, after, not_applied(items)))

    async def _announce(self) -> _Step:
        step = await self._plan()
        if step.deletes:
            await self._save(step.pending)
        return step

    def _id(self, number: int) -> str:
        return self.record.renamed.get(number, self._ids[number])

    def _rename(self, number: int) -> None:
        """Nothing was committed under the slice's id, nor ever will be: so another is as good."""
        tried = self._id(number).removeprefix(self._ids[number]).removeprefix("/again-")
        self.record.renamed[number] = f"{self._ids[number]}/again-{int(tried or 0) + 1}"

    async def _commit(self, step: _Step) -> None:
        start, number = step.part.start, step.pending.number
        stop = min(start + self._size, len(self._order.items))
        metadata = CommitMetadata(
            command="prune",
            idempotency_key=self.record.idempotency_key(start, stop),
            grace=self._request.grace,
            facts={
                "order": self.record.order_id,
                "settled": msgspec.to_builtins(step.pending.after),
                **self._request.audit,
            },
        )
        receipt = await self._store.commit_matrix_update(
            dict.fromkeys(one.key for one in step.deletes),
            metadata,
            {one.key: one.version for one in step.deletes},
            commit_id=self._id(number),
        )
        if receipt.replayed:  # another run sent it, and its plan is the one that was carried out
            status = await self._store.commit_status(receipt.commit_id)
            if status.record is not None:
                self._adopt(status.record, step.pending)
                return
        self._resolve(step.pending, receipt)
        summary = step.part.summary
        if summary is not None and receipt.version == summary.head.version + 1:  # no other commit
            self.totals = step.part.totals(len(step.deletes), sum(one.size for one in step.deletes))

    def _adopt(self, found: CommitRecord, pending: Pending) -> None:
        """Count a commit by what it says itself; which items it left out is known if it was this plan."""
        assert found.receipt is not None
        facts = found.metadata.facts if found.metadata is not None else {}
        after = msgspec.convert(facts["settled"], Settled) if "settled" in facts else pending.after
        skipped = pending.not_applied if after == pending.after else []
        self._resolve(Pending(pending.number, after, skipped), found.receipt)

    def _resolve(self, pending: Pending, receipt: Receipt | None) -> None:
        record = self.record
        if receipt is not None:
            grace = self._request.grace
            batch = PruneBatch(
                commit_id=receipt.commit_id,
                version=receipt.version,
                keys=pending.after.deletes - record.settled.deletes,
                bytes=pending.after.bytes - record.settled.bytes,
                recoverable_until=receipt.committed_at + grace if grace else None,
            )
            record.batches_total += 1
            record.batches += [batch][: MAX_LISTED - len(record.batches)]
        record.not_applied += pending.not_applied[: MAX_LISTED - len(record.not_applied)]
        record.settled, record.pending = pending.after, None
        self._unseen = self.totals = None

    async def _pass_over(self, step: _Step) -> None:
        """A slice without deletions makes no commit, and none that was sent for it may arrive later."""
        if self._unseen == step.pending.number:
            await self._save(step.pending)
            await self._close_off(step.pending)
        else:
            self._resolve(step.pending, None)
            self.totals = step.part.totals()

    async def _close_off(self, pending: Pending) -> None:
        record = await arrived(self._store, self._id(pending.number))
        if record is not None:
            self._adopt(record, pending)
        else:
            self._resolve(pending, None)

    async def _copies(self, deletes: Sequence[Deletion]) -> int:
        """Bytes that a cache before the store holds of what is about to be deleted."""
        pair, held = cached(self._store), 0
        if pair is None:
            return 0
        try:
            for some in batched([one.key for one in deletes], COPIES_AT_ONCE):
                view = await pair.cache.find(some, payloads=False)
                held += sum(entry.size for entry in view.entries.values())
        except SomactlError:
            return held  # a figure of the report, and nothing depends on it
        return held

    async def _save(self, pending: Pending) -> None:
        self.record.pending = pending
        try:
            await self._checkpoint.save(self.record, guards=self._issuer_guard())
        except VersionConflict:
            raise SupersededError from None

    def _issuer_guard(self) -> dict[str, int]:
        issuer = self.record.issuer
        return {} if issuer is None else {issuer_note(issuer): self._issuer_version}


async def inspect(
    store: Store, order: Order, request: PruneRequest, start: int, stop: int, deletes: int
) -> Part:
    """The plan for the items `[start, stop)` of an order whose earlier ones made `deletes` deletions.

    Where the goal counts what the namespace holds, states and totals are those of one version, unless it
    is written so often that none stands still for long enough.
    """
    items = order.items[start:stop]
    summary, is_exact = None, False
    for _ in range(LOOKS):
        found = [await store.stat_many(keys) for keys in batched((item.key for item in items), KEYS_AT_ONCE)]
        if not request.bounds_namespace:
            break
        summary = await store.summary()
        is_exact = {stats.version for stats in found} == {summary.head.version}
        if is_exact:
            break
    states = {key: KeyState(stat.version, stat.size) for stats in found for key, stat in stats.stats.items()}
    outcome = plan(
        states,
        msgspec.structs.replace(order, items=items),
        request.goal,
        total_keys=0 if summary is None else summary.keys,
        total_bytes=0 if summary is None else summary.stored_bytes,
        missing=request.missing,
        changed=request.changed,
        deleted=deletes,
    )
    return Part(start, outcome, states, summary, is_exact)


def told(order: Order, part: Part, *, dry_run: bool) -> list[PruneItem]:
    """The items that come before the goal, in sequence, each with what came of it."""
    as_said = {"delete": "delete" if dry_run else "deleted", "beyond-limit": None}
    said = [(index, as_said.get(outcome, outcome)) for index, outcome in enumerate(part.plan.outcomes)]
    return [_item(order, part, index, outcome) for index, outcome in said if outcome is not None]


def not_applied(items: Iterable[PruneItem]) -> list[PruneItem]:
    """Those of them that are not deleted."""
    return [item for item in items if item.outcome not in ("delete", "deleted")]


def _item(order: Order, part: Part, index: int, outcome: str) -> PruneItem:
    item = order.items[part.start + index]
    state = part.states.get(item.key)
    return PruneItem(
        line=item.line,
        place=order.place(part.start + index),
        key=item.key,
        outcome=outcome,  # type: ignore[arg-type]  # the one caller passes no other
        ranked=item.version,
        found=None if state is None else state.version,
    )


def refuse_offending(order: Order, part: Part) -> None:
    """Raises VersionConflict or KeyNotFound for the items that `fail` forbids, if there are any."""
    found = [
        (order.items[part.start + i], part.plan.outcomes[i], part.start + i) for i in part.plan.offending
    ]
    if not found:
        return
    places = [f"{order.place(index)} is {outcome}" for _, outcome, index in found[:5]]
    more = f" and {len(found) - len(places)} more" if len(found) > len(places) else ""
    message = f"the order may not be followed: {', '.join(places)}{more}"
    conflicts = {
        item.key: {"expected": {"version": item.version}, "found": {"version": part.states[item.key].version}}
        for item, outcome, _ in found[:MAX_LISTED]
        if outcome == "changed"
    }
    if conflicts:
        raise VersionConflict(
            message,
            conflicts=conflicts,
            hint="have it ranked again, or pass over them",
            next=again(changed="skip"),
        )
    raise KeyNotFound(
        message,
        hint="keys that are not there can be passed over",
        next=again(missing="ignore"),
        lines=[item.line for item, _, _ in found[:MAX_LISTED]],
    )
