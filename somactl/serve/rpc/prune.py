"""`somactl.v1.Prune`: prune orders, through the same door as those over HTTP."""

from __future__ import annotations

import math
from typing import Any, Literal

import grpc
import msgspec

from somactl.errors import UsageError
from somactl.operations.orders import OrderOptions
from somactl.report import PruneReport
from somactl.serve.access import Denied
from somactl.serve.context import ServeContext
from somactl.serve.doors import Doors
from somactl.serve.pb import prune_pb2, prune_pb2_grpc
from somactl.serve.rpc.callers import CALLER, credentials
from somactl.serve.rpc.wire import fill
from somactl.store.contract import DAY

SERVICE = "somactl.v1.Prune"
CLOSED_HINT = "an operator opens it by giving the service a file of tokens"
_MISSING: dict[int, Literal["ignore", "fail"]] = {0: "ignore", 1: "ignore", 2: "fail"}
_CHANGED: dict[int, Literal["skip", "fail"]] = {0: "skip", 1: "skip", 2: "fail"}


class Prune:
    """The servicer."""

    def __init__(self, context: ServeContext) -> None:
        self._context = context

    def add_to(self, server: grpc.aio.Server) -> None:
        prune_pb2_grpc.add_PruneServicer_to_server(self, server)

    async def Apply(self, request: prune_pb2.ApplyRequest, call: Any) -> prune_pb2.ApplyResponse:
        """A client that leaves, or whose deadline is over, changes nothing: the order goes on."""
        doors, namespace = self._doors(), _optional(request, "namespace")
        options, order, wait = options_of(request), order_of(request), _wait(request)
        if options.dry_run:
            report = await doors.foresee(credentials(call), order, options, namespace=namespace)
            return _answer(report, report.order_id)
        run = await doors.prune(credentials(call), order, options, door="grpc", namespace=namespace)
        CALLER.set(run.caller)
        return _answer(await run.report(wait), run.order_id)

    async def Get(self, request: prune_pb2.GetRequest, call: Any) -> prune_pb2.GetResponse:
        status = await self._doors().order_status(
            credentials(call), request.order_id, namespace=_optional(request, "namespace")
        )
        response = prune_pb2.GetResponse()
        fill(response.status, status)
        return response

    def _doors(self) -> Doors:
        doors: Doors | None = self._context.doors
        if doors is None:
            raise Denied("closed", "this door is shut: access is not configured", CLOSED_HINT)
        return doors


def options_of(request: prune_pb2.ApplyRequest) -> OrderOptions:
    """How the order is to be carried out. Raises UsageError for a word of a later release."""
    return OrderOptions(
        order_id=_optional(request, "order_id"),
        limit=_optional(request, "limit"),
        keep=_optional(request, "keep"),
        max_bytes=_optional(request, "max_bytes"),
        grace=request.grace_seconds if request.HasField("grace_seconds") else DAY,
        batch=_optional(request, "batch"),
        missing=_word(_MISSING, request.missing, "missing"),
        changed=_word(_CHANGED, request.changed, "changed"),
        dry_run=request.dry_run,
        yes=request.yes,
    )


def order_of(request: prune_pb2.ApplyRequest) -> bytes:
    """The order as a document, so that one strict parser reads them all. Raises UsageError."""
    given = request.WhichOneof("order")
    if given is None:
        raise UsageError("there is no order", hint="give it as `document` or as `message`")
    if given == "document":
        return bytes(request.document)
    message = request.message
    return msgspec.json.encode(
        {
            "order_id": message.order_id,
            "issued_at": message.issued_at,
            "expires_at": message.expires_at,
            "issuer": message.issuer,
            "sequence": message.sequence,
            "namespace": message.namespace,
            "keys": [
                {"key": each.key, "version": each.version} if each.HasField("version") else each.key
                for each in message.keys
            ],
        }
    )


def _answer(report: PruneReport | None, order_id: str | None) -> prune_pb2.ApplyResponse:
    response = prune_pb2.ApplyResponse(order_id=order_id)
    if report is not None:
        fill(response.report, report)
    return response


def _optional(request: Any, name: str) -> Any:
    return getattr(request, name) if request.HasField(name) else None


def _word(words: dict[int, Any], number: int, name: str) -> Any:
    if number not in words:
        raise UsageError(f"{name} is {number}, which this release does not know")
    return words[number]


def _wait(request: prune_pb2.ApplyRequest) -> float | None:
    """Seconds; None for as long as the call lasts. Raises UsageError."""
    seconds = request.wait_seconds if request.HasField("wait_seconds") else None
    if seconds is not None and not (0 <= seconds < math.inf):
        raise UsageError(f"wait_seconds is {seconds:g}", hint="0 or more")
    return seconds
