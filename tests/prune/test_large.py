"""Orders of 100,000 keys: killed at any moment and run again, they end as if nothing had happened."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servers.redis import RedisServer
from somactl.core.envelope import serialize_matrix
from somactl.store.contract import CommitMetadata, Store
from somactl.store.redis import RedisStore
from somactl.store.sqlite import SqliteStore
from somactl.testing.values import listed
from tests.cli.conftest import SOMACTL, environment

KEYS = 100_000
IN_ONE_COMMIT = 10_000


async def fill(store: Store, keys: list[str]) -> None:
    import numpy as np

    await store.init()
    matrix = np.ones((1, 1))
    for begin in range(0, len(keys), IN_ONE_COMMIT):
        part = keys[begin : begin + IN_ONE_COMMIT]
        values = {
            key: serialize_matrix(matrix, key=key, namespace=store.namespace, kind="matrix", timestamp=0.0)
            for key in part
        }
        await store.commit_matrix_update(values, CommitMetadata(), commit_id=f"fill-{begin}")


class Killed:
    """A prune as its own process, killed as soon as `due` says so, as often as it is run."""

    def __init__(self, url: str, folder: Path, order: Path) -> None:
        self.words = [SOMACTL, "prune", "--store", url, "--order-file", str(order), "--order-id", "night-1"]
        self.words += ["--batch", "2000", "--keep", "5000", "--output", "json"]
        self.folder = folder

    async def until(self, due: Callable[[], Any]) -> int:
        process = subprocess.Popen(
            self.words,
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + 60
        while not await due() and process.poll() is None and time.monotonic() < give_up:
            await asyncio.sleep(0.005)
        process.kill()
        return process.wait()

    def to_the_end(self) -> Any:
        done = subprocess.run(
            self.words, cwd=self.folder, env=environment(), capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def stores(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], tuple[str, Store]]:
    def make(kind: str) -> tuple[str, Store]:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/large.db", SqliteStore(tmp_path / "large.db")
        server: RedisServer = request.getfixturevalue("redis_server")
        raw = server.client()
        raw.flushdb()
        raw.close()
        return server.url, RedisStore(server.url, "default")

    return make


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_large_order_survives_being_killed(
    kind: str, tmp_path: Path, stores: Callable[[str], tuple[str, Store]]
) -> None:
    url, store = stores(kind)
    keys = [f"acme:({i}.0, 14.0, 43.0):data" for i in range(KEYS)]
    # The ranking begins with 1,000 keys that are gone.
    ranking = keys[::-1]
    order = tmp_path / "order.txt"
    order.write_text("".join(f"{key}\n" for key in [*(f"gone-{i}" for i in range(1000)), *ranking]))
    expected = sorted(ranking[-5000:], key=str.encode)
    try:
        await fill(store, keys)
        filled = (await store.head()).version
        run = Killed(url, tmp_path, order)
        codes = []
        for batches in (3, 11, 30):

            async def due(version: int = filled + batches) -> bool:
                return (await store.head()).version >= version

            codes.append(await run.until(due))
        report = run.to_the_end()
        assert codes == [-9, -9, -9]
        assert (report["resumed"], report["deleted_keys"], report["keys_left"]) == (True, KEYS - 5000, 5000)
        assert report["counts"] == {"deleted": KEYS - 5000, "unknown": 1000, "beyond-limit": 5000}
        assert [stat.key for stat in await listed(store.scan())] == expected
        assert sum(batch["keys"] for batch in report["batches"]) == KEYS - 5000
        assert (await store.head()).version == filled + len(report["batches"])
        replay = run.to_the_end()
        assert (replay["replayed"], replay["batches"]) == (True, report["batches"])
    finally:
        await store.close()
