"""What a URL of a PostgreSQL may say, in its own places and in its parameters."""

from __future__ import annotations

from collections.abc import Iterable

from somactl.address.address import Address, Host
from somactl.address.text import Parts, decoded_path, hosts, number, port
from somactl.errors import ConfigurationError

MOST = 1000
"""The largest `pool_size`, and the most seconds of `connect_timeout`."""
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "gsslib": ("gssapi", "sspi"),
}


def parse_postgres(parts: Parts) -> Address:
    """`postgresql://USER@HOST:PORT/DATABASE`, with each of these as a parameter as well, not otherwise."""
    options = dict(parts.query)
    inner = decoded_path(parts)
    if "/" in (parts.path or "")[1:]:
        raise ConfigurationError(
            "the path of the URL is more than a database's name", hint="a / in the name is written %2F"
        )
    database = _one("database", inner, options.pop("dbname", ""), options.pop("database", ""))
    user = _one("user", parts.user or "", options.pop("user", ""))
    password = _one("password", parts.password or "", options.pop("password", ""))
    places = _hosts(parts, options.pop("host", ""), options.pop("port", ""))
    for name in ("pool_size", "connect_timeout"):
        if name in options:
            number(options[name], name, 1, MOST)
    for name, allowed in _CHOICES.items():
        if options.get(name, allowed[0]) not in allowed:
            raise ConfigurationError(
                f"{name} in the URL has none of its values", hint=f"one of: {', '.join(allowed)}"
            )
    return Address(parts.scheme, user or None, password or None, places, "", database, options)


def _one(what: str, *values: str) -> str:
    """The one value of a part that may stand in several places; empty where it stands nowhere."""
    given = {value for value in values if value}
    if len(given) > 1:
        raise ConfigurationError(
            f"the URL names two {what}s, in its own place and by a parameter", hint="keep one of them"
        )
    return given.pop() if given else ""


def _hosts(parts: Parts, named: str, ports: str) -> tuple[Host, ...]:
    where = "host in the URL"
    places = hosts(parts.places, where) if parts.places else ()
    others = hosts(named, "parameter host", bare_ipv6=True) if named else ()
    if places and others and _names(places) != _names(others):
        raise ConfigurationError(
            "the URL names two hosts, in its own place and by ?host=", hint="keep one of them"
        )
    if not places and not others:
        raise ConfigurationError(
            "the URL names no host",
            hint=f"this machine is ?host=/SOCKET/FOLDER or 127.0.0.1: {parts.shape()}",
        )
    given = [_ports(places), _ports(others), _listed(ports, len(places or others))]
    merged = [_agreed(choices) for choices in zip(*(each for each in given if each), strict=True)]
    return tuple(Host(host.name, number) for host, number in zip(places or others, merged, strict=True))


def _names(places: Iterable[Host]) -> list[str]:
    return [host.name for host in places]


def _ports(places: tuple[Host, ...]) -> list[int | None]:
    return [host.port for host in places]


def _listed(ports: str, count: int) -> list[int | None]:
    """Those of `?port=`: one for all hosts, or one for each."""
    listed: list[int | None] = [port(text) for text in ports.split(",")] if ports else []
    if len(listed) not in (0, 1, count):
        raise ConfigurationError(
            f"the URL names {count} hosts and {len(listed)} ports", hint="name one port, or one for each host"
        )
    return listed * count if len(listed) == 1 else listed


def _agreed(choices: tuple[int | None, ...]) -> int | None:
    given = {choice for choice in choices if choice is not None}
    if len(given) > 1:
        raise ConfigurationError(
            "the URL names two ports of one host, behind it and by a parameter", hint="keep one of them"
        )
    return given.pop() if given else None
