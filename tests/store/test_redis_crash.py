"""A Redis that is killed at random moments, under `appendfsync always`."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from servers.redis import RedisServer
from somactl.errors import OutcomeUnknown, StoreUnavailable
from somactl.store.contract import Receipt, Retention
from somactl.store.redis import RedisStore
from somactl.testing.values import envelope, write

LARGE = 300
"""n of matrices that are staged, and do not travel with their commit."""


async def test_a_killed_server_tears_nothing_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    config = {"appendonly": "yes", "appendfsync": "always"}
    dice = random.Random(5)
    sent: dict[str, int] = {}
    acknowledged: dict[str, int] = {}

    async def keep_committing(store: RedisStore, who: int, round_: int) -> None:
        for number in range(10_000):
            seed = 1000 * round_ + number
            commit_id = f"{who}-{seed}"
            sent[commit_id] = seed
            n = LARGE if number % 3 else 3
            updates = {key: envelope(key, seed, n=n) for key in (f"a{who}", f"b{who}", "shared")}
            try:
                receipt = await write(store, updates, commit_id=commit_id)
            except (StoreUnavailable, OutcomeUnknown):
                return
            assert receipt.stores[0].durability == "fsync"
            acknowledged[commit_id] = receipt.version

    with RedisServer(tmp_path, config=config) as server:
        first = RedisStore(server.url)
        await first.init(retention=Retention(versions=1000))
        await first.close()
        for round_ in range(4):
            stores = [RedisStore(server.url) for _ in range(3)]
            tasks = [asyncio.create_task(keep_committing(s, i, round_)) for i, s in enumerate(stores)]
            await asyncio.sleep(0.1 + dice.random() * 0.2)
            server.kill()
            await asyncio.gather(*tasks)
            for store in stores:
                await store.close()
            server.start()
            await check_after_crash(server, sent, acknowledged)
    assert len(acknowledged) > 20


async def check_after_crash(server: RedisServer, sent: dict[str, int], acknowledged: dict[str, int]) -> None:
    store = RedisStore(server.url)
    head = await store.head()
    receipts: dict[str, Receipt] = {
        r.commit_id: r.receipt for r in await store.log(limit=10_000) if r.receipt
    }
    assert sorted(r.version for r in receipts.values()) == list(range(1, head.version + 1))
    assert acknowledged.items() <= {i: r.version for i, r in receipts.items()}.items()
    assert set(receipts) <= set(sent)
    live: dict[str, int] = {}
    for receipt in sorted(receipts.values(), key=lambda r: r.version):
        live |= dict.fromkeys(receipt.keys, receipt.version)
    snapshot = await store.read_many(sorted(live))
    assert {key: entry.version for key, entry in snapshot.entries.items()} == live
    for commit_id in set(sent) - set(acknowledged):
        state = (await store.commit_status(commit_id, resolve=True)).state
        assert state == ("committed" if commit_id in receipts else "aborted")
        if commit_id in receipts:
            acknowledged[commit_id] = receipts[commit_id].version
        else:
            del sent[commit_id]
    await store.close()
