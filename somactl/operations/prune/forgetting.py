"""Forget orders together with the records of their commits."""

from __future__ import annotations

from somactl.errors import VersionConflict
from somactl.operations.prune.record import ORDER_PREFIX
from somactl.operations.prune.restore_parts import RESTORE_PREFIX
from somactl.store.contract import Store


async def forget_orders(store: Store, *, dry_run: bool) -> int:
    """Delete the records of orders and restores not touched for as long as commit records are kept; how many.

    Also of an order that was never finished: without the records of its commits it cannot be continued. An
    issuer's last sequence is kept for ever, so that no order comes back to life by being forgotten.
    """
    horizon = await store.clock() - (await store.head()).retention.record_seconds
    count = 0
    for prefix in (ORDER_PREFIX, RESTORE_PREFIX):
        async for page in store.scan_notes(prefix):
            old = [note for note in page if note.written_at <= horizon]
            count += len(old)
            if old and not dry_run:
                try:
                    await store.write_notes(
                        dict.fromkeys(note.name for note in old), {note.name: note.version for note in old}
                    )
                except VersionConflict:
                    count -= len(old)  # one of them is in use again; the next run looks anew
    return count
