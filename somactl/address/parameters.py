"""The parameters that a URL may have, by kind of server and by what it names, and hints for any other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from somactl.address.address import Kind, Use
from somactl.errors import ConfigurationError

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
