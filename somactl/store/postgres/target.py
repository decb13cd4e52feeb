"""Which server a URL names, and how far the way there can be trusted."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from somactl.address import Address, Use, is_local, parse as parse_address
from somactl.address.address import DEFAULT_PORTS
from somactl.address.text import SHAPES
from somactl.errors import ConfigurationError

POOL_SIZE = 10
_NAME_BYTES = 63
"""PostgreSQL cuts longer names off, and says so in its log."""
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_FROM_URL = (*_TLS_FILES, "sslmode", "sslpassword")
_VERSIONS = ("ssl_min_protocol_version", "ssl_max_protocol_version")
"""What asyncpg takes from a URL alone."""
_ARGUMENTS = ("passfile", "target_session_attrs", "krbsrvname", "gsslib")
"""What it takes as arguments of the same name."""


@dataclass(frozen=True, slots=True)
class Target:
    """`arguments` are those of `asyncpg.connect`; `public` is the URL as a message may show it; `files` are
    those that it needs, by the parameter that names them; `hosts` are those that the URL names;
    `identity` is `public` with every default written out; `table` that of a source."""

    public: str
    arguments: Mapping[str, Any] = field(repr=False)
    pool_size: int
    connect_timeout: float | None
    files: Mapping[str, str]
    hosts: tuple[str, ...]
    sslmode: str
    identity: str
    table: str | None


def parse(url: str, use: Use = "store", *, client: str = "somactl") -> Target:
    """`client` is the application name where the URL gives none.

    Raises ConfigurationError for a URL that is none of PostgreSQL's, or asks for what is not known.
    """
    address = parse_address(url, use)
    if address.kind != "postgres":
        raise ConfigurationError(f"{address} is not one of PostgreSQL's URLs", hint=SHAPES["postgres"])
    options = dict(address.options)
    hosts = tuple(host.name for host in address.hosts)
    sslmode = options.get("sslmode", "prefer" if all(map(is_local, hosts)) else "verify-full")
    if options.get("sslnegotiation") == "direct" and sslmode in ("disable", "allow", "prefer"):
        raise ConfigurationError(
            f"{address} asks for TLS from the first byte, and would do without it",
            hint="add sslmode=require or a stricter one, or leave sslnegotiation=direct out",
        )
    if options.get("sslrootcert") == "system":
        options["sslrootcert"] = _system_authorities(address.public)
    patience = options.get("connect_timeout")
    return Target(
        address.public,
        _arguments(address, {"application_name": client} | options | {"sslmode": sslmode}),
        int(options.get("pool_size", POOL_SIZE)),
        None if patience is None else int(patience),
        {name: options[name] for name in (*_TLS_FILES, "passfile") if name in options},
        hosts,
        sslmode,
        address.identity,
        options.get("table"),
    )


def _arguments(address: Address, options: Mapping[str, str]) -> dict[str, Any]:
    """Those of `asyncpg.connect`. Host and port are always among them, so that no PGHOST or PGPORT can lead
    elsewhere; user, password and database come from the environment where the URL does not name them."""
    arguments: dict[str, Any] = {
        "dsn": "postgresql://?"
        + urlencode({k: options[k] for k in (*_FROM_URL, *_VERSIONS) if k in options}),
        "host": [host.name for host in address.hosts],
        "port": [host.port or DEFAULT_PORTS["postgres"] for host in address.hosts],
        **{name: options[name] for name in _ARGUMENTS if name in options},
    }
    named = {"user": address.user, "password": address.password, "database": address.database or None}
    arguments |= {name: value for name, value in named.items() if value is not None}
    if "sslnegotiation" in options:
        arguments["direct_tls"] = options["sslnegotiation"] == "direct"
    arguments["server_settings"] = {"application_name": options["application_name"][:_NAME_BYTES]}
    return arguments


def _system_authorities(shown: str) -> str:
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None:
        raise ConfigurationError(
            f"the URL {shown} asks for the system's certificate authorities, and there are none",
            hint=f"install them, or name a file with sslrootcert (OpenSSL looks at {paths.openssl_cafile})",
        )
    return paths.cafile
