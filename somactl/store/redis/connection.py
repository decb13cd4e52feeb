"""The server that a Redis URL names, and what connections to it are made with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from somactl.address import Address, Use, is_local, parse as parse_address
from somactl.address.address import DEFAULT_PORTS
from somactl.address.text import SHAPES
from somactl.errors import ConfigurationError

READ_BYTES = 1 << 20
"""What is read from a socket at once; redis-py's own 32 KiB cost a large value a fifth of its time."""


class Server(msgspec.Struct, frozen=True):
    """What a URL says. `nodes` are (host, port) pairs, several for a cluster; none for a unix socket.

    `place` is the URL as a message may show it, `identity` the same with all defaults written out.
    """

    place: str
    identity: str
    nodes: tuple[tuple[str, int], ...]
    path: str
    db: int
    username: str | None
    password: str | None
    tls: Mapping[str, Any] | None
    cluster: bool
    wait_replicas: int

    @property
    def anonymous(self) -> bool:
        return self.username is None and self.password is None

    def __repr__(self) -> str:
        """Without the password."""
        return f"Server({self.place!r})"


def parse(url: str, use: Use = "store") -> Server:
    """The server that `url` names; raises ConfigurationError for everything that is not understood."""
    address = parse_address(url, use)
    if address.kind != "redis":
        raise ConfigurationError(f"{address} is no Redis URL", hint=SHAPES["redis"])
    nodes = tuple((host.name, host.port or DEFAULT_PORTS["redis"]) for host in address.hosts)
    return Server(
        place=address.public,
        identity=address.identity,
        nodes=nodes,
        path=address.path,
        db=int(address.database or 0),
        username=address.user,
        password=address.password,
        tls=_tls(address, nodes) if address.scheme.startswith("rediss") else None,
        cluster=address.is_cluster,
        wait_replicas=int(address.options.get("wait_replicas", "0")),
    )


def settings(server: Server, *, timeout: float | None, connect_timeout: float) -> dict[str, Any]:
    """What every connection to the server is made with, wherever it leads.

    RESP2, so that every server and proxy answers a command in one and the same form.
    """
    from somactl.store.redis.bounded_parser import BoundedParser

    return {
        "parser_class": BoundedParser,
        "username": server.username,
        "password": server.password,
        "socket_timeout": timeout,
        "socket_connect_timeout": connect_timeout,
        "socket_read_size": READ_BYTES,
        "protocol": 2,
        **({} if server.path else {"socket_keepalive": True}),
        **(server.tls or {}),
    }


def location(server: Server) -> dict[str, Any]:
    """Where a server that is no cluster is found, as keywords of `connection_class`."""
    if server.path:
        return {"path": server.path, "db": server.db}
    host, port = server.nodes[0]
    return {"host": host, "port": port, "db": server.db}


def connection_class(server: Server) -> Any:
    """The class of redis-py for this transport."""
    from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

    if server.path:
        return UnixDomainSocketConnection
    return Connection if server.tls is None else SSLConnection


def _tls(address: Address, nodes: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    """redis-py's keywords.

    Certificates are verified with the host's name. Only on this machine, where no other can stand between,
    that needs a parameter of the URL.
    """
    given = address.options
    local = all(is_local(host) for host, _ in nodes)
    asked = "ssl_ca_certs" in given or given.get("ssl_check_hostname") == "true"
    required = given.get("ssl_cert_reqs", "none" if local and not asked else "required")
    hostname = given.get("ssl_check_hostname", "true")
    options: dict[str, Any] = {
        "ssl_cert_reqs": required,
        "ssl_check_hostname": required == "required" and hostname == "true",
    }
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in given:
            if not os.path.isfile(given[name]):
                raise ConfigurationError(f"{address}: {name} names {given[name]!r}, which is no file")
            options[name] = given[name]
    return options
