"""A wrapper that tells how long reads and commits take. What becomes of that is the observer's business."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from somactl.store.contract import CommitMetadata, Entry, Expected, Receipt, Snapshot, Store
from somactl.store.wrapper import StoreWrapper

T = TypeVar("T")
Operation = Literal["read", "page", "commit"]
Observer = Callable[[Operation, float], None]
"""Is called with what was done and the seconds it took: `page` is a read of many keys at once."""


class Metered(StoreWrapper):
    """Tells `observer` of every read and commit that came to an end, an error being one too.

    A call that was cancelled says nothing about the store, and is left out. Of a store with a cache, the
    authority behind it is metered as well.
    """

    def __init__(self, store: Store, observer: Observer) -> None:
        super().__init__(store)
        self._observer = observer

    def __getattr__(self, name: str) -> Any:
        """What a store with a cache has besides: see `store.cached`."""
        part = getattr(self._store, name)
        return Metered(part, self._observer) if name == "authority" else part

    async def read(self, key: str, version: int | None = None) -> Entry:
        return await self._timed("read", self._store.read(key, version))

    async def read_many(self, keys: Sequence[str]) -> Snapshot:
        return await self._timed("page", self._store.read_many(keys))

    async def commit_matrix_update(
        self,
        updates: Mapping[str, bytes | memoryview | None],
        metadata: CommitMetadata,
        expected_version: Expected = None,
        *,
        commit_id: str,
    ) -> Receipt:
        call = self._store.commit_matrix_update(updates, metadata, expected_version, commit_id=commit_id)
        return await self._timed("commit", call)

    async def _timed(self, operation: Operation, call: Awaitable[T]) -> T:
        began = time.perf_counter()
        try:
            answer = await call
        except Exception:  # a cancelled call is none
            self._observer(operation, time.perf_counter() - began)
            raise
        self._observer(operation, time.perf_counter() - began)
        return answer
