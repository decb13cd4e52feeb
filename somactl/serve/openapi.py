"""The OpenAPI description of what `somactl serve` answers over HTTP: served at /openapi.json, and written to
schemas/openapi.json by `make docs`. tests/serve/test_openapi.py holds the application to it.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final

import msgspec

from somactl import __version__
from somactl.report import HealthReport, OrderStatus, PruneReport
from somactl.serve.values import ENVELOPE, JSON, OCTETS, Value
from somactl.store.contract import DAY
from somactl.store.request import MAX_GRACE_SECONDS

PROBLEM: Final = "application/problem+json"
NAMESPACE = r"^[A-Za-z0-9._\-]{1,64}$"
ORDER_ID = r"^[A-Za-z0-9._:\-]{1,120}$"
NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}


class Problem(msgspec.Struct, kw_only=True):
    """What went wrong, as RFC 9457 tells it. Its title is the name of somactl's error, where it is one.

    code is the exit code that a command would end with (docs/EXIT_CODES.md); retryable: the same request may
    succeed if it is made again; runbook: the page, below the folder of the package, that says what to do.
    report is that of a prune order which did not come to its end.
    """

    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    code: int | None = None
    retryable: bool | None = None
    runbook: str | None = None
    report: PruneReport | None = None


class Alive(msgspec.Struct):
    """The process answers."""

    alive: bool


class Ready(msgspec.Struct):
    """Whether this process can serve now; draining: it is about to end."""

    ready: bool
    draining: bool


@functools.cache
def text() -> bytes:
    """The description as JSON, one and the same for as long as the process lives."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n"


def document() -> dict[str, Any]:
    kinds = [HealthReport, Alive, Ready, Value, PruneReport, OrderStatus, Problem]
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "somactl serve", "version": __version__, "description": _ABOUT},
        "paths": {
            "/healthz": {"get": _health()},
            "/livez": {"get": _plain("livez", "Whether the process answers; no store is touched", "Alive")},
            "/readyz": {"get": _ready()},
            "/metrics": {"get": _metrics()},
            "/v1/rho/{key}": {**_both(_RHO)},
            "/v1/prune-orders": {"post": _PRUNE},
            "/v1/prune-orders/{order_id}": {**_both(_ORDER)},
            "/openapi.json": {"get": _description()},
        },
        "components": {
            "schemas": _cleaned(dict(sorted(schemas.items()))),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


_ABOUT = (
    "Health that says whether the mathematics holds, and doors to values and prune orders: docs/SERVE.md. "
    "HEAD is answered as GET is, without the body. Every failure is an RFC 9457 problem."
)


def _cleaned(schema: Any) -> Any:
    """The schema with its descriptions as Python 3.13 and later compile docstrings: without indentation."""
    if isinstance(schema, list):
        return [_cleaned(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: inspect.cleandoc(part) if name == "description" and isinstance(part, str) else _cleaned(part)
        for name, part in schema.items()
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: str, kind: str = JSON, **headers: str) -> dict[str, Any]:
    found: dict[str, Any] = {"description": description, "content": {kind: {"schema": _ref(schema)}}}
    return found | ({"headers": _headers(headers)} if headers else {})


def _headers(said: dict[str, str]) -> dict[str, Any]:
    return {
        name.replace("_", "-"): {"description": what, "schema": {"type": "string"}}
        for name, what in said.items()
    }


_PROBLEMS = {
    400: "What is asked for makes no sense: a parameter that is unknown, stands twice, or has no such value",
    401: "It is not known who calls",
    403: "The caller may not, or the door is shut",
    404: "It is not there",
    406: "The answer has none of the forms that the caller accepts",
    409: "Something else was there, or another run holds it: nothing was written",
    410: "Retention has removed that version",
    413: "The body is too large, or says more than an order may",
    422: "It was understood, and is refused: nothing was written",
    500: "A stored value is damaged, the service is not configured as it should be, or has a bug",
    503: "A store is away, or the service is busy or about to end: ask again",
    504: "It is not known whether it was written: send the same again, and it is found out",
}


def _failures(*statuses: int) -> dict[str, Any]:
    found = {str(status): _answer(_PROBLEMS[status], "Problem", PROBLEM) for status in sorted(statuses)}
    if "401" in found:
        found["401"]["headers"] = _headers({"WWW-Authenticate": "`Bearer`"})
    if "503" in found:
        found["503"]["headers"] = _headers({"Retry-After": "seconds"})
    return found


def _plain(name: str, summary: str, schema: str) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "responses": {"200": _answer(summary, schema)}}


def _health() -> dict[str, Any]:
    found = _plain("healthz", "Whether the mathematics holds", "HealthReport")
    found["responses"]["503"] = _answer("It does not, or is not known to: see `reasons`", "HealthReport")
    return found


def _ready() -> dict[str, Any]:
    found = _plain("readyz", "Whether this process can serve now", "Ready")
    found["responses"]["503"] = _answer("It cannot (yet, or any more)", "Ready")
    return found


def _metrics() -> dict[str, Any]:
    found = _plain("metrics", "The metrics, as Prometheus scrapes them", "Alive")
    found["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return found


def _description() -> dict[str, Any]:
    found = _plain("openapi", "This description", "Alive")
    found["responses"]["200"]["content"] = {JSON: {"schema": {"type": "object"}}}
    return found


def _parameter(name: str, place: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "description": description,
        "schema": schema,
        **({"required": True} if place == "path" else {}),
    }


MAX_KEY_CHARS = 256
"""So many characters never take more bytes than a key may have."""

_KEY = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARS}

_ITEM = {
    "oneOf": [
        _KEY,
        {
            "type": "object",
            "properties": {
                "key": _KEY,
                "version": NUMBER | {"minimum": 1},
            },
            "required": ["key", "version"],
            "additionalProperties": False,
        },
    ]
}
_LIST = {"type": "array", "items": _ITEM, "minItems": 1, "uniqueItems": True}
_TIME = {"oneOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}]}
_MESSAGE = {
    "type": "object",
    "properties": {
        "order_id": {"type": "string", "pattern": ORDER_ID},
        "issued_at": _TIME,
        "expires_at": _TIME,
        "issuer": {"type": "string", "minLength": 1, "maxLength": 256},
        "sequence": NUMBER,
        "namespace": {"type": "string", "pattern": NAMESPACE},
        "keys": _LIST,
    },
    "required": ["order_id", "issued_at", "expires_at", "issuer", "sequence", "namespace", "keys"],
    "additionalProperties": False,
}


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return _parameter(name, "query", description, schema)


_NAMESPACE = _query(
    "namespace", "Needed only where several are served", {"type": "string", "pattern": NAMESPACE}
)


def _both(operation: dict[str, Any]) -> dict[str, Any]:
    """The operation for GET, and without bodies for HEAD."""
    bodyless = {
        status: {name: part for name, part in answer.items() if name != "content"}
        for status, answer in operation["responses"].items()
    }
    head = {**operation, "operationId": f"{operation['operationId']}-head", "responses": bodyless}
    return {"get": operation, "head": head}


_VALUE_HEADERS = _headers(
    {
        "ETag": "weak, of the content digest",
        "Somactl-Version": "of the commit that wrote it",
        "Somactl-Incarnation": "of the namespace: versions are comparable within one",
        "Somactl-Served-By": "the store that it was read from",
        "Somactl-Admitted-Dark": "`true`: an invariant would refuse it, and it was committed in dark mode",
        "Somactl-Degraded": "`true`: the store behind the cache did not answer, and may have a newer value",
    }
)
_RHO: dict[str, Any] = {
    "operationId": "rho",
    "summary": "One stored value, newest or as of a version",
    "security": [{}, {"bearer": []}, {"certificate": []}],
    "parameters": [
        _parameter(
            "key",
            "path",
            "The key, percent-encoded as UTF-8. A slash in it may stand as it is. Between slashes, `.` and "
            "`..` must reach the service as they are, which some clients do not do",
            _KEY,
        ),
        _NAMESPACE,
        _query("version", "As of this version of the namespace", NUMBER | {"minimum": 1}),
        _parameter("If-None-Match", "header", "Entity tags that are known", {"type": "string"}),
    ],
    "responses": {
        "200": {
            "description": "The value, verified: of a damaged one no byte is served. Where a cache served "
            "it, `Age` is the seconds since the store behind it was asked; `Somactl-Verdict` is what its "
            "commit has found, and proven unless `Somactl-Admitted-Dark` is there",
            "headers": _VALUE_HEADERS,
            "content": {
                ENVELOPE: {"schema": {"type": "string", "contentMediaType": ENVELOPE}},
                OCTETS: {"schema": {"type": "string", "contentMediaType": OCTETS}},
                JSON: {"schema": _ref("Value")},
            },
        },
        "304": {"description": "It is one of those that the caller knows", "headers": _VALUE_HEADERS},
        **_failures(400, 401, 403, 404, 406, 410, 422, 500, 503),
    },
}

_FLAG = {"type": "boolean", "default": False}
_PRUNE: dict[str, Any] = {
    "operationId": "prune",
    "summary": "Carry out a prune order: docs/PRUNE_ORDER.md says what one is and what it deletes",
    "description": "The same order again with the same parameters, under the same id, is carried out once: "
    "done, it gives its first report; half done, it is gone on with; under way, all its callers wait for "
    "one report.",
    "security": [{"bearer": []}, {"certificate": []}],
    "parameters": [
        _NAMESPACE,
        _query("order_id", "Of an order that is no message", {"type": "string", "pattern": ORDER_ID}),
        _query("limit", "Delete so many", NUMBER),
        _query("keep", "Delete until the namespace has no more than so many keys", NUMBER),
        _query("max_bytes", "Delete until the namespace takes no more than so many bytes", NUMBER),
        _query(
            "grace",
            "Seconds for which what is deleted can be restored; 0 wants `yes`",
            {"type": "number", "minimum": 0, "maximum": MAX_GRACE_SECONDS, "default": DAY},
        ),
        _query(
            "batch",
            "Items of the order in one commit; needed beyond 10000",
            {"type": "integer", "minimum": 1, "maximum": 10_000},
        ),
        _query("missing", "What a key that is not there means", {"enum": ["ignore", "fail"]}),
        _query("changed", "What a key written since its ranking means", {"enum": ["skip", "fail"]}),
        _query("dry_run", "Only say what would be deleted; it then needs no id", _FLAG),
        _query("yes", "What is deleted need not be restorable", _FLAG),
        _parameter(
            "Prefer", "header", "`wait=N`: so many seconds, 60 at most; 20 otherwise", {"type": "string"}
        ),
    ],
    "requestBody": {
        "required": True,
        "description": "The order in any of its forms; which one, its first character tells",
        "content": {
            JSON: {"schema": {"oneOf": [_MESSAGE, _LIST]}},
            "application/x-ndjson": {"schema": {"type": "string", "minLength": 1}},
            "text/plain": {"schema": {"type": "string", "minLength": 1}},
        },
    },
    "responses": {
        "200": _answer("The report of an order that came to its end", "PruneReport"),
        "202": _answer(
            "The order is carried out in the background, and goes on whether its caller waits or not",
            "OrderStatus",
            Location="where its status is",
        ),
        **_failures(400, 401, 403, 404, 409, 413, 422, 500, 503, 504),
    },
}
_ORDER: dict[str, Any] = {
    "operationId": "prune-order",
    "summary": "How far a prune order is, and its report once it is done",
    "security": [{"bearer": []}, {"certificate": []}],
    "parameters": [
        _parameter("order_id", "path", "The order's id", {"type": "string", "pattern": ORDER_ID}),
        _NAMESPACE,
    ],
    "responses": {
        "200": _answer("Its status", "OrderStatus"),
        **_failures(400, 401, 403, 404, 422, 500, 503),
    },
}
