"""What a URL of a Redis may say."""

from __future__ import annotations

from collections.abc import Mapping

from somactl.address.address import Address
from somactl.address.text import Parts, decoded_path, hosts, number
from somactl.errors import ConfigurationError

_LARGEST_DATABASE = 999_999
_CHOICES = {"ssl_cert_reqs": ("none", "required"), "ssl_check_hostname": ("true", "false")}


def parse_redis(parts: Parts) -> Address:
    """`redis://H/2`, `redis://H?db=2`, `unix:///PATH?db=2`, `redis+cluster://H,H`."""
    options = dict(parts.query)
    _check_tls(options, encrypted=parts.scheme.startswith("rediss"))
    if "wait_replicas" in options:
        number(options["wait_replicas"], "wait_replicas", 0, 1000)
    queried = options.pop("db", "")
    if parts.scheme == "unix":
        if parts.places or not decoded_path(parts):
            raise ConfigurationError(
                "a unix:// URL names a socket's full path, and no host", hint=parts.shape()
            )
        path, inner = "/" + decoded_path(parts), ""
    else:
        path, inner = "", decoded_path(parts)
    places = () if path else hosts(parts.places, "host in the URL")
    database = _database(inner, queried)
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


def _database(inner: str, queried: str) -> str:
    """The number in the path and the one in the query, which may not differ; empty where there is none."""
    numbers = [str(number(text, "database", 0, _LARGEST_DATABASE)) for text in (inner, queried) if text]
    if len(set(numbers)) > 1:
        raise ConfigurationError(
            "the URL names two databases, one in its path and another by ?db=", hint="keep one of them"
        )
    return numbers[0] if numbers else ""


def _check_tls(options: Mapping[str, str], *, encrypted: bool) -> None:
    given = sorted(name for name in options if name.startswith("ssl_"))
    if given and not encrypted:
        raise ConfigurationError(f"{given[0]} means nothing without TLS", hint="write rediss:// for TLS")
    for name, allowed in _CHOICES.items():
        if options.get(name, allowed[0]) not in allowed:
            raise ConfigurationError(
                f"{name} in the URL has none of its values", hint=f"one of: {', '.join(allowed)}"
            )
    if options.get("ssl_check_hostname") == "true" and options.get("ssl_cert_reqs") == "none":
        raise ConfigurationError(
            "ssl_check_hostname=true contradicts ssl_cert_reqs=none, which looks at no certificate",
            hint="keep one of them",
        )
