"""Small envelopes, commit ids and shorthands for tests of stores."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pytest
from msgspec.structs import replace

from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.errors import KeyNotFound, VersionCompacted
from somactl.store.contract import CommitMetadata, Compaction, Expected, Receipt, Stat, Store

VALID = {"status": "valid", "rigour": "proved", "trace_error": 0.0}

Removed: TypeAlias = tuple[int, int, int, int, int]

_numbers = itertools.count()


def fresh_id() -> str:
    """A commit id that no other test uses and that carries no time."""
    return f"test-{next(_numbers)}"


def commit_id_at(seconds: float) -> str:
    """A UUIDv7 made at that time (seconds since 1970)."""
    number = next(_numbers)
    stamp = f"{int(seconds * 1000):012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7{number % 4096:03x}-8000-{number:012x}"


def commit_id_of_age(age: float) -> str:
    """A UUIDv7 made `age` seconds ago by this machine's clock."""
    return commit_id_at(time.time() - age)


def envelope(
    key: str,
    seed: int = 0,
    *,
    namespace: str = "default",
    kind: str = "matrix",
    n: int = 3,
    layout: str = "full",
    timestamp: float = 0.0,
    compression: str | None = None,
) -> bytes:
    """A float64 envelope of an n x n matrix that `seed` determines; of kind rho it is diagonal, trace 1."""
    weights = np.random.default_rng(seed).random((n, n)) + 0.1
    array = np.diag(weights[0] / weights[0].sum()) if kind == "rho" else weights
    return serialize_matrix(
        array,
        key=key,
        namespace=namespace,
        kind=kind,
        layout=layout,
        timestamp=timestamp,
        compression=compression,
    )


def content_of(data: bytes | memoryview) -> str:
    return peek(data).content


def proof(*envelopes: bytes) -> dict[str, Mapping[str, Any]]:
    """A `valid` verdict for each."""
    return {content_of(data): VALID for data in envelopes}


def on_record(receipt: Receipt) -> Receipt:
    """The receipt as the commit's record tells it: of the stores, the one that keeps the record."""
    return replace(receipt, stores=receipt.stores[:1])


async def put(
    store: Store,
    *keys: str,
    seed: int = 0,
    expected: Expected = None,
    commit_id: str | None = None,
    user: Mapping[str, str] | None = None,
) -> Receipt:
    """Commit the matrices of `seed` under `keys`."""
    updates = {key: envelope(key, seed, namespace=store.namespace) for key in keys}
    return await write(store, updates, expected=expected, commit_id=commit_id, user=user)


async def put_versions(store: Store, count: int, *keys: str) -> None:
    """Commit `keys` that many times, with the matrices of seed 0, 1, 2 and so on."""
    for seed in range(count):
        await put(store, *keys, seed=seed)


async def refused(
    error: type[BaseException] | tuple[type[BaseException], ...], *calls: Awaitable[Any]
) -> None:
    """Each of the calls raises `error`."""
    for call in calls:
        with pytest.raises(error):
            await call


async def delete(store: Store, *keys: str, expected: Expected = None) -> Receipt:
    return await write(store, dict.fromkeys(keys), expected=expected)


async def prune(
    store: Store,
    *keys: str,
    grace: float,
    writes: Mapping[str, bytes] | None = None,
    commit_id: str | None = None,
) -> Receipt:
    """Delete `keys` with a grace of their own, writing others in the same commit."""
    return await store.commit_matrix_update(
        {**dict.fromkeys(keys), **(writes or {})},
        CommitMetadata(grace=grace),
        commit_id=commit_id or fresh_id(),
    )


async def write(
    store: Store,
    updates: Mapping[str, bytes | memoryview | None],
    *,
    expected: Expected = None,
    commit_id: str | None = None,
    user: Mapping[str, str] | None = None,
    verdicts: Mapping[str, Mapping[str, Any]] | None = None,
) -> Receipt:
    return await store.commit_matrix_update(
        updates, CommitMetadata(user or {}, verdicts or {}), expected, commit_id=commit_id or fresh_id()
    )


async def listed(pages: AsyncIterator[list[Stat]]) -> list[Stat]:
    """All pages of a scan in one list."""
    return [stat async for page in pages for stat in page]


async def event_versions(store: Store) -> list[int]:
    """The versions that have events, over all pages and gaps."""
    found: list[int] = []
    page = await store.events(limit=7)
    while True:
        found += [event.version for event in page.events]
        if page.after == page.head:
            return found
        page = await store.events(page.after, limit=7)


def removed(step: Compaction) -> Removed:
    """What a compaction removes: revisions, tombstones, records, events, bytes."""
    return (step.revisions, step.tombstones, step.records, step.events, step.bytes_freed)


async def compact_by_one(store: Store, *, past_grace: bool = False) -> None:
    """Compact one removal at a time the deleted key `a`, which had four versions: no answer is ever wrong."""
    while (await store.compact(limit=1, past_grace=past_grace)).more:
        await refused(KeyNotFound, store.read("a"))
        for version in range(1, 5):
            try:
                data = (await store.read("a", version)).data
            except VersionCompacted:
                continue
            assert bytes(data) == envelope("a", version - 1)


async def compact_fully(store: Store, limit: int = 500, *, past_grace: bool = False) -> Removed:
    """Compact until nothing is left to do: revisions, tombstones, records, events, bytes in sum."""
    total = (0, 0, 0, 0, 0)
    while True:
        step = await store.compact(limit=limit, past_grace=past_grace)
        counts = removed(step)
        assert sum(counts[:3]) <= limit  # an event goes with its record
        total = tuple(a + b for a, b in zip(total, counts, strict=True))  # type: ignore[assignment]
        if not step.more:
            return total
