"""What the faces of `somactl serve` are given: the state they tell, what they may touch, and how to behave.

    rest.routes(context) -> list[BaseRoute]         both are added to the routes of `http.app`
    page.routes(context) -> list[BaseRoute]
    await rpc.serve(context, address) -> Face       bound and serving; run.py drains and stops it

This module imports no server: a face can be tested with a context of its own.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from somactl.errors import ConfigurationError
from somactl.report.health import HealthReport, WatchedKey
from somactl.suggestion import again

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from somactl.runtime import Server
    from somactl.serve.log import Log

AccessLog = Literal["none", "errors", "all"]
Scope = Mapping[str, Any]
"""Of a request, as ASGI has it."""


class Address(NamedTuple):
    """Where a face listens. Port 0: one that is free, which the announcement names."""

    host: str
    port: int

    def __str__(self) -> str:
        if self.host.startswith("unix:"):
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether other machines cannot come there: what has no host is a file. A name may be anywhere."""
        from ipaddress import ip_address

        if self.host == "localhost" or self.host.startswith("unix:"):
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


HTTP, GRPC = Address("127.0.0.1", 8080), Address("127.0.0.1", 8081)


@dataclasses.dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the server's own certificate and key; those whose signature makes a caller known, if any."""

    certificate: str
    key: str
    client_authorities: str | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client, or all together, may take. Times are in seconds, sizes in bytes.

    header_seconds   from the first byte of a request (or from the connection) to the end of its header
    body_seconds     from there to the end of its body
    idle_seconds     between two requests of a connection
    write_seconds    in which a client must take some of what is sent to it
    connections      at most, together; the one that has idled longest makes room for a new one
    requests         under way together, but for those about health, which wait for nothing
    """

    header_bytes: int = 16 * 1024
    header_fields: int = 100
    header_seconds: float = 10.0
    body_bytes: int = 4 * 1024 * 1024
    body_seconds: float = 30.0
    idle_seconds: float = 60.0
    write_seconds: float = 30.0
    connections: int = 1000
    requests: int = 64


@dataclasses.dataclass(frozen=True, slots=True)
class ServeOptions:
    """How it serves. grpc: None for no such face. grace: seconds from a signal to the end of the process;
    pause: those of them in which it says not ready, and serves all the same."""

    http: Address = HTTP
    grpc: Address | None = GRPC
    tls: Tls | None = None
    tokens: str | None = None
    allow_plaintext: bool = False
    grace: float = 30.0
    pause: float = 0.0
    access_log: AccessLog = "errors"
    limits: Limits = dataclasses.field(default_factory=Limits)


def refuse_plaintext(options: ServeOptions, addresses: Iterable[Address]) -> None:
    """Raise ConfigurationError where others could read what is said, and it was not said that they may."""
    if options.tls is not None or options.allow_plaintext:
        return
    for address in addresses:
        if not address.is_loopback:
            raise ConfigurationError(
                f"{address} can be reached from other machines, and nothing would be encrypted",
                hint="give a certificate and its key, or say that plain text is meant",
                next=again(allow_plaintext=True),
            )


class StateView(Protocol):
    """What the faces ask of `serve.state.State`. Nothing here touches a store; `changed` alone waits."""

    @property
    def changes(self) -> int: ...
    @property
    def draining(self) -> bool: ...
    @property
    def ready(self) -> bool: ...
    def health(self) -> HealthReport: ...
    def keys(self, namespace: str) -> list[WatchedKey]: ...
    def extras(self, namespace: str) -> Any: ...
    async def changed(self, seen: int) -> int: ...
    def drain(self) -> None: ...


class Face(Protocol):
    """What serves the state in one protocol beside HTTP.

    address  where it listens, with the real port
    drain    from now on it says that it does not serve; what is under way goes on
    stop     no new call; returns when those under way have ended, or `grace` seconds are over, how many were
             cut off
    """

    @property
    def address(self) -> Address: ...
    async def drain(self) -> None: ...
    async def stop(self, grace: float) -> int: ...


@dataclasses.dataclass(slots=True)
class ServeContext:
    """All that a face needs. One per process; nothing in it is replaced while it serves.

    server    the stores that doors may read and write; None: there are no doors
    doors     reads and prune orders, as all faces offer them: `serve.doors.Doors`; None: there are none
    access    who calls, and what that one may do: `serve.access.Access`
    registry  of /metrics: a face registers its own metrics there
    refusals  reason -> how many connections and requests the limits of both faces have refused for it
    reloads   called by SIGHUP, each for itself: what they raise is logged, and what was valid stays
    """

    state: StateView
    options: ServeOptions
    log: Log
    namespaces: tuple[str, ...] = ("default",)
    dark: bool = False
    server: Server | None = None
    access: Any = None
    doors: Any = None
    registry: CollectorRegistry | None = None
    refusals: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    reloads: list[Callable[[], Any]] = dataclasses.field(default_factory=list)


def client_certificate(scope: Scope) -> Mapping[str, Any] | None:
    """The certificate that the client has proven to be its own, as `ssl.SSLSocket.getpeercert()` tells it."""
    found: Mapping[str, Any] | None = scope.get("extensions", {}).get("tls", {}).get("peercert")
    return found


def note_caller(scope: Scope, name: str) -> None:
    """Have the log name who was let in."""
    scope["state"]["caller"] = name
