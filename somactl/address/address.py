"""`Address`: the parts of a URL of a store, cache or source, and how it may be shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

Use: TypeAlias = Literal["store", "cache", "source"]
"""What an address is to name; not every form can name each."""
Kind: TypeAlias = Literal["sqlite", "postgres", "redis", "other"]
"""Of a server; `other` are those whose stores an installed package brings."""

POSTGRES = ("postgresql", "postgres")
REDIS = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")
KINDS: Mapping[str, Kind] = {
    "sqlite": "sqlite",
    **dict.fromkeys(POSTGRES, "postgres"),
    **dict.fromkeys(REDIS, "redis"),
}
"""Scheme -> kind of server, for the schemes of somactl's own stores."""
DEFAULT_PORTS: Mapping[Kind, int] = {"postgres": 5432, "redis": 6379}

_RESERVED = frozenset(" %/?#@:[]&=,+")


class Host(NamedTuple):
    """A host's name or IP address, or the folder of a PostgreSQL socket; None: the port was not given."""

    name: str
    port: int | None

    @property
    def is_socket(self) -> bool:
        return self.name.startswith("/")


@dataclass(frozen=True, slots=True)
class Address:
    """A URL that was understood. Neither `repr` nor `str` shows a secret.

    path      the file of a SQLite store, the socket of a Redis; of another kind what stands behind the host
    database  its name, or its number in digits; empty where the URL names none
    options   the other parameters, each of them known
    """

    scheme: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    hosts: tuple[Host, ...] = ()
    path: str = ""
    database: str = ""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> Kind:
        return KINDS.get(self.scheme, "other")

    @property
    def is_cluster(self) -> bool:
        return self.scheme.endswith("+cluster")

    @property
    def has_secret(self) -> bool:
        secrets = ("password", "secret", "token")
        return self.password is not None or any(name.endswith(secrets) for name in self.options)

    @property
    def public(self) -> str:
        """The URL as a message may show it: without password and options, control characters quoted."""
        return self._text(self.scheme, lambda host: host.port, self.database)

    @property
    def identity(self) -> str:
        """`public` with every default written out: equal for two spellings of one database."""
        scheme = "postgresql" if self.kind == "postgres" else self.scheme
        default = DEFAULT_PORTS.get(self.kind, 0)
        database = self.database or ("0" if self.kind == "redis" else "")
        hosts = tuple(host if host.is_socket else Host(host.name.lower(), host.port) for host in self.hosts)
        return replace(self, hosts=hosts)._text(scheme, lambda host: host.port or default, database)

    def __str__(self) -> str:
        return self.public

    def _text(self, scheme: str, port: Callable[[Host], int | None], database: str) -> str:
        if self.kind == "sqlite":
            return f"sqlite:///{quoted(self.path, keep='/ @:[]&=,+')}"
        login = self._login()
        if self.kind == "other":
            places = ",".join(_place(host.name, port(host)) for host in self.hosts)
            return f"{scheme}://{login}{places}{quoted(self.path, keep='/')}"
        if self.path:
            number = f"?db={database}" if int(database or 0) else ""
            return f"{scheme}://{login}{quoted(self.path, keep='/')}{number}"
        if self.hosts and all(host.is_socket for host in self.hosts):
            folders = ",".join(quoted(host.name, keep="/") for host in self.hosts)
            ports = ",".join(str(port(host)) for host in self.hosts if port(host))
            ending = f"?host={folders}" + (f"&port={ports}" if ports else "")
            return f"{scheme}://{login}/{quoted(database)}{ending}"
        places = ",".join(_place(host.name, port(host)) for host in self.hosts)
        return f"{scheme}://{login}{places}" + (f"/{quoted(database)}" if database else "")

    def _login(self) -> str:
        """The user, but never alone before a Redis: `redis://PASSWORD@HOST` is a usual slip."""
        if self.kind == "redis" and self.password is None:
            return "" if self.user is None else "@"
        if self.user is None and self.password is None:
            return ""
        return f"{quoted(self.user or '')}@"


def quoted(text: str, *, keep: str = "") -> str:
    """`text` percent-encoded where it could be taken for another part of a URL, or not be printed."""
    return "".join(
        char if char in keep or (char.isprintable() and char not in _RESERVED) else _percent(char)
        for char in text
    )


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape"))


def _place(name: str, port: int | None) -> str:
    shown = f"[{quoted(name, keep=':')}]" if ":" in name else quoted(name)
    return f"{shown}:{port}" if port else shown


def is_local(host: str | None) -> bool:
    """Whether `host` is this machine: loopback, a unix socket's path, or nothing at all."""
    if not host or host.startswith("/") or host == "localhost":
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
