"""The hybrid store, held to the contract of a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from servers.postgres import Databases
from servers.redis import RedisServer
from somactl.errors import ReadOnlyStore
from somactl.store.contract import CommitMetadata, Store
from somactl.store.hybrid import HybridStore
from somactl.store.redis.cache_entries import Names
from somactl.store.wrapper import ReadOnly
from somactl.testing import ReadContract, StoreContract
from somactl.testing.values import put
from store.hybrid_backend import HybridBackend, postgres_and_redis, sqlite_and_fake


class TestHybridOnSqlite(StoreContract):
    """The fast variant: a file and a Redis in this process."""

    state_machine_examples = 20

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], HybridBackend]:
        return sqlite_and_fake(tmp_path)


class TestHybrid(StoreContract):
    state_machine_examples = 8

    @pytest.fixture
    def make_backend(
        self, postgres_server: Databases, redis_server: RedisServer
    ) -> Callable[[], HybridBackend]:
        return postgres_and_redis(postgres_server, redis_server)


class TestReadOnlyHybrid(ReadContract):
    """Read-only at the leaves: neither the authority is written nor a copy made."""

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], HybridBackend]:
        return sqlite_and_fake(tmp_path)

    def reader(self, store: Store) -> Store:
        assert isinstance(store, HybridStore)
        store.cache.read_only = True
        return HybridStore(ReadOnly(store.authority), store.cache, kinds=store.kinds)

    async def test_nothing_is_written_anywhere(
        self, backend: HybridBackend, writer: Store, store: Store
    ) -> None:
        await put(writer, "a", "b")
        backend.raw.delete(Names.of("default").entry("a"))
        before = sorted(backend.raw.keys())
        entry = await store.read("a")
        await store.read_many(["a", "b"])
        assert (entry.served_by, (await store.read("b")).served_by) == ("sqlite", "redis cache")
        for write in (
            store.init(new_incarnation=True),
            store.commit_matrix_update({"a": None}, CommitMetadata(), commit_id="x"),
            store.compact(past_grace=True),
            store.write_notes({"n": b"x"}),
        ):
            with pytest.raises(ReadOnlyStore):
                await write
        await store.close()
        assert sorted(backend.raw.keys()) == before
