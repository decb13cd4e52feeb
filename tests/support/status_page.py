"""Status pages of states that are fed by hand, served as `somactl serve` does, to a browser or to a test.

scene = Scene(namespaces=("default",)); scene.day("a"); scene.html()
with serving(scene.page) as url: ...
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from somactl.report.pushing import BacklogView, CountsView, LedgerView
from somactl.serve.history import BUCKET_SECONDS, BUCKETS
from somactl.serve.model import (
    CACHE,
    Extras,
    Found,
    Hello,
    Listed,
    Outcome,
    Proof,
    Round,
    Service,
    Services,
    WatchOptions,
)
from somactl.serve.page import StatusPage
from somactl.serve.state import State

INCARNATION = "6f0c1b9a4e7d4c53"
AN_AFTERNOON = 1_796_000_000.0 + 52_000
RLO, BELL = "\N{RIGHT-TO-LEFT OVERRIDE}", "\x07"
HOSTILE = (
    "<script>document.title = 'ran'</script>",
    "\"><img src=x onerror=alert(1)><b title='",
    "</title></style></table></svg><h1>mine</h1>",
    "&lt;already&gt; &amp; 'quoted'",
    f"invoice{RLO}fdp.exe",
    "\u05e9\u05dc\u05d5\u05dd:(9.0, 14.0)",  # Hebrew
    "a" + "\N{COMBINING ACUTE ACCENT}" * 400,
    "x" * 1024,
    "two  spaces and a \N{NO-BREAK SPACE} and \N{ZERO WIDTH SPACE}nothing",
    "\N{GRINNING FACE}" * 256,
    "{{ 7 * 7 }} ${x} %s {0}",
)


@dataclass
class Clock:
    now: float = 500_000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A state, its clock, and the page of it."""

    def __init__(self, *namespaces: str, **options: Any) -> None:
        self.clock = Clock()
        self.names = namespaces or ("default",)
        wall: Callable[[], float] = lambda: self.clock.now - 500_000.0 + AN_AFTERNOON  # noqa: E731
        watched = WatchOptions(namespaces=self.names, **options)
        self.state = State(watched, clock=self.clock, wall=wall)
        self.page = StatusPage(self.state, clock=self.clock, wall=wall)
        self.wall = wall
        self.state.take(Hello())

    def html(self, *, still: bool = False) -> str:
        self.clock.now += 2  # so that it is made anew
        return bytes(asyncio.run(self.page.answer(still=still)).body).decode()

    def services(self, namespace: str = "", *, authority: bool = True, cache: bool = True) -> None:
        both = [
            Service("postgres", authority, None if authority else "connection refused"),
            Service(CACHE, cache, None if cache else "does not answer within 20 ms"),
        ]
        self.state.take(Services(namespace or self.names[0], both))

    def listed(self, *keys: str, namespace: str = "") -> None:
        self.state.take(
            Listed(
                namespace=namespace or self.names[0],
                incarnation=INCARNATION,
                at=self.clock.now,
                begin=True,
                new=list(keys),
                end=True,
            )
        )

    def found(
        self,
        outcome: Outcome,
        *keys: str,
        store: str = "postgres",
        bound: float | None = -1.4e-12,
        trace: float | None = 2.2e-16,
        namespace: str = "",
        reasons: tuple[str, ...] = (),
        dark: bool = False,
    ) -> None:
        proofs = [
            Proof(key, outcome, 40 + number % 7, trace, bound, reasons, dark)
            for number, key in enumerate(keys)
        ]
        self.state.take(
            Found(
                namespace=namespace or self.names[0],
                store=store,
                incarnation=INCARNATION,
                read_at=self.clock.now,
                version=1042,
                proofs=proofs,
            )
        )

    def ended(self, namespace: str = "", reads: tuple[float, ...] = ()) -> None:
        self.state.take(Round(namespace=namespace or self.names[0], seconds=0.42, reads=list(reads)))

    def extras(self, namespace: str = "", **more: Any) -> None:
        told: dict[str, Any] = {
            "version": 1043,
            "counts": CountsView(version=1043, keys=12_000, tombstones=3, stored_bytes=10**9),
            "ledger": LedgerView(
                known_bad=0, oldest_read_at=self.wall() - 200_000, share_read=0.984, cycle_seconds=259_200.0
            ),
            "last_audit_at": self.wall() - 41_000,
            "events": BacklogView(publishing=True, backlog=3, oldest_at=self.wall() - 2.0),
        }
        name = namespace or self.names[0]
        self.state.take(Extras(namespace=name, at=self.wall(), **{**told, **more}))

    def day(self, *keys: str, namespace: str = "", every: int = 1) -> None:
        """A day in which each key was proven in each bucket, with a gap of an hour, and noise."""
        self.listed(*keys, namespace=namespace)
        end = self.clock.now
        for bucket in range(-BUCKETS + 1, 1, every):
            if -100 < bucket < -88:
                continue
            self.clock.now = end + bucket * BUCKET_SECONDS
            for number, key in enumerate(keys):
                wave = math.sin(bucket / 17 + number) + 0.4 * math.sin(bucket * 1.7 + 3 * number)
                self.found(
                    "valid",
                    key,
                    bound=-1.4e-12 * 4**wave,
                    trace=10 ** (-15.5 + wave) if number % 3 else 0.0,
                    namespace=namespace,
                )
        self.clock.now = end
        self.whole(*keys, namespace=namespace)

    def whole(self, *keys: str, namespace: str = "") -> None:
        """A round in which all is well."""
        self.listed(*keys, namespace=namespace)
        self.found("valid", *keys, namespace=namespace)
        self.ended(namespace, reads=tuple(0.0004 * (1 + each % 19) for each in range(190)))


@contextmanager
def serving(page: StatusPage) -> Iterator[str]:
    """The URL of the page, with the headers that it has."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path in ("/", "/?refresh=off")
            answer = asyncio.run(page.answer(still=self.path.endswith("off")))
            self.send_response(200 if known else 404)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(bytes(answer.body))

        def log_message(self, *what: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
