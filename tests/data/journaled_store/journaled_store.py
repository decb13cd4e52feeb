"""A store that another package brings: an SQLite file, and a journal with a line for each commit."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from somactl.store.contract import Receipt, Store
from somactl.store.sqlite import SqliteServer
from somactl.store.wrapper import StoreWrapper


class JournaledStore(StoreWrapper):
    name = "journaled"

    def __init__(self, store: Store, journal: str) -> None:
        super().__init__(store)
        self.name = "journaled"
        self._journal = journal

    async def commit_matrix_update(self, *arguments: Any, **options: Any) -> Receipt:
        receipt = await super().commit_matrix_update(*arguments, **options)
        with open(self._journal, "a", encoding="utf-8") as journal:
            journal.write(f"{self.namespace} {receipt.version}\n")
        return receipt


class JournaledServer:
    """What `journaled:///PATH` names."""

    def __init__(self, url: str) -> None:
        self._path = unquote(urlsplit(url).path)
        self._database = SqliteServer(self._path)

    def namespace(self, name: str) -> Store:
        return JournaledStore(self._database.namespace(name), self._path + ".journal")

    async def close(self) -> None:
        await self._database.close()


class Hollow:
    """A server whose stores have nothing of the contract."""

    def __init__(self, url: str) -> None:
        pass

    def namespace(self, name: str) -> object:
        return object()

    async def close(self) -> None:
        pass


def fail(url: str) -> None:
    raise RuntimeError(f"no driver for {url}")
