"""The application does what its OpenAPI description says, whatever is sent to it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from somactl.config import Settings
from somactl.runtime import Server, open_store
from somactl.serve import http, openapi, rest
from somactl.serve.access import Access
from somactl.serve.doors import Doors
from somactl.serve.openapi import PROBLEM
from somactl.serve.values import ENVELOPE, JSON, OCTETS
from somactl.testing.values import put
from support.doors import TOKENS, put_rho
from support.serving import FakeState, context

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 50 if os.environ.get("SOMACTL_TEST_NIGHT") else 5
NOT_HELD = [
    ignored_auth,  # reads are open to callers of this machine; test_rest.py holds who else is let in
    positive_data_acceptance,  # what a schema cannot say is refused with 400: two goals, a time that is none
]


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The whole application on SQLite, with some values and an order that is done."""
    folder = tmp_path_factory.mktemp("openapi")
    store = Settings(store=f"sqlite:///{folder / 'store.db'}")
    tokens = folder / "tokens"
    tokens.write_text(TOKENS + f"tester read,prune {BOTH}\n")
    tokens.chmod(0o600)
    given = context(FakeState())
    server = Server(store)
    doors = Doors(server, ["default"], Access.open(str(tokens), given.log), given.log)
    given.doors = doors

    async def fill() -> None:
        async with open_store(store) as opened:
            await put_rho(opened, "a", "0")
            await put(opened, "0/0", "b c")

    asyncio.run(fill())
    yield http.app(given, rest.routes(given))
    asyncio.run(server.close())
    given.log.close()


BOTH = "tester-0123456789abcdef"


OPERATIONS = {
    (path, method): each[method] for path, each in openapi.document()["paths"].items() for method in each
}
GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CASES = [
    pytest.param(path, method, mode, id=f"{method} {path} {mode.value}")
    for (path, method), operation in OPERATIONS.items()
    for mode in ([GOOD, BAD] if "parameters" in operation else [GOOD])
]


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_every_answer_is_as_described(application: Any, path: str, method: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_asgi("/openapi.json", application)[path][method.upper()]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES if "parameters" in OPERATIONS[path, method] else 1)
    def run(case: Any) -> None:
        checked(case)

    run()


def checked(case: Any, **headers: str) -> tuple[int, str]:
    """Status and kind of an answer that is as described."""
    headers = {"Authorization": f"Bearer {BOTH}"} | {
        name.replace("_", "-").title(): value for name, value in headers.items()
    }
    answer = case.call_and_validate(headers=headers, excluded_checks=NOT_HELD)
    return answer.status_code, answer.headers.get("content-type", [""])[0]


def test_every_good_answer_is_as_described(application: Any) -> None:
    """Which what is sent at random seldom gets."""
    described = schemathesis.openapi.from_asgi("/openapi.json", application)
    rho, orders = described["/v1/rho/{key}"], described["/v1/prune-orders"]["POST"]
    status = described["/v1/prune-orders/{order_id}"]
    for key, kind in (("a", ENVELOPE), ("0/0", OCTETS), ("b c", JSON), ("0", JSON)):
        value = {"path_parameters": {"key": key}}
        assert checked(rho["GET"].Case(**value), accept=kind) == (200, kind)
        assert checked(rho["HEAD"].Case(**value), accept=kind)[0] == 200
        assert checked(rho["GET"].Case(**value), if_none_match="*")[0] == 304
        assert checked(rho["GET"].Case(**value), accept="text/html") == (406, PROBLEM)

    def sent(**query: Any) -> int:
        return checked(orders.Case(query=query, body=["a", "absent"], media_type=JSON))[0]

    assert sent(dry_run="true") == 200
    assert sent(order_id="n-1", keep=1) == 200
    assert sent(order_id="n-1") == 422
    plain = {"body": "b c\n", "media_type": "text/plain"}
    assert checked(orders.Case(query={"order_id": "n-2"}, **plain)) == (200, JSON)
    assert checked(orders.Case(query={"order_id": "n-3"}, **plain), prefer="wait=0")[0] in (200, 202)
    for method in ("GET", "HEAD"):
        assert checked(status[method].Case(path_parameters={"order_id": "n-1"}))[0] == 200
        assert checked(status[method].Case(path_parameters={"order_id": "n-0"}))[0] == 404


def test_every_path_is_described(application: Any) -> None:
    starlette = application
    while not hasattr(starlette, "routes"):
        starlette = starlette._inner
    served = {
        (route.path.replace("{key:path}", "{key}"), method.lower())
        for route in starlette.routes
        for method in route.methods
    }
    bare = {(path, "head") for path in ("/healthz", "/livez", "/readyz", "/metrics", "/openapi.json")}
    assert set(OPERATIONS) == served - bare


def test_it_is_the_page_that_is_checked_in() -> None:
    assert (ROOT / "schemas/openapi.json").read_bytes() == openapi.text()
    assert json.loads(openapi.text())["openapi"] == "3.1.0"
