"""The doors over HTTP: values under /v1/rho, prune orders under /v1/prune-orders, and what describes both.

docs/SERVE.md says it for callers, `openapi` for programs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_to_bytes, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from somactl.core.framing import to_text
from somactl.errors import InvalidName, NotFound, UsageError
from somactl.operations.orders import OrderOptions
from somactl.report import OrderStatus, PruneReport
from somactl.report.encoding import to_json
from somactl.serve import openapi
from somactl.serve.access import Credentials, Denied, bearer, is_local, names_in
from somactl.serve.codes import HTTP_STATUS
from somactl.serve.context import client_certificate, note_caller
from somactl.serve.http import NO_STORE, problem
from somactl.serve.negotiation import acceptable, matches, wait_seconds
from somactl.serve.values import ENVELOPE, JSON, OCTETS, headers_of, tag_of, value_of

if TYPE_CHECKING:
    from somactl.serve.context import ServeContext
    from somactl.serve.doors import Doors

MAX_JSON_BYTES: Final = 32 << 20
"""The largest envelope that is written as base64 inside JSON."""
WAIT_SECONDS: Final = 20.0
MAX_WAIT_SECONDS: Final = 60.0
"""How long a caller waits for a report, if they do not say, and at most."""

RHO, ORDERS = "/v1/rho/", "/v1/prune-orders"
Endpoint = Callable[[Request], Awaitable[Response]]


def routes(context: ServeContext) -> list[BaseRoute]:
    """The paths of the doors. Where there are none, each says that it is not served."""
    doors = context.doors
    return [
        Route(RHO + "{key:path}", _guarded(doors, read), methods=["GET"], name="rho"),
        Route(ORDERS, _guarded(doors, order), methods=["POST"], name="prune-orders"),
        Route(ORDERS + "/{order_id}", _guarded(doors, order_status), methods=["GET"], name="prune-order"),
        Route("/openapi.json", _description, methods=["GET"], name="openapi"),
    ]


async def _description(request: Request) -> Response:
    return Response(openapi.text(), 200, media_type=JSON)


def _guarded(doors: Doors | None, endpoint: Callable[[Doors, Request], Awaitable[Response]]) -> Endpoint:
    """The endpoint, with an answer for callers who are not let in."""

    async def answer(request: Request) -> Response:
        if doors is None:
            raise NotFound("this service has no doors to values and orders")
        try:
            return await endpoint(doors, request)
        except Denied as denied:
            return _refusal(denied)

    return answer


def _refusal(denied: Denied) -> Response:
    if denied.kind == "unauthenticated":
        challenge = {"www-authenticate": 'Bearer realm="somactl"'}
        return problem(401, denied.message, title="Unauthenticated", hint=denied.hint, headers=challenge)
    return problem(403, denied.message, title="Forbidden", hint=denied.hint)


def credentials(request: Request) -> Credentials:
    """What the caller shows: a token, a certificate that TLS has verified, where they come from."""
    peer = request.client.host if request.client else None
    return Credentials(
        token=bearer(request.headers.getlist("authorization")),
        certificate=names_in(client_certificate(request.scope)),
        is_local=is_local(peer, request.headers.get("host"), list(request.headers)),
        peer=peer or "",
        known=lambda name: note_caller(request.scope, name),
    )


async def read(doors: Doors, request: Request) -> Response:
    """GET /v1/rho/KEY: the envelope, or with it what is known of it as JSON."""
    asked = _query(request, "namespace", "version")
    version = _whole(asked["version"], "version") if "version" in asked else None
    shown = acceptable(request.headers.getlist("accept"), (ENVELOPE, OCTETS, JSON))
    entry = await doors.read(
        credentials(request), _key(request), namespace=asked.get("namespace"), version=version
    )
    if shown is None:
        return problem(406, f"a value is shown as {ENVELOPE}, {OCTETS} or {JSON}")
    headers = headers_of(entry)
    if matches(request.headers.getlist("if-none-match"), tag_of(entry)):
        return Response(None, 304, headers)
    if shown != JSON:
        return Response(entry.data, 200, headers, media_type=shown)
    if len(entry.data) > MAX_JSON_BYTES:
        return problem(406, f"more than {MAX_JSON_BYTES >> 20} MiB are no JSON", hint=f"accept {ENVELOPE}")
    body = await asyncio.to_thread(lambda: to_json(value_of(entry, to_text(entry.data))))
    return Response(body, 200, headers, media_type=JSON)


def _key(request: Request) -> str:
    """The key, byte for byte: a slash in it may be written as it is or as %2F. Raises InvalidName."""
    path = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    _, _, text = unquote_to_bytes(path).partition(RHO.encode())  # of which any byte may come as %XX, too
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidName("the key is not UTF-8", hint="percent-encode its bytes of UTF-8") from None


async def order(doors: Doors, request: Request) -> Response:
    """POST /v1/prune-orders: carry an order out, and answer with its report, or where to ask for it."""
    _refuse_other_sites(request)
    asked = _query(request, "namespace", *_PARAMETERS)
    namespace = asked.pop("namespace", None)
    options = OrderOptions(**{name: _PARAMETERS[name](text, name) for name, text in asked.items()})
    caller = credentials(request)
    doors.admit("prune", caller, namespace=namespace)  # before more of the body is taken in
    data = await _body(request)
    if options.dry_run:
        return _reported(await doors.foresee(caller, data, options, namespace=namespace))
    preferred = wait_seconds(request.headers.getlist("prefer"))
    wait = min(WAIT_SECONDS if preferred is None else preferred, MAX_WAIT_SECONDS)
    run = await doors.prune(caller, data, options, namespace=namespace, door="http")
    report = await run.report(wait)
    if report is not None:
        return _reported(report)
    query = f"?{urlencode({'namespace': run.namespace})}" if len(doors.namespaces) > 1 else ""
    headers = {**NO_STORE, "location": f"{ORDERS}/{quote(run.order_id, safe='')}{query}", "retry-after": "1"}
    if preferred is not None:
        headers["preference-applied"] = f"wait={wait:g}"
    status = OrderStatus(order_id=run.order_id, namespace=run.namespace, state="running")
    return Response(to_json(status), 202, headers, media_type=JSON)


def _reported(report: PruneReport) -> Response:
    """The report; where the order did not come to its end, as a member of what says why."""
    if report.code in (0, 4):  # done; or done as far as could be, which the report tells
        return Response(to_json(report), 200, NO_STORE, media_type=JSON)
    status = HTTP_STATUS.get(report.code, 500)
    return problem(
        status,
        report.stopped or "the order did not come to its end",
        title="Unfinished",
        hint=None if report.final else "send the order again: it is then gone on with",
        code=report.code,
        retryable=not report.final,
        report=report,
        headers={"retry-after": "1"} if status == 503 else {},
    )


async def order_status(doors: Doors, request: Request) -> Response:
    """GET /v1/prune-orders/ID: how far an order is, and its report once it is done."""
    asked = _query(request, "namespace")
    order_id: str = request.path_params["order_id"]
    status = await doors.order_status(credentials(request), order_id, namespace=asked.get("namespace"))
    return Response(to_json(status), 200, NO_STORE, media_type=JSON)


def _refuse_other_sites(request: Request) -> None:
    """A browser with a client's certificate must not be made to send an order by a page of another site."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Denied("forbidden", "a page of another site may not send orders", "send it by a program")


async def _body(request: Request) -> bytes:
    data = await request.body()  # which is bounded: see `limits`
    if not data:
        raise UsageError("the request has no body", hint="send the order as its body, in any of its forms")
    return data


def _query(request: Request, *known: str) -> dict[str, str]:
    """The parameters of the query. What is misspelt must not be passed over: `kep=5` would delete all.

    Raises UsageError.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise UsageError(f"there is no parameter {name[:64]!r} here", hint=f"known: {', '.join(known)}")
        if name in found:
            raise UsageError(f"the parameter {name!r} stands twice")
        found[name] = value
    return found


_WHOLE = re.compile(r"[0-9]{1,19}\Z")
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?\Z")


def _whole(text: str, name: str) -> int:
    if not _WHOLE.match(text) or int(text) >= 2**63:
        raise UsageError(f"`{name}` is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _seconds(text: str, name: str) -> float:
    if not _SECONDS.match(text):
        raise UsageError(f"`{name}` is not a number of seconds")
    return float(text)


def _one_of(*words: str) -> Callable[[str, str], Any]:
    def parse(text: str, name: str) -> str:
        if text not in words:
            raise UsageError(f"`{name}` is none of {', '.join(words)}")
        return text

    return parse


def _flag(text: str, name: str) -> bool:
    return bool(_one_of("true", "false")(text, name) == "true")


_PARAMETERS: dict[str, Callable[[str, str], Any]] = {
    "order_id": lambda text, name: text,
    "limit": _whole,
    "keep": _whole,
    "max_bytes": _whole,
    "grace": _seconds,
    "batch": _whole,
    "missing": _one_of("ignore", "fail"),
    "changed": _one_of("skip", "fail"),
    "dry_run": _flag,
    "yes": _flag,
}
assert set(_PARAMETERS) == {each.name for each in msgspec.structs.fields(OrderOptions)}
