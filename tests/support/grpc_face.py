"""The gRPC face on a free port, with a channel to it; and what a failed call tells."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from somactl.serve import rpc
from somactl.serve.context import Address, ServeContext
from somactl.serve.pb import prune_pb2_grpc, rho_pb2_grpc

SECONDS = 60.0
"""What a test waits for at most: the machine may be busy."""


class Client:
    """All stubs of one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.health = health_pb2_grpc.HealthStub(channel)
        self.rho = rho_pb2_grpc.RhoStub(channel)
        self.prune = prune_pb2_grpc.PruneStub(channel)

    async def check(self, service: str = "") -> str:
        request = health_pb2.HealthCheckRequest(service=service)
        return name_of((await self.health.Check(request, timeout=SECONDS)).status)

    def watch(self, service: str = "") -> Any:
        return self.health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)


def name_of(status: int) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


@contextlib.asynccontextmanager
async def serving(context: ServeContext) -> AsyncIterator[tuple[rpc.GrpcFace, Client]]:
    """Stopped at once at the end, whatever is under way."""
    face = await rpc.serve(context, Address("127.0.0.1", 0))
    try:
        async with grpc.aio.insecure_channel(str(face.address)) as channel:
            yield face, Client(channel)
    finally:
        await face.stop(0)


class Problem(NamedTuple):
    """A failed call: the name of its code, and what its google.rpc.ErrorInfo says."""

    code: str
    message: str
    reason: str
    facts: dict[str, str]


async def problem(call: Any) -> Problem:
    """What the call, which must fail, failed with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return problem_of(error)
    raise AssertionError("the call succeeded")


def problem_of(error: grpc.aio.AioRpcError) -> Problem:
    info = error_details_pb2.ErrorInfo()
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert (status.code, status.message) == (error.code().value[0], error.details())
            assert status.details[0].Unpack(info)
            assert info.domain == "somactl"
    return Problem(error.code().name, error.details() or "", info.reason, dict(info.metadata))


async def told(stream: Any) -> Any:
    """The next message of a stream. It does not wait for longer than the call may last."""
    message = await stream.read()
    if message is grpc.aio.EOF:
        raise AssertionError("the stream has ended")
    return message
