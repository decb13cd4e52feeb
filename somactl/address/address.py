"""`Address`: the parts of a URL of a store, cache or source, and how it may be shown.

Also which parameters a URL may have, by kind of server and by what it names, with hints for any other, and
which schemes installed packages bring (entry points `somactl.stores`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from somactl.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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


_TLS = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile")
_POSTGRES = (
    *("host", "port", "dbname", "database", "user", "password", "passfile", "application_name"),
    *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
    *("krbsrvname", "gsslib", "pool_size", "connect_timeout"),
)
"""Those that asyncpg reads itself, and our own two. It would send any other to the server as a setting of the
session, which PgBouncer refuses; the exception is `application_name`, which PgBouncer knows."""
KNOWN: Mapping[tuple[Kind, Use], tuple[str, ...]] = {
    ("redis", "store"): ("db", *_TLS, "wait_replicas"),
    ("redis", "cache"): ("db", *_TLS),
    ("redis", "source"): ("db", *_TLS),
    ("postgres", "store"): _POSTGRES,
    ("postgres", "source"): (*_POSTGRES, "table"),
    ("sqlite", "store"): (),
}
NAMES = frozenset(name for names in KNOWN.values() for name in names)

_LOGIN = "user and password stand before the host: {scheme}://USER:PASSWORD@HOST"
_ROLE = "server settings belong to the role or the database: ALTER ROLE ... SET ..."
_TIMES = "SFM_RHO_READ_TIMEOUT_MS bounds a cache's reads, SOMACTL_RETRY_SECONDS how long a store is retried"


def by_name(of_names: Mapping[str, str]) -> dict[str, str]:
    """A table by single names, of one whose keys hold several names each."""
    return {name: value for names, value in of_names.items() for name in names.split()}


_ELSEWHERE: Mapping[Kind, Mapping[str, str]] = {
    "redis": by_name(
        {
            "user username password auth pass pwd": _LOGIN,
            "database dbname defaultdatabase": "the database is ?db=N, or /N behind the host",
            "ssl tls sslmode": "TLS is asked for by the scheme: rediss://",
            "sslrootcert": "the authority's certificate is ?ssl_ca_certs=FILE",
            "host port": "the server stands before the path: {scheme}://HOST:PORT",
            "timeout socket_timeout socket_connect_timeout connect_timeout": _TIMES,
            "wait_replicas": "only a store's commits wait for replicas: take it out of this URL",
            "table": "Redis has no tables; it goes with postgresql://",
        }
    ),
    "postgres": by_name(
        {
            "db": "the database is the path, or ?dbname=NAME",
            "username": "write ?user=NAME, or the user before the host",
            "pass pwd passwd": "write ?password=..., or better set PGPASSWORD",
            "ssl tls ssl_cert_reqs": "write ?sslmode=verify-full, or another of its values",
            "ssl_ca_certs": "the authority's certificate is ?sslrootcert=FILE",
            "hostaddr": "write the address as ?host=, or before the path",
            "service": "name host and database in the URL: no service file is read",
            "table": "a table is named by the SOURCE of a migration alone",
            "timeout command_timeout": "write ?connect_timeout=SECONDS",
            "options search_path work_mem statement_timeout lock_timeout": _ROLE,
        }
    ),
    "sqlite": {},
}
_PLAIN = re.compile(r"[a-z]+(_[a-z]+){0,4}\Z|[a-z]+([A-Z][a-z]+){1,3}\Z")
"""A name that is a word, and no secret that ran into the query; one close to ours may be less plain."""
_CLOSE = re.compile(r"[A-Za-z]+([-_][A-Za-z]+){0,4}\Z")


def refuse_unknown(names: Iterable[str], kind: Kind, use: Use, scheme: str) -> None:
    """Raise ConfigurationError for the first parameter that a URL of this kind cannot have here."""
    known = KNOWN.get((kind, use), ())
    unknown = sorted(set(names) - set(known))
    if not unknown:
        return
    if kind == "sqlite":
        raise ConfigurationError(
            "a SQLite URL has no parameters", hint="write sqlite:///relative.db; a ? in a file's name is %3F"
        )
    import difflib

    name = unknown[0]
    close = difflib.get_close_matches(_folded(name), known, 1, 0.7)
    named = name in _ELSEWHERE[kind] or _PLAIN.match(name) or (close and _CLOSE.match(name))
    shown = f"the parameter {name!r}" if named else "a parameter"
    raise ConfigurationError(
        f"the URL has {shown}, which a {use} of this kind does not know",
        hint=_hint(name, close, known, kind, scheme),
    )


def _hint(name: str, close: list[str], known: tuple[str, ...], kind: Kind, scheme: str) -> str:
    elsewhere = _ELSEWHERE[kind].get(name) or _ELSEWHERE[kind].get(name.lower())
    if elsewhere:
        return elsewhere.replace("{scheme}", scheme)
    if close:
        return f"did you mean ?{close[0]}=?"
    return f"known: {', '.join(known)}" + (f"; {_ROLE}" if kind == "postgres" else "")


def _folded(name: str) -> str:
    """`connectTimeout` and `pool-size` as our names are written."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower()


GROUP = "somactl.stores"


@cache
def entry_points() -> tuple[EntryPoint, ...]:
    """All that are installed; asked about schemes that are none of ours alone, as it reads every package."""
    from importlib import metadata

    return tuple(metadata.entry_points(group=GROUP))


def brings(scheme: str) -> bool:
    """Whether an installed package opens stores with such URLs."""
    return any(each.name.lower() == scheme for each in entry_points())
