"""One order carried out, slice by slice of its items; killed at any point, it goes on where it was.

Before a commit is sent, the record says for which slice, and what is settled once it is there. So the
run that takes the order up again asks for that one commit, and knows all that came before it. A slice is
committed under one id and only once, whichever run sends it; and no slice is begun by a run whose record was
moved by another, since each writing of the record expects the version that this run wrote.
"""

from __future__ import annotations

import msgspec

from somactl.core.order import Order
from somactl.errors import CommitAborted, KeyNotFound, LockHeld, SomactlError, VersionConflict
from somactl.operations.compacting import batches
from somactl.operations.prune.look import Part, expected, inspect, not_applied, told
from somactl.operations.prune.record import (
    MAX_LISTED,
    IssuerRecord,
    OrderRecord,
    Pending,
    Remembered,
    Settled,
    commit_ids,
    issuer_note,
    order_note,
    write_note,
)
from somactl.operations.prune.request import PruneRequest, slice_identity
from somactl.report import PruneBatch
from somactl.store.cached import cached
from somactl.store.contract import CommitMetadata, CommitRecord, Receipt, Store
from somactl.suggestion import again

TRIES = 10
COPIES_AT_ONCE = 500


class SupersededError(Exception):
    """The issuer's newer order was accepted: this one, ranked before, is not followed any further."""


class PruneExecutor:
    """An order that was accepted, by this run or an earlier one."""

    def __init__(
        self, store: Store, order: Order, request: PruneRequest, record: OrderRecord, known: Remembered
    ) -> None:
        self.record = record
        self._store = store
        self.order = order
        self._request = request
        self._size = record.batch or max(1, len(order.items))
        self._ids = commit_ids(record)
        self._version = known.version
        self._issuer_version = known.issuer_version
        self._unseen: int | None = None  # the slice whose commit an earlier run may have sent

    async def accept(self) -> None:
        """Write the record, and move the issuer's note, in one step. Raises VersionConflict."""
        record, changes, expected = self.record, {}, {order_note(self.record.order_id): 0}
        if record.issuer is not None and record.sequence is not None:
            last = IssuerRecord(record.issuer, record.sequence, record.order_id)
            changes[issuer_note(record.issuer)] = msgspec.json.encode(last)
            expected[issuer_note(record.issuer)] = self._issuer_version
        name = order_note(record.order_id)
        changes[name] = msgspec.json.encode(record)
        self._version = await write_note(self._store, name, changes, expected)
        self._issuer_version += 1

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
        """Carry out what is left. Raises SupersededError, LockHeld, VersionConflict, KeyNotFound, ..."""
        while not self.record.settled.goal_met and self.record.settled.items < len(self.order.items):
            await self._slice()

    async def give_up(self) -> None:
        """Count the commit that was or may have been sent, or keep it from ever arriving."""
        pending = self.record.pending
        if pending is None:
            return
        status = await self._store.commit_status(self._id(pending.number), resolve=True)
        if status.state == "committed" and status.record is not None:
            self._adopt(status.record, pending)

    async def free(self) -> int:
        """Remove for good what is past its grace; the bytes freed."""
        return sum([batch.bytes_freed async for batch in batches(self._store, past_grace=True)])

    async def close(self) -> None:
        """Write the finished record, with its report. Raises LockHeld."""
        self.record.pending = None
        await self._write({})

    async def _slice(self) -> None:
        settled = self.record.settled
        number = settled.items // self._size
        stop = min(settled.items + self._size, len(self.order.items))
        conflict: VersionConflict | CommitAborted | None = None
        for _ in range(TRIES):
            part = await inspect(self._store, self.order, self._request, settled.items, stop, settled.deletes)
            refuse_offending(self.order, part)
            items = told(self.order, part, dry_run=False)
            skipped = not_applied(items)
            after = _after(settled, part)
            if not part.plan.deletes:
                await self._pass_over(Pending(number, after, skipped))
                break
            held = await self._copies(part)
            after = msgspec.structs.replace(after, freed_now=settled.freed_now + held)
            await self._save(Pending(number, after, skipped))
            try:
                receipt = await self._commit(number, settled.items, stop, part, after)
            except VersionConflict as exc:
                conflict = exc
                continue
            except CommitAborted as exc:  # by `status --resolve`, or a retry that could not tell its outcome
                self._rename(number)
                conflict = exc
                continue
            await self._committed(receipt, Pending(number, after, skipped))
            break
        else:
            assert conflict is not None
            raise conflict
        for item in items:
            self._request.each(item)
        self._request.progress(self.record.settled.items, len(self.order.items))

    def _id(self, number: int) -> str:
        return self.record.renamed.get(number, self._ids[number])

    def _rename(self, number: int) -> None:
        """Nothing was committed under the slice's id, nor ever will be: so another is as good."""
        tried = self._id(number).removeprefix(self._ids[number]).removeprefix("/again-")
        self.record.renamed[number] = f"{self._ids[number]}/again-{int(tried or 0) + 1}"

    async def _commit(self, number: int, start: int, stop: int, part: Part, after: Settled) -> Receipt:
        metadata = CommitMetadata(
            command="prune",
            idempotency_key=slice_identity(self.record.request, start, stop),
            grace=self._request.grace,
            facts={"order": self.record.order_id, "settled": msgspec.to_builtins(after)},
        )
        deletes = dict.fromkeys(one.key for one in part.plan.deletes)
        return await self._store.commit_matrix_update(
            deletes, metadata, expected(part.plan.deletes), commit_id=self._id(number)
        )

    async def _committed(self, receipt: Receipt, pending: Pending) -> None:
        if receipt.replayed:  # another run sent it, and its plan is the one that was carried out
            status = await self._store.commit_status(receipt.commit_id)
            if status.record is not None:
                self._adopt(status.record, pending)
                return
        self._resolve(pending, receipt)

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
        self._unseen = None

    async def _pass_over(self, pending: Pending) -> None:
        """A slice without deletions makes no commit, and none that was sent for it may arrive later."""
        if self._unseen == pending.number:
            await self._save(pending)
            await self._close_off(pending)
        else:
            self._resolve(pending, None)

    async def _close_off(self, pending: Pending) -> None:
        status = await self._store.commit_status(self._id(pending.number), resolve=True)
        if status.state == "committed" and status.record is not None:
            self._adopt(status.record, pending)
        else:
            self._resolve(pending, None)

    async def _copies(self, part: Part) -> int:
        """Bytes that a cache before the store holds of what is about to be deleted."""
        pair = cached(self._store)
        if pair is None:
            return 0
        keys, held = [one.key for one in part.plan.deletes], 0
        try:
            for begin in range(0, len(keys), COPIES_AT_ONCE):
                view = await pair.cache.find(keys[begin : begin + COPIES_AT_ONCE], payloads=False)
                held += sum(entry.size for entry in view.entries.values())
        except SomactlError:
            return held  # a figure of the report, and nothing depends on it
        return held

    async def _save(self, pending: Pending) -> None:
        self.record.pending = pending
        guard = {}
        if self.record.issuer is not None:
            guard[issuer_note(self.record.issuer)] = self._issuer_version
        await self._write(guard)

    async def _write(self, guard: dict[str, int]) -> None:
        name = order_note(self.record.order_id)
        data = msgspec.json.encode(self.record)
        try:
            self._version = await write_note(self._store, name, {name: data}, {name: self._version, **guard})
        except VersionConflict as exc:
            if name in exc.conflicts:
                raise LockHeld(
                    f"another run has taken up order {self.record.order_id}",
                    hint="let it finish; the same command then gives its report",
                    next=again(),
                ) from None
            raise SupersededError from None


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


def _after(settled: Settled, part: Part) -> Settled:
    counts = part.plan.counts()
    beyond = counts.get("beyond-limit", 0)
    return Settled(
        items=part.start + len(part.plan.outcomes) - beyond,
        deletes=settled.deletes + len(part.plan.deletes),
        bytes=settled.bytes + sum(one.size for one in part.plan.deletes),
        unknown=settled.unknown + counts.get("unknown", 0),
        changed=settled.changed + counts.get("changed", 0),
        freed_now=settled.freed_now,
        goal_met=beyond > 0,
    )
