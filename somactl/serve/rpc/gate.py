"""What all calls pass: errors become status codes, too many are refused, and each may have a line of log."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import grpc

from somactl.errors import SomactlError
from somactl.serve.access import Denied
from somactl.serve.context import ServeContext
from somactl.serve.rpc.callers import CALLER, PEER, denied
from somactl.serve.rpc.problem import Refused, refuse

HEALTH = "/grpc.health.v1.Health/"
_CLOSED = frozenset(("CANCELLED", "UNAVAILABLE"))  # the client left, or the server is about to
_BUG = Refused(grpc.StatusCode.INTERNAL, "BUG", "a bug in somactl, which its log tells of")


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps the handler of each method, once.

    under_way  calls that are, but for those of health and those that watch
    """

    def __init__(self, context: ServeContext, peers: Mapping[str, str]) -> None:
        """`peers` has the addresses of clients, by the names of their connections."""
        self._peers = peers
        self._log = context.log
        self._wanted = context.options.access_log
        self._most = context.options.limits.requests
        self.under_way = 0
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        method = details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(details)
        if handler is None:
            self._log.limited("refused", "unknown-call", path=method[:200], why="no such method")
            return None
        self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Any) -> Any:
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), **coders)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream), **coders)
        return grpc.stream_stream_rpc_method_handler(self._stream(method, handler.stream_stream), **coders)

    def _unary(self, method: str, answer: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        counts = not method.startswith(HEALTH)

        async def unary(request: Any, call: Any) -> Any:
            began = self._begin(call)
            try:
                with self._seat() if counts else contextlib.nullcontext():
                    return await answer(request, call)
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception as error:
                await self._refuse(method, call, error)
            finally:
                self._tell(method, call, began)

        return unary

    def _stream(self, method: str, answers: Callable[[Any, Any], AsyncIterator[Any]]) -> Any:
        async def stream(requests: Any, call: Any) -> AsyncIterator[Any]:
            began = self._begin(call)
            try:
                async with contextlib.aclosing(answers(requests, call)) as found:  # type: ignore[type-var]
                    async for each in found:
                        yield each
            except (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit):
                raise
            except Exception as error:
                await self._refuse(method, call, error)
            finally:
                self._tell(method, call, began)

        return stream

    def _begin(self, call: Any) -> float:
        PEER.set(self._peers.get(call.peer()))
        return time.perf_counter()

    @contextlib.contextmanager
    def _seat(self) -> Iterator[None]:
        """Among the calls that are under way. Raises Refused."""
        if self.under_way >= self._most:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", f"{self._most} calls are under way"
            )
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def _refuse(self, method: str, call: Any, error: Exception) -> None:
        if isinstance(error, Denied):
            error = denied(error)
        if not isinstance(error, Refused | SomactlError):
            frames = traceback.extract_tb(error.__traceback__)[-10:]
            told = [f"{each.filename}:{each.lineno} in {each.name}" for each in frames]
            self._log.limited("bug", "bug", error=type(error).__name__, path=method, frames=told)
            error = _BUG
        await refuse(call, error)

    def _tell(self, method: str, call: Any, began: float) -> None:
        if self._wanted == "none":
            return
        code = _name(call.code())
        is_error = code != "OK" and code not in _CLOSED
        if self._wanted == "errors" and not is_error:
            return
        self._log.event(
            "request",
            method="gRPC",
            path=method,
            status=code,
            ms=round(1000 * (time.perf_counter() - began), 2),
            client=PEER.get(),
            caller=CALLER.get(),
        )


def _name(code: Any) -> str:
    """Of a status, which the library keeps as a number, as an enum, or not at all where all is well."""
    if not code:
        return "OK"
    if isinstance(code, grpc.StatusCode):
        return str(code.name)
    return next((each.name for each in grpc.StatusCode if each.value[0] == code), str(code))
