"""The HTTP face: health, readiness and metrics, and what the other parts add; errors as RFC 9457 has them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from somactl.errors import LimitExceeded, SomactlError, VersionCompacted
from somactl.report.encoding import to_json
from somactl.serve.codes import HTTP_STATUS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope as AsgiScope, Send

    from somactl.serve.context import AccessLog, ServeContext

HEALTH_PATHS = frozenset(("/healthz", "/livez", "/readyz"))
"""What probes ask: a 503 of theirs is no error."""
FREE_PATHS = HEALTH_PATHS | {"/metrics"}
LOGGED = 1200
"""Characters of a path that the log tells: all of those that lead to a key."""
NO_STORE = {"cache-control": "no-store"}
_JSON, _PROBLEM = "application/json", "application/problem+json"


def app(context: ServeContext, routes: Sequence[BaseRoute] = ()) -> ASGIApp:
    """Everything that is served over HTTP, with its log."""
    own = [
        _route("/healthz", lambda: _health(context)),
        _route("/livez", _alive),
        _route("/readyz", lambda: _ready(context)),
        _route("/metrics", lambda: _metrics(context)),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: _refused,
        SomactlError: _failed,
        ClientDisconnect: _cut_off,
        Exception: _broken,
    }
    inner = Starlette(routes=[*own, *routes], exception_handlers=handlers)
    inner.router.redirect_slashes = False
    return RequestLog(Busy(inner, context), context)


def problem(status: int, detail: str, *, type_: str = "about:blank", **more: Any) -> Response:
    """An error as RFC 9457 writes it: `application/problem+json`. Members that are None are left out."""
    title = more.pop("title", None) or HTTPStatus(status).phrase
    headers = {**NO_STORE, **more.pop("headers", {})}
    body = {"type": type_, "title": title, "status": status, "detail": detail}
    body |= {name: value for name, value in more.items() if value is not None}
    return Response(to_json(body), status, headers, media_type=_PROBLEM)


def _health(context: ServeContext) -> Response:
    report = context.state.health()
    return Response(msgspec.json.encode(report), 200 if report.ok else 503, NO_STORE, media_type=_JSON)


def _route(path: str, answer: Callable[[], Response]) -> Route:
    async def endpoint(request: Request) -> Response:
        return answer()

    return Route(path, endpoint, methods=["GET"], name=path)


def _alive() -> Response:
    return Response(b'{"alive":true}', 200, NO_STORE, media_type=_JSON)


def _ready(context: ServeContext) -> Response:
    state = context.state
    body = {"ready": state.ready, "draining": state.draining}
    return Response(to_json(body), 200 if state.ready else 503, NO_STORE, media_type=_JSON)


def _metrics(context: ServeContext) -> Response:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    assert context.registry is not None
    headers = {**NO_STORE, "content-type": CONTENT_TYPE_LATEST}
    return Response(generate_latest(context.registry), 200, headers)


_PRECISELY = {LimitExceeded: 413, VersionCompacted: 410}


def status_of(error: SomactlError) -> int:
    """The HTTP status that says as much as the exit code does, or more."""
    precisely = next((status for kind, status in _PRECISELY.items() if isinstance(error, kind)), None)
    return precisely or HTTP_STATUS.get(error.exit_code, 500)


def problem_of(error: SomactlError, status: int | None = None, **more: Any) -> Response:
    """An error of somactl: its name, message, hint, exit code and runbook."""
    status = status_of(error) if status is None else status
    headers = {"retry-after": "1"} if status == 503 else {}
    return problem(
        status,
        error.message,
        title=type(error).__name__,
        hint=error.hint,
        code=error.exit_code,
        retryable=error.retryable,
        runbook=error.runbook and f"RUNBOOKS/{error.runbook}.md",
        headers=headers | more.pop("headers", {}),
        **more,
    )


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, SomactlError)
    return problem_of(error)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, headers=dict(error.headers or {}))


async def _cut_off(request: Request, error: Exception) -> Response:
    """For the log: no client is there to see it."""
    return problem(400, "the body did not come in whole")


async def _broken(request: Request, error: Exception) -> Response:
    return problem(500, "a bug in somactl, which its log tells of", code=1)


class Busy:
    """Refuses requests beyond a number under way, but for those about health, which wait for nothing."""

    def __init__(self, inner: ASGIApp, context: ServeContext) -> None:
        self._inner = inner
        self._most = context.options.limits.requests
        self._under_way = 0

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["path"] in FREE_PATHS:
            return await self._inner(scope, receive, send)
        if self._under_way >= self._most:
            busy = problem(503, f"{self._most} requests are under way", headers={"retry-after": "1"})
            return await busy(scope, receive, send)
        self._under_way += 1
        try:
            await self._inner(scope, receive, send)
        finally:
            self._under_way -= 1


class RequestLog:
    """One line a request, as far as `--access-log` wants it. It tells the path, and no query or header."""

    def __init__(self, inner: ASGIApp, context: ServeContext) -> None:
        self._inner = inner
        self._log = context.log
        self._wanted: AccessLog = context.options.access_log

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]

        try:
            await self._inner(scope, receive, noted)
        except Exception as bug:
            self._log.limited(
                "bug", "bug", error=type(bug).__name__, path=scope["path"][:LOGGED], frames=_frames(bug)
            )
            if not status:
                raise
        finally:
            if self._wanted == "all" or (self._wanted == "errors" and _is_error(scope["path"], status)):
                self._tell(scope, status, time.perf_counter() - began)

    def _tell(self, scope: AsgiScope, status: int, seconds: float) -> None:
        client = scope.get("client")
        self._log.event(
            "request",
            method=scope["method"],
            path=scope["path"][:LOGGED],
            status=status or None,
            ms=round(1000 * seconds, 2),
            client=client[0] if client else None,
            caller=scope.get("state", {}).get("caller"),
        )


def _frames(error: Exception) -> list[str]:
    """Where it happened, without what it says: that may repeat a secret."""
    frames = traceback.extract_tb(error.__traceback__)[-10:]
    return [f"{each.filename}:{each.lineno} in {each.name}" for each in frames]


def _is_error(path: str, status: int) -> bool:
    return not 0 < status < 400 and not (path in HEALTH_PATHS and status == 503)
