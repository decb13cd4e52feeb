"""Latencies of reads and commits are told, once each, whatever they come to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from somactl.core.envelope import serialize_matrix
from somactl.errors import KeyNotFound
from somactl.store.cached import cached
from somactl.store.contract import CommitMetadata
from somactl.store.metered import Metered
from somactl.store.sqlite.store import server
from somactl.telemetry.catalogue import BUCKETS, METRICS, SLOW_SECONDS
from somactl.telemetry.registry import LatencyHistograms


class Told:
    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []

    def __call__(self, operation: str, seconds: float) -> None:
        self.calls.append((operation, seconds))

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.calls]


async def test_each_read_and_commit_is_told(tmp_path: Path) -> None:
    told = Told()
    database = server(f"sqlite:///{tmp_path / 'x.db'}")
    store = Metered(database.namespace("default"), told)
    try:
        data = serialize_matrix([[1.0]], key="a", kind="matrix")
        await store.commit_matrix_update({"a": data}, CommitMetadata(), commit_id="one")
        await store.read("a")
        await store.read_many(["a", "b"])
        with pytest.raises(KeyNotFound):
            await store.read("b")
        await store.head()
        assert [page async for page in store.scan()]
    finally:
        await store.close()
        await database.close()
    assert told.operations == ["commit", "read", "page", "read"]
    assert all(0 < seconds < 10 for _, seconds in told.calls)


async def test_the_time_is_that_of_the_call_and_a_cancelled_one_says_nothing() -> None:
    async def read(key: str, version: int | None) -> str:
        await asyncio.sleep(0.05)
        return key

    told = Told()
    inner: Any = SimpleNamespace(name="slow", namespace="default", read=read)
    store = Metered(inner, told)
    assert await store.read("a") == "a"
    ((_, seconds),) = told.calls
    assert 0.05 <= seconds < 5.0
    task = asyncio.ensure_future(store.read("b"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(told.calls) == 1


async def test_a_cache_is_still_one_and_its_authority_is_metered() -> None:
    async def read(key: str, version: int | None) -> str:
        return key

    authority = SimpleNamespace(name="a", namespace="default", read=read)
    inner: Any = SimpleNamespace(
        name="a+redis", namespace="default", cache="the cache", kinds={"rho"}, authority=authority
    )
    told = Told()
    pair: Any = cached(Metered(inner, told))
    assert (pair.cache, pair.kinds) == ("the cache", {"rho"})
    assert await pair.authority.read("x") == "x"
    assert told.operations == ["read"]
    plain: Any = SimpleNamespace(name="a", namespace="default")
    assert cached(Metered(plain, told)) is None


def test_histograms_have_an_edge_where_the_promise_is() -> None:
    registry = CollectorRegistry()
    histograms = LatencyHistograms(registry)
    observe = histograms.of("a")
    histograms.of("b")("read", 10.0)
    for seconds in (0.059, 0.06, 0.061):
        observe("read", seconds)
    observe("page", 5.0)
    observe("commit", 0.01)
    text = generate_latest(registry).decode()
    assert SLOW_SECONDS in BUCKETS
    assert 'somabrain_rho_read_latency_seconds_bucket{le="0.06",namespace="a"} 2.0' in text
    assert 'somabrain_rho_read_latency_seconds_count{namespace="a"} 3.0' in text
    assert 'somabrain_rho_read_latency_seconds_bucket{le="5.0",namespace="b"} 0.0' in text
    assert 'somabrain_rho_read_latency_seconds_count{namespace="b"} 1.0' in text
    assert 'somabrain_rho_commit_latency_seconds_bucket{le="0.01",namespace="a"} 1.0' in text
    served = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    promised = {metric.name for metric in METRICS.values() if metric.type == "histogram"}
    assert promised <= served
    assert {name.removesuffix("_created") for name in served} == promised
