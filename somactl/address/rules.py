"""What each kind of server makes of the parts of a URL: which it has, and which contradict each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

from somactl.address.address import Address, Host, Kind
from somactl.address.text import Parts, decoded_path, hosts, number, port
from somactl.errors import ConfigurationError

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
