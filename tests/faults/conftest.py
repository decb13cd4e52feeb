"""What the fault tests share: servers of their own, and seeds.

Each test that takes `seed` runs once for every seed from 0 on; SOMACTL_TEST_FAULT_ROUNDS says how many. Of
`cut_seed` there are half as many: one of those tries many places already.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from faults.migrations import Ground, Runs
from faults.places import TIMEOUT, HybridPlace, Place, PostgresPlace, RedisPlace
from servers.postgres import PostgresServer
from servers.redis import RedisServer

ROUNDS = int(os.environ.get("SOMACTL_TEST_FAULT_ROUNDS", "2"))

MakePlace: TypeAlias = "Callable[..., Place]"
"""(namespace, timeout=...) -> a place on a server that has every commit on disk before it answers."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, count in (("seed", ROUNDS), ("cut_seed", (ROUNDS + 1) // 2)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, range(count), ids=lambda seed: f"seed-{seed}")


@pytest.fixture(scope="module")
def durable_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    config = {"appendonly": "yes", "appendfsync": "always"}
    with RedisServer(tmp_path_factory.mktemp("durable-redis"), config=config) as server:
        yield server


@pytest.fixture(scope="module")
def durable_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    settings = {"fsync": "on", "full_page_writes": "on"}
    with PostgresServer(tmp_path_factory.mktemp("durable-postgres"), settings=settings) as server:
        yield server
        server.kill()  # its last checkpoint is not needed


@pytest.fixture(scope="module")
def redis_place(durable_redis: RedisServer) -> MakePlace:
    def make(namespace: str, **options: float) -> Place:
        return RedisPlace(durable_redis, namespace, **options)

    return make


@pytest.fixture(scope="module")
def postgres_place(durable_postgres: PostgresServer) -> MakePlace:
    url = durable_postgres.create_database()

    def make(namespace: str, **options: float) -> Place:
        return PostgresPlace(durable_postgres, url, namespace, **options)

    return make


@pytest.fixture(scope="module", params=["redis", "postgres"])
def authority(request: pytest.FixtureRequest) -> MakePlace:
    """Places on each kind of server in turn."""
    make: MakePlace = request.getfixturevalue(f"{request.param}_place")
    return make


@pytest.fixture(scope="module")
def cache_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that keeps nothing beyond its own life."""
    with RedisServer(tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="module")
def hybrid_place(postgres_place: MakePlace, cache_server: RedisServer) -> MakePlace:
    def make(namespace: str, *, timeout: float = TIMEOUT, **options: Any) -> Place:
        authority = postgres_place(f"hybrid-{namespace}", timeout=timeout)
        assert isinstance(authority, PostgresPlace)
        return HybridPlace(authority, cache_server, **options)

    return make


@pytest.fixture(scope="module", params=["redis", "postgres", "hybrid"])
def store_place(request: pytest.FixtureRequest) -> MakePlace:
    """Places of each kind of store in turn."""
    make: MakePlace = request.getfixturevalue(f"{request.param}_place")
    return make


@pytest.fixture(scope="module")
def shared_ground(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, redis_server: RedisServer
) -> Iterator[Ground]:
    """Where migrations run, and are killed."""
    folder = tmp_path_factory.mktemp("migrations")
    with RedisServer(folder / "old-redis") as old_redis, Runs(folder) as runs:
        yield Ground(folder, runs, postgres_server, redis_server, old_redis)


@pytest.fixture
def ground(shared_ground: Ground) -> Ground:
    """The same, its sources as they were at first."""
    shared_ground.reset()
    return shared_ground
