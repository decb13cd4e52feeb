"""The gRPC server: its services, its limits, and how it starts and ends."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from somactl.serve.context import Address, Limits, ServeContext
from somactl.serve.rpc import health, prune, rho
from somactl.serve.rpc.certificates import Certificates
from somactl.serve.rpc.feed import MAX_WATCHERS, Feed
from somactl.serve.rpc.gate import Gate
from somactl.serve.rpc.relay import Relay

MAX_STREAMS = 100
"""Calls of one connection at a time."""
MAX_FRAME_BYTES = 64 * 1024
CHECKS = 1000
"""Calls at a time beside those that watch and those that are counted as requests: health, above all."""
AGE_SECONDS, AGE_GRACE_SECONDS = 3600, 60
"""After that time a connection is replaced, so that clients find new servers; calls have so long to end."""
PING_SECONDS, PING_TIMEOUT_SECONDS = 60, 20
"""How a client that is gone without a word is noticed."""
PINGED_SECONDS = 30
"""A client that pings more often is cut off with `too_many_pings`."""


class GrpcFace:
    """A server that serves: see `context.Face`."""

    def __init__(
        self, server: grpc.aio.Server, gate: Gate, feed: Feed, relay: Relay, address: Address
    ) -> None:
        self._server = server
        self._gate = gate
        self._feed = feed
        self._relay = relay
        self._address = address

    @property
    def address(self) -> Address:
        return self._address

    async def drain(self) -> None:
        """Say NOT_SERVING to each call that watches health, and end all that watch; other calls go on."""
        self._feed.end()

    async def stop(self, grace: float) -> int:
        """Take no call any more; those under way have `grace` seconds, and are cancelled then."""
        await self.drain()
        self._relay.stop_listening()
        stopping = asyncio.ensure_future(self._server.stop(grace + 1.0))
        await asyncio.wait({stopping}, timeout=grace)
        cut_off = self._gate.under_way
        if not stopping.done():
            await self._server.stop(0)
        await stopping
        await self._feed.close()
        self._relay.close()
        return cut_off


async def serve(context: ServeContext, address: Address, listening: socket.socket | None = None) -> GrpcFace:
    """Bind and serve; or serve on a socket that is bound already.

    Raises ConfigurationError for an address or a certificate that cannot be used.
    """
    encrypted = context.options.tls is not None
    relay = Relay(context.options.limits, context.log, context.refusals, encrypted=encrypted)
    gate = Gate(context, relay.peers)
    server = grpc.aio.server(
        interceptors=[gate],
        options=options(context.options.limits),
        maximum_concurrent_rpcs=MAX_WATCHERS + context.options.limits.requests + CHECKS,
    )
    feed = Feed(context)
    for each in (
        health.Health(health.Statuses(context, feed), feed),
        rho.Rho(context, feed),
        prune.Prune(context),
    ):
        each.add_to(server)
    names = (health.SERVICE, rho.SERVICE, prune.SERVICE, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    _bind(server, context, relay.inside.target)
    bound = await relay.listen(address, listening)
    await server.start()
    feed.start()
    return GrpcFace(server, gate, feed, relay, bound)


def _bind(server: grpc.aio.Server, context: ServeContext, target: str) -> None:
    """Have the library listen for what the relay passes on. Raises ConfigurationError."""
    tls = context.options.tls
    if tls is None:
        server.add_insecure_port(target)
        return
    certificates = Certificates(tls, context.log)
    context.reloads.append(certificates.reload)
    server.add_secure_port(target, certificates.credentials())


def options(limits: Limits) -> list[tuple[str, Any]]:
    """What the library is told: docs/GRPC.md has the table."""

    def ms(seconds: float) -> int:
        return int(1000 * seconds)

    return [
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.absolute_max_metadata_size", limits.header_bytes),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.http2.max_frame_size", MAX_FRAME_BYTES),
        ("grpc.server_handshake_timeout_ms", ms(limits.header_seconds)),
        ("grpc.http2.settings_timeout", ms(limits.header_seconds)),
        ("grpc.max_connection_idle_ms", ms(limits.idle_seconds)),
        ("grpc.max_connection_age_ms", ms(AGE_SECONDS)),
        ("grpc.max_connection_age_grace_ms", ms(AGE_GRACE_SECONDS)),
        ("grpc.keepalive_time_ms", ms(PING_SECONDS)),
        ("grpc.keepalive_timeout_ms", ms(PING_TIMEOUT_SECONDS)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", ms(PINGED_SECONDS)),
        ("grpc.http2.max_ping_strikes", 2),
    ]
