"""A Redis URL, read strictly, and the client for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, unquote

import msgspec

from somactl.errors import ConfigurationError
from somactl.store import address

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

    Client: TypeAlias = "Redis | RedisCluster"

SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
DEFAULT_PORT = 6379
READ_BYTES = 1 << 20
"""What is read from a socket at once; redis-py's own 32 KiB cost a large value a fifth of its time."""
_PARAMETERS = (
    "db", "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile",
    "wait_replicas",
)  # fmt: skip
_FORMS = (
    "redis://[USER:PASSWORD@]HOST[:PORT][/DB], unix://[USER:PASSWORD@]/PATH[?db=N], redis+cluster://HOST,..."
)


class Server(msgspec.Struct, frozen=True):
    """What a URL says. `nodes` are (host, port) pairs, several for a cluster; none for a unix socket."""

    place: str
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


def parse(url: str) -> Server:
    """The server that `url` names; raises ConfigurationError for everything that is not understood."""
    scheme, mark, rest = url.partition("://")
    if scheme not in SCHEMES or not mark:
        raise ConfigurationError(f"{scheme}:// is no Redis URL", hint=f"write {_FORMS}")
    login, _, rest = rest.rpartition("@") if "@" in rest else ("", "", rest)
    if not set(login).isdisjoint("/?#@"):
        raise ConfigurationError(  # without the URL: nobody can tell which part of it is the password
            "the user or password in the Redis URL holds one of / ? # @",
            hint="write them as %2F, %3F, %23 and %40; an @ in a file's name as %40 too",
        )
    rest, _, query = rest.partition("?")
    try:
        place = address.public(url)
    except ValueError:
        raise ConfigurationError("the Redis URL names no server", hint=f"write {_FORMS}") from None
    user, _, password = login.partition(":")
    network, slash, path = rest.partition("/")
    parameters = _parameters(query, place)
    cluster, unix = scheme.endswith("+cluster"), scheme == "unix"
    if "#" in url or (cluster and path) or unix == bool(network) or (unix and not path):
        raise ConfigurationError(f"{place} is no Redis URL", hint=f"write {_FORMS}")
    nodes = () if unix else tuple(_node(node, place) for node in network.split(","))
    if len(nodes) > 1 and not cluster:
        raise ConfigurationError(f"{place} names several servers", hint="a cluster is named redis+cluster://")
    return Server(
        place=place,
        nodes=nodes,
        path=unquote(slash + path) if unix else "",
        db=_number(parameters.get("db", "0") if unix or cluster else path or "0", "database", place),
        username=unquote(user) or None,
        password=unquote(password) or None,
        tls=_tls(scheme.startswith("rediss"), parameters, nodes, place),
        cluster=cluster,
        wait_replicas=_number(parameters.get("wait_replicas", "0"), "wait_replicas", place),
    )


def connect(url: str, *, timeout: float, connect_timeout: float) -> Client:
    """A client for `url`; nothing is touched before its first call.

    It tries nothing twice: an error reaches the caller, who alone knows whether a call may be repeated.
    Raises ConfigurationError.
    """
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.cluster import ClusterNode
    from redis.asyncio.connection import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    server = parse(url)
    options = {**settings(server, timeout=timeout, connect_timeout=connect_timeout)}
    if server.cluster:
        return RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in server.nodes],
            retry=Retry(NoBackoff(), 0),
            ssl=server.tls is not None,
            **options,
        )
    pool = ConnectionPool(connection_class=connection_class(server), **location(server), **options)
    return Redis.from_pool(pool)


def settings(server: Server, *, timeout: float | None, connect_timeout: float) -> dict[str, Any]:
    """What every connection to the server is made with, wherever it leads.

    RESP2, so that every server and proxy answers a command in one and the same form.
    """
    return {
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


def _parameters(query: str, place: str) -> dict[str, str]:
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(parameters) - set(_PARAMETERS))
    if unknown:
        raise ConfigurationError(
            f"{place}: unknown parameter {unknown[0]!r} in the URL", hint=f"known: {', '.join(_PARAMETERS)}"
        )
    return parameters


def _node(text: str, place: str) -> tuple[str, int]:
    """`host`, `host:port`, `[::1]` or `[::1]:port`."""
    host, colon, port = text.rpartition(":")
    if not colon or host.count("[") != host.count("]"):
        host, port = text, str(DEFAULT_PORT)
    if host.count("[") != host.count("]"):
        raise ConfigurationError(f"{place} names no server", hint=f"write {_FORMS}")
    host = unquote(host).removeprefix("[").removesuffix("]")
    number = _number(port, "port", place)
    if not host or not 0 < number < 65_536:
        raise ConfigurationError(f"{place} names no server", hint=f"write {_FORMS}")
    return host, number


def _number(text: str, what: str, place: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 6:
        raise ConfigurationError(f"{place}: the {what} {text!r} is not a number from 0")
    return int(text)


def _tls(
    wanted: bool, parameters: Mapping[str, str], nodes: tuple[tuple[str, int], ...], place: str
) -> dict[str, Any] | None:
    """redis-py's keywords; None for a connection without TLS.

    Certificates are verified with the host's name. Only on this machine, where nobody stands between,
    that needs a parameter of the URL.
    """
    given = {name: value for name, value in parameters.items() if name.startswith("ssl_")}
    if not wanted:
        if given:
            raise ConfigurationError(
                f"{place}: {sorted(given)[0]} means nothing without TLS", hint="write rediss:// for TLS"
            )
        return None
    local = all(address.is_local(host) for host, _ in nodes)
    required = given.get("ssl_cert_reqs", "none" if local and "ssl_ca_certs" not in given else "required")
    hostname = given.get("ssl_check_hostname", "true")
    for name, value, allowed in (
        ("ssl_cert_reqs", required, ("none", "required")),
        ("ssl_check_hostname", hostname, ("true", "false")),
    ):
        if value not in allowed:
            raise ConfigurationError(f"{place}: {name} is {value!r}", hint=f"one of: {', '.join(allowed)}")
    options: dict[str, Any] = {
        "ssl_cert_reqs": required,
        "ssl_check_hostname": required == "required" and hostname == "true",
    }
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in given:
            if not os.path.isfile(given[name]):
                raise ConfigurationError(f"{place}: {name} names {given[name]!r}, which is no file")
            options[name] = given[name]
    return options
