"""One server of each kind for all tests of a worker, started by the first test that asks for it.

A test may use these only as a client: it kills, pauses or reconfigures only a server of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import external
from servers.chromium import Chromium
from servers.external import ExternalPgBouncer, ExternalPostgres, ExternalRedis, ExternalRedisCluster
from servers.legacy import copy_postgres, legacy_redis_server, load_postgres
from servers.pgbouncer import PgBouncer
from servers.postgres import PostgresServer
from servers.prometheus import Prometheus, Pushgateway
from servers.redis import RedisCluster, RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | ExternalRedis]:
    """Its database 0 is the tests' own: each may flush it."""
    url = external.urls.get(external.REDIS)
    named = ExternalRedis(url, external.worker_number()) if url else None
    with named or RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster | ExternalRedisCluster]:
    """Each test may flush it, so a developer's is for the first worker alone."""
    url = external.urls.get(external.REDIS_CLUSTER) if external.worker_number() == 0 else None
    named = ExternalRedisCluster(url) if url else None
    with named or RedisCluster(tmp_path_factory.mktemp("redis-cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer | ExternalPostgres]:
    url = external.urls.get(external.POSTGRES)
    named = ExternalPostgres(url) if url else None
    with named or PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(
    postgres_server: PostgresServer | ExternalPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PgBouncer | ExternalPgBouncer]:
    """It forwards to `postgres_server`."""
    url = external.urls.get(external.PGBOUNCER)
    named = ExternalPgBouncer(url) if url else None
    with named or PgBouncer(tmp_path_factory.mktemp("pgbouncer"), postgres_server) as server:
        yield server


@pytest.fixture(scope="session")
def gateway_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushgateway]:
    """Its groups are those of all tests of the worker: see `pushgateway`."""
    with Pushgateway(tmp_path_factory.mktemp("pushgateway")) as server:
        yield server


@pytest.fixture
def pushgateway(gateway_server: Pushgateway) -> Pushgateway:
    """One that holds nothing."""
    gateway_server.wipe()
    return gateway_server


@pytest.fixture(scope="session")
def prometheus(gateway_server: Pushgateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes `pushgateway`."""
    with Prometheus(tmp_path_factory.mktemp("prometheus"), gateway_server) as server:
        yield server


@pytest.fixture(scope="session")
def legacy_postgres(postgres_server: PostgresServer | ExternalPostgres) -> Iterator[str]:
    """The URL of a database with the old service's table. No test may write to it, nor stay connected."""
    url = load_postgres(postgres_server)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def legacy_postgres_copy(
    postgres_server: PostgresServer | ExternalPostgres, legacy_postgres: str
) -> Iterator[str]:
    """The URL of a copy for one test, which may write to it."""
    url = copy_postgres(postgres_server, legacy_postgres)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def legacy_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server with what the old service left in its Redis. No test may write to it."""
    with legacy_redis_server(tmp_path_factory.mktemp("legacy-redis")) as server:
        yield server


@pytest.fixture
def legacy_redis_copy(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of its own for one test, which may write to it."""
    with legacy_redis_server(tmp_path / "legacy-redis") as server:
        yield server
