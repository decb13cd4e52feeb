"""Pages of keys, found by where the last page ended."""

from __future__ import annotations

import sys

from somactl.core.names import Pattern
from somactl.store.contract import Stat
from somactl.store.postgres import records
from somactl.store.postgres.session import Session

LOOKED_ROWS = 10_000
"""A page ends after this many rows, so that a pattern that matches little does not hold up the server."""
_MANY = (1 << 63) - 1
_SURROGATES = (0xD800, 0xDFFF)


async def page(
    session: Session,
    namespace: str,
    pattern: Pattern | None,
    after: str | None,
    *,
    deleted: bool,
    page_bytes: int,
    page_keys: int,
) -> tuple[list[Stat], str | None]:
    """One page of `scan` (perhaps empty), and the key to go on after; None where the scan is done."""
    prefix = pattern.prefix if pattern else ""
    most = max(1, min(page_keys, LOOKED_ROWS))
    rows = await session.rows(
        "tombstone_page" if deleted else "live_page",
        namespace,
        prefix,
        end_of(prefix),
        after or "",
        like(pattern.text) if pattern else "%",
        LOOKED_ROWS,
        most,
        max(0, min(page_bytes, _MANY)),
    )
    if not rows:
        raise records.no_namespace(namespace)
    stats = [records.stat(row, deleted=deleted) for row in rows if row["key"] is not None]
    first = rows[0]
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
