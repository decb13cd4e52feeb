"""The doors of a real store behind the HTTP application, asked without a server between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from somactl.config import Settings
from somactl.runtime import open_server
from somactl.serve import http, rest
from somactl.serve.access import Access
from somactl.serve.context import ServeContext
from somactl.serve.doors import Doors
from somactl.store.contract import Receipt, Store
from somactl.testing.values import envelope, proof, write
from support.serving import context

READER, PRUNER = "reader-0123456789abcdef", "pruner-0123456789abcdef"
TOKENS = f"dashboard read {READER}\nmanager-1 prune {PRUNER} default,acme\n"
ELSEWHERE = ("10.0.0.7", 4711)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Asked:
    """An application, and a client of it that comes from another machine."""

    context: ServeContext
    doors: Doors
    lines: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = http.app(self.context, rest.routes(self.context))

    async def get(self, path: str, token: str | None = READER, **more: Any) -> Answer:
        return await self.ask("GET", path, token, **more)

    async def rho(self, key: str, query: str = "", **more: Any) -> Answer:
        return await self.get(f"/v1/rho/{quote(key, safe='')}{query}", **more)

    async def post(self, order: Any, query: str = "", token: str | None = PRUNER, **more: Any) -> Answer:
        body = order if isinstance(order, bytes) else json.dumps(order).encode()
        return await self.ask("POST", f"/v1/prune-orders{query}", token, body=body, **more)

    async def ask(
        self,
        method: str,
        path: str,
        token: str | None = None,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        client: tuple[str, int] | None = ELSEWHERE,
        **scope: Any,
    ) -> Answer:
        raw, _, query = path.partition("?")
        sent: list[Any] = []
        given = list(headers.items() if isinstance(headers, Mapping) else headers)
        given += [("authorization", f"Bearer {token}")] if token is not None else []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asked = {
            "type": "http",
            "method": method,
            "path": unquote(raw),  # as uvicorn has it
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given],
            "scheme": "http",
            "server": ("127.0.0.1", 1),
            "client": client,
            "state": {},
            **scope,
        }
        await self.app(asked, receive, send)
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], told, b"".join(bytes(each.get("body", b"")) for each in sent[1:]))

    def logged(self) -> bytes:
        """All lines so far; the log ends with that."""
        self.context.log.close()
        return b"".join(self.lines)


async def put_rho(store: Store, *keys: str, seed: int = 0) -> Receipt:
    """Commit density matrices, with their proof: of those a cache keeps copies."""
    updates = {key: envelope(key, seed, namespace=store.namespace, kind="rho") for key in keys}
    return await write(store, updates, verdicts=proof(*updates.values()))


@asynccontextmanager
async def asked(
    store: str, folder: Path, *namespaces: str, tokens: str | None = TOKENS, **settings: Any
) -> AsyncIterator[Asked]:
    """An application whose doors lead to `store`."""
    lines: list[bytes] = []
    given = context(lines=lines)
    path = None
    if tokens is not None:
        path = folder / "tokens"
        path.write_text(tokens)
        path.chmod(0o600)
    served = namespaces or ("default",)
    async with open_server(Settings(store=store, **settings)) as server:
        access = Access.open(None if path is None else str(path), given.log)
        doors = Doors(server, served, access, given.log)
        given.server, given.access, given.doors, given.namespaces = server, access, doors, served
        try:
            yield Asked(given, doors, lines)
        finally:
            await doors.stop(60)
            given.log.close()
