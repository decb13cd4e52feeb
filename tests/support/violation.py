"""A matrix that breaks an invariant, in a store: put there by a writer that lies about the verdict."""

from __future__ import annotations

import asyncio
import uuid

import numpy as np

from somactl.config import Settings
from somactl.core.envelope import serialize_matrix
from somactl.core.framing import peek
from somactl.runtime import open_store
from somactl.store.contract import CommitMetadata


def put_violation(url: str, key: str, *, namespace: str = "default", cache: str = "") -> None:
    """Commit a matrix that has a negative eigenvalue, past the operation that would have proven it."""
    data = serialize_matrix(np.diag([1.1, -0.1]), key=key, namespace=namespace)
    metadata = CommitMetadata(verdicts={peek(data).content: {"status": "valid"}})

    async def put() -> None:
        async with open_store(Settings(store=url, cache=cache, namespace=namespace)) as store:
            await store.commit_matrix_update({key: data}, metadata, commit_id=uuid.uuid4().hex)

    asyncio.run(put())
