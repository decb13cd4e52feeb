"""The SQLite store, and the read-only wrapper, held to the contract."""

from __future__ import annotations

import pytest

from somactl.errors import ReadOnlyStore
from somactl.store.contract import CommitMetadata, Store
from somactl.store.wrapper import ReadOnly
from somactl.testing import Backend, ReadContract, StoreContract
from somactl.testing.values import envelope, put


class TestSqlite(StoreContract):
    pass


class TestReadOnly(ReadContract):
    def reader(self, store: Store) -> Store:
        return ReadOnly(store)

    async def test_writes_raise(self, backend: Backend, store: Store, writer: Store) -> None:
        await put(writer, "a")
        writes = (
            store.init(),
            store.commit_matrix_update({"a": envelope("a")}, CommitMetadata(), commit_id="x"),
            store.commit_status("x", resolve=True),
            store.compact(),
            store.compact(past_grace=True),
            store.write_notes({"n": b"x"}),
        )
        for write in writes:
            with pytest.raises(ReadOnlyStore):
                await write
        assert (await store.head()).version == 1
        assert (await store.commit_status("x")).state == "unseen"
        assert not (await store.compact(dry_run=True, past_grace=True)).more
        assert await store.read_notes(["n"]) == {}
        assert await store.summary() == (await store.namespaces())[0]
        assert await store.clock() >= (await store.read("a")).committed_at
        assert len(await store.log()) == 1
        assert len(await store.namespaces()) == 1

    async def test_reading_creates_nothing(self, backend: Backend) -> None:
        store = ReadOnly(backend.open())
        assert await store.namespaces() == []
        await store.close()
        assert await backend.open().namespaces() == []
