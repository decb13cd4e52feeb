"""The probe on stores: what it times and proves, and what it says of a store that is not as it should be."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servers.external import ExternalRedis
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.core.canary_samples import AnySample, Degradation, Doubt, Failure, Latency, Proof
from somactl.core.verdict import Tolerances
from somactl.operations.canary import probe as probes
from somactl.operations.canary.probe import Probe
from somactl.operations.commit import commit_matrix_update
from somactl.runtime import open_store
from support.violation import put_violation


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


async def put(url: str, *keys: str) -> None:
    async with open_store(Settings(store=url)) as store:
        await commit_matrix_update(store, {key: np.diag([0.25, 0.75]) for key in keys})


@asynccontextmanager
async def probing(url: str, keys: str | None = "state:*", cache: str = "") -> AsyncIterator[Probe]:
    settings = Settings(store=url, cache=cache, retry_seconds=0.0)
    opened = open_store(settings, read_only=True, fills=True)
    probe = Probe("candidate", opened, keys, Tolerances(), time.time)
    try:
        yield probe
    finally:
        await probe.close()


async def looks(probe: Probe, count: int) -> list[AnySample]:
    await probe.begin()
    return [sample for _ in range(count) for sample in await probe.look(time.time())]


def keys_of(samples: list[AnySample]) -> Counter[Any]:
    return Counter(each.key for each in samples if isinstance(each, Proof))


async def test_each_look_times_and_proves_one_read(url: str) -> None:
    await put(url, "state:1", "state:2", "state:3", "other")
    async with probing(url) as probe:
        before = time.time()
        samples = await looks(probe, 6)
    assert [type(each) for each in samples] == [Latency, Proof, Degradation] * 6
    assert keys_of(samples) == {"state:1": 2, "state:2": 2, "state:3": 2}
    assert all(0 < each.seconds < 60 for each in samples if isinstance(each, Latency))
    assert {each.psd for each in samples if isinstance(each, Proof)} == {"valid"}
    assert {each.on for each in samples if isinstance(each, Degradation)} == {False}
    assert all(before <= each.t <= time.time() for each in samples)


async def test_opening_and_the_first_read_are_no_samples(url: str) -> None:
    """A connection is opened once; a service that is measured has done so."""
    await put(url, "state:1")
    async with probing(url) as probe:
        await probe.begin()
        assert probe._store is not None
        reads = []
        read = probe._store.read

        async def noted(key: str) -> Any:
            reads.append(key)
            return await read(key)

        probe._store.read = noted  # type: ignore[method-assign, assignment]
        await probe.look(time.time())
    assert reads == ["state:1"]


async def test_both_arms_read_in_the_same_order(tmp_path: Path) -> None:
    names = [f"state:{n}" for n in range(20)]
    orders = []
    for arm in ("a", "b"):
        url = f"sqlite:///{tmp_path / arm}.db"
        await put(url, *(names if arm == "a" else names[::-1]))
        async with probing(url) as probe:
            orders.append([each.key for each in await looks(probe, 20) if isinstance(each, Proof)])
    assert orders[0] == orders[1]
    assert orders[0] != sorted(orders[0])  # neighbours in the store are not neighbours here


async def test_a_violation_is_proven_of_what_was_read(url: str) -> None:
    await put(url, "state:1")
    await asyncio.to_thread(put_violation, url, "state:2")
    async with probing(url) as probe:
        samples = await looks(probe, 2)
    assert {each.key: each.psd for each in samples if isinstance(each, Proof)} == {
        "state:1": "valid",
        "state:2": "violated",
    }


async def test_a_damaged_value_is_a_violation(url: str, tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    await put(url, "state:1")
    async with probing(url) as probe:
        await probe.begin()
        with closing(sqlite3.connect(tmp_path / "store.db")) as raw, raw:
            for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for row in raw.execute(f'PRAGMA table_info("{name}")').fetchall():
                    if row[2] == "BLOB":
                        of = f'"{name}" SET "{row[1]}" = zeroblob(length("{row[1]}"))'
                        raw.execute(f'UPDATE {of} WHERE length("{row[1]}") > 100')
        samples = await looks(probe, 1)
    assert [each.psd for each in samples if isinstance(each, Proof)] == ["violated"]
    assert not [each for each in samples if isinstance(each, Latency)]


async def test_a_key_that_is_deleted_is_no_error(url: str) -> None:
    await put(url, "state:1", "state:2")
    async with probing(url) as probe:
        await probe.begin()
        async with open_store(Settings(store=url)) as store:
            await commit_matrix_update(store, {"state:1": None})
        samples = await looks(probe, 6)
    assert not [each for each in samples if isinstance(each, Failure | Doubt)]
    assert set(keys_of(samples)) == {"state:2"}


@pytest.mark.parametrize(
    ("made", "keys", "detail"),
    [
        (lambda url: put(url, "other"), "state:*", "no key matches 'state:*'"),
        (lambda url: asyncio.sleep(0), None, "no database"),
    ],
)
async def test_nothing_to_read_is_named(
    url: str, made: Callable[[str], Any], keys: str | None, detail: str
) -> None:
    await made(url)
    async with probing(url, keys) as probe:
        (doubt,) = await looks(probe, 1)
    assert isinstance(doubt, Doubt)
    assert (doubt.what, detail in doubt.detail) == ("no-series", True), doubt


async def test_a_store_that_is_away_is_an_error_of_the_arm() -> None:
    async with probing("redis://127.0.0.1:1/0") as probe:
        samples = await looks(probe, 2)
    assert [type(each) for each in samples] == [Failure, Failure]
    assert isinstance(samples[0], Failure)
    assert samples[0].what == "StoreUnavailable"


async def test_a_store_that_is_silent_is_a_timeout(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(url, "state:1")
    async with probing(url) as probe:
        await probe.begin()
        assert probe._store is not None
        monkeypatch.setattr(probes, "READ_SECONDS", 0.05)
        monkeypatch.setattr(probe._store, "read", lambda key: asyncio.Event().wait())
        samples = await looks(probe, 1)
    assert [each.what for each in samples if isinstance(each, Failure)] == ["timeout"]


async def test_a_store_without_its_cache_is_degraded(url: str) -> None:
    await put(url, "state:1")
    async with probing(url, cache="redis://127.0.0.1:1/0") as probe:
        samples = await looks(probe, 3)
    assert {each.on for each in samples if isinstance(each, Degradation)} == {True}
    assert {each.psd for each in samples if isinstance(each, Proof)} == {"valid"}


async def test_the_cache_is_used_as_a_service_uses_it(
    url: str, redis_server: RedisServer | ExternalRedis
) -> None:
    await put(url, "state:1")
    with redis_server.client() as raw:
        raw.flushdb()
        async with probing(url, cache=redis_server.url) as probe:
            samples = await looks(probe, 3)
        assert raw.dbsize() > 0
        raw.flushdb()
    assert {each.on for each in samples if isinstance(each, Degradation)} == {False}


async def test_nothing_is_written_to_the_store(url: str) -> None:
    await put(url, "state:1")
    async with open_store(Settings(store=url)) as store:
        before = await store.head()
        async with probing(url) as probe:
            await looks(probe, 3)
        assert await store.head() == before
