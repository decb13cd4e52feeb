"""`ContractTests`: the fixtures that all parts of the contract suite share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from somactl.store.contract import Store
from somactl.testing.backend import Backend


class ContractTests:
    """`writer` is an initialised store; `store` reads from the same database, through `reader`.

    The fixture `make_backend` comes from the author of the store, in the subclass or in a conftest.
    """

    def reader(self, store: Store) -> Store:
        """How the suite's reads see a store. A wrapper under test overrides this."""
        return store

    @pytest_asyncio.fixture
    async def backend(self, make_backend: Callable[[], Backend]) -> AsyncIterator[Backend]:
        backend = make_backend()
        yield backend
        await backend.dispose()

    @pytest_asyncio.fixture
    async def writer(self, backend: Backend) -> AsyncIterator[Store]:
        store = backend.open()
        await store.init()
        yield store
        await store.close()

    @pytest_asyncio.fixture
    async def store(self, backend: Backend, writer: Store) -> AsyncIterator[Store]:
        store = self.reader(backend.open())
        yield store
        await store.close()
