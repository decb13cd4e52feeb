"""Prometheus as a source: what a server says, and every way in which it says nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from canary.answering import Answer, Site as Server, answering, as_json, query_of
from servers.prometheus import Prometheus as Real, Pushgateway
from somactl.core.canary_samples import AnySample, Buckets, Counts, Degradation, Doubt, Proof, in_order
from somactl.core.canary_spec import Arm
from somactl.core.canary_spec_file import read_spec
from somactl.errors import ConfigurationError
from somactl.operations.canary.http import Site
from somactl.operations.canary.prometheus import BACK_SECONDS, EMPTY_SECONDS, Prometheus, selector
from support.judging import judge_all
from tests.canary.fakes import START

Points = list[tuple[float, str]]


class Scraped:
    """The answers of a Prometheus that has scraped these series: {name: [(labels, points)]}."""

    def __init__(self) -> None:
        self.series: dict[str, list[tuple[dict[str, str], Points]]] = {}
        self.now = START + 100.0
        self.warnings: list[str] = []

    def add(self, name: str, points: dict[float, Any], **labels: str) -> None:
        told = [(START + t, str(value)) for t, value in points.items()]
        self.series.setdefault(name, []).append(({"instance": "a", **labels}, told))

    def histogram(self, name: str, counts: dict[float, dict[str, int]], **labels: str) -> None:
        """counts: time -> edge -> how many are up to it."""
        for le in next(iter(counts.values())):
            self.add(f"{name}_bucket", {t: by[le] for t, by in counts.items()}, le=le, **labels)

    def __call__(self, path: str) -> Answer:
        query = query_of(path)
        if query == "time()":
            return as_json(answer("scalar", [self.now, str(self.now)]))
        if query.startswith("count("):
            name = query.removeprefix("count(").partition("{")[0].rstrip(")")
            found = [{"metric": {}, "value": [self.now, "1"]}] if name in self.series else []
            return as_json(answer("vector", found))
        name = query.partition("{" if "{" in query else "[")[0]
        wanted = "status" if "status=" in query else None
        found = [
            {"metric": {"__name__": name, **labels}, "values": points}
            for labels, points in self.series.get(name, [])
            if wanted is None or wanted in labels
        ]
        return as_json({**answer("matrix", found), "warnings": self.warnings})


def answer(kind: str, result: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": result}}


@pytest.fixture
def scraped() -> Scraped:
    return Scraped()


@pytest.fixture
def server(scraped: Scraped) -> Iterator[Server]:
    with answering(scraped) as site:
        yield site


def source(server: Server, patience: float = 0.2, start: float = START, **arm: str) -> Prometheus:
    site = Site(server.url, "`arms.candidate.url`", from_environment=False, patience=patience)
    made = Prometheus("candidate", site, Arm(source="prometheus", **arm), 1000.0, lambda: START + 100.0)
    made.start = start
    return made


async def told(server: Server, now: float = START + 100.0, **arm: str) -> list[AnySample]:
    return await source(server, **arm).look(now)


def kinds(samples: list[AnySample]) -> list[str]:
    return [each.what if isinstance(each, Doubt) else type(each).__name__ for each in samples]


async def test_a_histogram_grows_from_scrape_to_scrape(scraped: Scraped, server: Server) -> None:
    scraped.histogram(
        "rho_seconds",
        {
            -5: {"0.01": 100, "0.06": 110, "+Inf": 111},
            10: {"0.01": 104, "0.06": 117, "+Inf": 118},
            20: {"0.01": 104, "0.06": 117, "+Inf": 120},
        },
    )
    assert await told(server, latency="rho_seconds") == [
        Buckets(t=START + 10, arm="candidate", edges=[0.01, 0.06], counts=[4, 3, 0]),
        Buckets(t=START + 20, arm="candidate", edges=[0.01, 0.06], counts=[0, 0, 2]),
    ]


async def test_each_scrape_is_told_once_by_whichever_process(scraped: Scraped, server: Server) -> None:
    scraped.add("all", {-5: 10, 10: 12})
    scraped.add("bad", {-5: 1, 10: 2})
    one = source(server, requests="all", errors="bad")
    assert await one.look(START + 15) == [Counts(t=START + 10, arm="candidate", of="errors", bad=1, total=2)]
    scraped.series.clear()
    scraped.add("all", {-5: 10, 10: 12, 20: 15})
    scraped.add("bad", {-5: 1, 10: 2, 20: 2})
    other = source(server, requests="all", errors="bad")
    other.cursor = dict(one.cursor)  # as it was kept
    for each in (one, other):
        assert await each.look(START + 25) == [
            Counts(t=START + 20, arm="candidate", of="errors", bad=0, total=3)
        ]
        assert await each.look(START + 25) == []


async def test_a_look_asks_for_what_is_new_however_long_the_window(scraped: Scraped, server: Server) -> None:
    for name in ("all", "bad"):
        scraped.add(name, {t: t for t in range(0, 3601, 10)})
    one = source(server, requests="all", errors="bad")
    await one.look(START + 3600)
    server.asked.clear()
    await one.look(START + 3610)
    asked = [int(found[1]) for path in server.asked if (found := re.search(r"\[(\d+)s\]", query_of(path)))]
    assert len(asked) == 2
    assert max(asked) <= BACK_SECONDS + 20


async def test_targets_are_told_apart_and_a_new_one_begins_with_its_first_scrape(
    scraped: Scraped, server: Server
) -> None:
    scraped.add("all", {0: 10, 10: 12}, instance="a")
    scraped.add("all", {10: 5000, 20: 5001}, instance="b")
    scraped.add("bad", {0: 0, 10: 0}, instance="a")
    assert [
        (each.t - START, each.total)
        for each in await told(server, requests="all", errors="bad")
        if isinstance(each, Counts)
    ] == [(10, 2), (20, 1)]


async def test_the_first_error_of_a_process_is_counted(scraped: Scraped, server: Server) -> None:
    scraped.add("all", {0: 10, 10: 20, 20: 30})
    scraped.add("bad", {20: 4}, code="500")
    found = await told(server, requests="all", errors="bad")
    assert [(each.bad, each.total) for each in found if isinstance(each, Counts)] == [(0, 10), (4, 10)]


async def test_none_that_failed_is_told_from_a_name_that_is_wrong(scraped: Scraped, server: Server) -> None:
    scraped.add("http_requests_total", {0: 10, 10: 20})
    some = 'http_requests_total{status=~"5.."}'
    assert kinds(await told(server, requests="http_requests_total", errors=some)) == ["Counts"]
    wrong = 'http_request_total{status=~"5.."}'
    assert "no-series" in kinds(await told(server, requests="http_requests_total", errors=wrong))


async def test_gauges_are_proofs_of_the_scrape_alone(scraped: Scraped, server: Server) -> None:
    scraped.add("psd_ok", {-1: 1, 10: 1, 20: 0})
    scraped.add("trace", {-1: 0, 10: 1e-9, 20: 0.5})
    scraped.add("degraded", {10: 0, 20: 1})
    assert await told(server, psd="psd_ok", trace_error="trace", degraded="degraded") == [
        Proof(t=START + 10, arm="candidate", psd="valid", trace_error=1e-9),
        Degradation(t=START + 10, arm="candidate", on=False),
        Proof(t=START + 20, arm="candidate", psd="violated", trace_error=0.5),
        Degradation(t=START + 20, arm="candidate", on=True),
    ]


BAD: dict[str, tuple[Callable[[Scraped], object], str, str]] = {
    "a counter that was reset": (
        lambda s: (s.add("all", {0: 10, 10: 3}), s.add("bad", {0: 0, 10: 0})),
        "counter-reset",
        "it fell from 10 to 3",
    ),
    "a bucket that was reset": (
        lambda s: s.histogram("h", {0: {"0.1": 9, "+Inf": 9}, 10: {"0.1": 2, "+Inf": 2}}),
        "counter-reset",
        "it fell from 9 to 2",
    ),
    "a counter that is NaN": (
        lambda s: (s.add("all", {0: 10, 10: "NaN"}), s.add("bad", {0: 0, 10: 0})),
        "rejected",
        "nan",
    ),
    "a counter that is infinite": (
        lambda s: (s.add("all", {0: 10, 10: "+Inf"}), s.add("bad", {0: 0, 10: 0})),
        "rejected",
        "inf",
    ),
    "a rate for a counter": (
        lambda s: (s.add("all", {0: 10, 10: 10.5}), s.add("bad", {0: 0, 10: 0})),
        "rejected",
        "no count",
    ),
    "a gauge that is NaN": (lambda s: s.add("psd", {10: "NaN"}), "rejected", "psd is nan"),
    "a degraded mode that is NaN": (lambda s: s.add("deg", {10: "NaN"}), "rejected", "deg is nan"),
    "a histogram without a bucket for all": (
        lambda s: s.histogram("h", {0: {"0.1": 9}, 10: {"0.1": 12}}),
        "unreadable",
        "no histogram",
    ),
    "buckets that are not cumulative": (
        lambda s: s.histogram("h", {0: {"0.1": 0, "+Inf": 0}, 10: {"0.1": 5, "+Inf": 2}}),
        "unreadable",
        "less than the one below",
    ),
    "a clock that is behind": (lambda s: setattr(s, "now", START + 63.0), "clocks", "37 s behind"),
    "a clock that is ahead": (lambda s: setattr(s, "now", START + 137.0), "clocks", "37 s ahead"),
    "a value that is no number": (lambda s: s.add("psd", {10: "one"}), "unreadable", "form of result"),
    "part of the answer alone": (
        lambda s: s.warnings.append("store b did not answer"),
        "unreadable",
        "store b did not answer",
    ),
    "no series": (lambda s: None, "no-series", "has nothing for all"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_no_sample_is_named_and_no_pass(case: str, scraped: Scraped, server: Server) -> None:
    make, what, detail = BAD[case]
    make(scraped)
    names = {"requests": "all", "errors": "bad", "latency": "h", "psd": "psd", "degraded": "deg"}
    found = [
        each
        for each in await told(server, START + 100, **names)
        if isinstance(each, Doubt) and each.what == what and detail in each.detail
    ]
    assert found, await told(server, START + 100, **names)
    verdict = judge_all(read_spec(SPEC, "canary.yaml"), in_order([*others(), *found]))
    assert verdict.outcome == "INSUFFICIENT"
    assert detail in verdict.first_line()


SPEC = """
version: 1
window: 100s
arms: {baseline: {source: samples, file: x}, candidate: {source: samples, file: x}}
criteria: {invariants: {violations: 0}}
"""


def others() -> list[AnySample]:
    """What would pass."""
    return [
        Proof(t=START + t, arm=arm, psd="valid", trace_error=0.0)
        for t in range(0, 101, 2)
        for arm in ("baseline", "candidate")
    ]


def test_the_others_would_pass() -> None:
    assert judge_all(read_spec(SPEC, "canary.yaml"), in_order(others())).outcome == "PASS"


ERRORS: dict[str, tuple[Answer, str, str]] = {
    "500": ((500, b"boom"), "unreachable", "answers 500: boom"),
    "503 of Prometheus": (
        as_json({"status": "error", "errorType": "timeout", "error": "query timed out"}, 503),
        "unreachable",
        "answers 503: timeout: query timed out",
    ),
    "422": (
        as_json({"status": "error", "errorType": "execution", "error": "too many samples"}, 422),
        "refused",
        "answers 422: execution: too many samples",
    ),
    "400": (
        as_json({"status": "error", "errorType": "bad_data", "error": "parse error"}, 400),
        "refused",
        "answers 400: bad_data: parse error",
    ),
    "404 of something else": ((404, b"<h1>not here</h1>"), "refused", "answers 404: <h1>not here</h1>"),
    "301": ((301, b""), "unreadable", "answers 301"),
    "text": ((200, b"<html>welcome</html>"), "unreadable", "answers <html>welcome</html>"),
    "nothing": ((200, b""), "unreadable", "answers nothing"),
    "an error with 200": (
        as_json({"status": "error", "errorType": "internal", "error": "oops"}),
        "unreadable",
        "internal: oops",
    ),
    "success without data": (as_json({"status": "success"}), "unreadable", "without data"),
    "another form": (as_json(answer("matrix", [{"metric": 1}])), "unreadable", "form of result"),
    "no word": ((0, b""), "unreachable", "127.0.0.1"),
}


@pytest.mark.parametrize("case", ERRORS)
async def test_every_error_of_the_server_is_told_apart(case: str, scraped: Scraped, server: Server) -> None:
    answer, what, detail = ERRORS[case]
    server.answers = lambda path: answer if query_of(path) != "time()" else scraped(path)
    (doubt,) = await told(server, psd="psd")
    assert isinstance(doubt, Doubt)
    assert (doubt.what, detail in doubt.detail) == (what, True), doubt
    asked = sum(query_of(path) != "time()" for path in server.asked)
    assert asked == 1 or what != "refused"  # which is not asked again


async def test_a_server_that_comes_back_in_time_is_no_trouble(scraped: Scraped, server: Server) -> None:
    scraped.add("psd", {10: 1})
    down = [True]

    def answers(path: str) -> Answer:
        return (502, b"bad gateway") if down and down.pop() else scraped(path)

    server.answers = answers
    found = await source(server, patience=10.0, psd="psd").look(START + 100)
    assert kinds(found) == ["Proof"]


async def test_a_server_that_is_not_there_is_named(server: Server) -> None:
    gone = Server(lambda path: (200, b""))
    gone.url = "http://127.0.0.1:1"
    (doubt,) = await told(gone, psd="psd")
    assert isinstance(doubt, Doubt)
    assert (doubt.what, "refused" in doubt.detail) == ("unreachable", True)


async def test_a_metric_may_come_late_and_no_later(scraped: Scraped, server: Server) -> None:
    one = source(server, psd="psd")
    assert await one.look(START + EMPTY_SECONDS - 1) == []
    assert kinds(await one.look(START + EMPTY_SECONDS)) == ["no-series"]
    scraped.add("psd", {70: 1})
    assert kinds(await one.look(START + 80)) == ["Proof"]
    scraped.series.clear()  # a gap, which the criterion names
    assert await one.look(START + 90) == []


async def test_a_login_from_the_environment_goes_along_and_is_not_told(server: Server) -> None:
    url = server.url.replace("http://", "http://me:s%40crit@")
    site = Site(url, "`x`", from_environment=True, patience=0.1)
    await site.ask("/api/v1/query?query=1", lambda status, body: status)
    assert server.headers[0]["Authorization"] == "Basic bWU6c0Bjcml0"
    assert "crit" not in str(site.address)


@pytest.mark.parametrize(
    ("metric", "match", "selects"),
    [
        ("m", None, "m"),
        ("m", 'version="2"', 'm{version="2"}'),
        ("m", '{version="2"}', 'm{version="2"}'),
        ('m{a="1"}', 'version="2"', 'm{a="1",version="2"}'),
        ("m{}", None, "m"),
    ],
)
def test_a_metric_is_selected_by_its_labels(metric: str, match: str | None, selects: str) -> None:
    assert selector(metric, match) == selects
    assert selector(metric, match, "_bucket") == selects.replace("m", "m_bucket", 1)


@pytest.mark.parametrize("metric", ["rate(m[5m])", "m or vector(0)", "1m", "m{"])
def test_what_is_no_metric_is_refused(metric: str) -> None:
    with pytest.raises(ConfigurationError, match="no metric"):
        selector(metric, None)


def test_a_trace_error_without_what_it_is_of_is_refused(server: Server) -> None:
    with pytest.raises(ConfigurationError, match="goes with psd"):
        source(server, trace_error="trace")


def pushed(arm: str, requests: int, slow: int) -> str:
    fast = requests - slow
    return (
        "# TYPE req_seconds histogram\n"
        f'req_seconds_bucket{{arm="{arm}",le="0.06"}} {fast}\n'
        f'req_seconds_bucket{{arm="{arm}",le="+Inf"}} {requests}\n'
        f'req_seconds_sum{{arm="{arm}"}} {requests * 0.01}\n'
        f'req_seconds_count{{arm="{arm}"}} {requests}\n'
        "# TYPE rho_ok gauge\n"
        f'rho_ok{{arm="{arm}"}} 1\n'
    )


async def test_a_real_prometheus_tells_what_it_scraped(prometheus: Real, pushgateway: Pushgateway) -> None:
    """Each push is awaited until it was scraped; a scrape between two of them tells that nothing grew."""
    import urllib.request

    site = Site(prometheus.url, "`x`", from_environment=False)
    arm = Arm(source="prometheus", match='arm="candidate"', latency="req_seconds", psd="rho_ok")
    began = time.time()
    one = Prometheus("candidate", site, arm, 600.0, time.time)
    found: list[AnySample] = []
    for step in range(3):
        for name, slow in (("candidate", 10 * step), ("other", 500 * step)):
            request = urllib.request.Request(
                f"{pushgateway.url}/metrics/job/canary/arm/{name}",
                data=pushed(name, 1000 + 100 * step, slow).encode(),
                method="POST",
            )
            urllib.request.urlopen(request, timeout=30).close()
        prometheus.settle()
        if not step:
            one.start = time.time()
        found += await one.look(time.time())
    buckets = [each for each in found if isinstance(each, Buckets)]
    assert {tuple(each.edges) for each in buckets} == {(0.06,)}
    assert [sum(each.counts[i] for each in buckets) for i in (0, 1)] == [180, 20]
    assert {each.psd for each in found if isinstance(each, Proof)} == {"valid"}
    assert all(began - 1 < each.t <= time.time() for each in found)
    assert not [each for each in found if isinstance(each, Doubt)]


async def test_a_real_prometheus_refuses_what_it_does_not_understand(prometheus: Real) -> None:
    site = Site(prometheus.url, "`x`", from_environment=False)
    arm = Arm(source="prometheus", match="arm=~'('", psd="rho_ok")
    one = Prometheus("candidate", site, arm, 600.0, time.time)
    one.start = time.time()
    (doubt,) = await one.look(time.time())
    assert isinstance(doubt, Doubt)
    assert (doubt.what, "bad_data" in doubt.detail) == ("refused", True)
