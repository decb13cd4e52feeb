"""A matrix that breaks an invariant, in a store: put there by a writer that lies about the verdict."""

from __future__ import annotations

import asyncio
import uuid

import numpy as np
from msgspec.structs import replace

from somactl.config import Settings
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.runtime import open_store
from somactl.store.cached import Fill, cached
from somactl.store.contract import CommitMetadata


def put_violation(url: str, key: str, *, namespace: str = "default", cache: str = "", size: int = 2) -> None:
    """Commit a matrix that has a negative eigenvalue, past the operation that would have proven it."""
    matrix = np.diag([1.1, -0.1] + [0.0] * (size - 2))
    data = serialize_matrix(matrix, key=key, namespace=namespace)
    metadata = CommitMetadata(verdicts={peek(data).content: {"status": "valid"}})

    async def put() -> None:
        async with open_store(Settings(store=url, cache=cache, namespace=namespace)) as store:
            await store.commit_matrix_update({key: data}, metadata, commit_id=uuid.uuid4().hex)

    asyncio.run(put())


def put_copy(url: str, cache: str, key: str, eigenvalues: tuple[float, ...] = (1.1, -0.1)) -> None:
    """Put another matrix in the place of the cache's copy of a key, at the version that the store has."""
    data = serialize_matrix(np.diag(eigenvalues), key=key)

    async def put() -> None:
        async with open_store(Settings(store=url, cache=cache)) as store:
            pair = cached(store)
            assert pair is not None
            entry = await pair.authority.read(key)
            entry = replace(entry, data=data, verdict=None, header=None)
            await pair.cache.drop([key])
            now = (await pair.cache.find([])).now
            fill = Fill(key, entry.version, entry.incarnation, now, entry, peek(data).content)
            assert (await pair.fill([fill])).outcomes == ("stored",)

    asyncio.run(put())
