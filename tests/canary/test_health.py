"""A /healthz as a source: 200 and 503 are answers, a proof is told once, and silence is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from canary.answering import Answer, Site as Server, answering, as_json
from somactl.core.canary_samples import AnySample, Degradation, Doubt, Proof
from somactl.operations.canary.health import Health
from somactl.operations.canary.http import Site

NOW = 1_700_000_100.0


def health(*, ok: bool = True, degraded: bool = False, **rho: Any) -> dict[str, Any]:
    found = {"psd_ok": True, "trace_error": 1e-9, "age_seconds": 2.0, **rho}
    return {
        "ok": ok,
        "degraded": degraded,
        "rho": found,
        "prover": {"state": "running"},
        "started_at": 0,
        "a-field-of-later": 1,
    }


@pytest.fixture
def server() -> Iterator[Server]:
    with answering(lambda path: as_json(health())) as site:
        yield site


def source(server: Server, namespace: str | None = None, patience: float = 0.2) -> Health:
    site = Site(f"{server.url}/healthz", "`x`", from_environment=False, patience=patience)
    return Health("candidate", site, namespace)


async def told(server: Server, answer: Answer) -> list[AnySample]:
    server.answers = lambda path: answer
    return await source(server).look(NOW)


def proof(psd: Any, **more: Any) -> Proof:
    return Proof(t=NOW - 2.0, arm="candidate", psd=psd, **more)


async def test_a_proof_has_the_time_at_which_its_state_was_read(server: Server) -> None:
    assert await source(server, "other").look(NOW) == [
        proof("valid", trace_error=1e-9),
        Degradation(t=NOW, arm="candidate", on=False),
    ]
    assert server.asked == ["/healthz?namespace=other"]


async def test_a_proof_that_is_repeated_is_no_other_one(server: Server) -> None:
    one = source(server)
    counts = []
    for later in (0.0, 10.0, 20.0):
        age = 2.0 + later if later < 20.0 else 1.0
        server.answers = lambda path, age=age: as_json(health(age_seconds=age))  # type: ignore[misc]
        counts.append(sum(isinstance(each, Proof) for each in await one.look(NOW + later)))
    assert counts == [1, 0, 1]


FOUND: dict[str, tuple[dict[str, Any], list[Proof]]] = {
    "violated": (
        {
            "psd_ok": False,
            "findings": [
                {"key": "a", "outcome": "violated", "store": "sqlite", "trace_error": 0.5},
                {"key": "b", "outcome": "corrupt", "store": "cache"},
                {"key": "c", "outcome": "undecided", "store": "sqlite"},
                {"key": "d", "outcome": "unreadable", "store": "sqlite"},
            ],
        },
        [
            proof("violated", trace_error=0.5, key="a"),
            proof("violated", key="b"),
            proof("undecided", key="c"),
        ],
    ),
    "violated, and not said where": ({"psd_ok": False}, [proof("violated")]),
    "not known": ({"psd_ok": None}, []),
    "nothing proven yet": ({"psd_ok": None, "age_seconds": None}, []),
    "clampable": (
        {"psd_ok": True, "findings": [{"key": "a", "outcome": "clampable", "store": "sqlite"}]},
        [proof("clampable", key="a"), proof("valid", trace_error=1e-9)],
    ),
}


@pytest.mark.parametrize("case", FOUND)
async def test_a_503_that_is_health_is_an_answer(case: str, server: Server) -> None:
    rho, proofs = FOUND[case]
    found = await told(server, as_json(health(ok=False, degraded=True, **rho), 503))
    assert found == [*proofs, Degradation(t=NOW, arm="candidate", on=True)]


NO_HEALTH: dict[str, tuple[Answer, str, str]] = {
    "503 of a balancer": ((503, b"no healthy upstream"), "unreachable", "503: no healthy upstream"),
    "500": ((500, b""), "unreachable", "answers 500"),
    "404": ((404, b"not found"), "refused", "404: not found"),
    "401": (as_json({"title": "no"}, 401), "refused", "answers 401"),
    "a page": ((200, b"<html>hello"), "unreadable", "answers no health: <html>hello"),
    "nothing": ((200, b""), "unreadable", "answers no health: nothing"),
    "other JSON": (as_json({"status": "ok"}), "unreadable", 'answers no health: {"status": "ok"}'),
    "half an answer": ((200, json.dumps(health()).encode()[:-9]), "unreadable", "answers no health"),
    "no word": ((0, b""), "unreachable", "127.0.0.1"),
}


@pytest.mark.parametrize("case", NO_HEALTH)
async def test_what_is_no_health_is_named(case: str, server: Server) -> None:
    answer, what, detail = NO_HEALTH[case]
    (doubt,) = await told(server, answer)
    assert isinstance(doubt, Doubt)
    assert (doubt.what, detail in doubt.detail) == (what, True), doubt


async def test_one_answer_that_is_lost_is_asked_for_again(server: Server) -> None:
    lost = [True]
    server.answers = lambda path: (0, b"") if lost and lost.pop() else as_json(health())
    found = await source(server, patience=20.0).look(NOW)
    assert [type(each) for each in found] == [Proof, Degradation]
    assert len(server.asked) == 2
