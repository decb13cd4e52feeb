"""`somactl.v1.Rho`: all that is known of what is watched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec

from somactl.errors import NamespaceNotFound, UsageError
from somactl.report.health import HealthReport
from somactl.serve.context import ServeContext
from somactl.serve.pb import rho_pb2, rho_pb2_grpc
from somactl.serve.rpc.callers import admit
from somactl.serve.rpc.feed import Feed, draining, passes
from somactl.serve.rpc.wire import fill

SERVICE = "somactl.v1.Rho"
KEYS = 1000
"""Of a namespace, where the caller does not say how many."""
HEARTBEAT_SECONDS = 30.0
SHORTEST, LONGEST = 1.0, 300.0


class Rho:
    """The servicer."""

    def __init__(self, context: ServeContext, feed: Feed) -> None:
        self._context = context
        self._state = context.state
        self._feed = feed

    def add_to(self, server: grpc.aio.Server) -> None:
        rho_pb2_grpc.add_RhoServicer_to_server(self, server)

    async def Status(self, request: rho_pb2.StatusRequest, call: Any) -> rho_pb2.StatusResponse:
        namespace = self._namespace(request)
        response = rho_pb2.StatusResponse()
        if request.keys:
            most = request.max_keys if request.HasField("max_keys") else KEYS
            names = self._context.namespaces if namespace is None else (namespace,)
            for name in names:
                admit(self._context, call, "read", name)
            for name in names:
                found = self._state.keys(name)
                keys = response.keys.add(namespace=name, total=len(found))
                for each in found[:most]:
                    fill(keys.keys.add(), each)
        fill(response.health, self._report(namespace))
        return response

    async def Watch(self, request: rho_pb2.WatchRequest, call: Any) -> AsyncIterator[rho_pb2.WatchResponse]:
        namespace, seconds = self._namespace(request), _heartbeat(request)
        cause = rho_pb2.WatchResponse.CAUSE_FIRST
        with self._feed.seat():
            while True:
                turn, is_last = self._feed.turn, self._feed.ended
                response = rho_pb2.WatchResponse(cause=cause, changes=self._state.changes)
                fill(response.health, self._report(namespace))
                yield response
                if is_last:
                    raise draining()
                changed = await passes(turn, seconds)
                cause = (
                    rho_pb2.WatchResponse.CAUSE_CHANGE if changed else rho_pb2.WatchResponse.CAUSE_HEARTBEAT
                )

    def _namespace(self, request: Any) -> str | None:
        """The one that was asked for; None for all. Raises NamespaceNotFound."""
        if not request.HasField("namespace"):
            return None
        name: str = request.namespace
        if name not in self._context.namespaces:
            watched = ", ".join(self._context.namespaces[:10])
            raise NamespaceNotFound(f"no namespace {name[:64]!r} is watched", hint=f"watched: {watched}")
        return name

    def _report(self, namespace: str | None) -> HealthReport:
        report = self._state.health()
        return report if namespace is None else narrowed(report, namespace)


def narrowed(report: HealthReport, namespace: str) -> HealthReport:
    """What the report says of one namespace, and of what serves all of them.

    Raises NamespaceNotFound where it says nothing of that one yet.
    """
    found = report.namespaces.get(namespace)
    if found is None:
        raise NamespaceNotFound(f"nothing is known of the namespace {namespace!r} yet")
    return msgspec.structs.replace(
        report,
        ok=found.ok,
        degraded=found.degraded,
        rho=found.rho,
        reasons=found.reasons,
        since_start=[each for each in report.since_start if each.namespace in (None, namespace)],
        namespaces={namespace: found},
    )


def _heartbeat(request: rho_pb2.WatchRequest) -> float:
    if not request.HasField("heartbeat_seconds"):
        return HEARTBEAT_SECONDS
    seconds = request.heartbeat_seconds
    if not SHORTEST <= seconds <= LONGEST:  # NaN is not either
        raise UsageError(f"heartbeat_seconds is {seconds:g}", hint=f"from {SHORTEST:g} to {LONGEST:g}")
    return seconds
