"""The text of a URL, cut into its parts: strictly, and without ever quoting it in an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from somactl.address.address import KINDS, Host
from somactl.address.parameters import NAMES
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
