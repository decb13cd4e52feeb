"""An opener of stores that misbehave in a worker process, or on a worker of a Dask cluster."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from somactl.config import Settings
from somactl.runtime import open_store


@dataclass(frozen=True)
class Opener:
    """Opens the store at `url`; what happens where `key` is among the keys that are read depends on the rest.

    notes    a folder, where each worker leaves its number when it reads `key`
    deaths   so many workers kill themselves over it
    hangs    it is waited for without end
    error    it raises this
    """

    url: str
    key: str = ""
    notes: Path = Path()
    deaths: int = 0
    hangs: bool = False
    error: Exception | None = None

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Any]:
        async with open_store(Settings(store=self.url), read_only=True) as store:
            yield _Misbehaving(store, self)


class _Misbehaving:
    def __init__(self, store: Any, opener: Opener) -> None:
        self._store, self._opener = store, opener

    async def read_many(self, keys: Sequence[str]) -> Any:
        opener = self._opener
        if opener.key in keys:
            before = len(list(opener.notes.iterdir()))
            (opener.notes / f"{before}-{os.getpid()}").touch()
            if before < opener.deaths:
                os.kill(os.getpid(), signal.SIGKILL)
            if opener.error is not None:
                raise opener.error
            if opener.hangs:
                await asyncio.Event().wait()
        return await self._store.read_many(keys)
