"""Text to `Address`: which rules apply, by scheme."""

from __future__ import annotations

from somactl.address import foreign, text
from somactl.address.address import KINDS, Address, Use, brings, refuse_unknown
from somactl.address.text import RULES
from somactl.errors import ConfigurationError

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
    if kind is None:
        raise foreign.refuse(url, use)
    if use not in _USES[kind]:
        raise foreign.refuse_scheme(scheme.lower(), use)
    try:
        parts = text.cut(url)
        if kind != "other":
            refuse_unknown(parts.query, kind, use, parts.scheme)
        address = RULES[kind](parts)
    except ConfigurationError as exc:
        hint = exc.hint if exc.hint and "://" in exc.hint else f"{exc.hint}; the form is {text.SHAPES[kind]}"
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
