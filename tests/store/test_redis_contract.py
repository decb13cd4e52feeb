"""The Redis store held to the contract: on a real server, on a real cluster, and on fakeredis."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from servers.redis import RedisCluster, RedisServer
from somactl.testing import StoreContract
from store.redis_backend import FakeBackend, RedisBackend


class TestRedis(StoreContract):
    @pytest.fixture
    def make_backend(self, redis_server: RedisServer) -> Callable[[], RedisBackend]:
        return lambda: RedisBackend(redis_server.url, redis_server.client())


class TestFakeRedis(StoreContract):
    """The scripts run on another Lua and another Redis, so they rest on nothing peculiar to one."""

    @pytest.fixture
    def make_backend(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], FakeBackend]:
        return lambda: FakeBackend().use(monkeypatch)


class TestRedisCluster(StoreContract):
    state_machine_examples = 20

    @pytest.fixture
    def make_backend(self, redis_cluster: RedisCluster) -> Callable[[], RedisBackend]:
        return lambda: RedisBackend(redis_cluster.url, redis_cluster.client())
