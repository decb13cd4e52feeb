"""The server that a Redis URL names, what connections to it are made with, and how much they read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from redis.asyncio.connection import Connection, DefaultParser, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError, InvalidResponse, RedisError

from somactl.address import Address, Use, is_local, parse as parse_address
from somactl.address.address import DEFAULT_PORTS
from somactl.address.parse import SHAPES
from somactl.errors import ConfigurationError

if TYPE_CHECKING:
    from somactl.store.redis.pool import Command

READ_BYTES = 1 << 20
"""What is read from a socket at once; redis-py's own 32 KiB cost a large value a fifth of its time."""
CONNECT_BYTES: Final = 1 << 20
"""Of replies while a connection is made: to AUTH, HELLO, CLIENT SETINFO and SELECT."""
TALK_BYTES: Final = 64 << 20
"""Of the replies to one exchange whose commands ask for no payloads: statistics, names, versions."""
PAYLOAD_BYTES: Final = 512 << 20
"""Added for each command that asks for payloads: the longest string a Redis has. Who asks for many at once
has asked for their sizes before."""
EXCHANGE_BYTES: Final = 1 << 30
"""Of the replies to one exchange, whatever it asks for."""
MAX_ELEMENTS: Final = 16 << 20
"""Of the list that a reply is; each takes 8 bytes when it is announced, before one of them has come."""
_PAYLOADS = frozenset({"GET", "MGET", "GETRANGE", "EVAL", "EVALSHA", "HGETALL", "HMGET", "EXEC"})
_announced = re.compile(rb"([$*])([0-9]{1,20})\r\n").match


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


def allowance(commands: Sequence[Command]) -> int:
    """How many bytes the replies to `commands` may take."""
    bearing = sum(str(command[0]).upper() in _PAYLOADS for command in commands)
    return min(EXCHANGE_BYTES, TALK_BYTES + bearing * PAYLOAD_BYTES)


class TooMuch(InvalidResponse):
    """A reply that is larger than was asked for."""


class BoundedParser(DefaultParser):  # type: ignore[misc, valid-type]  # which one it is depends on hiredis
    """redis-py's parser of replies, which reads no more than was asked for: `allow` before each exchange.

    A server may announce what it likes and send without end; hiredis would keep it all until it is whole. So
    each exchange has an allowance of bytes, by the commands in it; a connection is made under CONNECT_BYTES.
    What cannot be parsed at all ends as redis-py's InvalidResponse, whatever the parser or the constructor of
    an error stumbled over.
    """

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size=socket_read_size)
        self._left = CONNECT_BYTES
        self._most = CONNECT_BYTES

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)
        self.allow(CONNECT_BYTES)

    def allow(self, most: int) -> None:
        """Begin to count: no more than `most` bytes are read until it is called again."""
        self._left = self._most = most

    async def read_from_socket(self) -> bool:
        data = await self._stream.read(self._read_size)
        if not data:
            raise ConnectionError("Connection closed by server.")
        announced = _announced(data) if self._left == self._most else None
        if announced and int(announced[2]) > (self._most if announced[1] == b"$" else MAX_ELEMENTS):
            raise TooMuch(f"it announces {announced[0].decode().strip()}")
        self._left -= len(data)
        if self._left < 0:
            raise TooMuch(f"it sends more than {self._most} bytes")
        self._reader.feed(data)
        return True

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except (RedisError, OSError):
            raise
        # An error's constructor that finds no port in MOVED, a text that is no UTF-8, a list too long.
        except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, MemoryError) as exc:
            raise InvalidResponse(f"{type(exc).__name__} while a reply was read") from exc
