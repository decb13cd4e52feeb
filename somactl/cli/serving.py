"""The options of `somactl serve`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import typer

from somactl.cli.quantities import parse_duration, parse_size
from somactl.errors import UsageError
from somactl.serve.context import Address, Limits, ServeOptions, Tls
from somactl.suggestion import again

_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s\[\]:/@]+)):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Watching:
    """What is proven, and how old a proof may be."""

    PANEL: ClassVar[str] = "What is watched"

    watch: Annotated[
        list[str],
        typer.Option(metavar="PATTERN", help="Keys that are proven; may be repeated.", show_default="*"),
    ] = field(default_factory=lambda: ["*"])
    interval: Annotated[str, typer.Option(metavar="TIME", help="How often.")] = "5s"
    stale_after: Annotated[
        str, typer.Option(metavar="TIME", help="From what age on a proof makes health degraded.")
    ] = "30s"
    dead_after: Annotated[
        str, typer.Option(metavar="TIME", help="From what age on it makes health not ok.")
    ] = "5m"

    def times(self) -> tuple[float, float, float]:
        """Seconds: interval, stale, dead. Raises UsageError."""
        interval = parse_duration(self.interval, "--interval")
        stale = parse_duration(self.stale_after, "--stale-after")
        dead = parse_duration(self.dead_after, "--dead-after")
        if not 0.1 <= interval <= 3600:
            raise UsageError("--interval is from 100ms to 1h", next=again(interval="5s"))
        if not interval < stale < dead:
            raise UsageError(
                "--interval must be less than --stale-after, and that less than --dead-after",
                next=again(interval=None, stale_after=None, dead_after=None),
            )
        return interval, stale, dead


@dataclass(frozen=True, slots=True)
class Listening:
    """Where it listens, and who may come."""

    PANEL: ClassVar[str] = "Where it is served, and to whom"

    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0: one that is free.")] = (
        "127.0.0.1:8080"
    )
    grpc: Annotated[str, typer.Option(metavar="HOST:PORT|off", help="The same.")] = "127.0.0.1:8081"
    tls_cert: Annotated[
        str | None, typer.Option("--tls-cert", metavar="FILE", help="The server's certificate, PEM.")
    ] = None
    tls_key: Annotated[str | None, typer.Option("--tls-key", metavar="FILE", help="Its key, PEM.")] = None
    tls_client_ca: Annotated[
        str | None,
        typer.Option("--tls-client-ca", metavar="FILE", help="Whose certificates make a caller known, PEM."),
    ] = None
    allow_plaintext: Annotated[
        bool, typer.Option("--allow-plaintext", help="Without TLS also where other machines reach it.")
    ] = False
    tokens: Annotated[
        str | None, typer.Option(metavar="FILE", help="Who may read values and prune, and with what token.")
    ] = None


@dataclass(frozen=True, slots=True)
class Manners:
    """How it treats its clients, and how it ends."""

    PANEL: ClassVar[str] = "Limits, and the end"

    max_connections: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="HTTP connections at once.")
    ] = Limits.connections
    max_requests: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=10_000, help="Requests under way, but for those about health."),
    ] = Limits.requests
    max_body: Annotated[str, typer.Option(metavar="SIZE", help="Bytes that a request may bring.")] = "4MiB"
    access_log: Annotated[
        Literal["none", "errors", "all"], typer.Option(help="Which requests have a line on stderr.")
    ] = "errors"
    grace: Annotated[str, typer.Option(metavar="TIME", help="From a signal to the end, at most.")] = "30s"
    pause: Annotated[
        str, typer.Option(metavar="TIME", help="Of these, how long it says not ready, and serves still.")
    ] = "0s"


def serve_options(listening: Listening, manners: Manners) -> ServeOptions:
    """Raises UsageError."""
    grace = parse_duration(manners.grace, "--grace")
    pause = parse_duration(manners.pause, "--pause")
    if pause > grace:
        raise UsageError("--pause is a part of --grace, and longer than it", next=again(pause=None))
    http = parse_address(listening.http, "--http")
    grpc = None if listening.grpc == "off" else parse_address(listening.grpc, "--grpc")
    if http == grpc and http.port:
        raise UsageError(
            "--http and --grpc name the same address, and each listens on its own",
            hint="give one of them another port, or leave gRPC out",
            next=again(grpc="off"),
        )
    return ServeOptions(
        http=http,
        grpc=grpc,
        tls=_tls(listening),
        tokens=listening.tokens,
        allow_plaintext=listening.allow_plaintext,
        grace=grace,
        pause=pause,
        access_log=manners.access_log,
        limits=Limits(
            connections=manners.max_connections,
            requests=manners.max_requests,
            body_bytes=parse_size(manners.max_body, "--max-body"),
        ),
    )


def _tls(listening: Listening) -> Tls | None:
    certificate, key, authorities = listening.tls_cert, listening.tls_key, listening.tls_client_ca
    if certificate is not None and key is not None:
        return Tls(certificate, key, authorities)
    if certificate is None and key is None and authorities is None:
        return None
    raise UsageError(
        "--tls-cert and --tls-key go together, and --tls-client-ca with both",
        next=again(tls_cert=None, tls_key=None, tls_client_ca=None),
    )


def parse_address(text: str, option: str) -> Address:
    """`127.0.0.1:8080`, `[::1]:8080`, `localhost:0`. Raises UsageError naming `option`."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65_535:
        raise UsageError(f"{option} is no HOST:PORT", hint="write 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080")
    return Address(match[1] or match[2], int(match[3]))
