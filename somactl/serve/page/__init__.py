"""The status page at `/`, for people: one document made from the state, without script or outside asset.

page.routes(context) -> list[BaseRoute]
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from somactl.serve.context import ServeContext
from somactl.serve.history import History
from somactl.serve.model import Found, Round
from somactl.serve.page.document import document
from somactl.serve.page.sparkline import Pictures
from somactl.serve.page.style import POLICY
from somactl.serve.page.view import View, gather
from somactl.serve.state import State

REFRESH_SECONDS = 10
PIECES_AT_ONCE = 4
"""A piece is a row of a table, mostly."""
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes(context: ServeContext) -> list[BaseRoute]:
    """The page's route. From now on a day of what is found is kept for it."""
    page = StatusPage(cast(State, context.state))  # the real one, wherever there is a page

    async def endpoint(request: Request) -> Response:
        return await page.answer(still=request.query_params.get("refresh") == "off")

    return [Route("/", endpoint, methods=["GET"], name="/")]


class _Made(NamedTuple):
    """A page of a state after so many changes."""

    changes: int
    body: bytes
    at: float


class StatusPage:
    """Keeps the history of a state, and renders both; for a while, one page serves all who ask."""

    LASTS_SECONDS = 2.0

    def __init__(
        self,
        state: State,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.history = History()
        self._state = state
        self._clock, self._wall = clock, wall
        self._pictures = Pictures(state.options.tolerances)
        self._made: dict[bool, _Made] = {}
        self._making = asyncio.Lock()
        state.listeners.append(self._keep)

    async def answer(self, *, still: bool = False) -> Response:
        """The page. still: it does not refresh itself."""
        async with self._making:
            made, changes = self._made.get(still), self._state.changes
            if made is None or made.changes != changes or self._clock() - made.at >= self.LASTS_SECONDS:
                made = self._made[still] = _Made(changes, await self._make(still), self._clock())
        return Response(made.body, 200, HEADERS, media_type="text/html")

    async def _make(self, still: bool) -> bytes:
        pieces = []
        for number, piece in enumerate(document(self._view(still)), start=1):
            pieces.append(piece)
            if number % PIECES_AT_ONCE == 0:
                await asyncio.sleep(0)  # health is asked meanwhile
        return "".join(pieces).encode(errors="backslashreplace")

    def _view(self, still: bool) -> View:
        return gather(
            self._state,
            self.history,
            self._pictures,
            now=self._wall(),
            at=self._clock(),
            refresh_seconds=None if still else REFRESH_SECONDS,
        )

    def _keep(self, message: Found | Round) -> None:
        if isinstance(message, Found):
            self.history.take(message.namespace, message.incarnation, message.proofs, message.read_at)
