"""The HTTP face, asked without a server."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from somactl.errors import VersionConflict
from somactl.report.health import HealthReport
from somactl.serve import http
from somactl.serve.context import ServeContext, ServeOptions
from support.serving import FakeState, context, healthy


class Answer:
    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self.status = sent[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        self.body = b"".join(each.get("body", b"") for each in sent[1:])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def ask(given: ServeContext, path: str, method: str = "GET", *routes: Any, **more: Any) -> Answer:
    """What the application answers to one request."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "scheme": "http",
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
        "state": {},
        **more,
    }
    await http.app(given, routes)(scope, receive, send)
    return Answer(sent)


async def test_health_is_the_report_and_200_only_if_ok() -> None:
    state = FakeState()
    good = await ask(context(state), "/healthz")
    assert (good.status, good.headers["cache-control"]) == (200, "no-store")
    assert good.headers["content-type"] == "application/json"
    assert msgspec.json.decode(good.body, type=HealthReport) == healthy()
    state.report = healthy(ok=False)
    bad = await ask(context(state), "/healthz")
    assert (bad.status, bad.json["ok"]) == (503, False)


async def test_not_ready_while_draining_and_alive_all_the_time() -> None:
    state = FakeState()
    assert (await ask(context(state), "/readyz")).status == 200
    state.drain()
    answer = await ask(context(state), "/readyz")
    assert (answer.status, answer.json) == (503, {"ready": False, "draining": True})
    assert (await ask(context(state), "/livez")).status == 200
    assert (await ask(context(state), "/healthz")).status == 200


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/metrics"])
async def test_head_is_get_without_a_body_and_nothing_is_stored(path: str) -> None:
    got, head = await ask(context(), path), await ask(context(), path, "HEAD")
    assert (head.status, head.headers["cache-control"]) == (got.status, "no-store")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(("path", "method", "status"), [("/nothing", "GET", 404), ("/healthz", "POST", 405)])
async def test_what_is_not_there_is_a_problem(path: str, method: str, status: int) -> None:
    answer = await ask(context(), path, method)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json["status"] == status
    assert ("allow" in answer.headers) == (status == 405)


async def test_an_error_of_somactl_tells_all_it_knows() -> None:
    from starlette.routing import Route

    async def endpoint(request: Any) -> Any:
        raise VersionConflict("a is at 3", hint="read it again", conflicts={})

    answer = await ask(context(), "/x", "GET", Route("/x", endpoint))
    assert answer.status == 409
    assert answer.json["title"] == "VersionConflict"
    assert (answer.json["detail"], answer.json["hint"], answer.json["code"]) == (
        "a is at 3",
        "read it again",
        12,
    )


async def test_a_bug_is_a_problem_that_tells_nothing_and_is_logged() -> None:
    from starlette.routing import Route

    async def endpoint(request: Any) -> Any:
        raise ValueError("hunter2")

    lines: list[bytes] = []
    given = context(lines=lines)
    answer = await ask(given, "/x", "GET", Route("/x", endpoint))
    given.log.close()
    assert (answer.status, "hunter2" in str(answer.json)) == (500, False)
    told = json.loads(lines[0])
    assert (told["event"], told["error"]) == ("bug", "ValueError")
    assert "in endpoint" in told["frames"][-1]
    assert b"hunter2" not in b"".join(lines)


async def test_the_log_tells_a_request_and_no_secret() -> None:
    lines: list[bytes] = []
    given = context(lines=lines, options=ServeOptions(access_log="all"))
    headers = [(b"authorization", b"Bearer hunter2")]
    await ask(given, "/healthz", query_string=b"token=hunter2", headers=headers)
    given.log.close()
    (line,) = map(json.loads, lines)
    assert (line["event"], line["method"], line["path"], line["status"]) == (
        "request",
        "GET",
        "/healthz",
        200,
    )
    assert "hunter2" not in str(line)


async def test_a_line_of_the_log_stays_short() -> None:
    lines: list[bytes] = []
    given = context(lines=lines)
    await ask(given, "/" + "\x01" * 16_000)
    given.log.close()
    (line,) = lines
    assert json.loads(line)["status"] == 404
    assert len(line) < 10_000


@pytest.mark.parametrize(("level", "told"), [("none", []), ("errors", [404]), ("all", [503, 404])])
async def test_how_much_is_logged(level: Any, told: list[int]) -> None:
    lines: list[bytes] = []
    state = FakeState(healthy(ok=False))
    given = context(state, lines=lines, options=ServeOptions(access_log=level))
    await ask(given, "/healthz")
    await ask(given, "/nothing")
    given.log.close()
    assert [json.loads(line)["status"] for line in lines] == told


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_bug() -> None:
    from starlette.requests import ClientDisconnect, Request
    from starlette.routing import Route

    async def endpoint(request: Request) -> Any:
        raise ClientDisconnect

    lines: list[bytes] = []
    given = context(lines=lines)
    assert (await ask(given, "/x", "GET", Route("/x", endpoint))).status == 400
    given.log.close()
    assert [json.loads(line)["event"] for line in lines] == ["request"]
