"""Text that is no URL of ours: what it looks like, and how such an address is written. It is never quoted."""

from __future__ import annotations

import re
from typing import NamedTuple

from somactl.address.address import KINDS, Use, by_name, entry_points
from somactl.address.parse import SHAPES
from somactl.errors import ConfigurationError


class Notation(NamedTuple):
    """How another program writes addresses: what it is called, and the URL in its place."""

    name: str
    hint: str


_POSTGRES = "postgresql://USER@HOST:PORT/DATABASE, with the password in PGPASSWORD or ~/.pgpass"
_REDIS = "redis://[USER:PASSWORD@]HOST:PORT/DATABASE, or rediss:// with TLS"
_SLASHES = "a server's URL has two slashes, and a host behind them: "
_EXCHANGE = "password|user|ssl|abortConnect|defaultDatabase|allowAdmin|connectTimeout|syncTimeout"
_ADO = "password|pwd|username|user id|uid|host|server|data source|database"
_LIBPQ = "host|hostaddr|port|user|password|passfile|dbname|service|sslmode|connect_timeout"
_BEGIN = r".*(?:^|[\s;,])\s*"
_NOTATIONS = (
    (r"jdbc:", "a JDBC URL", f"write {_POSTGRES}"),
    (rf".*,\s*({_EXCHANGE})\s*=", "the notation of StackExchange.Redis", f"write {_REDIS}"),
    (rf"{_BEGIN}({_ADO})\s*=.*;", "an ADO.NET connection string", f"write {_POSTGRES}"),
    (rf"{_BEGIN}({_LIBPQ})\s*=", "PostgreSQL's keyword notation (host=... dbname=...)", f"write {_POSTGRES}"),
    (r"(postgres\w*|pgsql)(\+\w+)?:", "a URL without its host", f"{_SLASHES}{SHAPES['postgres']}"),
    (r"(rediss?|valkeys?|unix)(\+\w+)?:", "a URL without its host", f"{_SLASHES}{SHAPES['redis']}"),
    (r"sqlite\w*(\+\w+)?:", "a SQLite URL with too few slashes", f"write {SHAPES['sqlite']}"),
    (r"//", "a URL without its scheme", f"write {SHAPES['postgres']}; or {SHAPES['redis']}"),
    (r"[^=]*:[^=]*@", "a login and a host without a scheme", f"write {SHAPES['postgres']}; or {_REDIS}"),
    (r"[^\s/:=,]+:\d+(/\d*)?\Z", "a host and a port without a scheme", f"write {SHAPES['redis']}"),
    (
        r".*(password|passwd|pwd|secret|token)\s*[=:]",
        "a password without a server",
        f"write {_POSTGRES}; or {_REDIS}",
    ),
)
"""A pattern, and the notation of the text that begins so."""
_SCHEMES = by_name(
    {
        "postgresql+asyncpg postgresql+psycopg postgresql+psycopg2 postgres+asyncpg pgsql pg": "postgresql://",
        "valkey redis+tcp keydb": "redis://",
        "valkeys redis+tls redis+ssl redis-tls": "rediss://",
        "redis+unix redis+socket unix+redis valkey+unix": "unix:///PATH",
        "redis-cluster rediscluster": "redis+cluster://",
        "sqlite3 file": "sqlite:////absolute/path.db",
    }
)
"""What other programs write for a scheme of ours."""
_OTHERS = (
    "http https ftp sftp ssh s3 gs tcp mysql mariadb mssql oracle mongodb mongodb+srv memcached amqp kafka "
    "etcd cassandra cockroachdb duckdb redis-sentinel redis+sentinel"
)
"""Schemes that may be named in an error: they are surely none, and no secret."""


def notation(text: str) -> Notation | None:
    """What the text looks like; None for a text that is no address in any notation known here."""
    flags = re.IGNORECASE | re.DOTALL  # compiled when the first address is wrong, not at every start
    return next((Notation(*found) for pattern, *found in _NOTATIONS if re.match(pattern, text, flags)), None)


def is_address(text: str) -> bool:
    """Whether the text is meant to name a server, in whatever notation."""
    return "://" in text or notation(text) is not None


_NONE = {
    "store": "no store is known for {} URLs",
    "cache": "no cache is known for {} URLs",
    "source": "nothing is migrated from {} URLs",
}
_HINTS = {
    "store": "a store is sqlite:///path/to/somactl.db, postgresql://HOST/DATABASE or redis://HOST:PORT/0 "
    "(also rediss, unix, redis+cluster)",
    "cache": "a cache is a Redis: redis://HOST:PORT/0",
    "source": "a source is postgresql://HOST/DATABASE?table=kv_store, redis://HOST:PORT/0, a .json file, or "
    "lines of JSON on standard input",
}


def refuse(text: str, use: Use) -> ConfigurationError:
    """The error for a text that begins with no scheme of ours."""
    if text[:1] in ("'", '"'):
        return ConfigurationError(
            "the URL stands in quotes", hint=f"take them away, only a shell does; {_hint(use)}"
        )
    scheme, mark, _ = text.partition("://")
    if mark:
        return refuse_scheme(scheme.lower(), use)
    found = notation(text)
    if found is not None:
        return ConfigurationError(f"this is no URL, but {found.name}", hint=found.hint)
    return ConfigurationError("this is not a URL", hint=_hint(use))


def refuse_scheme(scheme: str, use: Use) -> ConfigurationError:
    """The error for a URL whose scheme does not fit; one that is not well known is not named."""
    known = scheme in _SCHEMES or scheme in _OTHERS.split() or scheme in KINDS
    message = _NONE[use].format(f"{scheme}://" if known else "such")
    ours = _SCHEMES.get(scheme)
    return ConfigurationError(message, hint=f"write {ours}" if ours else _hint(use))


def _hint(use: Use) -> str:
    brought = sorted({each.name.lower() for each in entry_points()}) if use == "store" else []
    return _HINTS[use] + "".join(f", or {scheme}:// of an installed package" for scheme in brought)
