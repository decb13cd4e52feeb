"""Pages of keys, found by where the last page ended."""

from __future__ import annotations

import sys

from somactl.store import sql
from somactl.store.contract import Stat
from somactl.store.postgres.session import Session
from somactl.store.reading import Listing, no_namespace

LOOKED_ROWS = 10_000
"""A page ends after this many rows, so that a pattern that matches little does not hold up the server."""
_SURROGATES = (0xD800, 0xDFFF)


async def page(
    session: Session, namespace: str, listing: Listing, after: str | None
) -> tuple[list[Stat], str | None]:
    """One page of `scan` (perhaps empty), and the key to go on after; None where the scan is done."""
    most = min(listing.page_keys, LOOKED_ROWS)
    rows = await session.rows(
        "tombstone_page" if listing.deleted else "live_page",
        namespace,
        listing.prefix,
        end_of(listing.prefix),
        after or "",
        like(listing.pattern.text) if listing.pattern else "%",
        LOOKED_ROWS,
        most,
        listing.page_bytes,
    )
    if not rows:
        raise no_namespace(namespace)
    first = rows[0]
    kept_seconds = first["keep_seconds"] if listing.deleted else None
    stats = [sql.stat(row, kept_seconds) for row in rows if row["key"] is not None]
    if len(stats) < first["matching"] or first["matching"] == most:
        return stats, stats[-1].key
    if first["looked"] < LOOKED_ROWS:
        return stats, None
    return stats, first["last"]


def end_of(prefix: str) -> str | None:
    """The first text behind all that start with `prefix`, in byte order; None where there is none."""
    for length in range(len(prefix), 0, -1):
        code = ord(prefix[length - 1]) + 1
        if code == _SURROGATES[0]:  # no characters, so no keys hold them
            code = _SURROGATES[1] + 1
        if code <= sys.maxunicode:
            return prefix[: length - 1] + chr(code)
    return None


def like(text: str) -> str:
    """A `--match` pattern as one of SQL's LIKE, whose wildcards are % and _."""
    parts: list[str] = []
    characters = iter(text)
    for c in characters:
        if c in "*?":
            parts.append("%" if c == "*" else "_")
            continue
        if c == "\\":
            c = next(characters, "\\")
        parts.append(f"\\{c}" if c in "%_\\" else c)
    return "".join(parts)
