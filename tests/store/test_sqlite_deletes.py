"""A prune: ten thousand keys deleted as one commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from somactl.errors import VersionConflict
from somactl.testing.values import compact_fully, envelope, prune, put, write

KEYS = [f"acme:({number}.0, 14.0):data" for number in range(10_000)]


async def test_ten_thousand_keys_are_deleted_whole_or_not_at_all(make_backend: Callable[[], Any]) -> None:
    backend = make_backend()
    store = backend.open()
    await write(store, {key: envelope(key) for key in KEYS})
    await put(store, KEYS[-1], seed=1)
    with pytest.raises(VersionConflict) as caught:
        await write(store, dict.fromkeys(KEYS), expected=1)
    assert list(caught.value.conflicts) == [KEYS[-1]]
    assert (await store.summary()).keys == len(KEYS)

    receipt = await prune(store, *KEYS, grace=500.0)
    assert (list(receipt.keys), receipt.noops) == (KEYS, ())
    summary = await store.summary()
    assert (summary.keys, summary.tombstones, summary.stored_bytes) == (0, len(KEYS), 0)
    assert len(await backend.stored("default")) == len(KEYS) + 1

    await backend.age("default", 600)
    plan = await store.compact(dry_run=True, past_grace=True)
    assert (plan.revisions, plan.tombstones) == (len(KEYS) + 1, len(KEYS))
    assert sum(await compact_fully(store, 5000, past_grace=True)) == sum(
        (plan.revisions, plan.tombstones, plan.records, plan.bytes_freed)
    )
    assert await backend.stored("default") == set()
    await store.close()
