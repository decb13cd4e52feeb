"""Which server a URL names, and how far the way there can be trusted."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from somactl.errors import ConfigurationError
from somactl.store.address import is_local, public

POOL_SIZE = 10
_MOST = 1000
_DRIVER = frozenset(
    [
        *("host", "port", "dbname", "database", "user", "password", "passfile", "application_name"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
        *("krbsrvname", "gsslib"),
    ]
)
"""Parameters that asyncpg reads itself; it would send any other to the server as a setting, which PgBouncer
refuses. The exception is `application_name`, which PgBouncer knows."""

_PLACE = re.compile(r"([^:\[\]]*|\[[^\[\]]*\])(:[0-9]*)?\Z")
"""A host, perhaps with a port."""
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_HERE = ("/run/postgresql", "/var/run/postgresql", "/tmp", "/private/tmp", "localhost")
"""Where a URL without a host leads: asyncpg's own list, named so that PGHOST cannot lead elsewhere."""


@dataclass(frozen=True, slots=True)
class Target:
    """`arguments` are those of `asyncpg.connect`; `public` is the URL as a message may show it; `files` are
    those that TLS needs, by the parameter that names them; `hosts` are those that the URL names."""

    public: str
    arguments: Mapping[str, Any] = field(repr=False)
    pool_size: int
    connect_timeout: float | None
    files: Mapping[str, str]
    hosts: tuple[str, ...]
    sslmode: str


def parse(url: str) -> Target:
    """Raises ConfigurationError for a URL that is none of PostgreSQL's, or asks for what is not known."""
    try:
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:  # it may quote a part that holds a password
        raise ConfigurationError("the URL of the store cannot be read", hint=_FORM) from None
    # asyncpg takes the first @ for the end of the password, and quotes what it cannot read behind it.
    login, _, places = parts.netloc.rpartition("@")
    if "@" in login or not all(map(_PLACE.match, places.split(","))):
        raise ConfigurationError(
            "the URL of the store cannot be read",
            hint=f"{_FORM}; in a user or password, write @ as %40, : as %3A and / as %2F",
        )
    shown = public(url)
    hosts = _hosts(parts.netloc, parameters)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(f"the URL {shown} is not one of PostgreSQL's", hint=_FORM)
    pool_size = _number("pool_size", parameters.pop("pool_size", str(POOL_SIZE)), shown)
    patience = parameters.pop("connect_timeout", None)
    connect_timeout = None if patience is None else _number("connect_timeout", patience, shown)
    unknown = sorted(set(parameters) - _DRIVER)
    if unknown:
        raise ConfigurationError(
            f"the URL {shown} has the parameter {unknown[0]!r}, which this store does not know",
            hint="server settings belong to the role or the database: ALTER ROLE ... SET ...",
        )
    arguments: dict[str, Any] = {}
    sslmode = parameters.get("sslmode", "prefer" if all(map(is_local, hosts)) else "verify-full")
    if "sslmode" not in parameters:
        arguments["ssl"] = sslmode
    if parameters.get("sslrootcert") == "system":
        parameters["sslrootcert"] = _system_authorities(shown)
    if not hosts:
        arguments["host"] = list(_HERE)
    arguments["dsn"] = parts._replace(query=urlencode(parameters)).geturl()
    files = {name: parameters[name] for name in _TLS_FILES if parameters.get(name)}
    return Target(shown, arguments, pool_size, connect_timeout, files, tuple(hosts), sslmode)


_FORM = "it has the form postgresql://USER@HOST:5432/DATABASE, or postgresql:///DATABASE?host=/SOCKET/FOLDER"


def _hosts(netloc: str, parameters: Mapping[str, str]) -> list[str]:
    """Every host that the URL names, without ports; those of the authority come before those of `host`."""
    listed = netloc.rpartition("@")[2] or parameters.get("host", "")
    return [_host(place) for place in listed.split(",") if place]


def _host(place: str) -> str:
    if place.startswith("["):
        return place.partition("]")[0][1:]
    name = unquote(place)
    return name if name.startswith("/") else name.partition(":")[0]


def _number(name: str, text: str, shown: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST:
        raise ConfigurationError(
            f"the URL {shown} says {name}={text}", hint=f"{name} is a number from 1 to {_MOST}"
        )
    return int(text)


def _system_authorities(shown: str) -> str:
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None:
        raise ConfigurationError(
            f"the URL {shown} asks for the system's certificate authorities, and there are none",
            hint=f"install them, or name a file with sslrootcert (OpenSSL looks at {paths.openssl_cafile})",
        )
    return paths.cafile
