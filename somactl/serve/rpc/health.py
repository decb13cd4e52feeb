"""`grpc.health.v1.Health` over the state: SERVING where what a service name stands for is ok, and only then.

The names are "" for all that is watched, and each watched namespace. The servicer of the library would say
SERVING for "" from its start on, and must be told each change; this one keeps nothing and asks the state.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from somactl.serve.context import ServeContext
from somactl.serve.rpc.feed import Feed, draining, passes
from somactl.serve.rpc.problem import Refused

SERVICE = "grpc.health.v1.Health"
_RESPONSE = health_pb2.HealthCheckResponse


class Statuses:
    """What is SERVING now, by service name."""

    LAST_SECONDS = 0.1
    """How long they are taken for true without a look, while the state counts no change."""

    def __init__(
        self, context: ServeContext, feed: Feed, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state = context.state
        self._feed = feed
        self._names = context.namespaces
        self._clock = clock
        self._changes, self._until = -1, -math.inf
        self._ok: dict[str, bool] = {}

    def all(self) -> dict[str, int]:
        return {name: self._status(name) for name in ("", *self._names)}

    def of(self, name: str) -> int | None:
        """None for a name that stands for nothing here."""
        return self._status(name) if name == "" or name in self._names else None

    def _status(self, name: str) -> int:
        if self._feed.ended or not self._state.ready:  # before the first proof, and from the drain on
            return int(_RESPONSE.NOT_SERVING)
        now = self._clock()
        if self._changes != self._state.changes or now >= self._until:
            self._changes, self._until = self._state.changes, now + self.LAST_SECONDS
            report = self._state.health()
            self._ok = {"": report.ok, **{name: each.ok for name, each in report.namespaces.items()}}
        return int(_RESPONSE.SERVING if self._ok.get(name, False) else _RESPONSE.NOT_SERVING)


class Health:
    """The servicer."""

    def __init__(self, statuses: Statuses, feed: Feed) -> None:
        self._statuses = statuses
        self._feed = feed

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    async def Check(self, request: Any, call: Any) -> Any:
        status = self._statuses.of(request.service)
        if status is None:
            raise Refused(
                grpc.StatusCode.NOT_FOUND,
                "SERVICE_UNKNOWN",
                "no namespace of this name is watched",
                'the service "" stands for all that is watched',
            )
        return _RESPONSE(status=status)

    async def List(self, request: Any, call: Any) -> Any:
        """All names at once. Releases of the library before 1.80 or so do not know this call."""
        statuses = {name: _RESPONSE(status=status) for name, status in self._statuses.all().items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, call: Any) -> AsyncIterator[Any]:
        """The status now and whenever it changes; an unknown name stays SERVICE_UNKNOWN, and open."""
        told = None
        with self._feed.seat():
            while True:
                turn, is_last = self._feed.turn, self._feed.ended
                status = self._statuses.of(request.service)
                status = int(_RESPONSE.SERVICE_UNKNOWN) if status is None else status
                if status != told:
                    told = status
                    yield _RESPONSE(status=status)
                if is_last:
                    raise draining()
                await passes(turn)
