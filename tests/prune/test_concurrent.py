"""Commits and a prune at the same time: what was written after the ranking stays, on every store."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

import pytest

from prune.orders import carry_out
from somactl.errors import VersionConflict
from somactl.testing.values import listed, put

KEYS = [f"k{i:03}" for i in range(120)]


@pytest.mark.parametrize("batch", [None, 10])
async def test_no_write_is_lost_to_a_prune(any_backend: Any, batch: int | None) -> None:
    store, writer = any_backend.open(), any_backend.open()
    dice = random.Random(5)
    written: dict[str, int] = {}
    going = True

    async def write() -> None:
        """A tenth of the keys, so that there is something left to delete."""
        seed = 1
        while going:
            seed += 1
            key = dice.choice(KEYS[::10])
            written[key] = (await put(writer, key, seed=seed)).version
            await asyncio.sleep(0)

    try:
        await store.init()
        ranked = (await put(store, *KEYS)).version
        order = json.dumps([{"key": key, "version": ranked} for key in KEYS]).encode()
        writing = asyncio.create_task(write())
        while not written:
            await asyncio.sleep(0.001)
        report = None
        for _ in range(20):  # a run may end because keys are written all the time; the next goes on
            with suppress(VersionConflict):
                report = await carry_out(store, order, batch=batch, order_id="o")
            if report is not None and report.complete:
                break
        going = False
        await writing
        assert report is not None
        assert report.complete
        assert 0 < report.deleted_keys < len(KEYS)
        found = {stat.key: stat.version for stat in await listed(store.scan())}
        assert found == {key: found.get(key) for key in written}
        assert all(found[key] == version for key, version in written.items())
    finally:
        going = False
        await store.close()
        await writer.close()
        await any_backend.dispose()
