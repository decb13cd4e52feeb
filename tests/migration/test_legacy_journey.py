"""All 481 values of the old service, there and back: what stands in its own servers after each step."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from migration import legacy
from migration.conftest import initialised
from migration.places import shown
from migration.running import DISCOVER, Migration, outcomes
from servers.redis import RedisServer
from somactl.config import Settings
from somactl.legacy.source.postgres import PostgresSource
from somactl.legacy.source.redis import RedisSource

FINALIZED = 55


def expected() -> dict[str, Any]:
    """Key -> what is to stand there after finalizing, references as the keys they name; no key: removed."""
    left = json.loads(json.dumps(legacy.values()))
    for (key, pointer), wanted in legacy.everywhere("postgres").items():
        if wanted.outcome != "migrate":
            continue
        if pointer:
            *way, last = pointer.split("/")[1:]
            node = left[key]
            for name in way:
                node = node[name]
            node[last] = wanted.target
        else:
            del left[key]
    return dict(left)


async def there_and_back(migration: Migration) -> None:
    assert outcomes(await migration.copy())["migrate"] == FINALIZED
    finalized = await migration.finalize()
    assert (finalized.finalized, finalized.left_alone, finalized.code) == (FINALIZED, {}, 0)


async def test_postgres_holds_references_and_then_what_it_held(
    legacy_postgres_copy: str, target: Settings
) -> None:
    async def table() -> dict[str, str]:
        connection = await asyncpg.connect(legacy_postgres_copy)
        try:
            rows = await connection.fetch("SELECT key, value::text AS value FROM kv_store")
        finally:
            await connection.close()
        return {row["key"]: row["value"] for row in rows}

    before = await table()
    assert len(before) == 481
    migration = Migration(lambda **options: PostgresSource(legacy_postgres_copy, **options), target, DISCOVER)
    await there_and_back(migration)
    assert {key: shown(value.encode()) for key, value in (await table()).items()} == expected()
    reverted = await migration.revert()
    assert (reverted.restored, reverted.withdrawn, reverted.code) == (FINALIZED, FINALIZED, 0)
    assert await table() == before
    assert await migration.contents() == {}


@pytest.mark.parametrize("where", ["in a file", "in the same Redis"])
async def test_redis_holds_references_and_then_every_byte_that_it_held(
    legacy_redis_copy: RedisServer, sqlite: Settings, where: str
) -> None:
    """Strings and hashes, compared as Redis itself dumps them."""

    def held() -> dict[bytes, bytes]:
        with legacy_redis_copy.client() as raw:
            return {key: raw.dump(key) for key in raw.keys("*") if not key.startswith(b"somactl:")}

    before = held()
    assert len(before) == 481
    settings = sqlite
    if where == "in the same Redis":
        settings = await asyncio.to_thread(initialised, Settings(store=legacy_redis_copy.url))
    migration = Migration(lambda **options: RedisSource(legacy_redis_copy.url, **options), settings, DISCOVER)
    await there_and_back(migration)
    wanted, metas = expected(), {key for key in legacy.values() if legacy.group(key) == "meta"}
    with legacy_redis_copy.client() as raw:
        for key, value in wanted.items():
            if key in metas:
                continue
            found = raw.get(key)
            if key == "acme:note:text":
                assert found == legacy.values()[key].encode()
            else:
                assert shown(found) == value, key
        assert {key.decode() for key in held()} == wanted.keys()
    for key, dump in held().items():
        if key.decode() in metas:
            assert dump == before[key]
    reverted = await migration.revert()
    assert (reverted.restored, reverted.withdrawn, reverted.code) == (FINALIZED, FINALIZED, 0)
    assert held() == before
