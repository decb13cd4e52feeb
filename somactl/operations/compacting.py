"""The one loop that removes what is no longer kept, batch by batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from somactl.store.contract import Compaction, Store

BATCH = 500
PAUSE_SECONDS = 0.02  # between batches, so that writers get their turn


async def batches(
    store: Store, *, dry_run: bool = False, past_grace: bool = False
) -> AsyncIterator[Compaction]:
    """Each batch as it is removed, until nothing is left; a dry run is one."""
    while True:
        batch = await store.compact(limit=BATCH, dry_run=dry_run, past_grace=past_grace)
        yield batch
        if dry_run or not batch.more:
            return
        await asyncio.sleep(PAUSE_SECONDS)
