"""A service that names nothing but its own POSTGRES_URL and REDIS_URL: the fast path, and life without it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import somactl
from servers.external import ExternalPostgres
from servers.postgres import PostgresServer
from servers.redis import RedisServer
from somactl.errors import StoreUnavailable
from somactl.store.redis.cache_entries import NAME as CACHE, Names

RHO = np.diag([0.5, 0.3, 0.2])
TTL = 40
HASTE = {"SFM_RHO_READ_TIMEOUT_MS": "2000", "SOMACTL_RETRY_SECONDS": "0.5"}


@pytest.fixture
def redis(
    tmp_path: Path, postgres_server: PostgresServer | ExternalPostgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RedisServer]:
    """The service's surroundings: its own two variables name servers that answer."""
    url = postgres_server.create_database()
    with RedisServer(tmp_path / "redis", config={"maxmemory": "100mb"}) as server:
        variables = {"POSTGRES_URL": url, "REDIS_URL": server.url, "SFM_RHO_CACHE_TTL": str(TTL), **HASTE}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield server
    postgres_server.drop_database(url)


async def commit_all(store: somactl.Store) -> None:
    await store.init()
    await somactl.commit_matrix_update(store, {"rho": RHO})
    for kind in ("sketch", "matrix"):
        await somactl.commit_matrix_update(store, {kind: RHO}, policy=somactl.Policy(kind=kind))


async def served_by(store: somactl.Store, key: str) -> str:
    assert np.array_equal(np.asarray(await somactl.read_matrix(store, key)), RHO)
    return (await store.read(key)).served_by


async def test_rho_and_sketches_come_from_the_cache_and_everything_else_from_postgres(
    redis: RedisServer,
) -> None:
    async with somactl.open_store() as store:
        await commit_all(store)
        served = {key: await served_by(store, key) for key in ("rho", "sketch", "matrix")}
        assert served == {"rho": CACHE, "sketch": CACHE, "matrix": "postgres"}
        assert store.degradations == ()
        with redis.client() as raw:
            lives = [raw.pttl(Names.of(store.namespace).entry(key)) for key in ("rho", "sketch")]
        assert all(0 < life <= TTL * 1000 for life in lives)


async def test_without_its_cache_a_service_goes_on_and_says_so(redis: RedisServer) -> None:
    async with somactl.open_store() as store:
        await commit_all(store)
        redis.kill()
        assert await served_by(store, "rho") == "postgres"
        (degraded,) = store.degradations
        assert degraded.service == CACHE
        await somactl.commit_matrix_update(store, {"late": RHO})
        redis.start()
        async with asyncio.timeout(60):
            while await served_by(store, "rho") != CACHE or store.degradations:
                await asyncio.sleep(0.02)
        assert [past.service for past in store.degraded_since_opened] == [CACHE]


async def test_a_service_starts_while_its_cache_is_away(redis: RedisServer) -> None:
    async with somactl.open_store() as store:
        await commit_all(store)
    redis.kill()
    async with somactl.open_store() as store:
        assert await served_by(store, "rho") == "postgres"
        assert [each.service for each in store.degradations] == [CACHE]


async def test_where_postgres_is_away_the_error_names_it_and_no_password(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_URL", "postgresql://u:hunter2-hunter2@127.0.0.1:1/soma")
    with pytest.raises(StoreUnavailable) as raised:
        async with somactl.open_store() as store:
            await somactl.commit_matrix_update(store, {"rho": RHO})
    assert raised.value.store == "postgresql://u@127.0.0.1:1/soma"
    told = [str(raised.value), repr(raised.value.facts), *raised.value.__notes__]
    assert "hunter2" not in "".join(told)


async def test_all_tenants_of_a_service_share_the_fast_path(redis: RedisServer) -> None:
    async with somactl.open_server() as server:
        for name in ("one", "two"):
            store = server.namespace(name)
            await commit_all(store)
            assert await served_by(store, "rho") == CACHE
