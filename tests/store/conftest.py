"""What tests of stores share: a backend for SQLite, and servers."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from somactl.store.sqlite import SqliteStore
from support.sqlite_backend import SqliteBackend


@pytest.fixture
def make_backend(tmp_path: Path) -> Callable[[], SqliteBackend]:
    numbers = itertools.count()
    return lambda: SqliteBackend(tmp_path / f"store-{next(numbers)}.db")


@pytest_asyncio.fixture
async def opener() -> AsyncIterator[Callable[..., SqliteStore]]:
    stores: list[SqliteStore] = []

    def open_store(*arguments: Any, **options: Any) -> SqliteStore:
        stores.append(SqliteStore(*arguments, **options))
        return stores[-1]

    yield open_store
    for store in stores:
        await store.close()
