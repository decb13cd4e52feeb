"""The text of a URL, cut into its parts: strictly, and without ever quoting it in an error.

Here also stands what each kind of server makes of these parts: which it has, and which contradict each other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from somactl.address.address import KINDS, NAMES, Address, Host, Kind, Use, brings, refuse_unknown
from somactl.errors import ConfigurationError

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAME = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?\Z")
_QUOTING = "write / ? # @ and % in a user or a password as %2F %3F %23 %40 and %25"
SHAPES = {
    "sqlite": "sqlite:///relative.db or sqlite:////absolute/path.db",
    "postgres": "postgresql://USER@HOST:5432/DATABASE, or postgresql:///DATABASE?host=/SOCKET/FOLDER",
    "redis": "redis://[USER:PASSWORD@]HOST[:PORT][/DB], unix://[USER:PASSWORD@]/PATH[?db=N], "
    "redis+cluster://HOST[:PORT],...",
    "other": "SCHEME://[USER:PASSWORD@][HOST[:PORT],...][/PATH][?NAME=VALUE&...]",
}
"""How a URL of each kind looks."""


@dataclass(frozen=True, slots=True)
class Parts:
    """One URL, decoded. `path` keeps its leading slash and is None where there is none."""

    scheme: str
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    places: str = field(repr=False)
    path: str | None = field(repr=False)
    query: dict[str, str] = field(repr=False)

    def shape(self) -> str:
        return f"it has the form {SHAPES[KINDS.get(self.scheme, 'other')]}"


def cut(text: str) -> Parts:
    """The parts of a URL of a known scheme; raises ConfigurationError for what breaks the grammar."""
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    kind = KINDS.get(scheme)
    _refuse_unprintable(rest, allow_space=kind == "sqlite")
    if "#" in rest:
        raise ConfigurationError(
            "the URL holds a #, which begins a fragment and names nothing", hint=_QUOTING
        )
    rest, mark, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in query or ("@" in path and (authority or kind != "sqlite")):
        raise ConfigurationError("the URL holds an @ behind its host", hint=_QUOTING)
    login, at, places = authority.rpartition("@")
    if "@" in login:
        raise ConfigurationError("the URL holds an @ in its user or password", hint=_QUOTING)
    user, _, password = login.partition(":")
    if mark and not query:
        raise ConfigurationError("the URL ends in a ? without parameters", hint="leave the ? out")
    return Parts(
        scheme,
        _decoded(user, "user") if at and (user or password) else None,
        _decoded(password, "password") if password else None,
        places,
        slash + path if slash else None,
        _parameters(query) if query else {},
    )


def decoded_path(parts: Parts) -> str:
    """The path without its first slash; empty where there is none."""
    return _decoded((parts.path or "")[1:], "path")


def hosts(text: str, where: str, *, bare_ipv6: bool = False) -> tuple[Host, ...]:
    """Those of a list `HOST[:PORT],...`. `bare_ipv6`: an IPv6 address may stand without brackets."""
    return tuple(_host(place, where, bare_ipv6) for place in text.split(","))


def port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65_535):
        raise ConfigurationError("the port in the URL is no number from 1 to 65535", hint=_PORT)
    return int(text)


_PORT = "correct it, or leave it out with its colon"


def number(text: str, what: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise ConfigurationError(
            f"the {what} in the URL is no number from {least} to {most}", hint="correct it"
        )
    return int(text)


def _host(place: str, where: str, bare_ipv6: bool) -> Host:
    name, digits = place, ""
    if place.startswith("["):
        name, bracket, rest = place[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or not _is_ipv6(_decoded(name, "host")):
            raise ConfigurationError(f"the {where} is no IPv6 address in brackets", hint="write [::1]:PORT")
        colon, digits = rest[:1], rest[1:]
    elif bare_ipv6 and _is_ipv6(place):
        colon = ""
    else:
        name, colon, digits = place.partition(":")
    name = _decoded(name, "host")
    if not (_is_host(name) or _is_ipv6(name)):
        raise ConfigurationError(f"the {where} names no server", hint=f"write HOST or HOST:PORT; {_QUOTING}")
    return Host(name, port(digits) if colon else None)


def _is_host(name: str) -> bool:
    """Whether it can be the name of a host, or the folder of a socket."""
    if name.startswith("/"):
        return True
    if not _NAME.match(name) or len(name) > 253:
        return False
    if name.isascii():
        return True
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def _is_ipv6(text: str) -> bool:
    if ":" not in text:
        return False
    import ipaddress

    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _refuse_unprintable(text: str, *, allow_space: bool) -> None:
    if text != text.strip() or not text.isprintable() or (" " in text and not allow_space):
        raise ConfigurationError(
            "the URL holds a space, a line's end or another character that is not printed",
            hint="take it out; inside a name it is written like %20",
        )


def _decoded(text: str, what: str) -> str:
    if _NO_ESCAPE.search(text):
        raise ConfigurationError(
            f"the {what} in the URL holds a % that begins no escape like %2F", hint="write % as %25"
        )
    try:
        plain = _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), text.encode()).decode()
    except UnicodeError:
        raise ConfigurationError(
            f"the {what} in the URL is no UTF-8 once its escapes are decoded", hint="correct the escapes"
        ) from None
    if "\0" in plain:
        raise ConfigurationError(f"the {what} in the URL holds a NUL character", hint="take out the %00")
    return plain


def _parameters(query: str) -> dict[str, str]:
    """The query, where `+` is a plus sign, as in PostgreSQL's own client."""
    found: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        name = _decoded(name, "query")
        if not name or not value:
            what = f"the parameter {name!r}" if name in NAMES else "a parameter"
            raise ConfigurationError(f"{what} in the URL has no value", hint="write ?NAME=VALUE&NAME=VALUE")
        if name in found:
            what = repr(name) if name in NAMES else "a parameter"
            raise ConfigurationError(f"the URL gives {what} twice", hint="keep one of them")
        found[name] = _decoded(value, "query")
    return found


T = TypeVar("T", bound=Hashable)

MOST = 1000
"""The largest `pool_size` and `wait_replicas`, and the most seconds of `connect_timeout`."""
_LARGEST_DATABASE = 999_999
_BESIDE = "s, in its own place and by a parameter"
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "gsslib": ("gssapi", "sspi"),
    "ssl_cert_reqs": ("none", "required"),
    "ssl_check_hostname": ("true", "false"),
}
_NUMBERS = {"pool_size": 1, "connect_timeout": 1, "wait_replicas": 0}
"""Parameters that are numbers, and the least of each."""


def parse_sqlite(parts: Parts) -> Address:
    """`sqlite:///relative.db` or `sqlite:////absolute.db`."""
    if parts.places or parts.user or parts.password:
        raise ConfigurationError("a SQLite URL names a file, and has no host", hint=parts.shape())
    path = decoded_path(parts)
    if not path.strip("/"):
        raise ConfigurationError("the SQLite URL names no file", hint=parts.shape())
    if path == ":memory:":
        raise ConfigurationError(
            "a store in memory would be gone with the command", hint="name a file: sqlite:///somactl.db"
        )
    return Address(parts.scheme, path=os.path.normpath(path))


def parse_postgres(parts: Parts) -> Address:
    """`postgresql://USER@HOST:PORT/DATABASE`, with each of these as a parameter as well, not otherwise."""
    options = dict(parts.query)
    inner = decoded_path(parts)
    if "/" in (parts.path or "")[1:]:
        raise ConfigurationError(
            "the path of the URL is more than a database's name", hint="a / in the name is written %2F"
        )
    database = _one("database" + _BESIDE, (inner, options.pop("dbname", ""), options.pop("database", "")))
    user = _one("user" + _BESIDE, (parts.user, options.pop("user", "")))
    password = _one("password" + _BESIDE, (parts.password, options.pop("password", "")))
    places = _postgres_hosts(parts, options.pop("host", ""), options.pop("port", ""))
    _check_values(options)
    return Address(parts.scheme, user, password, places, "", database or "", options)


def _postgres_hosts(parts: Parts, named: str, ports: str) -> tuple[Host, ...]:
    own = hosts(parts.places, "host in the URL") if parts.places else ()
    queried = hosts(named, "parameter host", bare_ipv6=True) if named else ()
    both = [tuple(host.name for host in each) for each in (own, queried)]
    names = _one("hosts, in its own place and by ?host=", both)
    if names is None:
        raise ConfigurationError(
            "the URL names no host",
            hint=f"this machine is ?host=/SOCKET/FOLDER or 127.0.0.1: {parts.shape()}",
        )
    given = ([host.port for host in own], [host.port for host in queried], _listed(ports, len(names)))
    choices = zip(*filter(None, given), strict=True)
    behind = "ports of one host, behind it and by a parameter"
    return tuple(Host(name, _one(behind, each)) for name, each in zip(names, choices, strict=True))


def _listed(ports: str, count: int) -> list[int | None]:
    """Those of `?port=`: one for all hosts, or one for each."""
    listed: list[int | None] = [port(text) for text in ports.split(",")] if ports else []
    if len(listed) not in (0, 1, count):
        raise ConfigurationError(
            f"the URL names {count} hosts and {len(listed)} ports", hint="name one port, or one for each host"
        )
    return listed * count if len(listed) == 1 else listed


def parse_redis(parts: Parts) -> Address:
    """`redis://H/2`, `redis://H?db=2`, `unix:///PATH?db=2`, `redis+cluster://H,H`."""
    options = dict(parts.query)
    _check_tls(options, encrypted=parts.scheme.startswith("rediss"))
    queried = options.pop("db", "")
    path, inner = "", decoded_path(parts)
    if parts.scheme == "unix":
        if parts.places or not inner:
            raise ConfigurationError(
                "a unix:// URL names a socket's full path, and no host", hint=parts.shape()
            )
        path, inner = "/" + inner, ""
    places = () if path else hosts(parts.places, "host in the URL")
    numbers = [str(number(text, "database", 0, _LARGEST_DATABASE)) for text in (inner, queried) if text]
    database = _one("databases, one in its path and another by ?db=", numbers) or ""
    address = Address(parts.scheme, parts.user or None, parts.password, places, path, database, options)
    if address.is_cluster and int(database or 0):
        raise ConfigurationError(
            "the URL names a database of a cluster, which has database 0 alone", hint="leave the number out"
        )
    if len(places) > 1 and not address.is_cluster:
        raise ConfigurationError(
            "the URL names several servers", hint="a cluster is named redis+cluster://HOST,HOST"
        )
    return address


def _check_tls(options: Mapping[str, str], *, encrypted: bool) -> None:
    given = sorted(name for name in options if name.startswith("ssl_"))
    if given and not encrypted:
        raise ConfigurationError(f"{given[0]} means nothing without TLS", hint="write rediss:// for TLS")
    _check_values(options)
    if options.get("ssl_check_hostname") == "true" and options.get("ssl_cert_reqs") == "none":
        raise ConfigurationError(
            "ssl_check_hostname=true contradicts ssl_cert_reqs=none, which looks at no certificate",
            hint="keep one of them",
        )


def _check_values(options: Mapping[str, str]) -> None:
    """Raise ConfigurationError for a parameter that is no number in its range, or none of its choices."""
    for name, least in _NUMBERS.items():
        if name in options:
            number(options[name], name, least, MOST)
    for name, allowed in _CHOICES.items():
        if options.get(name, allowed[0]) not in allowed:
            raise ConfigurationError(
                f"{name} in the URL has none of its values", hint=f"one of: {', '.join(allowed)}"
            )


def parse_other(parts: Parts) -> Address:
    """The parts as they stand: what they mean is for the package to say that brings the store."""
    return Address(
        parts.scheme,
        parts.user,
        parts.password,
        hosts(parts.places, "host") if parts.places else (),
        "" if parts.path is None else "/" + decoded_path(parts),
        options=parts.query,
    )


def _one(what: str, values: Iterable[T | None]) -> T | None:
    """The one value of a part that may stand in several places; None where it stands nowhere."""
    given = {value for value in values if value}
    if len(given) > 1:
        raise ConfigurationError(f"the URL names two {what}", hint="keep one of them")
    return given.pop() if given else None


RULES: Mapping[Kind, Callable[[Parts], Address]] = {
    "sqlite": parse_sqlite,
    "postgres": parse_postgres,
    "redis": parse_redis,
    "other": parse_other,
}


_USES = {
    "sqlite": ("store",),
    "postgres": ("store", "source"),
    "redis": ("store", "cache", "source"),
    "other": ("store",),
}


def parse(url: str, use: Use = "store") -> Address:
    """The address that `url` says, for a store, a cache or a source.

    Raises ConfigurationError for every part that is not understood, is contradicted by another, or has no
    meaning there. It quotes nothing of a text that was not understood.
    """
    scheme, mark, _ = url.partition("://")
    kind = KINDS.get(scheme.lower()) if mark else None
    if kind is None and mark and use == "store" and brings(scheme.lower()):
        kind = "other"
    if kind is None or use not in _USES[kind]:
        from somactl.address import foreign

        raise foreign.refuse(url, use) if kind is None else foreign.refuse_scheme(scheme.lower(), use)
    try:
        parts = cut(url)
        if kind != "other":
            refuse_unknown(parts.query, kind, use, parts.scheme)
        address = RULES[kind](parts)
    except ConfigurationError as exc:
        hint = exc.hint if exc.hint and "://" in exc.hint else f"{exc.hint}; the form is {SHAPES[kind]}"
        raise ConfigurationError(exc.message, hint=hint) from None
    if address.is_cluster and use == "source":
        raise ConfigurationError(
            f"{address.public} is a cluster, from which nothing is migrated",
            hint="name each node by itself as redis://HOST:PORT and a replica of it, "
            "or load its RDB file into a single server",
        )
    return address


def refuse_cache(store: str) -> None:
    """Raise ConfigurationError for a store before which no cache can stand."""
    if parse(store).kind == "redis":
        raise ConfigurationError(
            "a Redis store needs no Redis cache before it",
            hint="drop the cache, or name a store that outlives Redis: postgresql://HOST/DATABASE",
        )


def public(url: str) -> str:
    """Any text that is to name a server, as a message may show it: nothing of one that is not understood."""
    for use in ("store", "source"):
        try:
            return parse(url, use).public
        except ConfigurationError:
            continue
    return "an address that cannot be read"
